"""Each method's mean of a measure with its spread and motions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lamp_lightning.metrics.registry import Measure, capital
from lamp_lightning.report.comparison import Comparison, Entry
from lamp_lightning.report.drawing import WIDTH, Plot, clean, colour, light, short, span
from lamp_lightning.report.statistics import hardly_moves, measured, score
from lamp_lightning.report.tables import STILL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.52  # inches of a method's row
LETTERS = 42  # of a label and a value that fit beside each other
PATCH: Any = {"facecolor": light("card"), "edgecolor": "none", "pad": 1.5}  # text over lines stays legible
REFERENCE_LETTER = 0.023  # a letter of a reference's name, as a share of the axis


def dots(c: Comparison, measure: Measure) -> Plot:
    """Each method's mean as a dot, its spread over seeds as a bar, its motions as faint dots; best on top.

    A motion beyond the axis is an arrow at that edge.
    """
    found = measured(c, c.methods, measure)
    if measure.better == "none":
        found.sort(key=lambda each: -each[1].mean)
    else:
        found.sort(key=lambda each: -(score(c, each[0], measure) or 0.0))
    references = measured(c, [entry for entry in c.entries if entry.kind == "reference"], measure)
    low, high = _limits(found, [value.mean for _, value in references])
    height = 0.64 + 0.24 * bool(references) + ROW * len(found)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.03, 0.58 / height, 0.94, (ROW * len(found)) / height))
    axes.set(xlim=(low, high), ylim=(len(found) - 0.35, -0.65), xlabel=measure.heading)
    beyond = 0
    for row, (entry, value) in enumerate(found):
        shade = colour(entry)
        axes.plot([low, high], [row + 0.18] * 2, color=light("line"), lw=0.8, zorder=1)
        each = np.array([v.mean for v in value.motions.values()])
        faint: Any = {"color": shade, "alpha": 0.35, "mew": 0, "zorder": 2}
        if len(each) > 1:
            inside = each[(each >= low) & (each <= high)]
            axes.plot(inside, [row + 0.18] * len(inside), "o", ms=4, **faint)
            for edge, sign, outside in ((low, "<", each < low), (high, ">", each > high)):
                if outside.any():
                    axes.plot(edge, row + 0.18, sign, ms=6, clip_on=False, **faint)
            beyond += len(each) - len(inside)
        if value.spread is not None:
            ends = [value.mean - value.spread, value.mean + value.spread]
            axes.plot(ends, [row + 0.18] * 2, color=shade, lw=3.2, solid_capstyle="round", zorder=3)
        axes.plot(value.mean, row + 0.18, "o", ms=9, color=shade, mec=light("card"), mew=1.4, zorder=4)
        weight = "bold" if entry.kind == "ours" else "normal"
        words: Any = {"va": "center", "fontweight": weight, "bbox": PATCH}
        text = measure.number(value.mean, value.spread)
        axes.text(high, row - 0.22, text, ha="right", color=light("soft"), **words)
        mark = f" {STILL}" if measure.only_moving and hardly_moves(c, entry) else ""
        label = short(entry.label, LETTERS - len(text + mark)) + mark
        axes.text(low, row - 0.22, label, color=light("ink"), **words)
    _reference_lines(axes, references, low, high)
    clean(axes)
    axes.tick_params(axis="y", left=False, labelleft=False)
    listed = "; ".join(f"{entry.label} {measure.number(value.mean)}" for entry, value in found)
    alt = f"{capital(measure.title)}, {'best' if measure.better != 'none' else 'largest'} first: {listed}."
    said = [measure.meaning] * bool(measure.meaning)
    said += ["An arrow at the edge: a motion beyond it."] * bool(beyond)
    return Plot(measure.name.replace("/", "_"), measure.heading, " ".join(said), alt, figure)


def how_to_read(c: Comparison) -> str:
    """What the dots and bars of `dots` are."""
    largest = any(measure.better == "none" for measure in c.measures)
    said = ["The best is on top" + ("; where nothing says what is better, the largest." if largest else ".")]
    said += ["Bars: standard deviation over seeds."] * (len(c.seeds) > 1)
    said += ["Faint dots: each motion."] * (len(c.motions) > 1)
    said += [f"{STILL} hardly moves, so that its value says little."] * any(
        hardly_moves(c, e) for e in c.methods
    )
    return " ".join(said)


def _limits(found: Sequence[tuple[Entry, Any]], references: Sequence[float]) -> tuple[float, float]:
    """The range of the axis: all means and bars; single motions only so far as they do not squeeze these."""
    ends = [v.mean + sign * (v.spread or 0.0) for _, v in found for sign in (-1, 1)] + list(references)
    low, high = min(ends), max(ends)
    room = span(ends)[1]
    each = [value.mean for _, v in found for value in v.motions.values()]
    low = max(min([low, *each]), low - room)
    high = min(max([high, *each]), high + room)
    return low - 0.05 * (high - low or room), high + 0.05 * (high - low or room)


def _reference_lines(axes: Axes, references: Sequence[tuple[Entry, Any]], low: float, high: float) -> None:
    """Dotted lines of the references, with their names above; close ones share a name's place."""
    top = axes.get_ylim()[1]
    places: list[tuple[float, str]] = []  # where along the axis, of 0..1
    for entry, value in sorted(references, key=lambda each: each[1].mean):
        axes.axvline(value.mean, color=light("soft"), lw=1.1, ls=(0, (1.2, 2.2)), zorder=1)
        place = ((value.mean - low) / (high - low), entry.label)
        while places and _label_span(*places[-1])[1] > _label_span(*place)[0]:
            at, before = places.pop()
            place = (at, f"{before} · {place[1]}")
        places.append(place)
    for at, text in places:
        x = low + at * (high - low)
        side = _label_side(at)
        axes.text(x, top - 0.05, text, ha=side, va="bottom", color=light("soft"), fontsize=10.5)


def _label_side(at: float) -> str:
    return "left" if at < 0.2 else "right" if at > 0.8 else "center"


def _label_span(at: float, text: str) -> tuple[float, float]:
    """From where to where a reference's name reaches, as a share of the axis, with some room."""
    width = len(text) * REFERENCE_LETTER
    start = at - {"left": 0, "center": width / 2, "right": width}[_label_side(at)]
    return start - REFERENCE_LETTER, start + width + REFERENCE_LETTER
