"""What was measured: as metrics.json, as a table, at the terminal and in W&B."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lamp_lightning.metrics.metrics_json import write_metrics
from lamp_lightning.metrics.registry import markdown_table, present
from lamp_lightning.runtime.console import counted, short
from lamp_lightning.runtime.loggers import result_logger, summarise, where_to_look
from lamp_lightning.runtime.runs import write_text


@dataclass
class Evaluated:
    """What was measured of one set of videos, and what was not and why."""

    name: str
    facts: dict[str, Any]
    values: dict[str, float] = field(default_factory=dict)
    videos: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    doubts: str | None = None  # what CLIP does not know of them

    def as_dict(self) -> dict[str, Any]:
        count = len(self.videos)
        return {**self.facts, "count": count, **self.values, "left_out": self.left_out, "videos": self.videos}


def publish(results: Sequence[Evaluated], left_out: list[dict[str, str]], out: Path, cfg: DictConfig) -> bool:
    """Write metrics.json and table.md, report, print; returns whether nothing was left out."""
    faults = [*left_out, *(each for result in results for each in result.left_out)]
    single = results[0] if len(results) == 1 and not left_out else None
    write_metrics(
        out / "metrics.json",
        single.as_dict()
        if single
        else {"left_out": left_out, "runs": {each.name: each.as_dict() for each in results}},
    )
    write_text(out / "table.md", _document(results, faults, single))
    lines = [("metrics", short(out / "metrics.json")), ("table", short(out / "table.md"))]
    lines += _log(results, single, out, cfg)
    print(_summary(single) if single else "\n" + markdown_table(_rows(results), "run"))
    for fault in faults:
        print(f"  left out: {next(iter(fault.values()))}: {fault['reason']}", file=sys.stderr)
    for what, where in lines:
        print(f"  {what:<14}{where}")
    for doubts in dict.fromkeys(result.doubts for result in results if result.doubts):
        print(f"Note: {doubts}")
    sys.stdout.flush()
    return not faults


def _rows(results: Sequence[Evaluated]) -> list[tuple[str, Mapping[str, float]]]:
    return [(result.name, result.values) for result in results]


def _summary(result: Evaluated) -> str:
    """What is printed of one set: each measure over all videos, and the span of the single ones."""
    lines = [f"\n{result.name}: {counted(len(result.videos), 'video')}"]
    for measure in present([result.values]):
        single = [video[measure.name] for video in result.videos if measure.name in video]
        span = f"   {measure.number(min(single))} to {measure.number(max(single))}" if len(single) > 1 else ""
        lines.append(f"  {measure.label:<36}{measure.number(result.values[measure.name]):>9}{span}")
    return "\n".join(lines)


def _document(
    results: Sequence[Evaluated], faults: Sequence[Mapping[str, str]], single: Evaluated | None
) -> str:
    """The table as Markdown, with what was left out and what the measures mean."""
    if single:
        rows: list[tuple[str, Mapping[str, Any]]] = [(video["file"], video) for video in single.videos]
        title, body = single.name, markdown_table([*rows, ("**all**", single.values)], "video")
    else:
        title, body = f"{len(results)} runs", markdown_table(_rows(results), "run")
    parts = [f"# {title}", body]
    if faults:
        parts.append(
            "Left out:\n\n" + "\n".join(f"- {' '.join(': '.join(f.values()).split())}" for f in faults)
        )
    measures = present(result.values for result in results)
    parts.append("\n".join(f"- **{measure.label}**: {measure.help}" for measure in measures))
    return "\n\n".join(parts) + "\n"


def _log(
    results: Sequence[Evaluated], single: Evaluated | None, out: Path, cfg: DictConfig
) -> list[tuple[str, str]]:
    """Report to the logger of the config; returns where to look."""
    with result_logger(cfg.logger, out, "evaluate") as logger:
        if logger is None:
            return []
        logger.log_hyperparams({"evaluated": [result.facts for result in results]})
        if single:
            values = {f"metrics/{name}": value for name, value in single.values.items()}
            logger.log_metrics(values, step=0)
            summarise(logger, values)
        _log_table(logger, results, single)
        return where_to_look(logger)


def _log_table(logger: Any, results: Sequence[Evaluated], single: Evaluated | None) -> None:
    """W&B's table of the videos of one set, or of several sets."""
    if not hasattr(logger, "log_table"):
        return
    rows = single.videos if single else [{"run": result.name, **result.values} for result in results]
    measures = present(rows)
    words = ("file", "prompt") if single else ("run",)
    data = [[*(row[word] for word in words), *(row.get(m.name) for m in measures)] for row in rows]
    logger.log_table("evaluation", columns=[*words, *(m.label for m in measures)], data=data)
