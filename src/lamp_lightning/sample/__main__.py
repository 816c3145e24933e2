"""`python -m lamp_lightning.sample run=<folder or adapter> prompt="..."`: generate with tuned motions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime.command import run_command_of_motion
from lamp_lightning.runtime.command_settings import Sample
from lamp_lightning.runtime.console import quiet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import inside
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.sample.motions import HOW, Adapter, find_motions, runs_there_are, state_of, with_changes

if TYPE_CHECKING:
    from lamp_lightning.sample.videos import Output

MOVING = ("mp4", "gif", "webp")
NO_FOLDER = {".avi", ".mov", ".mkv", ".webm", ".m4v", ".jpg", ".jpeg", ".png", ".json"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command_of_motion(sample, "sample", sys.argv[1:] if argv is None else argv)


def sample(cfg: DictConfig) -> None:
    """Generate the videos that the config asks for, or the one of a record again."""
    from hydra.core.hydra_config import HydraConfig

    given = [each.partition("=")[0].lstrip("+") for each in HydraConfig.get().overrides.task]
    if given.count("run") > 1:
        raise UserError(f"The motion is given twice. Name several motions by {HOW}.")
    if cfg.again is None and OmegaConf.is_missing(cfg, "run"):
        raise UserError(f"The setting run has no value. Give it as motion=<name>. {runs_there_are()}")
    again = None
    if cfg.again is not None:
        from lamp_lightning.sample.record import say_again

        again = say_again(cfg, Path(str(cfg.again)).expanduser(), given)
    check_settings(Sample, cfg, may_be_null=("sampler.", "size"))
    adapter = with_changes(find_motions(cfg.run), cfg)
    files = ", ".join(each.where for each in adapter.all)
    print(f"  motion        {adapter.title} ({files})", flush=True)
    if adapter.run is not None and not adapter.others:
        print(f"  run           {state_of(adapter.run)}", flush=True)
    where = output(cfg, adapter)
    from lamp_lightning.sample.run import make_videos  # torch and all: seconds, so not before this is right

    make_videos(cfg, adapter, where, again)


def output(cfg: DictConfig, adapter: Adapter) -> Output:
    """Where to write, from `out`, `format` and `again`."""
    from lamp_lightning.sample.videos import Output

    formats = [str(kind) for kind in (cfg.format if OmegaConf.is_list(cfg.format) else [cfg.format])]
    if cfg.out is None:
        if cfg.again is not None:
            record = Path(str(cfg.again)).expanduser()
            return Output(inside(record.parent / "again", record.parent), record.stem, formats)
        if adapter.run is None or adapter.others:
            return Output(Path("samples"), None, formats)
        return Output(inside(adapter.run.samples, adapter.run.path), None, formats)
    path = Path(str(cfg.out)).expanduser()
    kind = path.suffix.lower().removeprefix(".")
    if kind in MOVING:
        return Output(path.parent, path.stem, list(dict.fromkeys([kind, *formats])))
    if not path.is_dir() and (path.suffix.lower() in NO_FOLDER or path.exists()):
        is_file = " is a file that is there:" if path.exists() else ":"
        raise UserError(
            f"out={path}{is_file} videos are written as .mp4, .gif or .webp, or into a folder, there also as "
            "PNG frames (format=png)."
        )
    return Output(path, None, formats)


if __name__ == "__main__":
    sys.exit(main())
