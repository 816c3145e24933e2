"""Videos as sprite strips inside a page: one picture with all frames each, as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from lamp_lightning.data.sheet import shrunk
from lamp_lightning.report.comparison import VideoFile
from lamp_lightning.runtime.errors import UserError

COLUMNS = 8  # frames in a row: as a contact sheet, which it is without JavaScript, it fits a phone
LARGEST = 16383  # pixels of a WebP's side
# Longest side of a frame (None: as it is) and WebP quality (None: lossless), from best to smallest.
LEVELS = ((None, None), (None, 92), (384, 90), (256, 85), (192, 80), (128, 75), (96, 60), (64, 40))

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Strip:
    """A picture of `frames` frames of `width` x `height` pixels, `columns` in each row."""

    uri: str
    frames: int
    width: int
    height: int

    @property
    def columns(self) -> int:
        return min(COLUMNS, self.frames)

    @property
    def rows(self) -> int:
        return math.ceil(self.frames / COLUMNS)


def make_strips(videos: Mapping[Key, VideoFile], budget: int) -> tuple[dict[Key, Strip], str, list[str]]:
    """Strips of all videos in at most `budget` bytes of page, if the smallest level can do that.

    Returns the strips, a sentence on what was done to keep them small (empty if nothing was), and what is
    wrong with the videos that could not be read.
    """
    broken: list[str] = []
    readable = {}
    for key, video in videos.items():
        try:
            video.read()
        except UserError as error:  # noqa: PERF203 the others are shown all the same
            broken.append(str(error))
        else:
            readable[key] = video
    strips: dict[Key, Strip] = {}
    for side, quality in LEVELS:
        if (side, quality) != LEVELS[-1] and _estimate(list(readable.values()), side, quality) > budget:
            continue
        strips = {key: strip(video.read(), side, quality) for key, video in readable.items()}
        if sum(len(each.uri) for each in strips.values()) <= budget:
            break
    said = ""
    if strips and quality is not None:
        size = "in full size" if side is None else f"at most {side} pixels wide or high"
        said = f"To keep this page small, its videos are {size} and compressed with loss."
    return strips, said, broken


def strip(frames: np.ndarray, side: int | None = None, quality: int | None = None) -> Strip:
    """All frames of a video, uint8 `f h w c`, in one WebP picture."""
    small = frames if side is None else shrunk(frames, side)
    rows = math.ceil(len(small) / COLUMNS)
    small = shrunk(small, min(LARGEST // COLUMNS, LARGEST // rows))
    count, height, width, _ = small.shape
    columns = min(COLUMNS, count)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, frame in enumerate(small):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = frame
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", lossless=quality is None, quality=quality or 60, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return Strip(uri, count, width, height)


def _estimate(videos: Sequence[VideoFile], side: int | None, quality: int | None, tried: int = 4) -> float:
    """Bytes that all strips would take, going by some of them."""
    some = videos[:: max(1, len(videos) // tried)]
    return len(videos) * float(np.mean([len(strip(each.read(), side, quality).uri) for each in some] or [0]))
