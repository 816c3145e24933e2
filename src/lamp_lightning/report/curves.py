"""A measure at each frame of the videos."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lamp_lightning.metrics.registry import Measure, capital
from lamp_lightning.report.comparison import Comparison, Entry
from lamp_lightning.report.drawing import NAMED, WIDTH, Plot, clean, colour, light, name_style, width_of
from lamp_lightning.report.labels import LINE

# Lines that follow one another differ in both, and no two of the NAMED are alike.
HUES = ("other", "plum", "change", "ochre")
DASHES: tuple[Any, ...] = ("solid", (0, (4.5, 1.6)), (0, (6, 1.6, 1.2, 1.6)))
# What the values of a measure at each frame are, where it is not plain.
BY_FRAME = {
    "moving_error_ratio": "Each frame's error is a share of the frozen first frame's mean over all frames: "
    "the frozen one is 1 on average, below that early on and above it later."
}


def over_frames(c: Comparison, measure: Measure) -> Plot:
    """A measure at each frame: the mean over motions and seeds, with the spread over seeds as a band.

    Of very many methods only ours and those that end best and worst are named; the others are thin lines.
    """
    found = [(entry, lines) for entry in c.entries if len(lines := _frame_lines(c, entry, measure))]
    found.sort(key=lambda each: float(each[1].mean(axis=0)[-1]))
    figure = Figure(figsize=(WIDTH, 3.3))
    left, width, label = 0.15, 0.42, 1.24  # shares of the figure; of the axes, where names begin
    room = 72 * WIDTH * (0.99 - left - label * width)
    named = {e.name: _two_lines(figure, e, room) for e in _named([entry for entry, _ in found])}
    heights = [1.0 + 0.9 * name.count("\n") for name in named.values()]  # in lines
    tall = max(3.3, 0.67 + (sum(heights) + 1) * LINE / 72)
    figure.set_size_inches(WIDTH, tall)
    axes = figure.add_axes((left, 0.53 / tall, width, 1 - 0.67 / tall))
    styles = _line_styles([entry for entry, _ in found if entry.name in named])
    for entry, lines in found:
        mean, ours = lines.mean(axis=0), entry.kind == "ours"
        frames = np.arange(len(mean))
        if entry.name not in named:
            axes.plot(frames, mean, lw=0.6, color=colour(entry), alpha=0.6, zorder=1)
            continue
        style = styles[entry.name]
        axes.plot(frames, mean, **style, zorder=4 if ours else 3)
        if len(lines) > 1:
            spread = lines.std(axis=0, ddof=1)
            band = {"color": style["color"], "alpha": 0.15, "lw": 0}
            axes.fill_between(frames, mean - spread, mean + spread, **band, zorder=2)
    axes.set(xlabel="frame", ylabel=measure.heading)
    axes.margins(x=0)
    ends = [(entry, float(lines.mean(axis=0)[-1])) for entry, lines in found]
    shown = [(entry, y) for entry, y in ends if entry.name in named]
    low, high = axes.get_ylim()
    line = (high - low) * LINE / 72 / (tall - 0.67)
    heights_of = _apart([y for _, y in shown], [height * line for height in heights], low, high)
    across: Any = axes.get_yaxis_transform()  # from the line's end to a piece of it, and its name
    for (entry, y), at in zip(shown, heights_of, strict=True):
        free: Any = {"transform": across, "clip_on": False}
        axes.plot((1.01, 1.07), (y, at), color=light("soft"), lw=0.6, alpha=0.7, **free)
        axes.plot((1.07, 1.2), (at, at), **styles[entry.name], **free)
        axes.annotate(
            named[entry.name], (label, at), xycoords=("axes fraction", "data"), va="center",
            color=styles[entry.name]["color"], fontsize=10.5, linespacing=1.0,
            fontweight="bold" if entry.kind == "ours" else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(low, high)
    clean(axes, left=True)
    listed = "; ".join(f"{entry.label} {measure.number(y)}" for entry, y in ends)
    alt = f"{capital(measure.title)} at the last frame: {listed}."
    said = [BY_FRAME[measure.name]] if measure.name in BY_FRAME else []
    said += ["Band: standard deviation over seeds."] * (len(c.seeds) > 1)
    said += [f"Thin lines: {len(found) - len(named)} methods that end between those named."] * (
        len(named) < len(found)
    )
    title = f"{measure.heading} over the frames"
    return Plot(f"{measure.name.replace('/', '_')}_over_frames", title, " ".join(said), alt, figure)


def _named(entries: Sequence[Entry]) -> list[Entry]:
    """Of methods in order those whose lines can be named: all, or ours, references and both ends."""
    if len(entries) <= NAMED:
        return list(entries)
    others = [entry for entry in entries if entry.kind not in ("ours", "reference")]
    room = max(2, NAMED - (len(entries) - len(others)))
    between = others[(room + 1) // 2 : len(others) - room // 2]
    return [entry for entry in entries if entry not in between]


def _line_styles(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Of each line by name: ours is thick, references are dotted, the others differ in hue and dashes."""
    styles: dict[str, dict[str, Any]] = {}
    others = 0
    for entry in entries:
        if entry.kind == "ours":
            styles[entry.name] = {"color": colour(entry), "lw": 2.8, "ls": "solid"}
        elif entry.kind == "reference":
            styles[entry.name] = {"color": light("soft"), "lw": 1.5, "ls": (0, (1.2, 2.2))}
        else:
            hue, dash = HUES[others % len(HUES)], DASHES[others % len(DASHES)]
            styles[entry.name] = {"color": light(hue), "lw": 1.4, "ls": dash}
            others += 1
    return styles


def _two_lines(figure: Figure, entry: Entry, room: float) -> str:
    """A name on one line or two, within so many points; what is longer is cut."""
    text = entry.label
    for letters in range(len(text), 3, -1):
        lines = textwrap.wrap(text, letters, break_on_hyphens=False, max_lines=2, placeholder="…")
        if max(width_of(figure, line, name_style(entry)) for line in lines) <= room:
            return "\n".join(lines)
    return text


def _apart(at: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Rising places, moved so far that labels of these sizes do not overlap and stay within the axis."""
    edge, found = -np.inf, []
    for place, size in zip(at, sizes, strict=True):
        found.append(max(place, edge + size / 2))
        edge = found[-1] + size / 2
    edge = high
    for k in reversed(range(len(found))):
        found[k] = min(found[k], edge - sizes[k] / 2)
        edge = found[k] - sizes[k] / 2
    return found


def _frame_lines(c: Comparison, entry: Entry, measure: Measure) -> np.ndarray:
    """One line for each seed, the mean over motions: `(seeds, frames)`, of the frames that all have."""
    found = [r for r in c.results if r.entry == entry.name and measure.name in r.over_frames]
    if not found:
        return np.empty((0, 0))
    length = min(len(result.over_frames[measure.name]) for result in found)
    lines: dict[int | None, list[Any]] = {}
    for result in found:
        lines.setdefault(result.seed, []).append(result.over_frames[measure.name][:length])
    return np.array([np.mean(each, axis=0) for each in lines.values()])
