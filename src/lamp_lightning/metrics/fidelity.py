"""How alike a video and the training clips move, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torchmetrics import MeanMetric

from lamp_lightning.data.video import as_videos
from lamp_lightning.metrics.batches import VideoMetric
from lamp_lightning.metrics.flow import FollowedVideo, moved
from lamp_lightning.runtime.errors import UserError

MIN_FRAMES = 3  # of a video: two flows tell how motion goes on
CHANGE = 0.06  # of 0..1: pixels that change less from one frame to the next do not move
SOFT = 1 / 64  # of the longest side: how far the change at a pixel is averaged, against grain
SLOWEST = 0.002  # shares of the longest side per frame: what is slower stands still
SPEEDS = (0.004, 0.064)  # shares of the longest side per frame: the first and the last class of speed
SPEED_CLASSES, DIRECTIONS = 5, 12
TURN_CLASSES, CHANGE_CLASSES = 6, 4
UNCERTAIN = 0.2  # what a pixel counts whose flow there and back does not end where it began


@dataclass(frozen=True)
class MotionSignature:
    """How a video moves, as two distributions over all that moves in it, weighted by speed; both sum to 1.

    `velocity` `(5, 12)`: speed (logarithmic) and direction. `change` `(6, 4)`: how the flow goes on
    one frame later at the place that it leads to: the cosine of the turn, and the length of the difference as
    a share of the speed. Steady motion is all in its first column's last row, jumps are everywhere.
    """

    velocity: np.ndarray
    change: np.ndarray

    def likeness(self, other: MotionSignature) -> float:
        """1 less the mean Hellinger distance of the distributions: 1 if they are the same, 0 if disjoint."""
        pairs = ((self.velocity, other.velocity), (self.change, other.change))
        overlaps = [float(np.sqrt(a * b).sum()) for a, b in pairs]
        return float(np.mean([1 - max(0.0, 1 - overlap) ** 0.5 for overlap in overlaps]))


def motion_signature(video: Any) -> MotionSignature | None:
    """The signature of a video of at least 3 frames; None where nothing moves."""
    seen = FollowedVideo.of(video)
    if len(seen.frames) < MIN_FRAMES:
        raise UserError(f"Motion is compared from {MIN_FRAMES} frames on; this video has {len(seen.frames)}.")
    parts = [_moving(seen, t) for t in range(len(seen.forward) - 1)]
    now, later, weight = (np.concatenate(each) for each in zip(*parts, strict=True))
    if not weight.sum():
        return None
    return MotionSignature(_velocities(now, weight), _changes(now, later, weight))


def _moving(seen: FollowedVideo, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of what moves in frame `t`: velocity, the one a frame later `(n, 2)`, and weight `(n,)`."""
    now = seen.forward[t] / seen.longest
    later = moved(seen.forward[t + 1], seen.forward[t]) / seen.longest
    speed = np.linalg.norm(now, axis=-1)
    weight = speed * np.where(seen.certain(t), 1, UNCERTAIN)
    difference = seen.frames[t + 1] - seen.frames[t]
    changes = np.abs(cv2.GaussianBlur(difference, (0, 0), SOFT * seen.longest)).max(-1)  # grain is no motion
    keep = (changes > CHANGE) & (speed > SLOWEST)
    return now[keep], later[keep], weight[keep]


def _velocities(velocity: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The distribution of speed and direction, each sample shared between the nearest classes."""
    step = np.log(SPEEDS[1] / SPEEDS[0]) / (SPEED_CLASSES - 1)
    speed = np.log(np.linalg.norm(velocity, axis=-1) / SPEEDS[0]) / step
    speed = np.clip(speed, 0, SPEED_CLASSES - 1)
    direction = np.arctan2(velocity[:, 1], velocity[:, 0]) / (2 * np.pi) * DIRECTIONS % DIRECTIONS
    table = np.zeros((SPEED_CLASSES + 1, DIRECTIONS))
    row, column = speed.astype(int), direction.astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (speed - row)) * np.abs(1 - right - (direction - column))
            np.add.at(table, (row + down, (column + right) % DIRECTIONS), weight * share)
    return table[:SPEED_CLASSES] / table.sum()


def _changes(now: np.ndarray, later: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The distribution of turns and relative differences."""
    speed = np.linalg.norm(now, axis=-1)
    cosine = (now * later).sum(-1) / (speed * np.linalg.norm(later, axis=-1) + 1e-6)
    difference = np.linalg.norm(later - now, axis=-1) / (speed + 1e-4)
    samples = (np.clip(cosine, -1, 1), np.clip(difference, 0, 2.99))
    classes = (TURN_CLASSES, CHANGE_CLASSES)
    table = np.histogram2d(*samples, bins=classes, range=((-1, 1), (0, 3)), weights=weight)[0]
    return table / table.sum()


def motion_signatures(clips: Sequence[Any]) -> list[MotionSignature]:
    """The signatures of the training clips that move. UserError where none does.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> [signature] = motion_signatures([video])
        >>> signature.velocity.shape, signature.change.shape
        ((5, 12), (6, 4))
    """
    found = [each if isinstance(each, MotionSignature) else motion_signature(each) for each in clips]
    moving = [each for each in found if each is not None]
    if not moving:
        raise UserError("Nothing moves in the training clips: there is no motion to compare with.")
    return moving


def motion_fidelity(video: Any, training: Sequence[MotionSignature]) -> float:
    """The likeness of a video's motion to that of the nearest training clip; 0 where it is frozen."""
    signature = motion_signature(video)
    return 0.0 if signature is None else max(signature.likeness(each) for each in training)


class MotionFidelity(VideoMetric, MeanMetric):
    """How alike a video and the training clips move, 0..1, whatever they show. Higher is better.

    The optical flow of what moves is summed up in two distributions (`MotionSignature`): how fast and where
    to, and how steadily. Neither knows where in the picture something is, nor what. A video's fidelity is its
    likeness to the nearest training clip; a frozen one has 0. Videos and clips must be of one frame rate, and
    mirrored clips are to be given, too, where the motion was tuned with flips.

    `update(frames)` takes a video or a batch.

    Args:
        training_clips: videos, or their signatures by `motion_signatures`.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> fidelity = MotionFidelity([video])
        >>> fidelity.update(video)
        >>> round(float(fidelity.compute()), 3)
        1.0
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self, training_clips: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.signatures = motion_signatures(training_clips)

    def update(self, frames: Any) -> None:
        super().update([motion_fidelity(video, self.signatures) for video in as_videos(frames)])
