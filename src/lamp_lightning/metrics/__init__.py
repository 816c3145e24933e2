"""Metrics of videos, as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamp_lightning.metrics.clip import ClipJudge, CLIPScore, FrameConsistency, consistency, fit, load_clip
from lamp_lightning.metrics.motion import MotionAmount, drift, flow_correlation, motion_amount, optical_flow
from lamp_lightning.metrics.truth import FlowAgreement, MovingPixelError
from lamp_lightning.video import as_frames

NAMES = ("clip_score", "frame_consistency", "frame_consistency_neighbours", "motion_amount")

__all__ = [
    "CLIPScore",
    "ClipJudge",
    "FlowAgreement",
    "FrameConsistency",
    "MotionAmount",
    "MovingPixelError",
    "drift",
    "evaluate_videos",
    "flow_correlation",
    "load_clip",
    "optical_flow",
]


def evaluate_videos(
    videos: Sequence[Any], prompts: Sequence[str], clip: ClipJudge | None = None
) -> dict[str, Any]:
    """Measure videos, each uint8 ``(f, h, w, 3)``, with their prompts.

    Returns:
        Means over the videos: ``motion_amount`` (percent of the width per frame); with ``clip`` also
        ``clip_score``, ``frame_consistency`` and ``frame_consistency_neighbours``; and ``videos``, a list
        with the same for each of them. A video of one frame has the CLIP score only.
    """
    if len(videos) != len(prompts) or not videos:
        raise ValueError(f"{len(videos)} videos do not go with {len(prompts)} prompts: give one for each.")
    single = [_evaluate_one(as_frames(v), prompt, clip) for v, prompt in zip(videos, prompts, strict=True)]
    measured = {name: [values[name] for values in single if name in values] for name in NAMES}
    means = {name: sum(values) / len(values) for name, values in measured.items() if values}
    return {**means, "videos": single}


def _evaluate_one(frames: np.ndarray, prompt: str, clip: ClipJudge | None) -> dict[str, float]:
    values: dict[str, float] = {}
    if clip is not None:
        features = clip.image_features(frames)  # once for all three
        values["clip_score"] = float(fit(features, clip.text_features([prompt])))
        if len(frames) > 1:
            values["frame_consistency"] = float(consistency(features))
            values["frame_consistency_neighbours"] = float(consistency(features, "neighbours"))
    if len(frames) > 1:
        values["motion_amount"] = motion_amount(frames)
    return values
