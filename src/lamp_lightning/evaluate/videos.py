"""Videos that lie on a disk: which there are, what each was asked to show, and their frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.data.captions import listed_texts, own_text, prompt_of
from lamp_lightning.data.clips import VIDEO_SUFFIXES, ClipError, natural_order, read_clip
from lamp_lightning.data.decoder_process import ClipDecoder
from lamp_lightning.data.fit import crop_box, fit_frame, pad_frame, reduced
from lamp_lightning.data.images import PICTURES, as_seen, read_image
from lamp_lightning.data.pictures import frames_of, opened_picture
from lamp_lightning.metrics.metrics_json import read_metrics
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.record import read_record

# Of a video that lies there in several formats, the one with the best pictures is read.
SUFFIXES = (".mkv", ".mp4", ".mov", ".m4v", ".webm", ".avi", ".webp", ".gif")
STILLS = (".png", ".jpg", ".jpeg")
LARGEST = 512  # pixels of the longest side: larger videos are reduced to it
SEED = re.compile(r"[ _]seed[ _]?\d+$")


@dataclass(frozen=True)
class Footage:
    """A video: its file, or its folder of pictures, and what is known about it.

    `size` is the height and width that it was generated at, where the file is enlarged; `fit` how the
    `first_frame` was fitted to it.
    """

    path: Path
    prompt: str | None = None
    size: tuple[int, int] | None = None
    first_frame: Path | None = None
    fit: str = "crop"
    model: str | None = None  # that generated it

    @property
    def name(self) -> str:
        """What other folders and files call it: its name without the ending."""
        return key_of(self.path)


def key_of(path: Path) -> str:
    """The name that a video has in any format: `a.mp4`, `a.gif` and the folder `a_frames` are `a`."""
    if path.is_dir():
        return path.name.removesuffix("_frames")
    return path.stem if path.suffix.lower() in (*SUFFIXES, *PICTURES) else path.name


def list_videos(folder: Path, what: str = "folder") -> list[Path]:
    """The videos of a folder in natural order; hidden files are passed over.

    A video is a file (mp4, m4v, mov, avi, mkv, webm, gif, webp) or a folder of pictures; files of one name in
    several formats are one video. A single file, or a folder of pictures, is one video, too. Raises UserError
    where there is none; `what` is the setting that names the folder.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{what}={folder} does not exist. Give a folder of videos, or one video.")
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    entries = [entry for entry in visible if entry.is_file() or entry.is_dir()]  # reading a pipe never ends
    ranked = [(rank, entry) for entry in entries if (rank := _rank(entry)) is not None]
    if best := {key_of(entry): entry for _, entry in sorted(ranked, reverse=True)}:  # the first rank stays
        return sorted(best.values(), key=natural_order)
    if _stills(folder):
        return [folder]
    found = ", ".join(sorted(entry.name for entry in entries)[:3])
    kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
    raise UserError(
        f"{what}={folder}: no video here, found {f'only {found}' if found else 'nothing'}. Give a folder of "
        f"videos ({kinds}, or a folder of pictures for each)."
    )


def _rank(entry: Path) -> int | None:
    """Which of several formats of a video is read: the lowest. None where it is no video."""
    if entry.is_dir():
        return 0 if _stills(entry) else None
    suffix = entry.suffix.lower()
    return 1 + SUFFIXES.index(suffix) if suffix in SUFFIXES else None


def _stills(folder: Path) -> list[Path]:
    """The pictures of a folder that are numbered, in natural order: the frames of a video."""
    numbered = [f for f in folder.iterdir() if f.suffix.lower() in STILLS and re.search(r"\d", f.stem)]
    return sorted((f for f in numbered if not f.name.startswith(".") and f.is_file()), key=natural_order)


# -- what a folder says about its videos ---------------------------------------------------------------------


def footage_of(folder: Path, prompts: Path | None = None) -> tuple[list[Footage], list[str]]:
    """The videos of a folder with prompts, and the names of files that were passed over.

    Prompts come from the file `prompts`, else from the records that lie beside videos of the sample
    command, else from the metrics.json of the run that the folder is in, else from `<name>.txt`, else from
    the names themselves (`a_red_horse.mp4`); a video whose name is only a number has none. Where there are
    records, files without one are walls of all videos.
    """
    paths = list_videos(folder)
    around = folder if folder.is_dir() and paths != [folder] else folder.parent
    listed = {
        key_of(Path(file)): prompt for file, prompt in listed_prompts(around.parent / "metrics.json").items()
    }
    known = {path: found for path in paths if (found := _recorded(path, around)) is not None}
    videos = [
        known.get(path, Footage(path, listed.get(key_of(path)) or _own_prompt(path, around)))
        for path in paths
    ]
    passed_over = []
    if known and len(paths) > 1:
        passed_over = [path.name for path in paths if path not in known]
        videos = list(known.values())
    if prompts is not None:
        texts = read_prompts(prompts, [video.path for video in videos])
        videos = [replace(video, prompt=text) for video, text in zip(videos, texts, strict=True)]
    return videos, passed_over


