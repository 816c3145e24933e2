"""Metrics of videos, as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamp_lightning.metrics.clip import ClipJudge, CLIPScore, FrameConsistency, load_clip
from lamp_lightning.metrics.motion import MotionAmount, drift, optical_flow
from lamp_lightning.metrics.truth import FlowAgreement, MovingPixelError

__all__ = [
    "CLIPScore",
    "ClipJudge",
    "FlowAgreement",
    "FrameConsistency",
    "MotionAmount",
    "MovingPixelError",
    "drift",
    "evaluate_videos",
    "load_clip",
    "optical_flow",
]


def evaluate_videos(
    videos: Sequence[Any], prompts: Sequence[str], clip: ClipJudge | None = None
) -> dict[str, Any]:
    """Measure videos, each uint8 ``(f, h, w, 3)``, with their prompts.

    Returns:
        Means over the videos: ``motion_amount``; with ``clip`` also ``clip_score``, ``frame_consistency``
        and ``frame_consistency_neighbours``; and ``videos``, a list with the same for each of them.
    """
    if len(videos) != len(prompts) or not videos:
        raise ValueError(f"{len(videos)} videos do not go with {len(prompts)} prompts: give one for each.")
    single = []
    for video, prompt in zip(videos, prompts, strict=True):
        metrics: dict[str, Any] = {"motion_amount": MotionAmount()}
        if clip is not None:
            metrics |= {
                "clip_score": CLIPScore(clip),
                "frame_consistency": FrameConsistency(clip),
                "frame_consistency_neighbours": FrameConsistency(clip, "neighbours"),
            }
        for name, metric in metrics.items():
            metric.update(*((video, prompt) if name == "clip_score" else (video,)))
        single.append({name: float(metric.compute()) for name, metric in sorted(metrics.items())})
    means = {name: sum(values[name] for values in single) / len(single) for name in single[0]}
    return {**means, "videos": single}
