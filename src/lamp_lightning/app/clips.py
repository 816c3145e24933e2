"""Clips that are dropped: copied under safe names, looked at, and shown as the model sees them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lamp_lightning.app.words import for_page
from lamp_lightning.app.workspace import LONGEST_NAME, Workspace, words_of
from lamp_lightning.data.clips import CLIP_SUFFIXES, decode_clip
from lamp_lightning.data.video import safe_name, write_mp4
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import explained, numbered, remove, write_json
from lamp_lightning.runtime.reading import Schema, checked, read_json
from lamp_lightning.toyworld import motion_set_scenes, render_clip

MOST = 64  # clips of a motion
DRAWN = 8


@dataclass(frozen=True)
class View:
    """How the model reads clips: height and width, frames of a sample, and their rate (None: as it is).

    `model` is its name, of the group `model`.
    """

    size: tuple[int, int]
    frames: int
    fps: float | None = None
    model: str | None = None


class AsSeen(Schema):
    """What is kept of a `View`: a motion is tuned as its clips were looked at, in whatever tab."""

    frames: int = Field(ge=2, le=128)
    fps: float | None = Field(gt=0, le=1000)


@dataclass(frozen=True)
class Seen:
    """What the model will see of a motion's clips, and what to mind."""

    motion: str
    sheet: str  # relative to the workspace
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]  # the facts of each clip
    advice: list[str]


def take(workspace: Workspace, files: Sequence[str | Path], name: str, view: View) -> Seen:
    """Make a motion of dropped files. Those that cannot be read are named and left out.

    Raises:
        UserError: none of them can be used, there are too many, or the motion has no name.
    """
    if not files:
        raise UserError("Drop some clips first: 8 to 16 of one motion.")
    if len(files) > MOST:
        raise UserError(f"These are {len(files)} files, and {MOST} are the most. Choose the best 8 to 16.")
    if not name.strip():
        raise UserError("Give the motion a name, such as: pouring tea.")
    folder = workspace.new_motion(name)
    try:
        for file in files:
            path = workspace.path(str(file))
            name = safe_name(path.stem, LONGEST_NAME)
            places = numbered(folder / name)  # of several files with one name
            place = next(p for p in places if not list(folder.glob(f"{p.name}.*")))
            place = place.with_name(place.name + checked_suffix(path))
            with explained(place):
                shutil.copyfile(path, place)
        return look(workspace, folder.name, view)
    except BaseException:
        remove(folder)
        raise


def look(workspace: Workspace, motion: str, view: View) -> Seen:
    """What the model will see of a motion. Files that cannot be read are named, and go.

    Raises:
        UserError: none can be read.
    """
    from lamp_lightning.inspect import inspect_clips  # torch: seconds at its first use

    folder = workspace.root / "data" / motion
    try:
        found = inspect_clips(
            folder,
            motion=motion,
            size=view.size,
            num_frames=view.frames,
            flip=True,
            cache_dir=workspace.root / "cache",
            fps=view.fps,
            model=view.model,
        )
    except UserError as error:
        raise UserError(for_page(str(error), folder)) from error
    for name in found.unreadable:
        (folder / name).unlink(missing_ok=True)
    sheet = found.draw(workspace.root / "sheets" / f"{motion}.png")
    write_json(sheet.with_suffix(".json"), AsSeen(frames=view.frames, fps=view.fps).model_dump())
    heads = ("clip", "frames", "frames per second", "size", "moves", "alike", "found")
    rows: list[tuple[str, ...]] = [
        (
            clip.name,
            f"{clip.frames}",
            f"{clip.fps:.4g}" if clip.fps > 0 else "unknown",
            f"{clip.size[0]}x{clip.size[1]}",
            f"{clip.motion:.2f} %",
            "" if clip.likeness is None else f"{clip.likeness:.2f}",
            ", ".join(each.replace("_", " ") for each in clip.findings),
        )
        for clip in found.clips
    ]
    advice = [for_page(text, folder) for text in found.advice]
    return Seen(motion, workspace.relative(sheet), heads, rows, advice)


def as_seen(workspace: Workspace, motion: str) -> dict[str, Any]:
    """Frames and rate at which a motion's clips were looked at; nothing where nobody has looked."""
    file = workspace.root / "sheets" / f"{motion}.json"
    if not file.exists():
        return {}
    what, advice = "how clips were looked at", "Remove it, and look at the clips again."
    return checked(AsSeen, read_json(file, what=what), file=file, what=what, advice=advice).model_dump()


def check_video(path: Path) -> None:
    """UserError where a video cannot be read. The message does not tell where this machine keeps it."""
    checked_suffix(path)
    try:
        decode_clip(path)
    except UserError as error:
        raise UserError(for_page(str(error), path.parent)) from error


def checked_suffix(path: Path) -> str:
    """The ending of a clip's name. UserError for files of other kinds."""
    suffix = path.suffix.lower()
    if suffix not in CLIP_SUFFIXES:
        raise UserError(f"{path.name}: clips are {', '.join(each[1:] for each in CLIP_SUFFIXES)}.")
    return suffix


def draw(workspace: Workspace, motion: str, view: View) -> Seen:
    """A motion of 8 clips that the toy world draws."""
    folder = workspace.root / "uploads" / "drawn" / motion
    files = []
    for number, scene in enumerate(motion_set_scenes(motion, DRAWN)):
        file = folder / f"{words_of(motion)} {number}.mp4"
        files.append(write_mp4(file, render_clip(scene, frames=16), fps=8))
    try:
        return take(workspace, files, motion, view)
    finally:
        remove(folder)
