"""Metrics of videos, as torchmetrics classes; ``MEASURES`` lists all that they tell."""

from __future__ import annotations

from lamp_lightning.metrics.clip import ClipJudge, CLIPScore, FrameConsistency, load_clip
from lamp_lightning.metrics.evaluation import evaluate_videos
from lamp_lightning.metrics.fidelity import MotionFidelity, motion_signature, motion_signatures
from lamp_lightning.metrics.flicker import WarpingError
from lamp_lightning.metrics.flow import optical_flow
from lamp_lightning.metrics.frechet import FeatureExtractor, FrechetDistance, load_extractor
from lamp_lightning.metrics.likeness import Diversity, FirstFrameFidelity
from lamp_lightning.metrics.motion import MotionAmount, drift, flow_correlation, motion_amount
from lamp_lightning.metrics.registry import MEASURES, Measure, markdown_table
from lamp_lightning.metrics.truth import FlowAgreement, MovingPixelError

__all__ = [
    "MEASURES",
    "CLIPScore",
    "ClipJudge",
    "Diversity",
    "FeatureExtractor",
    "FirstFrameFidelity",
    "FlowAgreement",
    "FrameConsistency",
    "FrechetDistance",
    "Measure",
    "MotionAmount",
    "MotionFidelity",
    "MovingPixelError",
    "WarpingError",
    "drift",
    "evaluate_videos",
    "flow_correlation",
    "load_clip",
    "load_extractor",
    "markdown_table",
    "motion_amount",
    "motion_signature",
    "motion_signatures",
    "optical_flow",
]
