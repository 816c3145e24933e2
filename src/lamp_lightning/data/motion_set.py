"""A motion set: a folder of 8-16 clips that share one motion, decoded to the model's size before training."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lamp_lightning.data.cache import Cache, again
from lamp_lightning.data.captions import read_captions
from lamp_lightning.data.clips import Clip, ClipError, check_clip, decode_into, list_clips
from lamp_lightning.data.decoder_process import ClipDecoder
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.runtime.stopping import check_stop

_FEWEST, _MOST = 8, 16


@dataclass
class MotionSet:
    """The clips of one motion, in natural order of their file names.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lamp_lightning.data import Clip, MotionSet
        >>> frames = np.zeros((3, 8, 8, 3), np.uint8)
        >>> MotionSet("rain", [Clip(Path("a.mp4"), frames, fps=8, prompt="red rain falls")]).prompts
        ['red rain falls']
    """

    name: str
    clips: list[Clip] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each clip."""
        return [clip.prompt for clip in self.clips]


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
) -> MotionSet:
    """Read every clip of `folder` once, cropped at the centre to the aspect of `size` = (h, w), and resized.

    Clips are decoded in a child process, each within `timeout_s` seconds, and kept in the cache, from where
    the frames are memory-mapped. The prompt is the motion's name unless there are captions (see
    `read_captions`). Warns when the count is not 8-16, or when clips differ in size. Raises UserError naming
    every clip that cannot be used: damaged, cut off, no video, or of fewer than
    (num_frames - 1) * frame_stride + 1 frames. With `max_clips` only the first so many are read.

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
    prompts = read_captions(paths, motion, captions)
    if max_clips is not None:
        if max_clips > len(paths):
            found = f"{len(paths)} clip{'s' * (len(paths) != 1)}"
            raise UserError(
                f"{folder} has {found}, and data.max_clips={max_clips} are asked for: add some or take fewer."
            )
        paths, prompts = paths[:max_clips], prompts[:max_clips]
    elif not _FEWEST <= len(paths) <= _MOST:
        warnings.warn(
            f"{folder}: found {len(paths)} clip{'s' * (len(paths) != 1)}; the method is made for "
            f"{_FEWEST}-{_MOST}. Going on with what is there.",
            stacklevel=2,
        )
    clips = _read_clips(paths, prompts, size, Cache(cache_dir), timeout_s)
    _check_lengths(clips, num_frames, frame_stride)
    _warn_of_sizes(Path(folder), clips, size)
    return MotionSet(motion, clips)


def load_clip(
    path: str | Path,
    prompt: str,
    *,
    size: tuple[int, int],
    cache_dir: str | Path | None = None,
    timeout_s: float = 60.0,
) -> Clip:
    """Read one clip as `load_motion_set` does those of a folder. Raises UserError where it cannot be used."""
    with ClipDecoder(timeout_s) as decoder:
        return _read_clip(Path(path).expanduser(), prompt, size, Cache(cache_dir), decoder)


def _read_clips(
    paths: Sequence[Path], prompts: Sequence[str], size: tuple[int, int], cache: Cache, timeout_s: float
) -> list[Clip]:
    clips, problems = [], []
    with ClipDecoder(timeout_s) as decoder:
        for path, prompt in zip(paths, prompts, strict=True):
            try:
                clips.append(_read_clip(path, prompt, size, cache, decoder))
            except ClipError as error:  # noqa: PERF203 one message names all bad clips
                problems.append(str(error))
    _raise(problems)
    return clips


def _read_clip(path: Path, prompt: str, size: tuple[int, int], cache: Cache, decoder: ClipDecoder) -> Clip:
    check_clip(path)
    fields = {"clip": file_sha256(path), "size": list(size), "crop": "centre", "decoder": "PyAV"}
    entry = cache.path("frames", fields, ".rgb")
    found = cache.load_frames(entry)
    if found is None:
        with cache.alone(entry):
            found = again(cache.load_frames, entry)
            if found is None:
                check_stop()
                with cache.writing(entry) as temporary:
                    decoded = decode_into(decoder, path, temporary, size)
                cache.save_facts(entry, dataclasses.asdict(decoded))
                found = cache.load_frames(entry)
        if found is None:
            raise UserError(
                f"{entry}: cannot be read back after writing. Choose another folder with cache_dir."
            )
    frames, facts = found
    return Clip(path, frames, facts["fps"], facts["source_size"], prompt)


def _check_lengths(clips: Sequence[Clip], num_frames: int, frame_stride: int) -> None:
    needed = (num_frames - 1) * frame_stride + 1
    _raise(
        [
            f"{clip.path}: this clip has {len(clip.frames)} frames, but {num_frames} frames at a stride of "
            f"{frame_stride} need {needed}. Use a longer clip, a smaller stride or fewer frames."
            for clip in clips
            if len(clip.frames) < needed
        ]
    )


def _warn_of_sizes(folder: Path, clips: Sequence[Clip], size: tuple[int, int]) -> None:
    sizes = Counter(clip.source_size for clip in clips if clip.source_size)
    if len(sizes) > 1:
        counts = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(4))
        warnings.warn(
            f"{folder}: the clips have {len(sizes)} different sizes: {counts}. Each is cropped at the centre "
            f"and resized to {size[1]}x{size[0]}.",
            stacklevel=3,
        )


def _raise(problems: Sequence[str], limit: int = 5) -> None:
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        more = [f"... and {len(problems) - limit} more"] if len(problems) > limit else []
        raise UserError("\n".join([f"{len(problems)} clips cannot be used:", *problems[:limit], *more]))
