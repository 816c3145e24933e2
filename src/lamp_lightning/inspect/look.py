"""What a look at clips finds: how each moves, where it has cuts, and how alike the motions are.

The limits below were chosen on toy motion sets of four motions (birds fly, firework, rain, waterfall), and
tried on the other four and on real footage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from lamp_lightning.data.fit import crop_box, reduced
from lamp_lightning.metrics.fidelity import MotionSignature, motion_signature
from lamp_lightning.metrics.flow import FLOW_SIZE, FollowedVideo
from lamp_lightning.metrics.motion import motion_amount

THUMB = 16  # pixels of a side of the thumbnails in which cuts are looked for
CUT_CHANGE = 0.08  # of 0..1: a cut changes thumbnails by more than this in the mean
CUT_RATIO = 2.4  # and by more than so many times the largest change of the frames around it
AROUND = 4  # frames before and after that are looked at for that
STILL_AMOUNT = 0.02  # percent of the width per frame: a clip that moves less is still
STILL_STEP = 0.01  # of 0..1: frames in which no pixel of a thumbnail changes more stand still
STILL_SHARE = 0.25  # of a clip, at its beginning or end, that should be trimmed if it stands still
MOST_FRAMES = 48  # of a clip are taken for its motion, those in the middle
FEWEST_ALIKE = 4  # moving clips, of which it can be said that one is not like the others
NEAREST = 2  # other clips that a clip's motion is compared with
OTHER_RATIO = 0.84  # a likeness below this share of the usual one is another motion
REVERSED_RATIO = (
    1.10  # a clip that is so many times as alike to the others when it is reversed runs backwards
)


@dataclass(frozen=True)
class ClipFacts:
    """What is found of one clip.

    Args:
        name: of its file.
        fps: frames per second of the file; 0 where it does not say.
        frames: in the clip, as it is read.
        seconds: its length; None where its rate is not known.
        size: width and height in pixels, of the file.
        cut_away: share of the picture that cropping takes away, 0..1.
        motion: mean length of the optical flow, in percent of the picture's width per frame.
        likeness: of its motion to that of the clips that move most alike, 0..1; None where it stands still or
            there are fewer than 4 clips to compare.
        cuts: numbers of the frames that begin after a cut.
        still_ends: frames at its beginning and at its end in which nothing moves.
        variable: whether the file shows its frames for different times.
        findings: some of `too_short`, `cut`, `still`, `backwards`, `mirrored`, `other_motion`, `still_ends`,
            `small` and `cropped`.
        prompt: its caption.

    Example:
        >>> ClipFacts("1.mp4", fps=8.0, frames=24, seconds=3.0, size=(640, 360)).findings
        ()
    """

    name: str
    fps: float
    frames: int
    seconds: float | None
    size: tuple[int, int]
    cut_away: float = 0.0
    motion: float = 0.0
    likeness: float | None = None
    cuts: tuple[int, ...] = ()
    still_ends: tuple[int, int] = (0, 0)
    variable: bool = False
    findings: tuple[str, ...] = ()
    prompt: str = ""


@dataclass(frozen=True)
class Motion:
    """How a clip moves, how it would if it were reversed and mirrored, and how much."""

    forward: MotionSignature | None
    reversed: MotionSignature | None
    mirrored: MotionSignature | None
    amount: float

    @classmethod
    def of(cls, frames: np.ndarray) -> Motion:
        """Of frames, uint8 `(f, h, w, 3)`, without cuts; at most `MOST_FRAMES` in their middle are taken."""
        start = max(0, (len(frames) - MOST_FRAMES) // 2)
        frames = reduced(frames[start : start + MOST_FRAMES], FLOW_SIZE)
        if len(frames) < 3:
            return cls(None, None, None, 0.0)
        seen = FollowedVideo.of(frames)
        forward = motion_signature(seen)
        if forward is None:
            return cls(None, None, None, motion_amount(frames))
        back, flipped = motion_signature(_reversed(seen)), motion_signature(_mirrored(seen))
        return cls(forward, back, flipped, motion_amount(frames))

    @property
    def is_still(self) -> bool:
        """Whether nothing moves."""
        return self.forward is None or self.amount < STILL_AMOUNT


def _reversed(seen: FollowedVideo) -> FollowedVideo:
    return FollowedVideo(seen.frames[::-1], seen.backward[::-1], seen.forward[::-1])


def _mirrored(seen: FollowedVideo) -> FollowedVideo:
    def mirrored(flow: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(flow[:, :, ::-1] * np.array([-1, 1], flow.dtype))

    frames = np.ascontiguousarray(seen.frames[:, :, ::-1])
    return FollowedVideo(frames, mirrored(seen.forward), mirrored(seen.backward))


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """float32 `(f, 16, 16, 3)` in 0..1 of frames, uint8 `(f, h, w, 3)`."""
    small = [cv2.resize(np.asarray(f), (THUMB, THUMB), interpolation=cv2.INTER_AREA) for f in frames]
    return np.stack(small).astype(np.float32) / 255


def find_cuts(small: np.ndarray) -> tuple[int, ...]:
    """The frames, of thumbnails, that begin after a cut.

    Of a cut the picture changes much, and much more than in the frames around it; a flash changes it twice.
    """
    changes = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    found = []
    for i in np.flatnonzero(changes > CUT_CHANGE):
        around = np.concatenate([changes[max(0, i - AROUND) : i], changes[i + 1 : i + 1 + AROUND]])
        if changes[i] > CUT_RATIO * around.max(initial=CUT_CHANGE / 8):
            found.append(int(i) + 1)
    return tuple(found)


def find_still_ends(small: np.ndarray) -> tuple[int, int]:
    """How many frames at the beginning and at the end, of thumbnails, show nothing that moves."""
    moves = np.flatnonzero(np.abs(np.diff(small, axis=0)).max((1, 2, 3), initial=0) > STILL_STEP)
    return (0, 0) if not len(moves) else (int(moves[0]), len(small) - 2 - int(moves[-1]))


def longest_piece(frames: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """The longest of the pieces between cuts."""
    ends = [0, *cuts, len(frames)]
    start, stop = max(pairwise(ends), key=lambda piece: piece[1] - piece[0])
    return frames[start:stop]


def likeness(signature: MotionSignature, others: Sequence[MotionSignature]) -> float:
    """The mean likeness of a motion to the `NEAREST` of the others that are most alike."""
    alike = sorted((signature.likeness(each) for each in others), reverse=True)
    return float(np.mean(alike[:NEAREST]))


def compare(motions: Sequence[Motion], *, flip: bool) -> list[tuple[float | None, str | None]]:
    """Of each motion its likeness to the others, and what sets it apart: one of `findings`.

    With `flip`, clips are mirrored in tuning, so that a mirrored one needs no mending.
    """
    moving = [i for i, motion in enumerate(motions) if not motion.is_still]
    found: list[tuple[float | None, str | None]] = [(None, None)] * len(motions)
    if len(moving) < FEWEST_ALIKE:
        return found
    scores = {}
    for i in moving:
        others = [motions[j].forward for j in moving if j != i]
        scores[i] = tuple(
            0.0 if each is None else likeness(each, [other for other in others if other is not None])
            for each in (motions[i].forward, motions[i].reversed, motions[i].mirrored)
        )
    usual = float(np.median([same for same, _, _ in scores.values()]))
    for i, (same, back, mirrored) in scores.items():
        finding = None
        if max(back, mirrored) > REVERSED_RATIO * same and max(back, mirrored) >= OTHER_RATIO * usual:
            finding = "backwards" if back >= mirrored else None if flip else "mirrored"
            same = mirrored if finding is None else same
        elif same < OTHER_RATIO * usual:
            finding = "other_motion"
        found[i] = (same, finding)
    return found


def cropped_share(source: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of a picture of `source` = (h, w) that is lost when it is cropped to the aspect of `size`."""
    left, top, right, bottom = crop_box(*source, size)
    return 1 - (right - left) * (bottom - top) / (source[0] * source[1])
