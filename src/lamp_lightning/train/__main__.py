"""``python -m lamp_lightning.train motion=waterfall``: tune a motion, watch it, measure it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lamp_lightning.runtime.command import run_command, run_plainly
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.console import is_first_process, quiet, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.run_config import check_targets
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.runtime.stopping import Stopped
from lamp_lightning.runtime.sweeps import SWEEP_FILE, changed_settings, earlier_run, is_sweep, words_of

PATHS = ("data.root", "data.folder", "data.cache_dir", "data.captions")  # the data's, in a config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    quiet()
    resumed = [word for word in argv if word.startswith("resume=") and word not in ("resume=null", "resume=")]
    if resumed:
        folder, rest = resumed[-1].removeprefix("resume="), [w for w in argv if w != resumed[-1]]
        return (resume_sweep if is_sweep(Path(folder).expanduser()) else resume_command)(folder, rest)
    return run_command(begin, "train", argv)


def begin(cfg: DictConfig) -> None:
    """A run with a composed config, in the folder that Hydra chose; a sweep's may have begun before."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    group = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    check_settings(Train, cfg)
    settle_paths(cfg)
    from lamp_lightning.train.run import train  # torch and all: seconds, so not before the config is right

    folder = Path(job.runtime.output_dir)
    if group is not None and not folder.resolve().is_relative_to(Path(job.sweep.dir).resolve()):
        raise UserError(f"The job's folder {folder} lies outside of the sweep's, {job.sweep.dir}.")
    earlier = earlier_run(folder, cfg) if group is not None else None
    if earlier is not None and earlier[0].is_finished(earlier[1]):
        say_finished(earlier[0])
        return
    try:
        if earlier is not None:
            with earlier[0].locked():
                train(*earlier)
        else:
            with new_run(folder, cfg, group) as run:
                train(run, cfg)
    except Stopped:
        if group is not None and is_first_process():
            print(f"The whole sweep:\n  python -m lamp_lightning.train resume={short(Path(job.sweep.dir))}")
        raise


def begin_again(cfg: DictConfig) -> None:
    """A job of a sweep whose overrides were read from its file."""
    from hydra.core.hydra_config import HydraConfig

    check_clips(cfg, Path(HydraConfig.get().sweep.dir) / SWEEP_FILE)
    begin(cfg)


def resume_command(folder: str, overrides: Sequence[str]) -> int:
    """Go on with the run in ``folder``, with values changed by ``overrides``; returns the exit status."""

    def go_on() -> None:
        run, before = RunFolder.open(folder)
        check_targets(before, file=run.config_file, given=overrides)
        check_places(before, run, overrides)
        cfg = with_values(before, overrides) if overrides else before
        if overrides:
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
def new_run(folder: Path, cfg: DictConfig, group: str | None = None) -> Iterator[RunFolder]:
    """A run that begins in the folder that Hydra chose, locked; the next free one, where it has that by time.

    In a run on several GPUs the first process begins it, and the others find it.
    """
    from hydra.core.hydra_config import HydraConfig

    if not is_first_process():
        yield RunFolder.open(folder)[0]
        return
    job: Any = HydraConfig.get()
    with RunFolder.begun(folder, cfg, group, or_next=group is None and not is_named(job)) as run:
        if run.path != folder.absolute():
            print(f"{short(folder)} belongs to another run: this one is in {short(run.path)}.", flush=True)
            with read_write(job), open_dict(job):  # from there the other processes are told
                job.run.dir = job.runtime.output_dir = str(run.path)
        yield run


def is_named(job: Any) -> bool:
    """Whether the user named the folder of a run, of a job with these settings of Hydra's."""
    return any(word.startswith("hydra.run.dir=") for word in job.overrides.hydra)


def say_finished(run: RunFolder) -> None:
    """Tell the user that there is nothing to go on with."""
    run.tidy_up()
    print(f"Finished already: {short(run.path)}", flush=True)


def resume_sweep(folder: str, overrides: Sequence[str]) -> int:
    """Call the sweep in ``folder`` again: what is finished is skipped; returns the exit status."""
    words: list[str] = []

    def find_words() -> None:
        if overrides:
            raise UserError(
                f"{' '.join(overrides)} cannot be changed in a sweep that goes on ({folder}): begin a new "
                "one, or resume a single run of it."
            )
        words.extend(words_of(Path(folder).expanduser()))

    return run_plainly(find_words) or run_command(begin_again, "train", words)


def with_values(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """``cfg`` with values such as ``trainer.max_steps=600`` set; a resumed run keeps its groups."""
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
    """Take back what the config of a run says of places to write to: a file does not decide that.

    ``data.cache_dir`` and ``out`` count where the ``overrides`` name them again, or below the run's folder.

    Raises:
        UserError: clips would have to be drawn outside of the folder that the command is called in.
    """
    given = {word.partition("=")[0] for word in overrides}
    for key in ("data.cache_dir", "out"):
        value = OmegaConf.select(cfg, key)
        if value is None or key in given or Path(str(value)).absolute().is_relative_to(run.path):
            continue
        OmegaConf.update(cfg, key, None)
        print(
            f"Note: {key}={value} is not used: {run.config_file} does not decide where to write. Give "
            f"{key}={value} again to write there.",
            file=sys.stderr,
        )
    if "video" not in cfg and not {"data.folder", "data.root"} & given:
        check_clips(cfg, run.config_file)


def check_clips(cfg: DictConfig, file: Path) -> None:
    """Refuse to draw clips outside of the folder that the command is called in because ``file`` says so.

    Raises:
        UserError: the clips are not there.
    """
    folder = Path(str(cfg.data.folder)).expanduser().absolute()
    if not folder.exists() and not folder.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"{file}: the clips are at {folder}, which does not exist. Say where they are with "
            "data.folder=<folder>."
        )


def settle_paths(cfg: DictConfig) -> None:
    """Make the config's paths absolute, so that a run can be resumed from anywhere."""
    models = ("model.path", "model.config", "model.painter", "model.painter_config", "model.clip")
    for key in (*PATHS, *models):
        value = OmegaConf.select(cfg, key)
        if value is None or (key.startswith("model.") and not Path(str(value)).expanduser().exists()):
            continue  # a name ("tiny") or hub id
        if (
            key.startswith("model.")
            and "/" not in str(value)
            and Path(str(value)).is_dir()
            and not (Path(str(value)) / "model_index.json").exists()
        ):
            continue  # some folder that happens to be called "tiny"
        OmegaConf.update(cfg, key, str(Path(str(value)).expanduser().absolute()))


if __name__ == "__main__":
    sys.exit(main())
