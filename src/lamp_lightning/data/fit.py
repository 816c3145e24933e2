"""Centre crop to a shape, then resize: how every frame reaches the model's size."""

from __future__ import annotations

import numpy as np


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
