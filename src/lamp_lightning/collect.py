"""`python -m lamp_lightning.collect runs=<folder>`: any set of runs as one table, with plots and a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Collect
from lamp_lightning.runtime.console import quiet, short
from lamp_lightning.runtime.files import inside
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.schema import check_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(collect, "collect", sys.argv[1:] if argv is None else argv)


def collect(cfg: DictConfig) -> None:
    """Gather the finished runs, write the report and say what was left out."""
    check_settings(Collect, cfg)
    from lamp_lightning.report import write_report
    from lamp_lightning.report.runs import compare_runs, find_runs
    from lamp_lightning.report.write import report_to

    asked = [str(each) for each in cfg.runs] if OmegaConf.is_list(cfg.runs) else [str(cfg.runs)]
    comparison = compare_runs(find_runs(asked), title=cfg.title, videos=cfg.videos)
    for problem in comparison.left_out:
        print(f"Left out: {problem}", file=sys.stderr)
    out = output(cfg, asked)
    with only_writer(out, inside=("plots",)):
        page = write_report(comparison, out)
        print((out / "table.md").read_text(encoding="utf-8"))
        print(f"  tables        {short(out)}/table.csv, long.csv, table.md, table.tex")
        if (out / "plots").is_dir():  # there is nothing to plot of some runs
            print(f"  plots         {short(out / 'plots')}")
        print(f"  page          {short(page)}")
        for what, where in report_to(cfg.logger, comparison, out, job_type="collect"):
            print(f"  {what:<14}{where}")
    sys.stdout.flush()


def output(cfg: DictConfig, asked: Sequence[str]) -> Path:
    """The folder to write to."""
    if cfg.out is not None:
        return Path(str(cfg.out)).expanduser()
    folder = Path(asked[0]).expanduser()
    if len(asked) > 1 or not folder.is_dir():
        return Path("collected")
    return inside(folder / "collected", folder)


if __name__ == "__main__":
    sys.exit(main())
