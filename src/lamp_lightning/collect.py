"""``python -m lamp_lightning.collect runs=<folder>``: any set of runs as one table, with plots and a page."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.config import check_config, run_command
from lamp_lightning.console import quiet, short

if TYPE_CHECKING:
    from lamp_lightning.compare import Comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(collect, "collect", sys.argv[1:] if argv is None else argv)


def collect(cfg: DictConfig) -> None:
    """Gather the finished runs, write the report and say what was left out."""
    check_config(cfg)
    from lamp_lightning.compare import write_report
    from lamp_lightning.compare.runs import compare_runs, find_runs

    asked: list[Any] = list(cfg.runs) if OmegaConf.is_list(cfg.runs) else [cfg.runs]
    folders = find_runs([str(each) for each in asked])
    comparison = compare_runs(folders, title=cfg.title, videos=cfg.videos)
    for problem in comparison.left_out:
        print(f"Left out: {problem}", file=sys.stderr)
    out = output(cfg, asked)
    page = write_report(comparison, out)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"  tables        {short(out)}/table.csv, long.csv, table.md, table.tex")
    print(f"  plots         {short(out / 'plots')}\n  page          {short(page)}")
    for what, where in log(cfg, comparison, out):
        print(f"  {what:<14}{where}")
    sys.stdout.flush()


def log(cfg: DictConfig, comparison: Comparison, out: Path) -> list[tuple[str, str]]:
    """Report to the logger of the config; returns where to look."""
    if cfg.logger._target_.endswith("no_logger"):
        return []
    from lamp_lightning.compare import log_report
    from lamp_lightning.loggers import close, where_to_look
    from lamp_lightning.runs import RunFolder

    info = {"id": secrets.token_hex(4), "group": None, "job_type": "collect"}
    logger = instantiate(cfg.logger, _partial_=True, _convert_="all")(RunFolder(out.absolute(), info))
    log_report(logger, comparison, out)
    lines = where_to_look(logger)
    close(logger)
    return lines


def output(cfg: DictConfig, asked: Sequence[Any]) -> Path:
    """The folder to write to."""
    if cfg.out is not None:
        return Path(str(cfg.out)).expanduser()
    folder = Path(str(asked[0])).expanduser()
    return folder / "collected" if len(asked) == 1 and folder.is_dir() else Path("collected")


if __name__ == "__main__":
    sys.exit(main())
