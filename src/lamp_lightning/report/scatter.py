"""A measure that standing still would win against the amount of motion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lamp_lightning.metrics.registry import Measure, capital
from lamp_lightning.report.comparison import TRUTH, Comparison, Entry
from lamp_lightning.report.drawing import (
    NAMED,
    WIDTH,
    Plot,
    clean,
    colour,
    light,
    name_style,
    short,
    span,
    width_of,
)
from lamp_lightning.report.labels import BESIDE, DOT, LINE, choose, nearest, places
from lamp_lightning.report.statistics import MOVES, Value, measured, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 40  # of a scatter plot that are named at most
BAR = [np.array(step) for k in np.linspace(-1, 1, 9) for step in ((k, 0), (0, k))]  # along bars of a spread


def scatter(c: Comparison, motion: Measure, other: Measure) -> list[Plot]:
    """`other`, which standing still would win, against the amount of motion; [] with too little to show."""
    points = [
        (entry, across, up)
        for entry, across in measured(c, c.entries, motion)
        if (up := summary(c, entry, other)) is not None
    ]
    if len(points) < 3:
        return []
    tall = 3.7 + 0.1 * min(max(0, len(points) - NAMED), 20)  # many names need room
    figure = Figure(figsize=(WIDTH, tall))
    axes = figure.add_axes((0.16, 0.56 / tall, 0.82, 1 - 0.67 / tall))
    left, width = span([across.mean for _, across, _ in points])
    bottom, height = span([up.mean for _, _, up in points])
    axes.set(
        xlim=(left - 0.07 * width, left + 1.09 * width),
        ylim=(bottom - 0.14 * height, bottom + 1.14 * height),
        xlabel=motion.heading,
        ylabel=other.heading,
    )
    true = next((across for entry, across, _ in points if entry.name == TRUTH), None)
    if true is not None:
        edge = MOVES * true.mean
        axes.axvspan(axes.get_xlim()[0], edge, color=light("line"), alpha=0.45, lw=0, zorder=0)
    for entry, across, up in points:
        shade, x, y = colour(entry), across.mean, up.mean
        if entry.kind == "reference":
            axes.plot(x, y, "D", ms=7, mfc=light("card"), mec=light("soft"), mew=1.4, zorder=3)
            continue
        bars: Any = {"xerr": across.spread, "yerr": up.spread}
        axes.errorbar(x, y, **bars, fmt="none", ecolor=shade, elinewidth=1.6, alpha=0.5, zorder=2)
        above = 4.5 if entry.kind == "ours" else 4
        axes.plot(x, y, "o", ms=9, color=shade, mec=light("card"), mew=1.4, zorder=above)
    unnamed = _name_points(axes, points)
    clean(axes, left=True)
    caption = f"{capital(other.title)} alone rewards standing still: read it with the motion."
    if true is not None:
        caption += " In the shaded part there is less than half of the true motion."
    if unnamed:
        caption += f" Too close to others for a name: {unnamed} of the dots."
    listed = "; ".join(
        f"{entry.label} {motion.number(across.mean)} and {other.number(up.mean)}"
        for entry, across, up in points
    )
    alt = f"{capital(motion.title)} and {other.words} of each: {listed}."
    title = f"{other.heading} against {motion.words}"
    return [Plot(f"{other.name.replace('/', '_')}_against_motion", title, caption, alt, figure)]


def _name_points(axes: Axes, points: Sequence[tuple[Entry, Value, Value]]) -> int:
    """Names beside the points, or with a line to them; how many points have no room for theirs."""
    dot = 72 / axes.figure.dpi  # all places are in points of the page
    at = axes.transData.transform([(x.mean, y.mean) for _, x, y in points]) * dot
    ends = [(x.mean + (x.spread or 0), y.mean + (y.spread or 0)) for _, x, y in points]
    reach = axes.transData.transform(ends) * dot - at
    bars = [p + step * r for p, r in zip(at, reach, strict=True) for step in BAR]
    apart = np.linalg.norm(at[:, None] - at, axis=-1) + np.diag(np.full(len(at), np.inf))
    first = [entry.kind in ("ours", "reference") for entry, _, _ in points]
    seen = [k for k in range(len(at)) if first[k] or apart[k].min() > DOT - 1.5]  # others are all but covered
    order = sorted(seen, key=lambda k: (not first[k], -apart[k].min()))[:POINTS]
    names = {k: short(points[k][0].label, 32) for k in order}
    styles = {k: name_style(points[k][0]) for k in order}
    sizes = {k: np.array([width_of(axes.figure, names[k], styles[k]), LINE]) for k in order}
    edges = axes.bbox.get_points() * dot
    options = {k: places(at, k, sizes[k], edges, np.array(bars), points[k][0].kind == "ours") for k in order}
    found = choose(at, sizes, options, {k: 99.0 if first[k] else 9 + apart[k].min() for k in order})
    for k, corner in found.items():
        near, far = nearest(at[k], corner, sizes[k])
        share = 0.0 if corner[0] >= at[k][0] else 1.0 if near[0] < at[k][0] else 0.5
        axes.annotate(
            names[k], (points[k][1].mean, points[k][2].mean), corner + sizes[k] * (share, 0.5) - at[k],
            textcoords="offset points", ha={0.0: "left", 0.5: "center", 1.0: "right"}[share], va="center",
            zorder=5, **styles[k], arrowprops=None if far <= BESIDE else {
                "arrowstyle": "-", "lw": 0.8, "shrinkA": 0, "shrinkB": DOT - 1,
                "relpos": (near - corner) / sizes[k],
                "color": light("ours" if points[k][0].kind == "ours" else "soft"),
            },
        )  # fmt: skip
    return len(points) - len(found)
