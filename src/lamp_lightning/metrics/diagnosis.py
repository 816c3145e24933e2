"""What came of tuning, in words: static, exploding, overfitted, good or unclear, and which step was best.

The limits were chosen on drawn videos of four toy motions (birds fly, firework, rain, turn to smile) and on
the figures of `docs/results.md`; the tests diagnose others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from lamp_lightning.data.fit import reduced
from lamp_lightning.data.video import as_frames
from lamp_lightning.metrics.familiar import REAL
from lamp_lightning.metrics.flicker import warping_error
from lamp_lightning.metrics.flow import FLOW_SIZE
from lamp_lightning.metrics.motion import motion_amount

Verdict = Literal["static", "exploding", "overfitted", "good", "unclear"]
MOST_CLIPS, MOST_FRAMES = 4, 16  # that videos are compared with
STATIC = 0.25  # of the clips' usual motion: videos that move less stand still
WILD = 2.5  # times the motion of the clip that moves most
SLACK = 0.3  # percent of the width per frame beyond that: of motions that are small
# Change that motion does not explain: videos with more of it dissolve. Compared with the clips' usual one,
# in times and, for clips that flicker by themselves as fire does, in percent of the colours' range beyond it.
TORN, MOST_BEYOND = 2.5, 2.5
LEAST_TORN = 2.0  # percent of the colours' range: less is no dissolving, however calm the clips are
THUMB = 8  # pixels of a side of the thumbnails in which content is compared
TAKEN = 0.5  # of the distance of a video's first frame to the clips: what ends nearer shows their content
RISEN = 1.1  # times the lowest held-out loss: above it at the end, the clips were learned by heart
UNTUNED = "The model is not tuned: tune it."


@dataclass(frozen=True)
class Diagnosis:
    """What came of tuning.

    Args:
        verdict: `static`, `exploding`, `overfitted`, `good`, or `unclear` where that cannot be told.
        reason: what was found, a sentence.
        advice: what to do about it, a sentence.
        best_step: where the held-out loss was lowest; None where none was measured.
        best: a sentence on that; empty where none was measured.
        motion: how much the videos move, in percent of the width per frame, the median.
        clips_motion: the same of the clips.
        torn: change from frame to frame that motion does not explain, in percent of the colours' range.
        clips_torn: the same of the clips.
        taken: the share of the videos that turn into a training clip.
        losses: the held-out loss by step.

    Example:
        >>> found = Diagnosis("good", "The videos move as the clips do.", "", 200, "Step 200 was best.")
        >>> found.words
        'good: The videos move as the clips do. Step 200 was best.'
    """

    verdict: Verdict
    reason: str
    advice: str = ""
    best_step: int | None = None
    best: str = ""
    motion: float = 0.0
    clips_motion: float = 0.0
    torn: float = 0.0
    clips_torn: float = 0.0
    taken: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """All of it as one line."""
        return f"{self.verdict}: " + " ".join(part for part in (self.reason, self.best, self.advice) if part)

    def lines(self) -> list[str]:
        """The same, for a terminal: the verdict, and a line for each sentence."""
        rest = [f"  {'':<14}{part}" for part in (self.best, self.advice) if part]
        return [f"  {'diagnosis':<14}{self.verdict}. {self.reason}", *rest]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in metrics.json."""
        return asdict(self)


