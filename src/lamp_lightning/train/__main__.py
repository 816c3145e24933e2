"""`python -m lamp_lightning.train motion=waterfall`: tune a motion, watch it, measure it."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lamp_lightning.runtime.command import run_command, run_plainly
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.console import call, is_first_process, quiet, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.help_layout import print_tree
from lamp_lightning.runtime.run_config import check_targets
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.runtime.stopping import Stopped
from lamp_lightning.runtime.sweeps import (
    SWEEP_FILE,
    changed_settings,
    earlier_run,
    is_named,
    is_sweep,
    words_of,
)

MOTION_SET = "lamp_lightning.MotionSetDataModule"
# Of the data, in a config.
PATHS = ("data.root", "data.folder", "data.cache_dir", "data.captions", "data.validation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    quiet()
    resumed = [word for word in argv if word.startswith("resume=") and word not in ("resume=null", "resume=")]
    if resumed:
        folder, rest = resumed[-1].removeprefix("resume="), [w for w in argv if w != resumed[-1]]
        return (resume_sweep if is_sweep(Path(folder).expanduser()) else resume_command)(folder, rest)
    return run_command(begin, "train", argv)


def begin(cfg: DictConfig) -> float | None:
    """Begin a run in the folder that Hydra chose; a job of a sweep may have begun before.

    Returns its `optimized_metric` for a sweeper.
    """
    check_settings(Train, cfg)
    in_terminal = is_first_process() and sys.stdout.isatty() and sweep_folder() is None
    if cfg.print_config or (cfg.print_config is None and in_terminal):
        print_tree(cfg, "train", HydraConfig.get().runtime.choices)
    settle_paths(cfg)
    find_clips(cfg)
    find_first_frame(cfg)
    from lamp_lightning.metrics.metrics_json import read_metrics
    from lamp_lightning.train.run import train  # torch and all: seconds, so not before the config is right

    sweep, folder = sweep_folder(), Path(HydraConfig.get().runtime.output_dir)
    if sweep is not None and not folder.resolve().is_relative_to(sweep.resolve()):
        raise UserError(f"The job's folder {folder} lies outside of the sweep's, {sweep}.")
    earlier = None if sweep is None else earlier_run(folder, cfg)
    if earlier is not None and earlier[0].is_finished(earlier[1]):
        say_finished(earlier[0])
        return optimized(cfg, read_metrics(earlier[0].metrics).numbers)
    try:
        if earlier is not None:
            with earlier[0].locked():
                return optimized(cfg, train(*earlier))
        with new_run(cfg) as run:
            return optimized(cfg, train(run, cfg))
    except Stopped:
        if sweep is not None and is_first_process():
            print(f"The whole sweep:\n  {call('train')} resume={short(sweep)}")
        raise


def find_clips(cfg: DictConfig) -> None:
    """UserError where clips are missing, or captions or masks of theirs cannot be read.

    Before the seconds in which the model is loaded, not after.
    """
    from lamp_lightning.data.captions import read_captions_of_each
    from lamp_lightning.data.clips import CLIP_SUFFIXES, list_clips
    from lamp_lightning.data.masks import check_mask
    from lamp_lightning.data.motions import is_drawn

    if cfg.data.get("_target_") == MOTION_SET and not is_drawn(cfg):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the clips are read
            clips = list_clips(cfg.data.folder)
            captions = cfg.data.get("captions") if cfg.data.get("use_captions", True) else False
            read_captions_of_each(clips, str(cfg.motion.name), captions)
        for clip in clips if cfg.data.get("use_masks", True) else ():
            check_mask(clip, CLIP_SUFFIXES)


def find_first_frame(cfg: DictConfig) -> None:
    """UserError where the picture for samples is missing: as early."""
    own = cfg.samples.first_frame
    if own is not None and not Path(own).exists():
        raise UserError(
            f"samples.first_frame={own} does not exist. Give a picture (png, jpg, webp, ...) or a folder of "
            "pictures."
        )
    if own is not None and Path(own).is_file():
        from lamp_lightning.data.pictures import opened_picture

        with opened_picture(Path(own), what="an image", advice="Give a PNG or JPEG.") as picture:
            picture.load()


def optimized(cfg: DictConfig, numbers: Mapping[str, float]) -> float | None:
    """The number that a sweeper optimises, of a finished run; None where none is asked for.

    Raises:
        UserError: the run has no such number.
    """
    name = cfg.get("optimized_metric")
    if name is None or not is_first_process():
        return None
    if name not in numbers:
        raise UserError(
            f"optimized_metric={name} is not among what this run measured: {', '.join(sorted(numbers))}. "
            "val/loss needs held-out clips, data.validation=0.25."
        )
    return numbers[name]


def begin_again(cfg: DictConfig) -> float | None:
    """Begin a job of a sweep whose overrides were read from its file."""
    check_clips(cfg, Path(HydraConfig.get().sweep.dir) / SWEEP_FILE)
    return begin(cfg)


def resume_command(folder: str, overrides: Sequence[str]) -> int:
    """Go on with the run in `folder`, with values changed by `overrides`; returns the exit status."""

    def go_on() -> None:
        run, before = RunFolder.open(folder)
        check_targets(before, file=run.config_file, given=overrides)
        check_places(before, run, overrides)
        cfg = with_values(before, overrides)
        check_settings(Train, cfg)
        changed = [name for name in changed_settings(before, cfg) if name != "data.cache_dir"]
        if not changed and run.is_finished(cfg):
            say_finished(run)
            return
        from lamp_lightning.train.run import train

        with run.locked():
            if overrides and is_first_process():
                if changed:  # the numbers of the former config: without them the run is not finished
                    run.metrics.unlink(missing_ok=True)
                run.save_config(cfg)
            train(run, cfg)

    return run_plainly(go_on)


@contextmanager
def new_run(cfg: DictConfig) -> Iterator[RunFolder]:
    """A new run, locked, in the folder that Hydra chose; the next free one where it is named by
    the time and another run has it.

    In a run on several GPUs the first process begins it, and the others find it.
    """
    job: Any = HydraConfig.get()
    folder, sweep = Path(job.runtime.output_dir), sweep_folder()
    if not is_first_process():
        yield RunFolder.open(folder)[0]
        return
    group, or_next = (None, not is_named(job, "hydra.run.dir")) if sweep is None else (sweep.name, False)
    run = None
    try:
        with RunFolder.begun(folder, cfg, group, or_next=or_next) as run:
            if run.path != folder.absolute():
                print(
                    f"{short(folder)} belongs to another run: this one is in {short(run.path)}.", flush=True
                )
                with read_write(job), open_dict(job):  # from there the other processes are told
                    job.run.dir = job.runtime.output_dir = str(run.path)
            yield run
    except Exception as error:
        if run is not None and not isinstance(error, Stopped):
            run.forget()
        raise


def sweep_folder() -> Path | None:
    """The folder of the sweep that this job of Hydra's belongs to."""
    job = HydraConfig.get()
    return Path(job.sweep.dir) if job.mode == RunMode.MULTIRUN else None


