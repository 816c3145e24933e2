"""Optical flow: what moves where from each frame to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import cv2
import numpy as np

from lamp_lightning.data.fit import reduced
from lamp_lightning.data.video import as_frames

FLOW_SIZE = 256  # small videos are enlarged to this width for the flow: its patches are 8 pixels
FLOW_ROWS = 32  # and to this height: with fewer rows OpenCV's flow crashes
SLACK = 0.004  # shares of the longest side: flow that comes back as near as this has come back
SEEN_SIZE = 128  # larger videos are reduced to this longest side where flow is compared or followed


def optical_flow(video: Any) -> np.ndarray:
    """Dense optical flow between neighbouring frames, in pixels: `(f-1) h w 2`, x then y.

    OpenCV's DIS flow, on frames enlarged to about `FLOW_SIZE` pixels of width and at least `FLOW_ROWS` of
    height.
    """
    frames = as_frames(video, min_frames=2)
    return _dis_flow([cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in frames])


def colour_flow(frames: np.ndarray, *, fast: bool = False) -> np.ndarray:
    """As `optical_flow`, taken in each colour, since one may show what others hide.

    Each colour counts, at each place, as much as there is detail in it. `frames`: uint8 `f h w c`.
    `fast` stops at a quarter of the flow's resolution, in a quarter of the time.
    """
    width = frames.shape[2]
    total: Any = 0.0
    weights: Any = 0.0
    for colour in range(3):
        pictures = np.ascontiguousarray(frames[..., colour])
        detail = [np.abs(cv2.Laplacian(p.astype(np.float32), cv2.CV_32F)) for p in pictures[:-1]]
        weight = np.stack([cv2.GaussianBlur(d, (0, 0), width / 32) for d in detail])[..., None] + 1e-3
        total = total + weight * _dis_flow(list(pictures), fast)
        weights = weights + weight
    return total / weights


def _dis_flow(pictures: Sequence[np.ndarray], fast: bool = False) -> np.ndarray:
    """The flow of pictures of one channel."""
    height, width = pictures[0].shape
    factor = max(1, round(FLOW_SIZE / width), ceil(FLOW_ROWS / height))
    if factor > 1:
        size = (width * factor, height * factor)
        pictures = [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in pictures]
    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    dis = cv2.DISOpticalFlow_create(preset)  # type: ignore[attr-defined]
    flows = [dis.calc(a, b, None) for a, b in pairwise(pictures)]
    if factor > 1:
        flows = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) / factor for f in flows]
    return np.stack(flows)


@dataclass(frozen=True)
class FollowedVideo:
    """A video, reduced to `SEEN_SIZE`, and its flow from each frame to the next and back.

    `frames` float32 `f h w c` 0..1; `forward` and `backward` `(f-1) h w 2` in pixels:
    `forward[t]` belongs to the pixels of frame `t`, `backward[t]` to those of frame `t + 1`.
    """

    frames: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    @classmethod
    def of(cls, video: Any) -> FollowedVideo:
        """Of any common form of a video, at least two frames."""
        if isinstance(video, FollowedVideo):
            return video
        frames = reduced(as_frames(video, min_frames=2), SEEN_SIZE)
        backward = colour_flow(frames[::-1], fast=True)[::-1]
        return cls(frames.astype(np.float32) / 255, colour_flow(frames, fast=True), backward)

    @property
    def longest(self) -> int:
        """The longest side in pixels."""
        return max(self.frames.shape[1:3])

    def certain(self, t: int) -> np.ndarray:
        """Where the flow from frame `t` leads to a place from which flow leads back: bool `h w`.

        Not where something gets hidden, nor where frames have nothing to do with each other.
        """
        flow = self.forward[t]
        astray = np.linalg.norm(flow + moved(self.backward[t], flow), axis=-1)
        return astray < 0.5 * np.linalg.norm(flow, axis=-1) + SLACK * self.longest


def moved(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What lies in `picture` `h w c` where `flow` `h w 2` leads from each pixel."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = columns + flow[..., 0].astype(np.float32), rows + flow[..., 1].astype(np.float32)
    return cv2.remap(picture.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