def diagnose(
    videos: Sequence[Any],
    clips: Sequence[Any],
    *,
    losses: Mapping[int, float] | None = None,
    steps: int = 1,
    familiar: bool = True,
) -> Diagnosis:
    """Say in words what came of tuning.

    Args:
        videos: that the tuned model generated, for prompts or pictures that are not among the clips.
        clips: that it was tuned on, at the same frame rate and shape.
        losses: the loss on held-out clips, by step.
        steps: of tuning; 0 for an untuned model.
        familiar: whether the model knows such content as the clips show. The measures tell a motion that is
            learned from one that is not; they do not tell whether there is anything to be seen.

    Returns:
        The first of these that holds: the videos stand still (`static`); they turn into what the clips show,
        or the held-out loss has risen again (`overfitted`); they move far more than the clips, or change in
        ways that no motion explains (`exploding`); the model does not know what the clips show (`unclear`);
        else `good`.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, motion_set_scenes, render_clip
        >>> clips = [render_clip(scene, frames=4) for scene in motion_set_scenes("horse_run", 3)]
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> diagnose([video], clips).verdict
        'good'
        >>> diagnose([video[[0, 0, 0, 0]]], clips).verdict
        'static'
    """
    made = [reduced(as_frames(video, min_frames=2), FLOW_SIZE) for video in videos]
    shown = [reduced(as_frames(clip, min_frames=2)[:MOST_FRAMES], FLOW_SIZE) for clip in clips[:MOST_CLIPS]]
    if not made or not shown:
        raise ValueError("a diagnosis needs at least one video and one clip")
    amounts, usual = [motion_amount(video) for video in made], [motion_amount(clip) for clip in shown]
    torn, calm = [warping_error(video) for video in made], [warping_error(clip) for clip in shown]
    taken = float(np.mean([_is_taken(video, shown) for video in made]))
    figures: dict[str, Any] = {
        "motion": float(np.median(amounts)),
        "clips_motion": float(np.median(usual)),
        "torn": float(np.median(torn)),
        "clips_torn": float(np.median(calm)),
        "taken": taken,
        "losses": {int(step): float(loss) for step, loss in sorted((losses or {}).items())},
    }
    best_step, best, risen = _best(figures["losses"])
    figures |= {"best_step": best_step, "best": best}
    amount, error = figures["motion"], figures["torn"]
    if amount < STATIC * figures["clips_motion"]:
        verdict: Verdict = "static"
        reason = f"The videos hardly move: {_beside(amount, figures['clips_motion'])}."
        advice = UNTUNED
        if steps:
            advice = (
                "Tune for more steps, or with a higher tuner.learning_rate; look whether the clips move "
                "(inspect); take a smaller sampler.shared_noise."
            )
    elif taken > 0.5:
        verdict = "overfitted"
        reason = f"{taken:.0%} of the videos turn into what a clip shows: the clips were learned by heart."
        advice = "Take fewer steps, more or more varied clips, or captions that say what is in each clip."
    elif risen:
        verdict = "overfitted"
        reason = "The loss on held-out clips has risen again: the clips were learned by heart."
        advice = f"Tune again with trainer.max_steps={best_step}, or take more clips."
    elif error > torn_limit(figures["clips_torn"]):
        verdict = "exploding"
        reason = (
            f"The videos dissolve: from frame to frame {error:.1f} % changes that is no motion, in the clips "
            f"{figures['clips_torn']:.1f} %."
        )
        advice = _calmer(steps)
    elif amount > WILD * max(usual) + SLACK:
        verdict = "exploding"
        reason = f"Too much moves: {_beside(amount, figures['clips_motion'])}."
        advice = _calmer(steps)
    elif not familiar:
        verdict = "unclear"
        reason = (
            "No fault was found, but the model does not know what the clips show: it can have learned to "
            f"move, and not what. The videos move {_beside(amount, figures['clips_motion'])}."
        )
        advice = f"Look at them. For real footage take {REAL}."
    else:
        verdict, advice = "good", ""
        reason = f"No fault was found. The videos move {_beside(amount, figures['clips_motion'])}."
    return Diagnosis(verdict, reason, advice, **figures)


def torn_limit(usual: float) -> float:
    """Above which change that motion does not explain is dissolving, beside the clips' usual one.

    Both in percent of the colours' range.

    Example:
        >>> [torn_limit(usual) for usual in (0.2, 1.0, 4.0)]
        [2.0, 2.5, 6.5]
    """
    return max(LEAST_TORN, min(TORN * usual, usual + MOST_BEYOND))


def _beside(amount: float, usual: float) -> str:
    return f"{amount:.2f} % of the width per frame, {usual:.2f} % in the clips"


def _calmer(steps: int) -> str:
    if not steps:
        return UNTUNED
    return (
        "Tune for more steps if there were few; else take a lower tuner.learning_rate, or a larger "
        "sampler.shared_noise; look whether clips have cuts (inspect)."
    )


def _best(losses: Mapping[int, float]) -> tuple[int | None, str, bool]:
    """The step with the lowest held-out loss, a sentence on it, and whether the last one is much higher."""
    finite = {step: loss for step, loss in losses.items() if np.isfinite(loss)}
    if not finite:
        return None, "", False
    best, last = min(finite, key=lambda step: finite[step]), max(finite)
    if len(finite) == 1:
        return best, f"The held-out loss was measured once, at step {best} ({finite[best]:.4f}).", False
    words = f"Of {len(finite)} measurements the held-out loss was lowest at step {best} ({finite[best]:.4f}"
    words += ", the last)." if best == last else f"; {finite[last]:.4f} at step {last})."
    return best, words, finite[last] > RISEN * finite[best]


def _thumbs(frames: np.ndarray) -> np.ndarray:
    """float32 `(f, d)` in 0..1."""
    small = [cv2.resize(f, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for f in frames]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 255


def _is_taken(video: np.ndarray, clips: Sequence[np.ndarray]) -> bool:
    """Whether a video leaves its first frame for something that a clip shows."""
    seen = _thumbs(video)
    known = np.concatenate([_thumbs(clip) for clip in clips])
    to_clips = np.linalg.norm(seen[:, None] - known, axis=-1).min(1)
    end = seen[-max(1, len(seen) // 4) :]
    to_first = np.linalg.norm(end - seen[0], axis=-1).mean()
    near = to_clips[-len(end) :].mean()
    return bool(near < TAKEN * to_clips[0] and near < to_first)
