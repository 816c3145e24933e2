"""Comparisons of methods and settings: data, tables, plots and one self-contained page."""

from lamp_lightning.report.comparison import (
    Claim,
    Comparison,
    Entry,
    HeldOutScene,
    Result,
    SceneVideo,
    VideoFile,
)
from lamp_lightning.report.write import write_report

__all__ = [
    "Claim",
    "Comparison",
    "Entry",
    "HeldOutScene",
    "Result",
    "SceneVideo",
    "VideoFile",
    "write_report",
]
