"""Clips that are dropped: looked at, copied under safe names, and shown as the model sees them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lamp_lightning.app.workspace import LONGEST_NAME, Workspace, words_of
from lamp_lightning.data.clips import CLIP_SUFFIXES, Clip, load_clip
from lamp_lightning.data.video import contact_sheet, safe_name, write_mp4
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import explained, remove
from lamp_lightning.toyworld import motion_set_scenes, render_clip

MOST = 64  # clips of a motion
FEW, MANY = 8, 16


@dataclass(frozen=True)
class Seen:
    """What the model will see of a motion's clips, and what to mind."""

    motion: str
    sheet: str  # relative to the workspace
    rows: list[tuple[str, ...]]  # name, frames, rate and size of each clip
    advice: list[str] = field(default_factory=list)


def take(
    workspace: Workspace, files: Sequence[str | Path], name: str, size: tuple[int, int], frames: int
) -> Seen:
    """Make a motion of dropped files. Those that cannot be used are named and left out.

    Raises:
        UserError: none of them can be used, or there are too many.
    """
    if not files:
        raise UserError("Drop some clips first: 8 to 16 of one motion.")
    if len(files) > MOST:
        raise UserError(f"These are {len(files)} files, and {MOST} are the most. Choose the best 8 to 16.")
    if not name.strip():
        raise UserError("Give the motion a name, such as: pouring tea.")
    good: list[tuple[Path, Clip]] = []
    bad: list[str] = []
    for file in files:
        try:
            path = workspace.path(str(file))
            good.append((path, read(workspace, path, size)))
        except UserError as error:  # noqa: PERF203 one message names all of them
            bad.append(str(error))
    if not good:
        raise UserError("\n".join(["None of these files is a clip that can be used.", *bad[:8]]))
    folder = workspace.new_motion(name)
    try:
        clips = []
        for number, (path, clip) in enumerate(good, 1):
            place = folder / f"{number:02d}_{safe_name(path.stem, LONGEST_NAME)}{path.suffix.lower()}"
            with explained(place):
                shutil.copyfile(path, place)
            clips.append(Clip(place, clip.frames, clip.fps, clip.source_size, clip.prompt))
        return seen(workspace, folder.name, clips, frames, [f"Left out: {fault}" for fault in bad])
    except BaseException:
        remove(folder)
        raise


def read(workspace: Workspace, path: Path, size: tuple[int, int]) -> Clip:
    """One clip at the model's size. Messages name the file and not where this machine keeps it."""
    if path.suffix.lower() not in CLIP_SUFFIXES:
        kinds = ", ".join(suffix[1:] for suffix in CLIP_SUFFIXES)
        raise UserError(f"{path.name}: clips are {kinds}.")
    try:
        return load_clip(path, "", size=size, cache_dir=workspace.root / "cache")
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error


def look(workspace: Workspace, motion: str, size: tuple[int, int], frames: int) -> Seen:
    """What the model will see of a motion that is there. UserError where its clips cannot be read."""
    clips = [read(workspace, path, size) for path in workspace.clips(motion)]
    if not clips:
        raise UserError("This motion has no clips any more. Choose another.")
    return seen(workspace, motion, clips, frames, [])


def seen(workspace: Workspace, motion: str, clips: Sequence[Clip], frames: int, advice: list[str]) -> Seen:
    """The contact sheet, the facts and the advice."""
    sheet = workspace.root / "sheets" / f"{motion}.png"
    # Of a longer clip a random piece is taken each time: the sheet shows the whole of it.
    contact_sheet([(clip.path.name, clip.frames) for clip in clips], sheet)
    rows = []
    for clip in clips:
        height, width = clip.source_size or clip.frames.shape[1:3]
        rows.append((clip.path.name, f"{len(clip.frames)}", f"{clip.fps:.4g}", f"{width}x{height}"))
    return Seen(motion, workspace.relative(sheet), rows, [*advice, *_advice(clips, frames)])


def _advice(clips: Sequence[Clip], frames: int) -> list[str]:
    said = []
    if len(clips) < FEW:
        said.append(f"{counted(len(clips), 'clip')}: {FEW} to {MANY} of the same motion work best.")
    elif len(clips) > MANY:
        said.append(f"{len(clips)} clips: {FEW} to {MANY} are enough. Keep those that show the motion best.")
    short = [clip for clip in clips if len(clip.frames) < frames]
    if short:
        least = min(len(clip.frames) for clip in short)
        names = ", ".join(clip.path.name for clip in short[:3])
        said.append(
            f"Too short for {frames} frames: {names}. Take {least} frames or fewer, or leave them out."
        )
    rates = Counter(f"{clip.fps:.3g}" for clip in clips if clip.fps > 0)
    if len(rates) > 1:
        said.append(
            f"Several frame rates: {', '.join(rates)}. The same motion looks faster in some of the clips."
        )
    return said


def draw(workspace: Workspace, motion: str, size: tuple[int, int], frames: int) -> Seen:
    """A motion of 8 clips that the toy world draws."""
    folder = workspace.root / "uploads" / "drawn" / motion
    files = []
    for number, scene in enumerate(motion_set_scenes(motion, FEW)):
        file = folder / f"{words_of(motion)} {number}.mp4"
        files.append(write_mp4(file, render_clip(scene, frames=16), fps=8))
    try:
        return take(workspace, files, motion, size, frames)
    finally:
        remove(folder)
