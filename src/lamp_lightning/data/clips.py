"""Finding and decoding clips, with one clear error for anything that is not a whole video."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lamp_lightning.data.damage import describe_content, find_truncation
from lamp_lightning.data.decoder_process import ClipDecoder, DecodedFile, DecodeError
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import array_sha256, scratch

CLIP_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif")


class ClipError(UserError):
    """One clip of a set cannot be used."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Args:
        path: its file.
        frames: uint8 `(f, h, w, 3)` RGB.
        fps: its rate in frames per second.
        source_size: height and width of the frames in the file.
        prompt: what it shows.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lamp_lightning.data import Clip
        >>> clip = Clip(Path("rain.mp4"), np.zeros((3, 8, 8, 3), np.uint8), fps=8, prompt="red rain falls")
        >>> clip.digest[:8]
        '1a0295f4'
    """

    path: Path
    frames: np.ndarray
    fps: float
    source_size: tuple[int, int] | None = None
    prompt: str = ""

    @cached_property
    def digest(self) -> str:
        """Hash of the pixels: two clips with the same frames have the same latents."""
        return array_sha256(self.frames)


def list_clips(folder: str | Path) -> list[Path]:
    """The clips of a motion folder in natural order (2 before 10); hidden and other files are passed over.

    A path of a single clip gives that clip. Raises UserError where the folder is missing or holds no clip.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lamp_lightning.data import list_clips
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("clip10.mp4", "clip2.mp4", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     print([path.name for path in list_clips(folder)])
        ['clip2.mp4', 'clip10.mp4']
    """
    folder = Path(folder).expanduser()
    kinds = ", ".join(suffix[1:] for suffix in CLIP_SUFFIXES)
    if folder.is_file() and folder.suffix.lower() in CLIP_SUFFIXES:
        return [folder]
    if folder.is_file():
        raise UserError(f"{folder}: expected a folder of clips, found a file. Give the folder that holds it.")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: this motion folder does not exist. Create it and put 8-16 clips of one motion into "
            f"it ({kinds}), or correct the path."
        )
    try:
        files = sorted((f for f in folder.iterdir() if f.is_file()), key=natural_order)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot read this folder ({error.strerror}). Check its permissions."
        ) from error
    files = [file for file in files if not file.name.startswith(".")]
    clips = [file for file in files if file.suffix.lower() in CLIP_SUFFIXES]
    if not clips:
        found = f"only {_some([file.name for file in files])}" if files else "nothing"
        raise UserError(
            f"{folder}: no clip here, found {found}. Put 8-16 clips of one motion into it ({kinds})."
        )
    return clips


def check_clip(path: Path) -> None:
    """Raise ClipError where a glance at the file already shows that it is no whole video."""
    try:
        if not path.is_file():
            raise ClipError(f"{path}: no such clip. Correct the path.")
        content = describe_content(path)
        missing = find_truncation(path) if content is None else None
    except OSError as error:
        raise ClipError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    if content:
        raise ClipError(
            f"{path}: not a video, found {content}. Replace the file or take it out of the folder."
        )
    if missing:
        raise ClipError(
            f"{path}: this clip is cut off or damaged: {missing}. Copy or download it again, or take it "
            "out of the folder."
        )


def decode_into(decoder: ClipDecoder, path: Path, out: Path, size: tuple[int, int] | None) -> DecodedFile:
    """`ClipDecoder.decode` with the checks above; raises ClipError."""
    check_clip(path)
    try:
        return decoder.decode(path, out, size)
    except DecodeError as error:
        raise ClipError(
            f"{path}: cannot be decoded: {_first_line(str(error))}. Does it play elsewhere? If so, convert "
            f"it (`ffmpeg -i {path.name} -pix_fmt yuv420p new.mp4`); otherwise take it out of the folder."
        ) from error


def decode_clip(path: str | Path, *, timeout_s: float = 60.0) -> Clip:
    """Decode a whole clip at its own size in a child process, within `timeout_s` seconds.

    Raises ClipError (a UserError) for what is missing, no video, cut off, damaged, or too slow to decode.

    Example:
        >>> import tempfile
        >>> from lamp_lightning.toyworld import Scene, render_clip
        >>> from lamp_lightning.data import decode_clip, write_mp4
        >>> scene = Scene("birds_fly", "red", "beach", "flat")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clip = decode_clip(write_mp4(f"{folder}/birds.mp4", render_clip(scene, frames=3), fps=8))
        >>> clip.frames.shape, clip.fps
        ((3, 64, 64, 3), 8.0)
    """
    with ClipDecoder(timeout_s) as decoder:
        return read_clip(decoder, Path(path).expanduser())


def read_clip(decoder: ClipDecoder, path: Path) -> Clip:
    """Decode a whole clip at its own size; raises ClipError as `decode_clip` does."""
    try:
        with scratch() as folder:
            out = folder / "frames.rgb"
            decoded = decode_into(decoder, path, out, None)
            frames = np.fromfile(out, dtype=np.uint8).reshape(decoded.shape)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: cannot keep the frames of {path.name} here ({error}). Free some "
            "space or set TMPDIR to another folder."
        ) from error
    return Clip(path, frames, decoded.fps, decoded.source_size)


def natural_order(path: Path) -> tuple:
    """Key to sort files by, numbers in their names by their size: 2 before 10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts), path.name


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _first_line(text: str, limit: int = 200) -> str:
    """The readable part of a library's message."""
    lines = re.sub(r"\[Errno -?\d+\] ", "", text).strip().splitlines() or ["unknown error"]
    return lines[0].rstrip(". ")[:limit]
