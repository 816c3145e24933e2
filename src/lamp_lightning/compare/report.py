"""Everything that people read of a comparison: tables, plots and the page, in one folder."""

from __future__ import annotations

import csv
import secrets
import warnings
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lamp_lightning.compare.model import Comparison
from lamp_lightning.compare.page import render
from lamp_lightning.compare.plots import plots, write_plots
from lamp_lightning.compare.tables import wide_csv, write_tables
from lamp_lightning.loggers import close, where_to_look
from lamp_lightning.runs import RunFolder, write_text
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


def log_report(logger: Any, comparison: Comparison, folder: Path) -> None:
    """Log what ``write_report`` wrote to W&B: the wide table, plots and page. Other loggers get none."""
    if not hasattr(logger, "log_table"):
        return
    import wandb

    heads, *rows = csv.reader(wide_csv(comparison).splitlines())
    first = heads.index(comparison.measures[0].name)  # numbers from here on
    data = [[*row[:first], *(float(text) if text else None for text in row[first:])] for row in rows]
    logger.log_table("comparison", columns=heads, data=data)
    media: dict[str, Any] = {f"plots/{f.stem}": wandb.Image(str(f)) for f in (folder / "plots").glob("*.png")}
    media["page"] = wandb.Html((folder / "index.html").read_text(encoding="utf-8"), inject=False)
    logger.experiment.log(media)


def report_to(
    logger_cfg: DictConfig, comparison: Comparison, folder: Path, *, job_type: str
) -> list[tuple[str, str]]:
    """Log a written report to the logger that a command's config names; returns where to look."""
    if logger_cfg._target_.endswith("no_logger"):
        return []
    info = {"id": secrets.token_hex(4), "group": None, "job_type": job_type}
    logger = instantiate(logger_cfg, _partial_=True, _convert_="all")(RunFolder(folder.absolute(), info))
    log_report(logger, comparison, folder)
    lines = where_to_look(logger)
    close(logger)
    return lines
