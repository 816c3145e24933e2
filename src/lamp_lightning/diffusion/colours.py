"""The colours of a first frame for its video: the authors' matching, and a continuous one."""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(256)


def match_colours(frames: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Give each frame the picture's histogram, channel by channel, as a continuous change of tones.

    The authors' `histogram_match` takes 8-bit tones to the picture's tones one by one. Where the picture has
    few of them, a single pixel or a batch's rounding can decide whether an area becomes dark or light. Here
    tones count between the steps of 8 bits, too, and what lies between two tones stays between.

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


def histogram_match(frame: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Give each colour channel of `frame` the histogram of `reference`.

    Both are cut to 8 bits first; a value becomes the reference's smallest value whose quantile is no lower,
    as the authors do after decoding.

    Args:
        frame: `h w 3`, 0..1.
        reference: `h' w' 3`, 0..1 (the first frame).

    Returns:
        `h w 3` float32 in 0..1, a multiple of 1/255.

    Example:
        >>> import numpy as np
        >>> dark, bright = np.full((2, 2, 3), 0.2), np.full((4, 4, 3), 0.8)
        >>> histogram_match(dark, bright)[0, 0].tolist() == [np.float32(0.8)] * 3
        True
    """
    frame8, reference8 = ((np.clip(x, 0, 1) * 255).astype(np.uint8) for x in (frame, reference))
    channels = [_match_channel(frame8[..., c], reference8[..., c]) for c in range(frame8.shape[-1])]
    return np.stack(channels, axis=-1).astype(np.float32) / np.float32(255)


def _match_channel(source: np.ndarray, reference: np.ndarray) -> np.ndarray:
    # Sums of rounded shares, not shares of sums: this decides ties as the authors' code does.
    quantiles, reference_quantiles = (
        np.cumsum(np.bincount(x.ravel(), minlength=256) / x.size) for x in (source, reference)
    )
    table = np.searchsorted(reference_quantiles, quantiles).clip(max=255).astype(np.uint8)
    return table[source]
