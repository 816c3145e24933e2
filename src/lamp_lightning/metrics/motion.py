"""How much a video moves."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from torchmetrics import MeanMetric

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.batches import VideoMetric
from lamp_lightning.metrics.flow import colour_flow, optical_flow

DRIFT_SIZE = 128  # larger videos are reduced to this longest side for the drift
MIN_FRAMES = 4  # fewer do not tell what stands still from what moves
CELLS = 8  # of the picture, in each direction, in which two flows are compared
CHANGE = 0.1  # of 0..1: pixels that change less from one frame to the next do not move
LAGS = 3  # frames up to this far apart are compared


def flow_correlation(video: Any, source: Any) -> float:
    """How alike two videos of as many frames move: Pearson's correlation of their optical flows, -1 to 1.

    Made to compare videos of different looks. Flow is taken in each colour, since one may show what others
    hide, and counts as none where the picture does not change: there it is guessed from the surroundings,
    differently before every background. It is compared as means over 8 x 8 cells of the picture. 0 where one
    of them stands still.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> round(flow_correlation(video, video), 3)
        1.0
    """
    a, b = as_frames(video, min_frames=2), as_frames(source, min_frames=2)
    if len(a) != len(b):
        raise ValueError(f"The video has {len(a)} frames and the source {len(b)}: they must be as many.")
    x, y = (flow - flow.mean(axis=(0, 1, 2)) for flow in (_flow_in_cells(a), _flow_in_cells(b)))
    energy = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / energy**0.5) if energy > 0 else 0.0


def _flow_in_cells(frames: np.ndarray) -> np.ndarray:
    """Mean flow of what changes in each of 8 x 8 cells, as a share of the width: `(f - 1, 8, 8, 2)`."""
    changes = np.abs(np.diff(frames.astype(np.float32), axis=0)).max(-1, keepdims=True) > 255 * CHANGE
    flow = colour_flow(frames) * changes / frames.shape[2]
    return np.stack([cv2.resize(f, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for f in flow])


def motion_amount(video: Any) -> float:
    """Mean length of the optical flow over all pixels and frames, in percent of the width per frame."""
    flow = optical_flow(video)
    return float(100 * np.linalg.norm(flow, axis=-1).mean() / flow.shape[2])


class MotionAmount(VideoMetric, MeanMetric):
    """Mean length of the optical flow, in percent of the picture's width per frame.

    Neither better nor worse by itself: it tells a video that moves from a frozen one (0), whose frame
    consistency is perfect. `update(frames)` takes a video or a batch.

    Example:
        >>> import numpy as np
        >>> frozen = np.full((4, 32, 32, 3), 128, np.uint8)
        >>> amount = MotionAmount()
        >>> amount.update(frozen)
        >>> float(amount.compute())
        0.0
    """

    plot_lower_bound = 0.0

    def update(self, frames: Any) -> None:
        super().update([motion_amount(video) for video in as_videos(frames)])


def drift(video: Any, reach: float = 0.125) -> np.ndarray:
    """The one velocity that explains best what moves in a video: `(x, y)` in pixels per frame.

    For textures of many small things that fall alike (rain, a waterfall), where dense flow between frames
    mistakes one streak for the next. What stands still (each pixel's mean over time) and broad changes of
    light are taken away; then frames 1, 2 and 3 apart are correlated under all shifts, summed over time. The
    answer is the velocity, up to `reach` of the longest side, under which all three fit best: things of
    another kind, slow drifts of colour and repeats of the texture fit some of the three but not all.
    Zero where nothing moves. Raises UserError for fewer than 4 frames, too few to know what stands still.
    """
    frames = as_frames(video, min_frames=MIN_FRAMES)
    longest = max(frames.shape[1:3])
    scale = min(1.0, DRIFT_SIZE / longest)
    moving = _what_moves(frames, scale)
    if np.abs(moving).mean() < 1e-4:
        return np.zeros(2)
    top = max(2, round(reach * longest * scale))
    tables = [_correlation(moving, lag, top * lag) for lag in range(1, min(LAGS, len(frames) - 1) + 1)]
    velocity = _best_velocity(tables, np.zeros(2), top, 0.25)
    return _best_velocity(tables, velocity, 0.25, 0.025) / scale


def _what_moves(frames: np.ndarray, scale: float) -> np.ndarray:
    """Brightness 0..1 less each pixel's mean over time, less what is smooth over a tenth of the picture."""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for f in frames]
    if scale < 1:
        grey = [cv2.resize(g, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for g in grey]
    moving = np.stack(grey) - np.mean(grey, axis=0)
    width = max(moving.shape[1:]) / 10
    return np.stack([m - cv2.GaussianBlur(m, (0, 0), width) for m in moving])


def _correlation(moving: np.ndarray, lag: int, reach: int) -> np.ndarray:
    """Normalised correlation of frames `lag` apart, all pairs together, under shifts of -reach..reach.

    `(2 reach + 1, 2 reach + 1)`, y then x. Only where the shifted frames overlap; -1 where that is less
    than a tenth of the picture.
    """
    size = (moving.shape[1] + reach, moving.shape[2] + reach)  # room, so that shifts do not wrap around

    def under_shifts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        spectrum = (np.conj(np.fft.rfft2(a, size)) * np.fft.rfft2(b, size)).sum(axis=0)
        shifts = np.arange(-reach, reach + 1)
        return np.fft.irfft2(spectrum, size)[np.ix_(shifts % size[0], shifts % size[1])]

    a, b, whole = moving[:-lag], moving[lag:], np.ones_like(moving[:1])
    energy = under_shifts((a**2).sum(0, keepdims=True), whole) * under_shifts(
        whole, (b**2).sum(0, keepdims=True)
    )
    table = under_shifts(a, b) / np.sqrt(np.maximum(energy, 1e-12))
    return np.where(under_shifts(whole, whole) > 0.1 * whole.size, table, -1).astype(np.float32)


def _best_velocity(tables: list[np.ndarray], centre: np.ndarray, reach: float, step: float) -> np.ndarray:
    """The velocity `(x, y)` around `centre` with the best mean correlation over the lags."""
    offsets = np.arange(-reach, reach + step / 2, step)
    x, y = np.meshgrid(centre[0] + offsets, centre[1] + offsets)
    score = np.zeros(x.shape, np.float32)
    for lag, table in enumerate(tables, start=1):
        middle = len(table) // 2
        columns, rows = ((v * lag + middle).astype(np.float32) for v in (x, y))
        score += cv2.remap(table, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    best = np.unravel_index(score.argmax(), score.shape)
    return np.array([x[best], y[best]])