def _recorded(path: Path, around: Path) -> Footage | None:
    """A video with what its record says; None where it has none."""
    file = around / f"{key_of(path)}.json"
    if not file.is_file():
        return None
    try:
        record = read_record(file)
        picture = record["first_frame"] or {}
        size = record["sampler"]["size"]
        if picture.get("frame") is not None:  # of a clip: it is no picture by itself
            picture = {}
        return Footage(
            path,
            prompt=str(record["prompt"]),
            size=None if size is None else (int(size[0]), int(size[1])),
            first_frame=Path(picture["file"]) if picture and Path(picture["file"]).is_file() else None,
            fit=str(picture.get("fit", "crop")),
            model=str(record["base"]["model"]),
        )
    except (UserError, KeyError, TypeError, ValueError):
        return None  # another program's file of that name


def _own_prompt(path: Path, around: Path) -> str | None:
    beside = around / f"{key_of(path)}.txt"
    if beside.is_file():
        return own_text(beside, kind="prompt")
    return prompt_of(Path(SEED.sub("", key_of(path)) + ".mp4"))


def listed_prompts(metrics: Path) -> dict[str, str]:
    """The prompt of each of a run's final videos by its file, as its metrics.json has them; none without."""
    try:
        videos = read_metrics(metrics).videos
    except UserError:
        return {}  # another program's file of that name
    return {each.file: each.prompt for each in videos if each.prompt is not None}


def read_prompts(file: Path, paths: Sequence[Path]) -> list[str]:
    """The prompt of each video from a file as `listed_texts` describes it.

    Raises:
        UserError: a file that cannot be read, or does not fit the videos.
    """
    if not file.is_file():
        raise UserError(f"prompts={file} does not exist. Give a .txt, .json or .csv file.")
    found = listed_texts(file, [(path.name, key_of(path)) for path in paths], kind="prompt")
    without = [path.name for path, prompt in zip(paths, found, strict=True) if prompt is None]
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        raise UserError(
            f"prompts={file} has no prompt for {', '.join(without[:3])}{more}. Add it, or leave prompts out."
        )
    return [prompt for prompt in found if prompt is not None]


# -- frames --------------------------------------------------------------------------------------------------


class VideoReader:
    """Reads videos of any kind, each within `timeout_s` seconds, as uint8 `(f, h, w, 3)`.

    Video files are decoded in a child process. Use as a context manager.
    """

    def __init__(self, timeout_s: float = 60.0, num_frames: int | None = None) -> None:
        self.num_frames = num_frames
        self._decoder = ClipDecoder(timeout_s)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._decoder.close()

    def read(self, path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        """The first `num_frames` frames, at most `LARGEST` pixels long, or all.

        `size`: height and width that the video was generated at; a whole multiple of it is reduced to it.
        Raises UserError where it is missing, damaged, no video, or takes too long.
        """
        frames = self._frames(path)[: self.num_frames]
        if size is not None and frames.shape[1:3] != size and _is_multiple(frames.shape[1:3], size):
            return reduced(frames, max(size))
        return reduced(frames, LARGEST)

    def _frames(self, path: Path) -> np.ndarray:
        if path.is_dir():
            return _same_sized(path, [(file.name, read_image(file)) for file in _stills(path)])
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            return _animation(path)
        return read_clip(self._decoder, path).frames


def _is_multiple(found: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a video of that size is one of `size` enlarged, with at most a row or column repeated."""
    factor = found[0] // size[0]
    return factor > 1 and all(0 <= f - factor * s <= 1 for f, s in zip(found, size, strict=True))


def _animation(path: Path) -> np.ndarray:
    """An animated webp, or another picture file, by Pillow."""
    advice = "Take it out of the folder."
    with opened_picture(path, what="a video", advice=advice) as image:
        frames = [np.asarray(as_seen(frame.copy())) for frame in frames_of(image, path)]
    return _same_sized(path, [(f"frame {k}", frame) for k, frame in enumerate(frames)])


def _same_sized(path: Path, frames: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    for name, frame in frames:
        if frame.shape != frames[0][1].shape:
            (h, w), (h0, w0) = frame.shape[:2], frames[0][1].shape[:2]
            raise ClipError(f"{path}: {name} has {w}x{h} pixels, but the first frame {w0}x{h0}.")
    return np.stack([frame for _, frame in frames])


def fitted_picture(file: Path, fit: str, frames: np.ndarray) -> np.ndarray:
    """The given first frame of a video, uint8 `(h, w, 3)`, fitted to its shape as then."""
    picture = read_image(file)
    size = (frames.shape[1], frames.shape[2])
    return (pad_frame if fit == "pad" else fit_frame)(picture, size)


def cropped_like(video: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """A true continuation, cropped at the centre to the aspect of the video `frames`."""
    height, width = video.shape[1:3]
    left, top, right, bottom = crop_box(height, width, (frames.shape[1], frames.shape[2]))
    return video[:, round(top) : round(bottom), round(left) : round(right)]


def pictures_by_name(folder: Path, what: str) -> dict[str, Path]:
    """The pictures of a folder by their names without ending."""
    if not folder.is_dir():
        raise UserError(f"{what}={folder} does not exist. Give a folder of pictures named like the videos.")
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in PICTURES]
    return {file.stem: file for file in files if not file.name.startswith(".") and file.is_file()}


def as_path(value: Any) -> Path | None:
    """A path setting; None where it has no value."""
    return None if value is None else Path(str(value)).expanduser()
