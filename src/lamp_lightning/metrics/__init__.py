"""Metrics of videos, as torchmetrics classes; `MEASURES` lists every value that an evaluation gives."""

from __future__ import annotations

from lamp_lightning.metrics.clip import CLIPScore, FrameConsistency, load_clip
from lamp_lightning.metrics.diagnosis import Diagnosis, diagnose
from lamp_lightning.metrics.evaluation import evaluate_videos
from lamp_lightning.metrics.fidelity import MotionFidelity, motion_signatures
from lamp_lightning.metrics.flicker import WarpingError
from lamp_lightning.metrics.frechet import FrechetDistance, load_extractor
from lamp_lightning.metrics.likeness import Diversity, FirstFrameFidelity
from lamp_lightning.metrics.motion import MotionAmount, flow_correlation
from lamp_lightning.metrics.registry import MEASURES, Measure, measures
from lamp_lightning.metrics.truth import Detail, FlowAgreement, MovingPixelError, StillPixelError

__all__ = [
    "MEASURES",
    "CLIPScore",
    "Detail",
    "Diagnosis",
    "Diversity",
    "FirstFrameFidelity",
    "FlowAgreement",
    "FrameConsistency",
    "FrechetDistance",
    "Measure",
    "MotionAmount",
    "MotionFidelity",
    "MovingPixelError",
    "StillPixelError",
    "WarpingError",
    "diagnose",
    "evaluate_videos",
    "flow_correlation",
    "load_clip",
    "load_extractor",
    "measures",
    "motion_signatures",
]
