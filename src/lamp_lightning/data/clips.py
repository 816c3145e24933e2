"""Clips and motion sets: finding and decoding them, with one clear error for what is not a whole video."""

from __future__ import annotations

import mimetypes
import re
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.data.cache import Cache
from lamp_lightning.data.captions import read_captions_of_each
from lamp_lightning.data.checks import (
    FEWEST,
    MOST,
    check_lengths,
    raise_problems,
    some,
    warn_of_rates,
    warn_of_sizes,
)
from lamp_lightning.data.clip import Clip, MotionSet
from lamp_lightning.data.damage import describe_content, find_truncation, is_animated_webp
from lamp_lightning.data.decoder_process import ClipDecoder, DecodedFile, DecodeError
from lamp_lightning.data.masks import find_mask, is_mask_of, read_mask
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256, scratch

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif")
CLIP_SUFFIXES = (*VIDEO_SUFFIXES, ".webp")  # of which only animated ones are clips
CAMCORDERS = (".mts", ".m2ts")  # videos that `mimetypes` takes for something else


class ClipError(UserError):
    """One clip of a set cannot be used."""


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
    if folder.is_file():
        if is_clip(folder):
            return [folder]
        raise UserError(f"{folder}: expected a folder of clips, found a file. Give the folder that holds it.")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: this motion folder does not exist. Create it and put 8-16 clips of one motion into "
            f"it ({kinds}), or correct the path."
        )
    try:
        shown = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot read this folder ({error.strerror}). Check its permissions."
        ) from error
    files = sorted(shown, key=natural_order)
    clips = [file for file in files if is_clip(file)]
    stems = {clip.stem for clip in clips}
    clips = [clip for clip in clips if not is_mask_of(clip, stems)]
    if not clips:
        found = f"only {some([file.name for file in files])}" if files else "nothing"
        raise UserError(
            f"{folder}: no clip here, found {found}. Put 8-16 clips of one motion into it ({kinds})."
        )
    others = [f.name for f in files if f not in clips and _is_video(f) and not is_mask_of(f, stems)]
    if others:
        warnings.warn(
            f"{folder}: {some(others)} not read: clips are {kinds}. Convert such files (ffmpeg -i "
            f"{others[0]} new.mp4).",
            stacklevel=3,
        )
    return clips


def is_clip(file: Path) -> bool:
    """Whether a file is called like a clip; a webp is one only if it is animated."""
    suffix = file.suffix.lower()
    return suffix in CLIP_SUFFIXES and (suffix != ".webp" or is_animated_webp(file))


def _is_video(file: Path) -> bool:
    """Whether the name is that of a video, of any kind."""
    known = mimetypes.guess_type(file.name)[0] or ""
    return known.startswith("video/") or file.suffix.lower() in CAMCORDERS


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


def decode_into(
    decoder: ClipDecoder, path: Path, out: Path, size: tuple[int, int] | None, fps: float | None = None
) -> DecodedFile:
    """`ClipDecoder.decode` with the checks above; raises ClipError."""
    check_clip(path)
    try:
        return decoder.decode(path, out, size, fps)
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
    return Clip(path, frames, decoded.fps, decoded.source_size, variable=decoded.variable)


