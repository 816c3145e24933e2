"""What all plots of a comparison have in common: colours, names, and how they get into files and pages.

An SVG made here has its colours as CSS variables, so that it follows the page, or the reader, into dark mode.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from lamp_lightning.report.comparison import Entry
from lamp_lightning.runtime.files import write_atomic, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 4.3  # inches; a page shows a plot about as wide as a phone
NAMED = 11  # of a plot's methods that can be named beside it
TITLE_LETTERS = 44  # of a line of a plot's title
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
_KINDS = {"ours": "ours", "ablation": "change"}  # all else: other
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.5,
    "axes.linewidth": 0.8,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Plot:
    """A drawing, what it is called, and what it shows."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def light(name: str) -> str:
    return COLOURS[name][0]


def colour(entry: Entry) -> str:
    return light(_KINDS.get(entry.kind, "other"))


def clean(axes: Axes, *, left: bool = False) -> None:
    axes.spines[["top", "right"] if left else ["top", "right", "left"]].set_visible(False)
    axes.spines[:].set_color(light("line"))
    axes.tick_params(colors=light("soft"), labelsize=10.5, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=light("soft"), fontsize=11)
    axes.patch.set_alpha(0)


def short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def span(values: Sequence[float]) -> tuple[float, float]:
    """The smallest value and the range, which is never nothing."""
    return min(values), (max(values) - min(values)) or abs(max(values)) or 1.0


def name_style(entry: Entry) -> dict[str, Any]:
    """Of an entry's name beside its dot or line."""
    colour = light("soft" if entry.kind == "reference" else "ink")
    return {"color": colour, "fontsize": 10.5, "fontweight": "bold" if entry.kind == "ours" else "normal"}


def width_of(figure: Any, text: str, style: dict[str, Any]) -> float:
    """Of a text, in points."""
    made = figure.text(0, 0, text, **style)
    width = made.get_window_extent().width * 72 / figure.dpi
    made.remove()
    return float(width)


@contextlib.contextmanager
def _titled(plot: Plot, *, wanted: bool) -> Iterator[dict[str, Any]]:
    """In this context the title stands above the figure, where it is wanted: a page has its own."""
    if not wanted:
        yield {}
        return
    lines = textwrap.fill(plot.title, TITLE_LETTERS)
    style: Any = {"color": light("ink"), "fontsize": 13, "fontweight": "bold"}
    title = plot.figure.text(0.03, 1.0, lines, va="bottom", **style)
    yield {"bbox_inches": "tight", "pad_inches": 0.12}
    title.remove()


def svg(plot: Plot, *, inline: bool) -> str:
    """The plot as SVG. `inline`: for a page that sets the colours; else a file of its own, with both."""
    drawn = {**STYLE, "svg.hashsalt": plot.name}
    with matplotlib.rc_context(drawn), _titled(plot, wanted=not inline) as options:
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        plot.figure.savefig(file, format="svg", transparent=True, metadata=nothing, **options)
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
        with matplotlib.rc_context(STYLE), _titled(plot, wanted=True) as options:
            options |= {"format": "png", "dpi": 200, "metadata": {"Software": None}}
            write_atomic(files[-1], partial(plot.figure.savefig, **options))
    return files
