"""How pictures and clips of any shape reach the model's: cropped, or padded, and resized."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

WIDEST = 2.5  # aspects beyond this are cut to it: models know nothing of panoramas


def crop_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred box of aspect `size` = (h, w), as (left, top, right, bottom) in pixels."""
    scale = min(height / size[0], width / size[1])
    crop_h, crop_w = size[0] * scale, size[1] * scale
    left, top = (width - crop_w) / 2, (height - crop_h) / 2
    return left, top, left + crop_w, top + crop_h


def fit_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop and resize one frame, uint8 (H, W, 3) -> (h, w, 3), antialiased; unchanged where it fits."""
    height, width = frame.shape[:2]
    if (height, width) == tuple(size):
        return frame
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    box = crop_box(height, width, size)
    # Pillow widens the bicubic kernel when it shrinks an image, so fine detail is averaged, not aliased.
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))


def inner_box(height: int, width: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """Where a whole picture lies in a frame of `size` = (h, w): the largest centred box of its aspect.

    Rows and columns are even numbers, which video files need, so the aspect is kept to a pixel.
    """
    scale = min(size[0] / height, size[1] / width)

    def inside(length: int, own: int) -> slice:
        side = min(own, max(2, round(length * scale / 2) * 2))
        start = (own - side) // 2
        return slice(start, start + side)

    return inside(height, size[0]), inside(width, size[1])


def pad_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one frame to fit whole into `size`, uint8 (H, W, 3) -> (h, w, 3); its mirror image is around it.

    `inner_box` says where the picture lies. A mirror image has no border that the model would see.
    """
    rows, columns = inner_box(frame.shape[0], frame.shape[1], size)
    inside = fit_frame(frame, (rows.stop - rows.start, columns.stop - columns.start))
    around = [(box.start, own - box.stop) for box, own in zip((rows, columns), size, strict=True)]
    return np.pad(inside, (*around, (0, 0)), mode="symmetric")


def size_of_aspect(height: int, width: int, like: tuple[int, int], unit: int) -> tuple[int, int]:
    """Height and width for a picture of that shape: its aspect, the area of `like`, multiples of `unit`.

    Aspects beyond `WIDEST` are cut to it.
    """
    aspect = min(max(width / height, 1 / WIDEST), WIDEST)
    area = like[0] * like[1]
    heights, widths = (
        sorted({max(1, rounded(side / unit)) * unit for rounded in (math.floor, math.ceil)})
        for side in (math.sqrt(area / aspect), math.sqrt(area * aspect))
    )

    def cost(size: tuple[int, int]) -> float:
        return abs(math.log(size[1] / size[0] / aspect)) + abs(math.log(size[0] * size[1] / area)) / 2

    return min(product(heights, widths), key=cost)


def reduced(frames: np.ndarray, longest: int) -> np.ndarray:
    """Frames, uint8 `(f, h, w, 3)`, with a longest side of at most that many pixels."""
    height, width = frames.shape[1:3]
    scale = longest / max(height, width)
    if scale >= 1:
        return frames
    import cv2  # late: the process that decodes clips does without

    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames])
