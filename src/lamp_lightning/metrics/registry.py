"""All measures of videos in one list, from which evaluations, tables, plots and pages take what they need.

To add a metric, write one file beside this one with a function of a video, and one line in `_ALL` below. Its
`of_video` gets a `MeasuredVideo`, which has the frames, what they are compared with, and CLIP features and
optical flow, computed once for all metrics. Evaluations then measure it, and reports show it. The value of
several videos is the mean of theirs; what only a set of videos has is computed in `evaluate_videos`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lamp_lightning.metrics.clip import consistency, fit
from lamp_lightning.metrics.fidelity import motion_fidelity
from lamp_lightning.metrics.flicker import warping_error
from lamp_lightning.metrics.likeness import first_frame_error, first_frame_fidelity
from lamp_lightning.metrics.motion import motion_amount

MISSING = "-"


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Measure:
    """One number about a video or a set of videos, and how people read it.

    Args:
        name: its key in metrics.json and in tables.
        title: its name for people.
        better: which values are better. `truth` means those near the value of the true videos.
        digits: how many are shown after the point.
        unit: of the value.
        help: what it says, in one sentence.
        only_moving: a video that stands still is perfect by it, so that only videos that move are ranked.
        needs: attributes of a `MeasuredVideo` that must be there: `clip`, `prompt`, `truth`, `training` (how
            the training clips move), `first_frame`.
        frames: how many a video must have.
        of_video: computes it; None for what only a set of videos has.

    Example:
        >>> error = Measure("error", "error to truth", "lower", digits=2, unit="%")
        >>> error.label, error.quantity(0.4567, 0.01)
        ('error to truth (%) ↓', '0.46 ± 0.01 %')
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: str
    title: str
    better: Literal["higher", "lower", "truth", "none"] = "none"
    digits: int = 2
    unit: str = ""
    help: str = ""
    only_moving: bool = False
    # How to compute it is no part of a written comparison.
    needs: Annotated[tuple[str, ...], Field(exclude=True)] = field(default=(), compare=False)
    frames: Annotated[int, Field(exclude=True)] = field(default=2, compare=False)
    of_video: Annotated[Callable[[Any], Any] | None, Field(exclude=True)] = field(default=None, compare=False)

    @property
    def arrow(self) -> str:
        """`↑`, `↓`, `→` (towards the truth) or nothing."""
        return {"higher": "↑", "lower": "↓", "truth": "→", "none": ""}[self.better]

    @property
    def label(self) -> str:
        """Title, unit, and an arrow that shows where better is."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {self.arrow}".rstrip()

    @property
    def heading(self) -> str:
        """The label over a column or plot; its arrow stays on the line of the word before it."""
        label = capital(self.label)
        return (
            label.removesuffix(f" {self.arrow}") + "\N{NO-BREAK SPACE}" + self.arrow if self.arrow else label
        )

    @property
    def words(self) -> str:
        """The title within a sentence: in small letters, except abbreviations."""
        return self.title if self.title[1:2].isupper() else self.title[0].lower() + self.title[1:]

    @property
    def meaning(self) -> str:
        """`help` as a sentence, or nothing."""
        text = self.help.strip()
        return text and capital(text) + ("" if text.endswith(".") else ".")

    def number(self, value: float | None, spread: float | None = None) -> str:
        """A value and its spread in the measure's digits, without a minus before zero; a dash for none."""
        if value is None or math.isnan(value):
            return MISSING
        text = f"{value:.{self.digits}f}"
        text = text.removeprefix("-") if float(text) == 0 else text
        return text if spread is None else f"{text} ± {self.number(spread)}"

    def quantity(self, value: float, spread: float | None = None) -> str:
        """A value with its spread and unit."""
        unit = self.unit if self.unit in ("", "°") else f" {self.unit}"
        return self.number(value, spread) + unit


