"""The settings of a run, read from its folder: data that may be somebody else's.

What the declared settings do not have is refused, and so is what would not stay data: code to call, values to
interpolate, places to write to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lamp_lightning.runtime.command_settings import Edit, Train
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import read_yaml
from lamp_lightning.runtime.schema import Settings, completed, describe, fields_of, is_plain
from lamp_lightning.runtime.settings import LIGHTNING

CONFIG = "the settings of a run"
# Groups that make an object, and what a file may ask for there. A file never says which code is called.
TARGETS: dict[str, tuple[str, ...]] = {
    "data": ("lamp_lightning.MotionSetDataModule", "lamp_lightning.ClipDataModule"),
    "tuner": ("lamp_lightning.MotionTuner",),
    "trainer": ("lightning.Trainer", "lightning.pytorch.Trainer"),
    "logger": ("lamp_lightning.wandb_logger", "lamp_lightning.csv_logger",
               "lamp_lightning.tensorboard_logger", "lamp_lightning.no_logger"),
}  # fmt: skip
CALLBACKS = tuple(  # of Lightning's, those whose options are plain and do what they say
    f"lightning.pytorch.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler",
        "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar",
        "StochasticWeightAveraging", "TQDMProgressBar", "Timer", "WeightAveraging",
    )
)  # fmt: skip
_FORMER = re.compile(r"^lamp_lightning\.(datamodule|editing|module|loggers)\.")  # in targets of version 0.1


def read_config(file: Path) -> dict[str, Any]:
    """The config of a run, config.yaml of its folder, as checked plain data. Raises UserError."""
    values = read_yaml(file, what=CONFIG)
    if not isinstance(values, dict) or not isinstance(values.get("motion"), dict):
        raise UserError(
            f"{file} cannot be used as {CONFIG}: it does not say which motion the run tunes. Give a folder "
            "that lamp_lightning.train wrote."
        )
    for group in TARGETS:
        if isinstance(found := values.get(group), dict) and isinstance(found.get("_target_"), str):
            found["_target_"] = _FORMER.sub("lamp_lightning.", found["_target_"])
    schema = Edit if "video" in values else Train
    ours = {group: _ours(schema, group, found) for group, found in values.items()}
    try:
        schema.model_validate(ours)
    except ValidationError as error:
        raise UserError(
            f"{file} cannot be used as {CONFIG}: {describe(schema, error)}. Mend it, or begin a new run."
        ) from error
    return completed(schema, values)


def _ours(schema: type[Settings], group: str, found: Any) -> Any:
    """What is to be checked of a group: of a user's own data module only the settings that we know."""
    if not isinstance(found, dict):
        return found
    foreign = found.get("_target_") not in (None, *TARGETS.get(group, ()))
    known = {name.removeprefix(f"{group}.").partition(".")[0] for name, _ in fields_of(schema)}
    return {
        key: value
        for key, value in found.items()
        if not (foreign and key not in known)
        and not (group == "trainer" and key in LIGHTNING and is_plain(value))
    }


def check_targets(values: Mapping[str, Any], *, file: Path, given: Collection[str] = ()) -> None:
    """Raise UserError where the config of a run asks for code other than ours; to be called before it is run.

    What the user names in overrides, `given`, like `data._target_=mine.Clips`, may be anything.
    """
    callbacks = {f"callbacks.{name}": each for name, each in (values.get("callbacks") or {}).items()}
    for group, known in {**TARGETS, **dict.fromkeys(callbacks, CALLBACKS)}.items():
        found = (callbacks.get(group) or values.get(group) or {}).get("_target_")
        if found is not None and found not in known and f"{group}._target_={found}" not in given:
            raise UserError(
                f"{file} asks for {found!r} in {group}._target_, which is no part of lamp-lightning: no code "
                f"is run because a file says so. If it is your own, give {group}._target_={found}."
            )
