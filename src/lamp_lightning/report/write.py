"""Everything that people read of a comparison: tables, plots and the page, in one folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from omegaconf import DictConfig

from lamp_lightning.data.video import writable_folder, write_mp4
from lamp_lightning.report.comparison import Comparison
from lamp_lightning.report.curves import over_frames
from lamp_lightning.report.dots import dots
from lamp_lightning.report.drawing import STYLE, Plot, write_plots
from lamp_lightning.report.page import fewer_scenes, render, wanted_videos
from lamp_lightning.report.scatter import scatter
from lamp_lightning.report.statistics import measured
from lamp_lightning.report.tables import wide, write_tables
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import scratch
from lamp_lightning.runtime.loggers import result_logger, where_to_look
from lamp_lightning.runtime.runs import write_text

SHOWN = 128  # pixels of the shorter side, at least, of the videos in a W&B table


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison for people; returns the page.

    `comparison.json`, `table.csv` (wide), `long.csv`, `table.md`, `table.tex`, `plots/*.svg` and
    `*.png`, and `index.html`, which needs none of the others. The same comparison makes the same files.
    A video that cannot be read is left out of the page with a warning that names it. Raises UserError where
    nothing can be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lamp_lightning.metrics import measures
        >>> from lamp_lightning.report import Entry, Result
        >>> entries = Entry("ours", "LAMP", kind="ours"), Entry("theirs", "another method")
        >>> results = Result("ours", "rain", 0, {"fid": 1.0}), Result("theirs", "rain", 0, {"fid": 2.0})
        >>> found = Comparison("FID", "Which is nearer?", measures(["fid"]), entries, ("rain",), results)
        >>> with TemporaryDirectory() as folder:
        ...     page = write_report(found, Path(folder))
        ...     sorted(file.name for file in page.parent.iterdir())
        ['comparison.json', 'index.html', 'long.csv', 'plots', 'table.csv', 'table.md', 'table.tex']
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


def plots(c: Comparison) -> list[Plot]:
    """All plots that the results allow: deciding measures first."""
    with matplotlib.rc_context(STYLE):
        measures = sorted(
            c.measures, key=lambda m: c.deciding.index(m.name) if m.name in c.deciding else len(c.deciding)
        )
        made = [dots(c, m) for m in measures if len(measured(c, c.methods, m)) > 1]
        for measure in measures:
            if c.moves_by and measure.only_moving:
                made += scatter(c, c.measure(c.moves_by), measure)
        made += [over_frames(c, m) for m in measures if any(m.name in r.over_frames for r in c.results)]
    return made


def log_report(logger: Any, comparison: Comparison, folder: Path) -> None:
    """Log what `write_report` wrote to W&B: wide table, videos, plots and page. Other loggers get none."""
    if not hasattr(logger, "log_table"):
        return
    import wandb

    table = wide(comparison).astype(object)
    data = table.where(table.notna(), None).values.tolist()
    logger.log_table("comparison", columns=list(table), data=data)
    media: dict[str, Any] = {f"plots/{f.stem}": wandb.Image(str(f)) for f in (folder / "plots").glob("*.png")}
    media["page"] = wandb.Html((folder / "index.html").read_text(encoding="utf-8"), inject=False)
    with scratch() as written:  # W&B copies what it logs
        heads, data = videos_side_by_side(comparison, written)
        if data:
            logger.log_table("videos", columns=heads, data=data)
        logger.experiment.log(media)


def videos_side_by_side(c: Comparison, folder: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a W&B table: a scene and seed in each row, each method's video in a column.

    As many scenes as on the page; the videos are written to `folder`. A place without a video is None.
    """
    import wandb

    wanted, _ = fewer_scenes(c, wanted_videos(c))
    ordered = sorted(wanted, key=lambda each: each.entry.kind != "reference")
    labels = {each.entry.name: each.entry.label for each in ordered}
    seeds: dict[tuple[str, str], set[int]] = {}
    for each in wanted:
        if each.seed is not None:
            seeds.setdefault((each.scene.motion, each.scene.name), set()).add(each.seed)
    rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    for number, (each, file) in enumerate(wanted.items()):
        try:
            frames = file.read()
        except UserError:
            continue  # the page has named it
        target = write_mp4(folder / f"{number}.mp4", frames, c.fps, min_size=SHOWN)
        place = (each.scene.motion, each.scene.name)
        own: Sequence[int | None] = [each.seed]
        if each.seed is None:  # of a reference, beside each seed's
            own = sorted(seeds.get(place, ())) or [None]
        for seed in own:
            row = rows.setdefault((*place, seed), {"prompt": each.scene.prompt})
            row[each.entry.name] = wandb.Video(str(target), format="mp4")
    heads = ["motion", "prompt", "seed", *labels.values()]
    data = [
        [motion, row["prompt"], seed, *(row.get(name) for name in labels)]
        for (motion, _, seed), row in rows.items()
    ]
    return heads, data


def report_to(
    logger_cfg: DictConfig, comparison: Comparison, folder: Path, *, job_type: str
) -> list[tuple[str, str]]:
    """Log a written report to the logger that a command's config names; returns where to look."""
    with result_logger(logger_cfg, folder, job_type) as logger:
        log_report(logger, comparison, folder)
        return where_to_look(logger)
