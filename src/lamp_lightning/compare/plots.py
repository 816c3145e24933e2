"""Plots of a comparison: each measure with its spread, consistency against motion, values over frames.

An SVG made here has its colours as CSS variables, so that it follows the page, or the reader, into dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lamp_lightning.compare.model import TRUTH, Comparison, Entry, Measure, capital
from lamp_lightning.compare.statistics import MOVES, hardly_moves, score, summary
from lamp_lightning.compare.tables import STILL
from lamp_lightning.runs import write_atomic, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 42  # of a label and a value that fit beside each other
NAMED = 11  # lines of a plot that can be named beside it
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
    """Each method's mean as a dot, its spread over seeds as a bar, its motions as faint dots; best on top."""
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
    for row, (entry, value) in enumerate(found):
        shade = colour(entry)
        axes.plot([low, high], [row + 0.18] * 2, color=light("line"), lw=0.8, zorder=1)
        each = np.clip([v.mean for v in value.motions.values()], low, high)
        if len(each) > 1:
            axes.plot(each, [row + 0.18] * len(each), "o", ms=4, color=shade, alpha=0.35, mew=0, zorder=2)
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
    return Plot(measure.name, measure.heading, measure.meaning, alt, figure)


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
    low = max(min([low, *each]), low - room / 2)
    high = min(max([high, *each]), high + room / 2)
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
    figure = Figure(figsize=(WIDTH, 3.7))
    axes = figure.add_axes((0.16, 0.15, 0.82, 0.82))
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
        axes.plot(x, y, "o", ms=9, color=shade, mec=light("card"), mew=1.4, zorder=4)
    _name_points(axes, [(entry, across.mean, up.mean) for entry, across, up in points])
    _clean(axes, left=True)
    caption = f"{capital(other.title)} alone rewards standing still: read it with the motion."
    if true is not None:
        caption += " In the shaded part there is less than half of the true motion."
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


def _name_points(axes: Axes, points: Sequence[tuple[Entry, float, float]], line: float = 13) -> None:
    """Labels beside the points: each where it covers neither a point nor another label, if there is room."""
    at = axes.transData.transform([(x, y) for _, x, y in points]) / (axes.figure.dpi / 72)
    left, right = (edge / (axes.figure.dpi / 72) for edge in (axes.bbox.x0, axes.bbox.x1))
    taken = [(px - 6, px + 6, py) for px, py in at]  # left, right and height of what must not be covered
    for (entry, x, y), (px, py) in zip(points, at, strict=True):
        width = 6.4 * len(entry.label)
        places = []
        for step in range(12):
            for sign in (1, -1):
                for start in (px + 9, px - 9 - width):
                    height = py + sign * step * line / 2
                    over = sum(
                        a < start + width and start < b and abs(height - h) < line for a, b, h in taken
                    )
                    places.append((over + 3 * (start < left or start + width > right + 10), start, height))
        _, start, height = min(places, key=lambda place: place[0])
        taken.append((start, start + width, height))
        after = start > px
        axes.annotate(
            entry.label,
            (x, y),
            (9 if after else -9, height - py),
            textcoords="offset points",
            ha="left" if after else "right",
            va="center",
            color=light("soft") if entry.kind == "reference" else light("ink"),
            fontsize=10.5,
            fontweight="bold" if entry.kind == "ours" else "normal",
            zorder=5,
        )


def over_frames(c: Comparison, measure: Measure) -> Plot:
    """A measure at each frame: the mean over motions and seeds, with the spread over seeds as a band.

    Of very many methods only ours and those that end best and worst are named; the others are thin lines.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.add_axes((0.15, 0.16, 0.5, 0.8))
    found = [(entry, lines) for entry in c.entries if len(lines := _frame_lines(c, entry, measure))]
    found.sort(key=lambda each: float(each[1].mean(axis=0)[-1]))
    named = _named([entry for entry, _ in found])
    for entry, lines in found:
        mean, ours, reference = lines.mean(axis=0), entry.kind == "ours", entry.kind == "reference"
        frames = np.arange(len(mean))
        shade = light("soft") if reference else colour(entry)
        dashes: Any = (0, (1.2, 2.2)) if reference else "solid"
        if entry not in named:
            axes.plot(frames, mean, lw=0.6, color=shade, alpha=0.6, zorder=1)
            continue
        axes.plot(frames, mean, lw=2.4 if ours else 1.5, ls=dashes, color=shade, zorder=4 if ours else 3)
        if len(lines) > 1:
            spread = lines.std(axis=0, ddof=1)
            axes.fill_between(frames, mean - spread, mean + spread, color=shade, alpha=0.15, lw=0, zorder=2)
    axes.set(xlabel="frame", ylabel=measure.heading)
    axes.margins(x=0)
    ends = [(entry, float(lines.mean(axis=0)[-1])) for entry, lines in found]
    shown = [(entry, y) for entry, y in ends if entry in named]
    for (entry, _), at in zip(shown, _apart([y for _, y in shown], *axes.get_ylim()), strict=True):
        axes.annotate(
            _short(entry.label, 19), (1.02, at), xycoords=("axes fraction", "data"), va="center",
            color=light("soft") if entry.kind == "reference" else colour(entry), fontsize=10.5,
            fontweight="bold" if entry.kind == "ours" else "normal", annotation_clip=False,
        )  # fmt: skip
    _clean(axes, left=True)
    listed = "; ".join(f"{entry.label} {measure.number(y)}" for entry, y in ends)
    alt = f"{capital(measure.title)} at the last frame: {listed}."
    said = ["Band: standard deviation over seeds."] * (len(c.seeds) > 1)
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


def _apart(heights: Sequence[float], low: float, high: float) -> list[float]:
    """Rising heights, moved so far that labels there do not overlap and stay within the axis."""
    gap, at, found = (high - low) / 17, -np.inf, []
    for height in heights:
        at = max(height, at + gap)
        found.append(at)
    at = high + gap
    for k in reversed(range(len(found))):
        at = found[k] = min(found[k], at - gap)
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
