"""What `--help` prints: examples, the groups of a command, and each setting with its value and meaning."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.config import composed, conf_dir, options
from lamp_lightning.runtime.schema import fields_of, meaning

WIDTH = 110  # columns


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
        if name and (names := options(name)):
            yield _paragraph(", ".join(names), f"  {name:<12}", " " * 14)
    yield "\nSettings, as <setting>=<value>, with the values that they have here"
    for name, field in fields_of(schema):
        there, value = _look_up(cfg, name)
        if there:
            yield f"  {name}={_shown(value)}"
            yield _paragraph(f"{field.description}. {_sentence(meaning(field))}", " " * 6, " " * 6)
    yield "\n-m sweeps over values with commas between them. --cfg job shows the config."


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
