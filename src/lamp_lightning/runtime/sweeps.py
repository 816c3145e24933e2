"""Sweeps that survive: called again, finished jobs are skipped and begun ones go on where they stopped."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from pydantic import Field

from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import OWN_FOLDER, folder_name
from lamp_lightning.runtime.console import is_first_process
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import numbered, remove_empty
from lamp_lightning.runtime.locks import Busy, hold, in_folder, keep
from lamp_lightning.runtime.reading import Schema, checked, read_yaml
from lamp_lightning.runtime.run_config import TARGETS, check_targets
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import fields_of
from lamp_lightning.runtime.settings import CONFIG_GROUPS, LIGHTNING

SWEEP_FILE = "multirun.yaml"  # Hydra writes it: the overrides that the sweep began with
MOST_JOBS = 10_000  # of a sweep that goes on
_NAMES = {*(name for name, _ in fields_of(Train)), *(f"trainer.{name}" for name in LIGHTNING)}
# May differ when a job goes on: no result depends on them.
FREE = ("threads", "logger", "save_every", "tags", "print_config", "optimized_metric")
# Likewise, where the call names no value.
FREE_HERE = ("data.cache_dir", "trainer.precision", "model.dtype", "sampler.fps")


def earlier_run(folder: Path, cfg: DictConfig) -> tuple[RunFolder, DictConfig] | None:
    """What an earlier call of the sweep began in a job's folder. UserError where it has other settings."""
    number, _, name = folder.name.partition("-")
    former = folder.with_name(f"{number}-{folder_name(name)}")  # names were cut earlier in version 0.1
    if former != folder and RunFolder(former).config_file.exists():
        remove_empty(folder)
        folder = former
    if not RunFolder(folder).config_file.exists():
        return None
    run, before = RunFolder.open(folder)
    called = {group: cfg[group] for group in TARGETS if group in cfg}
    called |= {f"callbacks.{name}": each for name, each in (cfg.get("callbacks") or {}).items()}
    asked = [f"{name}._target_={each.get('_target_')}" for name, each in called.items()]
    check_targets(before, file=run.config_file, given=asked)
    before.data.cache_dir = cfg.data.cache_dir
    changed = changed_settings(before, cfg)
    if changed:
        raise UserError(
            f"{folder} holds a run of an earlier sweep with another {', '.join(changed[:3])}. Begin the "
            "sweep in another folder (hydra.sweep.dir=<folder>), or with the overrides of the earlier one."
        )
    return run, before


def changed_settings(before: DictConfig, after: DictConfig) -> list[str]:
    """Dotted names of the settings, of those that change a result, in which two configs of train differ.

    What `after`, composed now, takes from this machine is no difference: the run may have begun on another.
    """
    free = [name for name in FREE_HERE if _is_derived(after, name)]
    return [name for name in differing(_settings(before), _settings(after)) if name not in free]


def _is_derived(cfg: DictConfig, name: str) -> bool:
    group, _, key = name.rpartition(".")
    return OmegaConf.is_interpolation(cfg[group], key) or cfg[group].get(key) is None


def _settings(cfg: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key not in FREE}


def differing(a: Any, b: Any, name: str = "") -> list[str]:
    """Dotted names of the settings in which two configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b}, key=str)
        return [
            found
            for key in keys
            for found in differing(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if a == b else [name]


class SweepFolder(Callback):
    """Hydra's callback that locks a sweep's folder, or the next free one where it is named by the time."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not is_first_process():
            return
        folder = Path(str(config.hydra.sweep.dir))
        try:
            mine = _claimed(folder, or_next=not is_named(config.hydra, "hydra.sweep.dir"))
        except UserError as error:  # Hydra would warn of it, and go on
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        if mine != folder:
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = str(mine)
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{mine}'")  # for the jobs


def is_named(job: Any, setting: str) -> bool:
    """Whether the user gave a folder, the `setting`, to a job or sweep with these settings of Hydra's."""
    return any(word.startswith(f"{setting}=") for word in job.overrides.hydra)


