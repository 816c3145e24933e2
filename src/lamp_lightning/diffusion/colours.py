"""The colours of a photograph for the video that begins with it."""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(256)


def match_colours(frames: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Give each frame the picture's histogram, channel by channel, as a continuous change of tones.

    The authors' `histogram_match` takes 8-bit tones to the picture's tones one by one. Where the picture has
    few of them, a single pixel can decide whether an area becomes dark or light, and what a batch rounds
    otherwise than a single video grows to several tones. Here tones count between the steps of 8 bits, too,
    and what lies between two tones stays between.

    Args:
        frames: `f h w 3`, 0..1.
        picture: `h' w' 3`, uint8 or 0..1.

    Returns:
        `f h w 3` float32 in 0..1.
    """
    if picture.dtype == np.uint8:
        picture = picture / np.float32(255)
    matched = np.empty(frames.shape, np.float32)
    for channel in range(frames.shape[-1]):
        wanted, count = _quantiles(picture[..., channel])
        wanted, tones = wanted[count > 0], LEVELS[count > 0] / 255
        for frame, result in zip(frames[..., channel], matched[..., channel], strict=True):
            table = np.interp(_quantiles(frame)[0], wanted, tones)
            result[:] = np.interp(frame, LEVELS / 255, table)
    return matched


def _quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of values below each of 256 levels and half of those at it, and how many are at it.

    A value between two levels counts at both, more at the nearer one.
    """
    scaled = np.clip(values, 0, 1).ravel() * np.float64(255)
    lower = np.minimum(scaled.astype(int), 254)
    share = scaled - lower
    count = np.bincount(lower, 1 - share, 256) + np.bincount(lower + 1, share, 256)
    return (np.cumsum(count) - count / 2) / scaled.size, count
