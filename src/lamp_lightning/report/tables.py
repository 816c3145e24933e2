"""The tables of a comparison as CSV (wide and long), Markdown and LaTeX; the page draws the same ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lamp_lightning.metrics.registry import Measure
from lamp_lightning.report.comparison import COLUMNS, COSTS, Comparison, Entry
from lamp_lightning.report.statistics import (
    Summary,
    Value,
    best,
    hardly_moves,
    measured,
    summary,
    true_motion,
)
from lamp_lightning.report.verdict import verdict
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.runs import write_text

MAIN = "table"
STILL, PARTIAL = "†", "‡"  # marks of what is not ranked: it hardly moves, or lacks a motion
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "°": r"$^\circ$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "†": r"$^\dagger$", "‡": r"$^\ddagger$",
    "−": "$-$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "–": "--", "—": "---", "…": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number as text, its spread over seeds as text, and how it is marked."""

    mean: str
    spread: str = ""
    best: bool = False
    mark: str = ""

    def text(self) -> str:
        return (f"{self.mean} ± {self.spread}" if self.spread else self.mean) + self.mark


@dataclass(frozen=True)
class Row:
    entry: Entry
    settings: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """`settings`: the headings of what the entries' settings are; `headings`: those of the numbers."""

    name: str
    caption: str
    settings: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    helps: tuple[str, ...] = ()

    def has(self, mark: str) -> bool:
        return any(cell is not None and mark in cell.mark for row in self.rows for cell in row.cells)


def main_table(c: Comparison) -> Table:
    """Entries by measures, means over motions and seeds."""
    measures = [measure for measure in c.columns if measured(c, c.entries, measure)]
    over = f"Means over {counted(len(c.motions), 'motion')}"
    over += f" and {counted(len(c.seeds), 'seed')}" if c.seeds else ""
    over += "; ± is the standard deviation over seeds" if len(c.seeds) > 1 else ""
    columns = [_column(c, measure, None) for measure in measures]
    helps = tuple(measure.meaning for measure in measures)
    headings = tuple(measure.heading for measure in measures)
    bold = any(cell is not None and cell.best for column in columns for cell in column)
    caption = f"{over}. The best value of each column is bold." if bold else f"{over}."
    return _table(c, MAIN, caption, headings, columns, helps)


def motion_table(c: Comparison, measure: Measure) -> Table:
    """Entries by motions, one measure."""
    motions = [motion for motion in c.motions if any(_at(c, entry, measure, motion) for entry in c.entries)]
    columns = [_column(c, measure, motion) for motion in motions]
    headings = tuple(motion.replace("_", " ") for motion in motions)
    name = f"{measure.heading} of each motion"
    return _table(c, measure.name, name, headings, columns)


def _table(
    c: Comparison,
    name: str,
    caption: str,
    headings: tuple[str, ...],
    columns: Sequence[Sequence[Cell | None]],
    helps: tuple[str, ...] = (),
) -> Table:
    settings = setting_names(c)
    rows = []
    for entry, cells in zip(c.entries, zip(*columns, strict=True), strict=True):
        rows.append(Row(entry, tuple(entry.settings.get(key, "") for key in settings), cells))
    return Table(name, caption, settings, headings, tuple(rows), helps)


def setting_names(c: Comparison) -> tuple[str, ...]:
    """Every setting that some entry names, in order."""
    return tuple(dict.fromkeys(key for entry in c.entries for key in entry.settings))


def _at(c: Comparison, entry: Entry, measure: Measure, motion: str | None) -> Value | None:
    found = summary(c, entry, measure)
    return found if found is None or motion is None else found.motions.get(motion)


def _column(c: Comparison, measure: Measure, motion: str | None) -> list[Cell | None]:
    leaders = best(c, measure, motion)
    cells: list[Cell | None] = []
    for entry in c.entries:
        value = _at(c, entry, measure, motion)
        if value is None:
            cells.append(None)
            continue
        mark = ""
        if entry.kind != "reference":
            mark += STILL if measure.only_moving and hardly_moves(c, entry) else ""
            mark += PARTIAL if isinstance(value, Summary) and not value.complete else ""
        spread = "" if value.spread is None else measure.number(value.spread)
        cells.append(Cell(measure.number(value.mean), spread, entry.name in leaders, mark))
    return cells


def notes(c: Comparison, table: Table) -> list[str]:
    """What the marks in a table mean."""
    said = []
    if table.has(STILL) and c.moves_by:
        said.append(
            f"{STILL} has less than half of the truth's {c.measure(c.moves_by).words} and is not ranked in "
            "this column: a video that stands still is perfectly consistent."
        )
    unranked = [m.words for m in c.columns if m.only_moving and true_motion(c) is None]
    if unranked and table.name == MAIN:
        said.append(
            f"Nothing is called best on {' and '.join(unranked)}: a video that stands still would be, and "
            "how much truly moves is not known here."
        )
    if table.has(PARTIAL):
        said.append(f"{PARTIAL} lacks motions that others have, and is not ranked.")
    fewer = []
    for measure in c.columns:
        count = max((len(found.motions) for _, found in measured(c, c.entries, measure)), default=0)
        fewer += [f"{measure.words} on {count}"] * (0 < count < len(c.motions))
    if fewer and table.name == MAIN:
        said.append(f"Not measured on all {len(c.motions)} motions: {', '.join(fewer)}.")
    if any(heading.endswith("→") for heading in table.headings):
        said.append("→: nearest to the truth is best.")
    return said