def say_finished(run: RunFolder) -> None:
    """Tell the user that there is nothing to go on with."""
    run.tidy_up()
    print(f"Finished already: {short(run.path)}", flush=True)


def resume_sweep(folder: str, overrides: Sequence[str]) -> int:
    """Call the sweep in `folder` again: what is finished is skipped; returns the exit status."""
    given: list[str] = []

    def find_overrides() -> None:
        if overrides:
            raise UserError(
                f"{' '.join(overrides)} cannot be changed in a sweep that goes on ({folder}): begin a new "
                "one, or resume a single run of it."
            )
        given.extend(words_of(Path(folder).expanduser()))

    return run_plainly(find_overrides) or run_command(begin_again, "train", given)


def with_values(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of a run with values such as `trainer.max_steps=600` changed; its groups stay."""
    changed = cfg.copy()
    for word in overrides:
        key, eq, _ = word.partition("=")
        if not eq or OmegaConf.select(cfg, key, default=KeyError) is KeyError:
            raise UserError(
                f"{word!r} cannot be changed in a resumed run: its config has no setting {key!r}."
            )
        if isinstance(OmegaConf.select(cfg, key), DictConfig):
            raise UserError(
                f"{word!r} cannot be changed in a resumed run; single values can, like trainer.max_steps."
            )
        changed.merge_with_dotlist([word])
    return changed


def check_places(cfg: DictConfig, run: RunFolder, overrides: Sequence[str]) -> None:
    """Take back places to write to (`data.cache_dir`, `out`) that only the config of a run names.

    Those below the run's folder stay. Raises UserError as `check_clips`.
    """
    given = {word.partition("=")[0] for word in overrides}
    places: dict[str, Any] = {key: OmegaConf.select(cfg, key) for key in ("data.cache_dir", "out")}
    for name, options in (cfg.get("callbacks") or {}).items():
        places |= {f"callbacks.{name}.{k}": run.path / v for k, v in options.items() if isinstance(v, str)}
    for key, value in places.items():
        if value is None or key in given or is_below(Path(str(value)), run.path):
            continue
        OmegaConf.update(cfg, key, None)
        print(
            f"Note: {key}={value} is not used: {run.config_file} does not decide where to write. Give "
            f"{key}={value} again to write there.",
            file=sys.stderr,
        )
    if "video" not in cfg and not {"data.folder", "data.root"} & given:
        check_clips(cfg, run.config_file)


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path stays in a folder, whatever `..` it has."""
    return Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(folder))


def check_clips(cfg: DictConfig, file: Path) -> None:
    """Raise UserError where clips would be drawn outside of the current folder because `file` says so."""
    folder = Path(str(cfg.data.folder)).expanduser().absolute()
    if not folder.exists() and not folder.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"{file}: the clips are at {folder}, which does not exist. Say where they are with "
            "data.folder=<folder>."
        )


def settle_paths(cfg: DictConfig) -> None:
    """Make the config's paths absolute, so that a run can be resumed from anywhere."""
    models = ("path", "config", "painter", "painter_config", "clip")
    or_ids = ("model.lora", "model.motion_adapter")  # of the hub, where there is no such path
    paths = (*PATHS, "samples.first_frame")
    for key in (*paths, *or_ids, *(f"model.{name}" for name in models)):
        value = OmegaConf.select(cfg, key)
        if key == "data.validation" and is_number(value):
            continue  # a share of the clips
        if key in or_ids and value is not None and not Path(str(value)).expanduser().exists():
            continue
        if value is not None and (key in (*paths, *or_ids) or names_file(str(value))):
            OmegaConf.update(cfg, key, str(Path(str(value)).expanduser().absolute()))


def names_file(model: str) -> bool:
    """Whether a model is named by a path, not by a name or hub id."""
    path = Path(model).expanduser()
    happens_to_exist = "/" not in model and path.is_dir() and not (path / "model_index.json").exists()
    return path.exists() and not happens_to_exist  # some folder may be called "tiny"


def is_number(value: Any) -> bool:
    """Whether a value, or a text, is a number."""
    with suppress(ValueError, TypeError):
        return math.isfinite(float(value))
    return False


if __name__ == "__main__":
    sys.exit(main())
