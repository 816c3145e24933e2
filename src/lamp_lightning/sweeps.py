"""Sweeps that survive: called again, finished jobs are skipped and begun ones go on where they stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.errors import UserError
from lamp_lightning.runs import RunFolder

SWEEP_FILE = "multirun.yaml"  # Hydra writes it: the words that the sweep began with
FREE = ("threads", "logger", "save_every")  # may differ when a job goes on: no result depends on them


def earlier_run(folder: Path, cfg: DictConfig) -> tuple[RunFolder, DictConfig] | None:
    """What an earlier call of the sweep began in this job's folder: run and config; None if nothing.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    if not RunFolder(folder).config_file.exists():
        return None
    run, before = RunFolder.open(folder)
    changed = changed_settings(before, cfg)
    if changed:
        raise UserError(
            f"{folder} holds a run of an earlier sweep with another {', '.join(changed[:3])}. Begin the "
            "sweep in another folder (hydra.sweep.dir=<folder>), or with the words of the earlier one."
        )
    return run, before


def changed_settings(before: DictConfig, after: DictConfig) -> list[str]:
    """Dotted names of the settings in which two configs of train differ, of those that change a result."""
    return differing(_settings(before), _settings(after))


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


def is_sweep(folder: Path) -> bool:
    """Whether a sweep began there."""
    return (folder / SWEEP_FILE).is_file()


def words_of(folder: Path) -> list[str]:
    """What to call the command with to go on with a sweep: its own words, and its folder.

    Raises:
        UserError: its multirun.yaml cannot be read.
    """
    file = folder / SWEEP_FILE
    try:
        overrides: Any = OmegaConf.to_container(OmegaConf.load(file).hydra.overrides, resolve=False)
        given = [str(word) for word in (*overrides["hydra"], *overrides["task"])]
    except Exception as error:  # yaml's own errors have no common public base
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}). Call the sweep again with the words that it "
            f"began with and hydra.sweep.dir={folder}."
        ) from error
    own = ("hydra.mode=", "hydra.sweep.dir=")
    return ["-m", *(word for word in given if not word.startswith(own)), f"hydra.sweep.dir={folder}"]
