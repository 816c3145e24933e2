"""`python -m lamp_lightning.inspect data.folder=<folder>`: a first look at clips, before tuning on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Inspect
from lamp_lightning.runtime.config import folder_name
from lamp_lightning.runtime.console import call, print_results, quiet, short
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.schema import check_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(inspect, "inspect", sys.argv[1:] if argv is None else argv)


def inspect(cfg: DictConfig) -> None:
    """Look at the clips, say what was found, and write the contact sheet and the facts."""
    check_settings(Inspect, cfg)
    from lamp_lightning.data.clips import list_clips
    from lamp_lightning.data.motions import draw_toy_clips, is_drawn, motion_prompt

    if not is_drawn(cfg):
        list_clips(cfg.data.folder)  # a folder that is missing: before torch's seconds, not after
    from lamp_lightning.inspect.inspection import inspect_clips, sentences

    out = (
        Path("inspections") / folder_name(cfg.motion.name) if cfg.out is None else Path(cfg.out).expanduser()
    )
    draw_toy_clips(cfg)
    data = cfg.data
    with only_writer(out):
        look = inspect_clips(
            Path(data.folder).expanduser(),
            motion=motion_prompt(cfg),
            size=(data.size[0], data.size[1]),
            num_frames=data.num_frames,
            frame_stride=data.frame_stride,
            flip=data.flip,
            captions=data.captions if data.use_captions else False,
            cache_dir=data.cache_dir,
            max_clips=data.max_clips,
            timeout_s=data.decode_timeout,
            fps=data.fps,
        )
        sheet, facts = look.write(out)
    lines = [*look.table(), "", *(sentences(look.advice) or ["Nothing has to be mended."])]
    named = f"motion={cfg.motion.name} data.folder={short(Path(data.folder))}"
    places: list[tuple[str, str | Path]] = [("contact sheet", sheet), ("facts", facts)]
    print_results(
        f"{cfg.motion.name}: what the model will see of {short(Path(data.folder))}",
        lines,
        [*places, ("tune", f"{call('train')} {named}")],
    )


if __name__ == "__main__":
    sys.exit(main())
