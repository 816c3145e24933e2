"""What is wrong, or worth a warning, of the clips of a set together."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamp_lightning.data.clip import Clip, MotionSet
from lamp_lightning.runtime.errors import UserError

FEWEST, MOST = 8, 16  # clips of a set, as in the paper


def suits_most(values: Sequence[float]) -> float:
    """The largest value that three quarters of the clips reach, so that one odd clip does not decide for all.

    Example:
        >>> suits_most([25, 25, 25, 12, 25, 25, 25, 25]), suits_most([8, 25])
        (25, 8)
    """
    return sorted(values)[len(values) // 4]


def check_lengths(clips: Sequence[Clip], num_frames: int, frame_stride: int) -> None:
    """UserError where a clip is shorter than a sample."""
    needed = (num_frames - 1) * frame_stride + 1
    raise_problems(
        [
            f"{clip.path}: this clip has {len(clip.frames)} frames, but {num_frames} frames at a stride of "
            f"{frame_stride} need {needed}. Use a longer clip, a smaller stride or fewer frames."
            for clip in clips
            if len(clip.frames) < needed
        ]
    )


def warn_of_sizes(folder: Path, clips: Sequence[Clip], size: tuple[int, int]) -> None:
    """Warn where clips differ in size."""
    sizes = Counter(clip.source_size for clip in clips if clip.source_size)
    if len(sizes) > 1:
        counts = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(MOST))
        counts += f" and {len(sizes) - MOST} more" if len(sizes) > MOST else ""
        warnings.warn(
            f"{folder}: the clips have {len(sizes)} different sizes: {counts}. Each is cropped at the centre "
            f"and resized to {size[1]}x{size[0]}.",
            stacklevel=3,
        )


def warn_of_rates(folder: Path, found: MotionSet, fps: float | None) -> None:
    """Warn of mixed and variable frame rates, or of rates below `fps`, at which the clips are read."""
    if fps is not None:
        slow = [clip for clip in found.clips if clip.source_fps and clip.source_fps < 0.95 * fps]
        if slow:
            names = some([f"{clip.path.name} ({clip.source_fps:.4g})" for clip in slow])
            verb = "has" if len(slow) == 1 else "have"
            advice = other_rate(fps, [clip.source_fps or fps for clip in found.clips])
            warnings.warn(
                f"{folder}: {names} {verb} fewer frames per second than data.fps={fps:.4g}, so that frames "
                f"repeat and the motion stutters. {advice}",
                stacklevel=3,
            )
        return
    rates = Counter(f"{clip.fps:.4g}" for clip in found.clips if clip.fps > 0)
    advice = one_rate({clip.path.name: clip.fps for clip in found.clips if clip.fps > 0})
    if len(rates) > 1:
        counts = ", ".join(f"{rate} ({count})" for rate, count in rates.most_common())
        warnings.warn(
            f"{folder}: the clips have different frame rates: {counts} frames per second. Frames are taken "
            f"as they are, so the same motion is faster in some; videos are written at {found.fps:.4g}. "
            f"{advice}",
            stacklevel=3,
        )
    elif variable := [clip.path.name for clip in found.clips if clip.variable]:
        warnings.warn(
            f"{folder}: {some(variable)} show frames for different times, and they are taken as they are. "
            f"{advice}",
            stacklevel=3,
        )


def one_rate(rates: Mapping[str, float]) -> str:
    """Which `data.fps` to give, by the rates of most clips, and which clips are too slow for it.

    Example:
        >>> one_rate({"1.mp4": 25, "2.mp4": 25, "3.mp4": 25, "slow.mp4": 12})
        'data.fps=25 reads all at one rate; slow.mp4 (12) is too slow for that: leave it out.'
    """
    usual = suits_most(list(rates.values()) or [8.0])
    slow = [f"{name} ({rate:.4g})" for name, rate in rates.items() if rate < 0.95 * usual]
    said = f"data.fps={usual:.4g} reads all at one rate"
    if not slow:
        return f"{said}."
    verb, them = ("is", "it") if len(slow) == 1 else ("are", "them")
    return f"{said}; {some(slow)} {verb} too slow for that: leave {them} out."


def other_rate(fps: float, rates: Sequence[float]) -> str:
    """What to do where clips are slower than `fps`: leave few of them out, or take the rate of most."""
    usual, slow = suits_most(rates), sum(rate < 0.95 * fps for rate in rates)
    leave = "Leave it out." if slow == 1 else "Leave them out."
    return leave if usual >= 0.95 * fps else f"data.fps={usual:.4g} suits most clips."


def raise_problems(problems: Sequence[str], limit: int = 5) -> None:
    """UserError with what is wrong with some clips; nothing where nothing is."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        more = [f"... and {len(problems) - limit} more"] if len(problems) > limit else []
        raise UserError("\n".join([f"{len(problems)} clips cannot be used:", *problems[:limit], *more]))


def some(names: list[str], limit: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
