"""Plots of a comparison: each measure with its spread, consistency against motion, values over frames.

An SVG made here has its colours as CSS variables, so that it follows the page, or the reader, into dark mode.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lamp_lightning.metrics.registry import Measure, capital
from lamp_lightning.report.comparison import TRUTH, Comparison, Entry
from lamp_lightning.report.labels import BESIDE, DOT, LINE, choose, nearest, places
from lamp_lightning.report.statistics import MOVES, Value, hardly_moves, score, summary
from lamp_lightning.report.tables import STILL
from lamp_lightning.runtime.runs import write_atomic, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 42  # of a label and a value that fit beside each other
NAMED = 11  # lines of a plot that can be named beside it
POINTS = 40  # of a scatter plot that are named at most
BAR = [np.array(step) for k in np.linspace(-1, 1, 9) for step in ((k, 0), (0, k))]  # along bars of a spread
WIDTH, ROW = 4.3, 0.52  # inches; a page shows them about as wide as a phone
# Name of the CSS variable: colour in light, colour in dark.
COLOURS = {
    "ink": ("#1f1d1a", "#ece8e1"),
    "soft": ("#6e6961", "#a19b91"),
    "line": ("#dedad2", "#3a3733"),
    "card": ("#fffffe", "#1f1d1b"),
    "ours": ("#c2450d", "#ff9a4d"),
    "other": ("#4b6078", "#9db4cd"),
    "change": ("#2c7a70", "#6cc5b8"),
    "plum": ("#8a4a86", "#d9a0d4"),
    "ochre": ("#8a6a0f", "#d6b656"),
}
# Lines that follow one another differ in both, and no two of the NAMED are alike.
HUES = ("other", "plum", "change", "ochre")
DASHES: tuple[Any, ...] = ("solid", (0, (4.5, 1.6)), (0, (6, 1.6, 1.2, 1.6)))
# What the values of a measure at each frame are, where it is not plain.
BY_FRAME = {
    "moving_error_ratio": "Each frame's error is a share of the frozen first frame's mean over all frames: "
    "the frozen one is 1 on average, below that early on and above it later."
}
_PATCH: Any = {
    "facecolor": COLOURS["card"][0],
    "edgecolor": "none",
    "pad": 1.5,
}  # words over lines stay legible
REFERENCE_LETTER = 0.023  # a letter of a reference's name, as a share of the axis
_KINDS = {"ours": "ours", "ablation": "change"}  # all else: other
_RC: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.5,
    "axes.linewidth": 0.8,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Plot:
    """A drawing, what it is called, and what it shows in words."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def light(name: str) -> str:
    return COLOURS[name][0]


def colour(entry: Entry) -> str:
    return light(_KINDS.get(entry.kind, "other"))


def plots(c: Comparison) -> list[Plot]:
    """All that the results allow: deciding measures first."""
    with matplotlib.rc_context(_RC):
        measures = sorted(
            c.measures, key=lambda m: c.deciding.index(m.name) if m.name in c.deciding else len(c.deciding)
        )
        made = [dots(c, m) for m in measures if sum(summary(c, e, m) is not None for e in c.methods) > 1]
        for measure in measures:
            if c.moves_by and measure.only_moving:
                made += scatter(c, c.measure(c.moves_by), measure)
        made += [over_frames(c, m) for m in measures if any(m.name in r.over_frames for r in c.results)]
    return made


def dots(c: Comparison, measure: Measure) -> Plot:
    """Each method's mean as a dot, its spread over seeds as a bar, its motions as faint dots; best on top.

    A motion beyond the axis is an arrow at that edge.
    """
    found = [(entry, value) for entry in c.methods if (value := summary(c, entry, measure)) is not None]
    if measure.better == "none":
        found.sort(key=lambda each: -each[1].mean)
    else:
        found.sort(key=lambda each: -(score(c, each[0], measure) or 0.0))
    references = [
        (e, v) for e in c.entries if e.kind == "reference" and (v := summary(c, e, measure)) is not None
    ]
    low, high = _limits(found, [value.mean for _, value in references])
    height = 0.42 + 0.24 * bool(references) + ROW * len(found)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.03, 0.36 / height, 0.94, (ROW * len(found)) / height))
    axes.set(xlim=(low, high), ylim=(len(found) - 0.35, -0.65))
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
        words: Any = {
            "va": "center",
            "fontweight": "bold" if entry.kind == "ours" else "normal",
            "bbox": _PATCH,
        }
        text = measure.number(value.mean)
        text += "" if value.spread is None else f" ± {measure.number(value.spread)}"
        axes.text(high, row - 0.22, text, ha="right", color=light("soft"), **words)
        mark = f" {STILL}" if measure.only_moving and hardly_moves(c, entry) else ""
        label = _short(entry.label, LETTERS - len(text + mark)) + mark
        axes.text(low, row - 0.22, label, color=light("ink"), **words)
    _reference_lines(axes, references, low, high)
    _clean(axes)
    axes.tick_params(axis="y", left=False, labelleft=False)
    listed = "; ".join(f"{entry.label} {measure.number(value.mean)}" for entry, value in found)
    alt = f"{capital(measure.title)}, {'best' if measure.better != 'none' else 'largest'} first: {listed}."
    said = [measure.meaning] * bool(measure.meaning)
    said += ["An arrow at the edge: a motion beyond it."] * bool(beyond)
    return Plot(measure.name, measure.heading, " ".join(said), alt, figure)


