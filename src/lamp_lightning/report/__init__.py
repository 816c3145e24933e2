"""Comparisons of methods and settings: data, tables, plots and one self-contained page."""

from lamp_lightning.report.comparison import (
    FROZEN,
    TRUTH,
    Claim,
    Comparison,
    Entry,
    Measure,
    Result,
    Scene,
    SceneVideo,
    VideoFile,
)
from lamp_lightning.report.write import report_to, write_report

__all__ = [
    "FROZEN",
    "TRUTH",
    "Claim",
    "Comparison",
    "Entry",
    "Measure",
    "Result",
    "Scene",
    "SceneVideo",
    "VideoFile",
    "report_to",
    "write_report",
]
