"""`python -m lamp_lightning.inspect data.folder=<folder>`: a first look at clips, before tuning on them."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Inspect
from lamp_lightning.runtime.config import folder_name
from lamp_lightning.runtime.console import call, print_results, quiet, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.schema import check_settings

if TYPE_CHECKING:
    from lamp_lightning.inspect.inspection import Inspection


EVERY = 5.0  # seconds between two lines on how many clips are done, without a terminal


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the clips are read
            list_clips(cfg.data.folder)  # a folder that is missing: before torch's seconds, not after
    print(f"Looking at the clips in {short(Path(cfg.data.folder))} ...", flush=True)
    from lamp_lightning.inspect.inspection import inspect_clips, sentences

    out = (
        Path("inspections") / folder_name(cfg.motion.name) if cfg.out is None else Path(cfg.out).expanduser()
    )
    draw_toy_clips(cfg)
    data = cfg.data
    captions: dict[Path, str] = {}
    with only_writer(out), looking() as progress:
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
            progress=progress,
            model=cfg.model.path,
        )
        if cfg.captioner is not None:
            captions = captioned(look, cfg)
        sheet, facts = look.write(out)
    written = [f"- {short(file)}: {text}" for file, text in captions.items()]
    lines = [*look.table(), "", *written, *(sentences(look.advice) or ["Nothing has to be mended."])]
    asked = HydraConfig.get().overrides.task
    named = shlex.join(word for word in asked if not word.startswith(("out=", "captioner=")))
    places: list[tuple[str, str | Path]] = [("contact sheet", sheet), ("facts", facts)]
    print_results(
        f"{cfg.motion.name}: what the model will see of {short(Path(data.folder))}",
        lines,
        [*places, ("tune", f"{call('train')} {named}")],
    )


@contextmanager
def looking() -> Iterator[Callable[[int, int], None]]:
    """Says how many clips are done: as a bar at a terminal, else as a line every few seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, said = bar.add_task("looking at clips", total=None), time.monotonic()

        def progress(done: int, clips: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=clips)
            if not console.is_terminal and done < clips and time.monotonic() - said >= EVERY:
                said = time.monotonic()
                print(f"  {done} of {clips} clips", flush=True)

        yield progress


def captioned(look: Inspection, cfg: DictConfig) -> dict[Path, str]:
    """Captions for the clips that have none, by the captioner that the user names."""
    from lamp_lightning.inspect.captioner import clips_without_captions, load_captioner, write_captions

    if cfg.data.captions is not None or not cfg.data.use_captions:
        raise UserError(
            "captioner= writes captions beside the clips, and data.captions or data.use_captions=false says "
            "that they are not read: leave that out."
        )
    folder = look.folder.parent if look.folder.is_file() else look.folder
    videos = {folder / name: frames for name, frames in look.videos}
    missing = clips_without_captions(list(videos))
    return (
        write_captions({clip: videos[clip] for clip in missing}, load_captioner(cfg.captioner))
        if missing
        else {}
    )


if __name__ == "__main__":
    sys.exit(main())
