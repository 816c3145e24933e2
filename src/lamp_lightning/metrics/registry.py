"""All measures of videos in one list, from which every table takes its headings, arrows and digits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ARROWS = {True: "↑", False: "↓", None: ""}
MISSING = "-"


@dataclass(frozen=True)
class Measure:
    """One number about a video or a set of videos.

    ``higher_is_better``: None where neither is. ``needs``: what it cannot be measured without, of ``clip`` (a
    CLIP model), ``prompts``, ``truth`` (the true continuations), ``training_clips``, ``first_frames``,
    ``reference`` (real videos), ``fid`` and ``fvd`` (feature extractors). ``frames``: how many a video has to
    have. ``of_set``: only sets of videos have it.
    """

    name: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool | None
    needs: tuple[str, ...]
    about: str
    frames: int = 2
    of_set: bool = False

    @property
    def arrow(self) -> str:
        return ARROWS[self.higher_is_better]

    @property
    def heading(self) -> str:
        """Title, unit, and an arrow that shows where better is."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {self.arrow}".rstrip()

    def shown(self, value: float | None) -> str:
        """A value as tables show it; a dash where there is none."""
        return MISSING if value is None or math.isnan(value) else f"{value:.{self.digits}f}"


_ALL = (
    Measure(
        "clip_score", "CLIP score", "", 2, True, ("clip", "prompts"),
        "how well frames fit the prompt: 100 times the mean cosine of their CLIP features", frames=1,
    ),
    Measure(
        "frame_consistency", "frame consistency", "", 4, True, ("clip",),
        "mean cosine of the CLIP features of all pairs of frames; 1 for a frozen video",
    ),
    Measure(
        "frame_consistency_neighbours", "consistency of neighbours", "", 4, True, ("clip",),
        "the same of neighbouring frames only",
    ),
    Measure(
        "diversity", "likeness among videos", "", 4, False, ("clip",),
        "the authors' diversity: mean cosine of the videos' mean CLIP features, over all pairs of videos",
        frames=1, of_set=True,
    ),
    Measure(
        "first_frame_fidelity", "likeness to first frame", "", 4, True, ("clip", "first_frames"),
        "mean cosine of the CLIP features of later frames and of the given first frame; 1 for a frozen video",
    ),
    Measure(
        "first_frame_error", "first-frame error", "%", 2, False, ("first_frames",),
        "mean difference of frame 0 to the given picture, of the colours' range", frames=1,
    ),
    Measure(
        "motion_amount", "motion amount", "% of width", 2, None, (),
        "mean length of the optical flow per frame; 0 for a frozen video",
    ),
    Measure(
        "motion_fidelity", "motion fidelity", "", 3, True, ("training_clips",),
        "likeness of the motion to the training clips', whatever is shown; 0 for a frozen video", frames=3,
    ),
    Measure(
        "warping_error", "warping error", "%", 2, False, (),
        "flicker: what motion does not explain of the change between frames; 0 for a frozen video",
    ),
    Measure(
        "moving_error", "squared error to truth", "", 4, False, ("truth",),
        "mean squared error to the true continuation over the pixels that truly move",
    ),
    Measure(
        "moving_error_ratio", "error to truth", "", 3, False, ("truth",),
        "squared error to the true continuation over the pixels that truly move, as a share of what a frozen "
        "first frame has: 1 is no better than standing still",
    ),
    Measure(
        "flow_angle", "flow angle", "degrees", 1, False, ("truth",),
        "between the mean velocities of video and truth, where the truth goes somewhere as a whole", frames=4,
    ),
    Measure(
        "flow_length", "flow length", "", 2, None, ("truth",),
        "the length of the video's mean velocity as a share of the truth's: 1 is right, 0 frozen", frames=4,
    ),
    Measure(
        "fid", "FID", "", 2, False, ("reference", "fid"),
        "Frechet distance between the features of frames and of the reference's frames",
        frames=1, of_set=True,
    ),
    Measure(
        "fvd", "FVD", "", 2, False, ("reference", "fvd"),
        "Frechet distance between the features of whole videos and of the reference's",
        of_set=True,
    ),
)  # fmt: skip
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


def present(rows: Iterable[Mapping[str, object]]) -> list[Measure]:
    """The measures that any of the rows has, in the usual order."""
    found = {name for row in rows for name in row}
    return [measure for name, measure in MEASURES.items() if name in found]


def markdown_table(
    rows: Sequence[tuple[str, Mapping[str, float]]], first: str, measures: Sequence[Measure] | None = None
) -> str:
    """A Markdown table of labelled values, with the arrows in its headings.

    Args:
        rows: a label and values by name for each line.
        first: the heading over the labels.
        measures: the columns; None: all that any row has.
    """
    columns = present(values for _, values in rows) if measures is None else measures
    lines = [[first, *(measure.heading for measure in columns)]]
    lines.append(["---", *("---:" for _ in columns)])
    for label, values in rows:
        name = " ".join(label.split()).replace("|", "\\|")
        lines.append([name, *(measure.shown(values.get(measure.name)) for measure in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