def _claimed(folder: Path, *, or_next: bool) -> Path:
    """Lock a sweep's folder until the command ends; with `or_next` one in which no sweep has begun."""
    advice = "Wait until it ends, or choose another folder with hydra.sweep.dir=<folder>."
    for place in numbered(folder):
        if or_next and is_sweep(place):
            continue
        try:
            keep(hold(in_folder(place), what=f"The sweep's folder {place}", advice=advice))
            return place
        except Busy:
            if not or_next:
                raise
    raise AssertionError


def is_sweep(folder: Path) -> bool:
    """Whether a sweep began there."""
    return (folder / SWEEP_FILE).is_file()


def words_of(folder: Path) -> list[str]:
    """The overrides by which the command goes on with a sweep: those of its multirun.yaml, and its folder.

    UserError where they are more than settings and groups of ours with plain values: code, interpolations.
    """
    file = folder / SWEEP_FILE
    what = "the overrides of a sweep"
    advice = f"Call the sweep again with the overrides that it began with and hydra.sweep.dir={folder}."
    values = read_yaml(file, what=what)
    for key in ("hydra", "overrides"):
        values = values.get(key) if isinstance(values, dict) else None
    overrides = checked(_Overrides, values, file=file, what=what, advice=advice)
    own = ("hydra.mode=", "hydra.sweep.dir=")
    given = [word for word in (*overrides.hydra, *overrides.task) if not word.startswith(own)]
    for word in given:
        if not _is_harmless(word):
            raise UserError(f"{file} has the override {word!r}, which a file may not give. {advice}")
    if (jobs := _count_jobs(given)) > MOST_JOBS:
        raise UserError(f"{file} asks for {jobs:,} jobs, and {MOST_JOBS:,} are the most. {advice}")
    given = [word for word in given if not word.startswith("data.cache_dir=")]  # a place to write to
    return ["-m", *given, f"hydra.sweep.dir={folder}"]


def _count_jobs(given: Sequence[str]) -> int:
    """How many jobs overrides make; those that Hydra cannot read, and says so, make none."""
    try:
        overrides = OverridesParser.create().parse_overrides(list(given))
    except HydraException:
        return 0
    jobs = 1
    for override in overrides:
        value = override.value()
        if override.key_or_group == "hydra.sweeper.n_trials" and isinstance(value, int):
            jobs *= value
        elif isinstance(value, RangeSweep):
            assert value.start is not None
            assert value.stop is not None
            steps = (value.stop - value.start) / value.step if value.step else math.inf  # which never ends
            jobs *= max(0, math.ceil(steps)) if math.isfinite(steps) else MOST_JOBS + 1
        elif isinstance(value, ChoiceSweep):
            jobs *= len(value.list)
    return jobs


class _Overrides(Schema):
    """What multirun.yaml says of its call."""

    hydra: list[Annotated[str, Field(max_length=10_000)]] = Field(max_length=100)
    task: list[Annotated[str, Field(max_length=10_000)]] = Field(max_length=1000)


_HARMLESS = (  # of Hydra's own settings: which launcher, and its numbers and names
    r"hydra/launcher=(basic|joblib|ray|submitit_local|submitit_slurm)",
    r"hydra\.launcher\.(?!_)\w+=[\w.-]*",
    r"motion\.name=" + re.escape(OWN_FOLDER),
    r"callbacks\.\w+\.(?!_|dirpath=|filename=)\w+=[\w./, -]*",
    r"hydra/sweeper=(basic|optuna)|hydra/sweeper/sampler=\w+",
    r"hydra\.sweeper\.(direction|n_trials|n_jobs|max_failure_rate|sampler\.[a-z]\w*)=(\w|\.\d|-\d)*",
    r"hydra\.sweep\.subdir=(?!\.)([\w.=+,-]|\$\{(motion\.name|seed|hydra\.job\.num)\})+",
)


def _is_harmless(word: str) -> bool:
    """Whether an override that stands in a file changes settings only."""
    if any(re.fullmatch(pattern, word) for pattern in _HARMLESS):
        return True
    key, eq, value = word.partition("=")
    key = key.lstrip("+")
    if not eq or "_target_" in word or "${" in value or (key == "motion.name" and "/" in value):
        return False
    if key in CONFIG_GROUPS:  # names of files in conf/
        return re.fullmatch(r"[\w/, \[\]-]+(\.[\w/, -]+)*", value) is not None and not value.startswith("/")
    return key in _NAMES