def load_motion_set(
    folder: str | Path,
    *,
    motion: str,
    size: tuple[int, int],
    num_frames: int,
    frame_stride: int = 1,
    cache_dir: str | Path | None = None,
    captions: str | Path | bool | None = None,
    max_clips: int | None = None,
    timeout_s: float = 60.0,
    fps: float | None = None,
    masks: bool = False,
) -> MotionSet:
    """Read every clip of `folder` once, cropped at the centre to the aspect of `size` = (h, w), and resized.

    Clips are decoded in a child process, each within `timeout_s` seconds, and memory-mapped from the cache.
    `read_captions` finds their prompts. Warns when the count is not 8-16, or when clips differ in size.
    Raises UserError naming every clip that cannot be used: damaged, cut off, no video, or too short. With
    `max_clips` only the first so many are read. With `fps` frames are taken at that rate, by the times at
    which the file shows them; otherwise all are, whatever the rates are. With `masks` the masks beside clips
    are read, too.

    Example:
        >>> import tempfile
        >>> from lamp_lightning.data import load_motion_set, write_mp4
        >>> from lamp_lightning.toyworld import motion_set_scenes, render_clip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number, scene in enumerate(motion_set_scenes("rain", 8)):
        ...         _ = write_mp4(f"{folder}/{number}.mp4", render_clip(scene, frames=4, size=32))
        ...     found = load_motion_set(
        ...         folder, motion="rain", size=(32, 32), num_frames=4, cache_dir=f"{folder}/cache"
        ...     )
        >>> len(found.clips), found.prompts[0]
        (8, 'rain')
    """
    paths = list_clips(folder)
    prompts = read_captions_of_each(paths, motion, captions)
    if max_clips is not None:
        if max_clips > len(paths):
            found = counted(len(paths), "clip")
            raise UserError(
                f"{folder} has {found}, and data.max_clips={max_clips} are asked for: add some or take fewer."
            )
        paths, prompts = paths[:max_clips], prompts[:max_clips]
    elif not FEWEST <= len(paths) <= MOST:
        warnings.warn(
            f"{folder}: found {counted(len(paths), 'clip')}; the method is made for "
            f"{FEWEST}-{MOST}. Going on with what is there.",
            stacklevel=2,
        )
    cache, clips, problems = Cache(cache_dir), [], []
    with ClipDecoder(timeout_s) as decoder:
        for path, prompt in zip(paths, prompts, strict=True):
            try:
                clips.append(read_fitted(path, prompt, size, cache, decoder, fps, masks=masks))
            except ClipError as error:  # noqa: PERF203 one message names all bad clips
                problems.append(str(error))
    raise_problems(problems)
    check_lengths(clips, num_frames, frame_stride)
    warn_of_sizes(Path(folder), clips, size)
    motion_set = MotionSet(motion, clips)
    warn_of_rates(Path(folder), motion_set, fps)
    return motion_set


def load_clip(
    path: str | Path,
    prompt: str,
    *,
    size: tuple[int, int],
    cache_dir: str | Path | None = None,
    timeout_s: float = 60.0,
    fps: float | None = None,
) -> Clip:
    """Read one clip as `load_motion_set` does those of a folder. Raises UserError where it cannot be used."""
    with ClipDecoder(timeout_s) as decoder:
        return read_fitted(Path(path).expanduser(), prompt, size, Cache(cache_dir), decoder, fps)


def read_fitted(
    path: Path,
    prompt: str | tuple[str, ...],
    size: tuple[int, int],
    cache: Cache,
    decoder: ClipDecoder,
    fps: float | None = None,
    *,
    masks: bool = False,
) -> Clip:
    """One clip at the model's size, from the cache where it is there; with `masks` with its mask.

    `prompt`: its caption, or several. Raises ClipError as `decode_clip`, UserError for a wrong mask.
    """
    frames, facts = _fitted_frames(path, size, cache, decoder, fps)
    prompts = (prompt,) if isinstance(prompt, str) else prompt
    clip = Clip(
        path,
        frames,
        facts.fps,
        facts.source_size,
        prompts[0],
        source_fps=facts.source_fps,
        variable=facts.variable,
        captions=prompts if len(prompts) > 1 else (),
    )
    file = find_mask(path, CLIP_SUFFIXES) if masks else None
    if file is None:
        return clip

    def decode(video: Path) -> tuple[np.ndarray, tuple[int, int] | None]:
        shown, known = _fitted_frames(video, size, cache, decoder, fps)
        return shown, known.source_size

    return replace(clip, mask=read_mask(file, frames.shape[:3], facts.source_size, decode))


def _fitted_frames(
    path: Path, size: tuple[int, int], cache: Cache, decoder: ClipDecoder, fps: float | None
) -> tuple[np.ndarray, DecodedFile]:
    check_clip(path)
    fields: dict[str, Any] = {"clip": file_sha256(path), "size": list(size), "crop": "centre"}
    fields |= {"decoder": "PyAV"} | ({} if fps is None else {"fps": fps})
    entry = cache.path("frames", fields, ".rgb")

    def make() -> tuple[np.ndarray, DecodedFile]:
        with cache.writing(entry) as temporary:
            decoded = decode_into(decoder, path, temporary, size, fps)
        cache.save_facts(entry, decoded)
        found = cache.load_frames(entry)
        if found is None:
            raise UserError(
                f"{entry}: cannot be read back after writing. Choose another folder with cache_dir."
            )
        return found

    return cache.entry(entry, cache.load_frames, make)


# -- names and messages -------------------------------------------------------------------------------------


def natural_order(path: Path) -> tuple:
    """Key to sort files by, numbers in their names by their size: 2 before 10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts), path.name


def _first_line(text: str, limit: int = 200) -> str:
    """The readable part of a library's message."""
    lines = re.sub(r"\[Errno -?\d+\] ", "", text).strip().splitlines() or ["unknown error"]
    return lines[0].rstrip(". ")[:limit]