_ALL = (
    Measure(
        "clip_score", "CLIP score", "higher", 2,
        help="how well frames fit the prompt: 100 times the mean cosine of their CLIP features",
        needs=("clip", "prompt"), frames=1,
        of_video=lambda video: fit(video.features, video.clip.text_features([video.prompt])),
    ),
    Measure(
        "frame_consistency", "frame consistency", "higher", 4, only_moving=True,
        help="mean cosine of the CLIP features of all pairs of frames; 1 for a frozen video",
        needs=("clip",), of_video=lambda video: consistency(video.features),
    ),
    Measure(
        "frame_consistency_neighbours", "consistency of neighbours", "higher", 4, only_moving=True,
        help="the same of neighbouring frames only",
        needs=("clip",), of_video=lambda video: consistency(video.features, "neighbours"),
    ),
    Measure(
        "diversity", "likeness among videos", "lower", 4, frames=1,
        help="the authors' diversity: mean cosine of the videos' mean CLIP features, over all pairs of "
        "videos",
    ),
    Measure(
        "first_frame_fidelity", "likeness to first frame", "higher", 4, only_moving=True,
        help="mean cosine of the CLIP features of later frames and of the given first frame; 1 for a frozen "
        "video",
        needs=("clip", "first_frame"),
        of_video=lambda v: first_frame_fidelity(v.features, v.clip.image_features([v.first_frame])),
    ),
    Measure(
        "first_frame_error", "first-frame error", "lower", 2, "%",
        help="mean difference of frame 0 to the given picture, of the colours' range",
        needs=("first_frame",), frames=1,
        of_video=lambda video: first_frame_error(video.frames, video.first_frame),
    ),
    Measure(
        "motion_amount", "motion amount", "truth", 2, "% of width",
        help="mean length of the optical flow per frame; 0 for a frozen video",
        of_video=lambda video: motion_amount(video.frames),
    ),
    Measure(
        "motion_fidelity", "motion fidelity", "higher", 3,
        help="likeness of the motion to the training clips', whatever is shown; 0 for a frozen video",
        needs=("training",), frames=3, of_video=lambda video: motion_fidelity(video.followed, video.training),
    ),
    Measure(
        "warping_error", "warping error", "lower", 2, "%", only_moving=True,
        help="flicker: what motion does not explain of the change between frames; 0 for a frozen video",
        of_video=lambda video: warping_error(video.followed),
    ),
    Measure(
        "moving_error", "squared error to truth", "lower", 4,
        help="mean squared error to the true continuation over the pixels that truly move",
        needs=("truth",), of_video=lambda video: video.to_truth.get("moving_error"),
    ),
    Measure(
        "moving_error_ratio", "error to truth", "lower", 3,
        help="squared error to the true continuation over the pixels that truly move, as a share of what a "
        "frozen first frame has: 1 is no better than standing still",
        needs=("truth",), of_video=lambda video: video.to_truth.get("moving_error_ratio"),
    ),
    Measure(
        "still_error", "squared error of still pixels", "lower", 4, only_moving=True,
        help="mean squared error to the true continuation over the pixels that never move: a background that "
        "trembles",
        needs=("truth",), of_video=lambda video: video.to_truth.get("still_error"),
    ),
    Measure(
        "detail", "detail of what moves", "truth", 2,
        help="strength of the edges of what moves, as a share of the truth's: 1 is right, less is blurred",
        needs=("truth",), of_video=lambda video: video.to_truth.get("detail"),
    ),
    Measure(
        "flow_angle", "flow angle", "lower", 1, "°",
        help="between the mean velocities of video and truth, where the truth goes somewhere as a whole",
        needs=("truth",), frames=4, of_video=lambda video: video.to_truth.get("flow_angle"),
    ),
    Measure(
        "flow_length", "flow length", "truth", 2,
        help="the length of the video's mean velocity as a share of the truth's: 1 is right, 0 frozen",
        needs=("truth",), frames=4, of_video=lambda video: video.to_truth.get("flow_length"),
    ),
    Measure(
        "fid", "FID", "lower", 2, frames=1,
        help="Frechet distance between the features of frames and of the reference's frames",
    ),
    Measure(
        "fvd", "FVD", "lower", 2,
        help="Frechet distance between the features of whole videos and of the reference's",
    ),
)  # fmt: skip
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
HELD_OUT_LOSS = Measure("val/loss", "loss on held-out clips", "lower", 4)  # of a run, not of its videos


def printed(values: Mapping[str, float]) -> list[str]:
    """Lines for the end of a command: each measure with its unit, and an arrow to where better is.

    Example:
        >>> printed({"clip_score": 31.256})
        ['  CLIP score ↑                        31.26']
    """
    return [f"  {m.label:<34}{m.number(values[m.name]):>7}" for m in measures(values)]


def measures(names: Iterable[str], *, truth: bool = False) -> tuple[Measure, ...]:
    """The measures of these names, each once: the package's in their usual order, then others by name.

    Args:
        names: of measures. One that the package does not know has its name as the title.
        truth: whether the values of the true videos stand beside the others. Where they do not, nothing is
            better by a measure that is best near the truth.

    Example:
        >>> [measure.label for measure in measures(["my_own", "motion_amount", "clip_score"])]
        ['CLIP score ↑', 'motion amount (% of width)', 'my own']
    """
    wanted = set(names)
    unknown = sorted(wanted - MEASURES.keys())
    others = (
        HELD_OUT_LOSS if name == HELD_OUT_LOSS.name else Measure(name, name.replace("_", " "), digits=4)
        for name in unknown
    )
    found = (*(measure for name, measure in MEASURES.items() if name in wanted), *others)
    return tuple(replace(m, better="none") if m.better == "truth" and not truth else m for m in found)


def present(rows: Iterable[Mapping[str, object]]) -> tuple[Measure, ...]:
    """The package's measures that any of the rows has, in the usual order."""
    return measures({name for row in rows for name in row} & MEASURES.keys())


def markdown_table(
    rows: Sequence[tuple[str, Mapping[str, float]]], first: str, columns: Sequence[Measure] | None = None
) -> str:
    """A Markdown table of labelled values, with the arrows in its headings.

    Args:
        rows: a label and values by name for each line.
        first: the heading over the labels.
        columns: the measures to show; None: all that any row has.
    """
    columns = present(values for _, values in rows) if columns is None else columns
    lines = [[first, *(measure.label for measure in columns)]]
    lines.append(["---", *("---:" for _ in columns)])
    for label, values in rows:
        name = " ".join(label.split()).replace("|", "\\|")
        lines.append([name, *(measure.number(values.get(measure.name)) for measure in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