# -- CSV -----------------------------------------------------------------------------------------------------


def wide(c: Comparison) -> pd.DataFrame:
    """A row for each entry and motion, and one for its mean (motion "all"); spreads have their columns."""
    settings = setting_names(c)
    rows = []
    for entry in c.entries:
        results = [result for result in c.results if result.entry == entry.name]
        for motion in (None, *c.motions):
            seeds = {result.seed for result in results if motion in (None, result.motion)}
            if not seeds:
                continue
            found = [_at(c, entry, measure, motion) for measure in c.columns]
            numbers = [x for value in found for x in ((value.mean, value.spread) if value else (None, None))]
            chosen = [entry.settings.get(key, "") for key in settings]
            rows.append([entry.name, entry.label, entry.kind, motion or "all", len(seeds), *chosen, *numbers])
    heads = [head for measure in c.columns for head in (measure.name, f"{measure.name}_spread")]
    return pd.DataFrame(rows, columns=[*COLUMNS, *settings, *heads])


def long(c: Comparison) -> pd.DataFrame:
    """A row for each number that was measured: of each result (no scene) and of each of its videos."""
    rows: list[tuple[Any, ...]] = []
    for result in c.results:
        at = (result.entry, result.motion, result.seed)
        costs = {name: value for name in COSTS if (value := result.value(name)) is not None}
        rows += [(*at, "", name, value) for name, value in {**result.metrics, **costs}.items()]
        for video in result.videos:
            rows += [(*at, video.scene, name, value) for name, value in video.metrics.items()]
    table = pd.DataFrame(rows, columns=["entry", "motion", "seed", "scene", "measure", "value"])
    return table.astype({"seed": "Int64", "value": float})


def csv(table: pd.DataFrame) -> str:
    """The table as CSV, numbers in six digits."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


# -- Markdown and LaTeX --------------------------------------------------------------------------------------


def markdown(table: Table, notes: Sequence[str] = ()) -> str:
    """A Markdown table under its caption; best values are bold, references in italics."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    words = [_plain(head) for head in table.settings]
    numbers = [_plain(head) for head in table.headings]
    lines = [f"{_plain(table.caption)}", "", line(["method", *words, *numbers])]
    lines.append("|---" * (1 + len(words)) + "|---:" * len(numbers) + "|")
    for row in table.rows:
        label = _plain(row.entry.label)
        label = f"*{label}*" if row.entry.kind == "reference" else label
        lines.append(
            line([label, *map(_plain, row.settings), *(_marked(x, "**{}**".format) for x in row.cells)])
        )
    lines += [extra for note in notes for extra in ("", _plain(note))]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown takes as it is, on one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def latex(table: Table, notes: Sequence[str] = ()) -> str:
    """A LaTeX table for the package booktabs; best values are bold, references stand below a rule."""
    columns = "l" * (1 + len(table.settings)) + "r" * len(table.headings)
    heads = ["method", *table.settings, *table.headings]
    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(map(escape, heads)), r"\midrule"]
    methods = [row for row in table.rows if row.entry.kind != "reference"]
    references = [row for row in table.rows if row.entry.kind == "reference"]
    for row in methods + references:
        if references and methods and row is references[0]:
            lines.append(r"\midrule")
        cells = [_marked(x, lambda t: rf"\textbf{{{t}}}", escape) for x in row.cells]
        lines.append(_latex_line([escape(row.entry.label), *map(escape, row.settings), *cells]))
    caption = " ".join([table.caption, *notes])
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape(caption)}}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_line(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """Text for LaTeX: its special characters, and the signs that the tables use."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _marked(
    cell: Cell | None, bold: Callable[[str], str], escaped: Callable[[str], str] = lambda text: text
) -> str:
    if cell is None:
        return ""
    text = escaped(cell.text())
    return bold(text) if cell.best else text


def write_tables(c: Comparison, folder: Path) -> list[Path]:
    """Write `table.csv`, `long.csv`, `table.tex` and, with headline and claims, `table.md`."""
    tables = [main_table(c)]
    if len(c.motions) > 1:
        tables += [motion_table(c, c.measure(name)) for name in shown_by_motion(c)]
    found = verdict(c)
    written = [markdown(table, notes(c, table)) for table in tables]
    claims = [f"- {each.outcome}: {_plain(each.text)} {_plain(each.evidence)}" for each in found.claims]
    claims += [""] * bool(claims)
    texts = {
        "table.csv": csv(wide(c)),
        "long.csv": csv(long(c)),
        "table.md": "\n".join([f"**{_plain(found.headline)}**\n", *written, *claims]),
        "table.tex": "\n".join(latex(table, notes(c, table)) for table in tables),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def shown_by_motion(c: Comparison) -> tuple[str, ...]:
    """The measures that get a table by motion: the deciding ones, else the first that says what is better."""
    return c.deciding or tuple(m.name for m in c.measures if m.better != "none")[:1]
