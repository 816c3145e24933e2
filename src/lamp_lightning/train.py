"""``python -m lamp_lightning.train motion=waterfall``: tune a motion, watch it, measure it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.config import check_config, run_command, run_plainly
from lamp_lightning.console import is_first_process, quiet, short
from lamp_lightning.errors import UserError
from lamp_lightning.runs import RunFolder
from lamp_lightning.stopping import Stopped
from lamp_lightning.sweeps import earlier_run, is_sweep, words_of

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
    check_config(cfg)
    settle_paths(cfg)
    from lamp_lightning.tuning import train  # torch and all: seconds, so not before the config is right

    folder = Path(job.runtime.output_dir)
    earlier = earlier_run(folder, cfg) if group is not None else None
    if earlier is not None:
        run, cfg = earlier
        if run.metrics.exists():
            print(f"Finished already: {short(folder)}", flush=True)
            return
    elif is_first_process():
        run = RunFolder.create(folder, cfg, group)
    else:
        run, _ = RunFolder.open(folder)
    try:
        train(run, cfg)
    except Stopped:
        if group is not None and is_first_process():
            print(f"The whole sweep:\n  python -m lamp_lightning.train resume={short(Path(job.sweep.dir))}")
        raise


def resume_command(folder: str, overrides: Sequence[str]) -> int:
    """Go on with the run in ``folder``, with values changed by ``overrides``; returns the exit status."""

    def go_on() -> None:
        run, cfg = RunFolder.open(folder)
        if overrides:
            cfg = with_values(cfg, overrides)
            check_config(cfg)
            if is_first_process():
                run.save_config(cfg)
        from lamp_lightning.tuning import train

        train(run, cfg)

    return run_plainly(go_on)


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

    return run_plainly(find_words) or run_command(begin, "train", words)


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
