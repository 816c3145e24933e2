"""Everything that people read of a comparison: tables, plots and the page, in one folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from lamp_lightning.compare.model import Comparison
from lamp_lightning.compare.page import render
from lamp_lightning.compare.plots import plots, write_plots
from lamp_lightning.compare.tables import write_tables
from lamp_lightning.runs import write_text
from lamp_lightning.video import writable_folder


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison for people; returns the page.

    ``comparison.json``, ``table.csv`` (wide), ``long.csv``, ``table.md``, ``table.tex``, ``plots/*.svg`` and
    ``*.png``, and ``index.html``, which needs none of the others. The same comparison makes the same files.
    A video that cannot be read is left out of the page with a warning that names it. Raises UserError where
    nothing can be written.
    """
    writable_folder(folder)
    comparison.save(folder / "comparison.json")
    write_tables(comparison, folder)
    made = plots(comparison)
    write_plots(made, folder / "plots")
    page, broken = render(comparison, made)
    for problem in broken:
        warnings.warn(f"Left out of the page: {problem}", stacklevel=2)
    write_text(folder / "index.html", page)
    return folder / "index.html"
