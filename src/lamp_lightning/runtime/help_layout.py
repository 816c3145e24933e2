"""What `--help` prints: examples, the groups of a command, and each setting with its value and meaning.

And what a run says of its config at its start.
"""

from __future__ import annotations

import itertools
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.config import composed, conf_dir, options
from lamp_lightning.runtime.schema import default_of, fields_of, meaning, value_at

WIDTH = 110  # columns
GROUP_WIDTH = 32


def help_of(command: str, overrides: Sequence[str] = ()) -> str:
    """The help of a command, with the values that some overrides give.

    Example:
        >>> print(help_of("collect").splitlines()[0])
        python -m lamp_lightning.collect: tables, plots and a page of runs that are there.
    """
    return "\n".join(_lines(command, overrides))


def _lines(command: str, overrides: Sequence[str]) -> Iterator[str]:
    schema = COMMANDS[command]
    text = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")
    cfg = composed(command, overrides)
    yield (schema.__doc__ or "").replace("`", "").strip()
    yield "\nExamples"
    yield from (f"  {line[1:].strip()}" for line in text.splitlines() if line.startswith("#"))
    yield "\nGroups, as <group>=<name>"
    for each in yaml.safe_load(text)["defaults"]:
        name = next(iter(each)) if isinstance(each, dict) else ""
        for option in options(name) if name else ():
            about = about_option(conf_dir() / name / f"{option}.yaml")
            yield _paragraph(about, f"  {f'{name}={option}':<{GROUP_WIDTH}}", " " * (GROUP_WIDTH + 2))
    yield "\nSettings, as <setting>=<value>, with the values that they have here"
    for name, field in fields_of(schema):
        there, value = _look_up(cfg, name)
        if there:
            yield f"  {name}={_shown(value)}"
            yield _paragraph(f"{field.description}. {_sentence(meaning(field))}", " " * 6, " " * 6)
    yield "\n-m sweeps over values with commas between them. --cfg job shows the config."


def about_option(file: Path) -> str:
    """The first comment of a config: what it is for."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "@package" not in line]
    comments = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line[1:].strip() for line in comments)


def print_tree(cfg: DictConfig, command: str, choices: Mapping[str, str | None]) -> None:
    """Print what a config chooses of its groups, and the settings that differ from their declarations.

    Args:
        cfg: of the command, before its interpolations are resolved.
        command: the name of the command.
        choices: Hydra's: the config of each group.
    """
    from rich.console import Console  # takes time that `--help` need not
    from rich.markup import escape
    from rich.tree import Tree

    written = OmegaConf.to_container(cfg)
    tree, branches = Tree(command), dict[str, Tree]()
    for name, choice in choices.items():
        if choice is not None and "/" not in name and "@" not in name:
            branches[name] = tree.add(f"[bold]{name}[/] = {choice}")
    for name, field in fields_of(COMMANDS[command]):
        there, value = _look_up(cfg, name)
        if not there or value_at(written, name) == default_of(field) or name.endswith("_target_"):
            continue
        group, _, key = name.partition(".")
        if name in branches or value == choices.get(group):  # the choice says it
            continue
        if key and group not in branches:
            branches[group] = tree.add(f"[bold]{group}[/]")
        branches.get(group if key else "", tree).add(escape(f"{key or name} = {_shown(value)}"))
    Console(file=sys.stdout, soft_wrap=False).print(tree, overflow="ellipsis", no_wrap=True)


def _look_up(cfg: DictConfig, name: str) -> tuple[bool, Any]:
    """Whether a config has a setting, and its value; an interpolation of what is to be given stays one."""
    group, _, key = name.rpartition(".")
    node = OmegaConf.select(cfg, group) if group else cfg
    if not isinstance(node, DictConfig) or key not in node.keys():  # noqa: SIM118  (`in` is false for a missing value)
        return False, None
    raw = OmegaConf.to_container(node)[key]  # type: ignore[call-overload, index]
    try:
        value = raw if OmegaConf.is_missing(node, key) else node[key]
    except InterpolationResolutionError:
        value = raw
    return True, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _shown(value: Any) -> str:
    """A value as it is given on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _paragraph(text: str, first: str, others: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False)
