"""How much a video moves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lamp_lightning.video import as_frames

FLOW_SIZE = 256  # small videos are enlarged to this width for the flow: its patches are 8 pixels


def optical_flow(video: Any) -> np.ndarray:
    """Dense optical flow between neighbouring frames, in pixels: ``(f - 1, h, w, 2)``, x then y.

    OpenCV's DIS flow, on frames enlarged to at least ``FLOW_SIZE`` pixels of width.
    """
    frames = as_frames(video, min_frames=2)
    height, width = frames.shape[1:3]
    factor = max(1, round(FLOW_SIZE / width))
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    if factor > 1:
        size = (width * factor, height * factor)
        grey = [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in grey]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = [dis.calc(a, b, None) for a, b in pairwise(grey)]
    if factor > 1:
        flows = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) / factor for f in flows]
    return np.stack(flows)


class MotionAmount(Metric):
    """Mean length of the optical flow, in percent of the picture's width per frame.

    Neither better nor worse by itself: it tells a video that moves from a frozen one (0), whose frame
    consistency is perfect. ``update(frames)`` takes one video, uint8 ``(f, h, w, 3)``.
    """

    full_state_update = False
    total: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, frames: Any) -> None:
        flow = optical_flow(frames)
        self.total += float(100 * np.linalg.norm(flow, axis=-1).mean() / flow.shape[2])
        self.videos += 1

    def compute(self) -> Tensor:
        return (self.total / self.videos).float()


def drift(video: Any, reach: float = 0.125) -> np.ndarray:
    """The one velocity that explains best what moves in a video: ``(x, y)`` in pixels per frame.

    For textures of many small things that fall alike (rain, a waterfall), where dense flow between frames
    mistakes one streak for the next. What stands still is taken away (each pixel's median over time); then
    neighbouring frames are correlated under all shifts up to ``reach`` of the width, all pairs summed, and
    the best shift is refined below a pixel. Zero where nothing moves.
    """
    frames = as_frames(video, min_frames=2).astype(np.float64) / 255
    moving = frames - np.median(frames, axis=0)
    if np.abs(moving).max(axis=-1).mean() < 1e-3:
        return np.zeros(2)
    height, width = frames.shape[1:3]
    r = max(2, round(reach * width))
    padded = ((0, 0), (0, r), (0, r), (0, 0))  # room, so that shifts do not wrap around
    a, b = (np.fft.rfft2(np.pad(x, padded), axes=(1, 2)) for x in (moving[:-1], moving[1:]))
    correlation = np.fft.irfft2((np.conj(a) * b).sum(axis=(0, 3)), s=(height + r, width + r))
    shifts = np.arange(-r, r + 1)
    table = correlation[np.ix_(shifts, shifts)]
    overlap = np.outer(height - np.abs(shifts), width - np.abs(shifts))
    table = table / overlap
    y, x = np.unravel_index(table.argmax(), table.shape)
    return np.array([shifts[x] + _vertex(table[y], x), shifts[y] + _vertex(table[:, x], y)])


def _vertex(values: np.ndarray, k: int) -> float:
    """Where between its neighbours the parabola through values k-1, k, k+1 has its top, -0.5..0.5."""
    if not 0 < k < len(values) - 1:
        return 0.0
    left, top, right = values[k - 1 : k + 2]
    bend = left - 2 * top + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
