"""The settings of a run, read from its folder: data that may be somebody else's.

They are held against the table of settings. What it does not know is refused, and so is what would not stay
data: code to call, values to interpolate, places to write to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import Schema, checked, read_yaml
from lamp_lightning.runtime.settings import RULES, Rule, is_plain

CONFIG = "the settings of a run"
# Lightning's own settings of a trainer that a config may have besides those of the table, as plain values.
TRAINER = ("deterministic", "detect_anomaly", "fast_dev_run", "gradient_clip_algorithm", "inference_mode",
           "limit_train_batches", "max_time", "num_nodes", "num_sanity_val_steps", "overfit_batches",
           "profiler", "sync_batchnorm")  # fmt: skip
# Groups that make an object, and what a file may ask for there. A file never says which code is called.
TARGETS: dict[str, tuple[str, ...]] = {
    "data": ("lamp_lightning.MotionSetDataModule", "lamp_lightning.ClipDataModule"),
    "tuner": ("lamp_lightning.MotionTuner",),
    "trainer": ("lightning.Trainer", "lightning.pytorch.Trainer"),
    "logger": ("lamp_lightning.wandb_logger", "lamp_lightning.csv_logger",
               "lamp_lightning.tensorboard_logger", "lamp_lightning.no_logger"),
}  # fmt: skip
FORMER_TARGETS = {  # what configs of version 0.1 say
    "lamp_lightning.datamodule.MotionSetDataModule": "lamp_lightning.MotionSetDataModule",
    "lamp_lightning.editing.ClipDataModule": "lamp_lightning.ClipDataModule",
    "lamp_lightning.module.MotionTuner": "lamp_lightning.MotionTuner",
    "lamp_lightning.loggers.wandb_logger": "lamp_lightning.wandb_logger",
    "lamp_lightning.loggers.csv_logger": "lamp_lightning.csv_logger",
    "lamp_lightning.loggers.tensorboard_logger": "lamp_lightning.tensorboard_logger",
    "lamp_lightning.loggers.no_logger": "lamp_lightning.no_logger",
}
# What the first version's runs have: what came later may be missing, and is then as it was before.
NEEDED = (
    "seed", "threads", "save_every", "motion.name", "motion.folder", "motion.prompt", "model.name",
    "model.path", "model.clip", "model.norm", "model.dtype", "model.gradient_checkpointing", "data._target_",
    "data.folder", "data.num_frames", "data.frame_stride", "data.size", "data.flip", "data.batch_size",
    "data.cache_dir", "data.num_workers", "tuner._target_", "tuner.learning_rate", "tuner.weight_decay",
    "sampler.scheduler", "sampler.num_inference_steps", "sampler.guidance_scale", "sampler.shared_noise",
    "sampler.adain", "sampler.histogram_matching", "sampler.negative_prompt", "sampler.fps",
    "trainer._target_", "trainer.max_steps", "trainer.accelerator", "trainer.devices", "trainer.strategy",
    "trainer.precision", "logger._target_",
)  # fmt: skip
OF_TRAIN = ("data.root", "motion.prompts", "samples.every", "samples.while_training", "samples.final",
            "samples.seed")  # fmt: skip
OF_EDIT = ("video", "prompt", "source_prompt", "first_frame", "paint_from", "strength", "paint_follow",
           "follow", "motion_strength", "out", "overwrite", "run")  # fmt: skip
_GROUPS = ("motion", "model", "data", "sampler", "trainer", "tuner", "logger", "samples", "method")
_SINGLE = ("seed", "threads", "resume", "save_every")


def settings_of_runs(editing: bool) -> list[str]:
    """The names of all settings that the config of a run, or of an edit, may have."""
    single = (*_SINGLE, *(OF_EDIT if editing else ()))
    names = [name for name in RULES if ("." in name and name.partition(".")[0] in _GROUPS) or name in single]
    return [*names, *(f"trainer.{name}" for name in TRAINER)]


def rule_of(name: str) -> Rule:
    """What a setting may be; Lightning's own are plain values."""
    return RULES.get(name, (is_plain, "a single value"))


@cache
def run_schema(editing: bool) -> type[Schema]:
    """The schema of a run's config, made of the table."""
    needed = {*NEEDED, *(("video", "prompt") if editing else OF_TRAIN)}
    return _schema("Run", {name: name in needed for name in settings_of_runs(editing)})


def _schema(title: str, names: Mapping[str, bool]) -> type[Schema]:
    """A model of nested groups from dotted names, and whether each is needed."""
    fields: dict[str, Any] = {}
    for number, top in enumerate(dict.fromkeys(name.split(".")[0] for name in names)):
        prefix = f"{title}.{top}" if title != "Run" else top
        if top in names:
            kind: Any = Annotated[Any, AfterValidator(_validator(*rule_of(prefix)))]
            needed = names[top]
        else:
            inside = {
                name[len(top) + 1 :]: must for name, must in names.items() if name.startswith(f"{top}.")
            }
            kind, needed = _schema(prefix, inside), any(inside.values())
            kind = kind if needed else kind | None
        fields[f"field_{number}"] = (kind, Field(alias=top) if needed else Field(default=None, alias=top))
    return create_model(title, __base__=Schema, **fields)


def _validator(accepts: Callable[[Any], bool], meaning: str) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if not accepts(value):
            raise ValueError(f"it must be {meaning}")
        return value

    return validate


def read_config(file: Path) -> dict[str, Any]:
    """The config of a run, config.yaml of its folder, as plain data, checked.

    Raises:
        UserError: names the file, the setting, what was found and what to do.
    """
    values = read_yaml(file, what=CONFIG)
    if not isinstance(values, dict) or not isinstance(values.get("motion"), dict):
        raise UserError(
            f"{file} cannot be used as {CONFIG}: it does not say which motion the run tunes. Give a folder "
            "that lamp_lightning.train wrote."
        )
    for group in TARGETS:
        if isinstance(found := values.get(group), dict) and isinstance(found.get("_target_"), str):
            found["_target_"] = FORMER_TARGETS.get(found["_target_"], found["_target_"])
    ours = {group: _ours(group, found) for group, found in values.items()}
    advice = "Mend it, or begin a new run."
    checked(run_schema("video" in values), ours, file=file, what=CONFIG, advice=advice)
    return values


def _ours(group: str, found: Any) -> Any:
    """A group; of one that asks for code of the user's own only the settings that the table knows."""
    if not isinstance(found, dict) or found.get("_target_") in (None, *TARGETS.get(group, ())):
        return found
    return {key: value for key, value in found.items() if f"{group}.{key}" in RULES}


def check_targets(values: Mapping[str, Any], *, file: Path, given: Collection[str] = ()) -> None:
    """Refuse the config of a run that asks for code other than ours; to be called before it is run.

    Args:
        values: the config.
        file: where it was read.
        given: overrides of the command line: what the user names there, like ``data._target_=mine.Clips``,
            may be anything.

    Raises:
        UserError: names the group and what it asks for.
    """
    for group, known in TARGETS.items():
        found = (values.get(group) or {}).get("_target_")
        if found is not None and found not in known and f"{group}._target_={found}" not in given:
            raise UserError(
                f"{file} asks for {found!r} in {group}._target_, which is no part of lamp-lightning: no code "
                f"is run because a file says so. If it is your own, give {group}._target_={found}."
            )
