"""What is said of an override that names no setting, group or choice: which one was perhaps meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.config import conf_dir, options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import fields_of
from lamp_lightning.runtime.settings import LIGHTNING

# What Lightning, its templates and other trainers call something, and how to ask for it here.
_INSTEAD = {
    "ckpt_path": "a run goes on with resume=<run folder>",
    "trainer.callbacks": "give a callback as callbacks=<name>, or your own as "
    "+callbacks.mine._target_=my_module.MyCallback",
    "trainer.logger": "choose one with logger=wandb, csv, tensorboard or none",
    "trainer.max_epochs": "clips come in an endless stream without epochs: give trainer.max_steps=<steps>",
    "trainer.default_root_dir": "give hydra.run.dir=<folder>",
    "trainer.enable_checkpointing": "a run is saved every save_every=<steps>",
    "trainer.enable_progress_bar": "choose one with callbacks.<name>._target_",
    "trainer.use_distributed_sampler": "clips are shared among devices without it",
    "lr": "give tuner.learning_rate=<rate>",
    "tuner.lr": "give tuner.learning_rate=<rate>",
    "optimizer": "give tuner.optimizer=adamw, adamw8bit or muon",
    "max_epochs": "give trainer.max_steps=<steps>",
    "sample model": "a motion is sampled with the model that it was tuned on, and base=<folder, hub id or "
    "file> says where else that is",
}
_PLUGINS = {
    "hydra/sweeper": "Optuna comes with: pip install -e '.[sweep]' in the folder of the project.",
    "hydra/launcher": "More come with: pip install -e '.[launchers]' in the folder of the project.",
}
_ONE = ("data", "logger", "method", "model", "motion", "sampler", "trainer")  # of which a run has one


def groups_of(command: str) -> list[str]:
    """The config groups that a command chooses from.

    Example:
        >>> groups_of("sample")
        ['sampler']
    """
    text = (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8")
    names = (next(iter(each)) for each in yaml.safe_load(text)["defaults"] if isinstance(each, dict))
    return [name for name in names if options(name)]


def corrected(argv: Sequence[str], command: str) -> list[str]:
    """Overrides as Hydra wants them: without the `+` of a group, with that of one of Lightning's settings.

    Raises UserError where one names several configs of a group of which a run has one.

    Example:
        >>> corrected(["+model=sd15", "trainer.fast_dev_run=true"], "train")
        ['model=sd15', '++trainer.fast_dev_run=true']
    """
    words, groups = [], groups_of(command)
    for word in argv:
        key, eq, value = word.partition("=")
        bare = key.lstrip("+")
        if key.startswith("~") and key[1:] in groups and key[1:] in _ONE:
            raise UserError(f"{word} takes away what {command} needs. Choose another with {key[1:]}=<name>.")
        if bare in groups and bare in _ONE and value.startswith("[") and "," in value:
            raise UserError(
                f"{word} names several, and a run has one {bare}. A sweep makes a run of each: "
                f"-m {bare}={value.strip('[]')}."
            )
        if eq and bare in groups:
            word = f"{bare}={value}"
        elif eq and bare.removeprefix("trainer.") in LIGHTNING and "." in bare and "trainer" in groups:
            word = f"++{bare}={value}"
        words.append(word)
    searches = any(re.match("hparams_search=(?!null)", word) for word in words)
    if searches and not {"-m", "--multirun"} & {*words}:
        words.insert(0, "--multirun")
    return words


def unknown_setting(key: str, command: str | None) -> str:
    """What is said where a setting or group does not exist.

    Example:
        >>> print(unknown_setting("num_frame", "train").split(" The groups")[0])
        There is no setting 'num_frame'. Did you mean data.num_frames?
    """
    if (way := _INSTEAD.get(key) or _INSTEAD.get(f"{command} {key}")) is not None:
        return f"There is no setting {key!r} here: {way}."
    names = (
        _names(command)
        if command in COMMANDS
        else list(dict.fromkeys(n for c in COMMANDS for n in _names(c)))
    )
    groups = groups_of(command) if command in COMMANDS else []
    others = [other for other in COMMANDS if key in (*groups_of(other), *_names(other))]
    said = f"There is no setting {key!r}."
    if near := _nearest_setting(key, [*groups, *names], cutoff=1.0 if others else 0.8):
        said += f" Did you mean {' or '.join(near)}?"
    elif others:
        said = f"{command} has no setting {key!r}: it belongs to {', '.join(others)}."
    group = key.partition(".")[0]
    if not near and group in ("trainer", "data", "tuner") and f"{group}._target_" in names:
        said += f" Other arguments of its class are added with a plus: +{key}=<value>."
    elif groups and "." not in key:
        said += f" The groups of {command} are {', '.join(groups)};"
    return said + " --help shows every setting."


def unknown_choice(group: str, name: str, there: Iterable[str]) -> str:
    """What is said where a group has no config of a name; `there` are those that it has.

    Example:
        >>> unknown_choice("logger", "wanb", ["csv", "wandb"])
        "Could not find 'logger/wanb'. Did you mean logger=wandb? There are csv, wandb."
        >>> unknown_choice("experiment", "no_gate", [])[:78]
        "Could not find 'experiment/no_gate'. Did you mean experiment=ablation/no_gate?"
    """
    folders = {f"{each.parent.name}/<name>" for each in conf_dir().glob(f"{group}/*/*.yaml")}
    there = sorted({*there, *folders} - {"shared/<name>"})
    inner = [f"{each.parent.name}/{each.stem}" for each in conf_dir().glob(f"{group}/*/*.yaml")]
    near = difflib.get_close_matches(name, there)
    near = near or [each for each in inner if each.rpartition("/")[2] == name]
    hint = f" Did you mean {group}={' or '.join(near)}?" if near else ""
    hint += f" There are {', '.join(there)}." if there else ""
    hint += f" {_PLUGINS[group]}" if group in _PLUGINS else ""
    return f"Could not find '{group}/{name}'.{hint}"


def check_additions(cfg: DictConfig, command: str, overrides: Iterable[str]) -> None:
    """Raise UserError where a `+` adds something to the config of a command that nobody reads."""
    names = set(_names(command))
    text = OmegaConf.to_yaml(cfg, resolve=False)
    for word in overrides:
        key = word.partition("=")[0]
        if not key.startswith("+"):
            continue
        key = key.lstrip("+")
        parents = {key[: found.start()] for found in re.finditer(r"\.|$", key)}
        called = any("_target_" in (_node(cfg, parent) or {}) for parent in parents - {key})
        if key in _INSTEAD or not (names & parents or called or re.search(rf"\$\{{{re.escape(key)}\b", text)):
            message = unknown_setting(key, command)
            raise UserError(f"Nothing reads {word}. {message}")


def _node(cfg: DictConfig, name: str) -> Any:
    found = OmegaConf.select(cfg, name, throw_on_missing=False)
    return found if isinstance(found, DictConfig) else None


def _names(command: str | None) -> list[str]:
    return [name for name, _ in fields_of(COMMANDS[command])] if command in COMMANDS else []


def _nearest_setting(key: str, names: Sequence[str], cutoff: float) -> list[str]:
    """Those that `key` may be a misspelling of, at most three: as a whole, or by their last part."""
    if near := difflib.get_close_matches(key, [name for name in names if name != key], n=1, cutoff=0.8):
        return near
    last = key.rpartition(".")[2]
    lasts = {name.rpartition(".")[2] for name in names if name != key}
    meant = difflib.get_close_matches(last, lasts, n=1, cutoff=cutoff)
    return [name for name in names if name.rpartition(".")[2] in meant][:3]