def how_to_read(c: Comparison) -> str:
    """What the dots and bars of ``dots`` are."""
    largest = any(measure.better == "none" for measure in c.measures)
    said = [
        "The best is on top; where nothing says what is better, the largest."
        if largest
        else "The best is on top."
    ]
    said += ["Bars: standard deviation over seeds."] * (len(c.seeds) > 1)
    said += ["Faint dots: each motion."] * (len(c.motions) > 1)
    said += [f"{STILL} hardly moves, so that its value says little."] * any(
        hardly_moves(c, e) for e in c.methods
    )
    return " ".join(said)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _limits(found: Sequence[tuple[Entry, Any]], references: Sequence[float]) -> tuple[float, float]:
    """The range of the axis: all means and bars; single motions only so far as they do not squeeze these."""
    ends = [v.mean + sign * (v.spread or 0.0) for _, v in found for sign in (-1, 1)] + list(references)
    low, high = min(ends), max(ends)
    room = _span(ends)[1]
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


def scatter(c: Comparison, motion: Measure, other: Measure) -> list[Plot]:
    """``other``, which standing still would win, against the amount of motion; [] with too little to show."""
    points = []
    for entry in c.entries:
        across, up = summary(c, entry, motion), summary(c, entry, other)
        if across is not None and up is not None:
            points.append((entry, across, up))
    if len(points) < 3:
        return []
    tall = 3.7 + 0.1 * min(max(0, len(points) - NAMED), 20)  # many names need room
    figure = Figure(figsize=(WIDTH, tall))
    axes = figure.add_axes((0.16, 0.56 / tall, 0.82, 1 - 0.67 / tall))
    left, width = _span([across.mean for _, across, _ in points])
    bottom, height = _span([up.mean for _, _, up in points])
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
    _clean(axes, left=True)
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
    return [Plot(f"{other.name}_against_motion", title, caption, alt, figure)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The smallest value and the range, which is never nothing."""
    return min(values), (max(values) - min(values)) or abs(max(values)) or 1.0


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
    names = {k: _short(points[k][0].label, 32) for k in order}
    styles = {k: _name_style(points[k][0]) for k in order}
    sizes = {k: np.array([_width(axes.figure, names[k], styles[k]), LINE]) for k in order}
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


def _name_style(entry: Entry) -> dict[str, Any]:
    weight = "bold" if entry.kind == "ours" else "normal"
    return {
        "color": light("soft" if entry.kind == "reference" else "ink"),
        "fontsize": 10.5,
        "fontweight": weight,
    }


def _width(figure: Any, text: str, style: dict[str, Any]) -> float:
    """Of a text, in points."""
    made = figure.text(0, 0, text, **style)
    width = made.get_window_extent().width * 72 / figure.dpi
    made.remove()
    return float(width)


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
    _clean(axes, left=True)
    listed = "; ".join(f"{entry.label} {measure.number(y)}" for entry, y in ends)
    alt = f"{capital(measure.title)} at the last frame: {listed}."
    said = [BY_FRAME[measure.name]] if measure.name in BY_FRAME else []
    said += ["Band: standard deviation over seeds."] * (len(c.seeds) > 1)
    said += [f"Thin lines: {len(found) - len(named)} methods that end between those named."] * (
        len(named) < len(found)
    )
    title = f"{measure.heading} over the frames"
    return Plot(f"{measure.name}_over_frames", title, " ".join(said), alt, figure)


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
        if max(_width(figure, line, _name_style(entry)) for line in lines) <= room:
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


def _clean(axes: Axes, *, left: bool = False) -> None:
    for side in ("top", "right", *(() if left else ("left",))):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(light("line"))
    axes.tick_params(colors=light("soft"), labelsize=10.5, length=3)
    axes.xaxis.label.set(color=light("soft"), fontsize=11)
    axes.yaxis.label.set(color=light("soft"), fontsize=11)
    axes.patch.set_alpha(0)


# -- to files and into pages ---------------------------------------------------------------------------------


def svg(plot: Plot, *, inline: bool) -> str:
    """The plot as SVG. ``inline``: for a page that sets the colours; else a file of its own, with both."""
    with matplotlib.rc_context({**_RC, "svg.hashsalt": plot.name}):
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        plot.figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for name, (colour, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(
        r"font: (\w+ )?([\d.]+)px [^;\"]*", lambda m: f"font: {m[1] or ''}{m[2]}px var(--font)", text
    )
    if not inline:
        both = [
            "".join(f"--{name}: {pair[k]}; " for name, pair in COLOURS.items()) + "--font: sans-serif"
            for k in (0, 1)
        ]
        style = f"<style>svg {{ {both[0]}; background: var(--card) }}\n"
        style += f"@media (prefers-color-scheme: dark) {{ svg {{ {both[1]} }} }}</style>"
        return text.replace("<defs>", f"{style}\n <defs>", 1)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    return re.sub(r'<svg height="[\d.]+pt"|<svg width="[\d.]+pt" height="[\d.]+pt"', "<svg", text)


def write_plots(made: Sequence[Plot], folder: Path) -> list[Path]:
    """Write each plot as SVG, which follows the reader's colours, and as PNG."""
    files = []
    for plot in made:
        files += [folder / f"{plot.name}.svg", folder / f"{plot.name}.png"]
        write_text(files[-2], svg(plot, inline=False))
        with matplotlib.rc_context(_RC):
            save = partial(plot.figure.savefig, format="png", dpi=200, metadata={"Software": None})
            write_atomic(files[-1], save)
    return files
