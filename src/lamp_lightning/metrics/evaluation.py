"""All measures of a set of videos at once, each feature and flow computed only once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lamp_lightning.data.video import as_frames
from lamp_lightning.metrics.clip import ClipJudge, consistency, fit
from lamp_lightning.metrics.fidelity import MotionSignature, motion_fidelity, motion_signatures
from lamp_lightning.metrics.flicker import warping_error
from lamp_lightning.metrics.flow import FollowedVideo
from lamp_lightning.metrics.frechet import FeatureExtractor, frechet_distance
from lamp_lightning.metrics.likeness import (
    first_frame_error,
    first_frame_fidelity,
    likeness_among,
    mean_feature,
)
from lamp_lightning.metrics.motion import MIN_FRAMES, motion_amount
from lamp_lightning.metrics.registry import MEASURES
from lamp_lightning.metrics.truth import FlowAgreement, MovingPixelError, alike


def evaluate_videos(
    videos: Sequence[Any],
    prompts: Sequence[str | None] | None = None,
    clip: ClipJudge | None = None,
    *,
    truth: Sequence[Any] | None = None,
    training_clips: Sequence[Any] | None = None,
    first_frames: Sequence[Any] | None = None,
    reference: Sequence[Any] | None = None,
    fid: FeatureExtractor | None = None,
    fvd: FeatureExtractor | None = None,
) -> dict[str, Any]:
    """Measure videos, each uint8 ``(f, h, w, 3)``, of any lengths and sizes. ``MEASURES`` says what is what.

    Args:
        videos: at least one.
        prompts: one for each; None, here and below also for single ones, leaves out what needs it.
        clip: the judge of prompts, consistency, diversity and likeness to the first frame.
        truth: the true continuation of each. Where lengths or sizes differ, the frames that both have are
            compared at the smaller size.
        training_clips: videos with the motion, or their ``motion_signatures``, for the motion fidelity.
        first_frames: the picture that each was to begin with, uint8 ``(h, w, 3)``.
        reference: real videos for ``fid`` and ``fvd``; None: the training clips, where those are videos.
        fid: tells features of frames.
        fvd: tells features of videos.

    Returns:
        Each measure over all videos (their mean; of errors to truth and flow agreement what the metric
        classes compute of all together), and ``videos``, a list with the measures of each. What a video is
        too short for, or cannot have, is left out.
    """
    count = len(videos)
    if not count:
        raise ValueError("There are no videos to measure.")
    for what, given in (("prompts", prompts), ("true videos", truth), ("first frames", first_frames)):
        if given is not None and len(given) != count:
            raise ValueError(f"{count} videos do not go with {len(given)} {what}: give one for each.")
    frames = [as_frames(video) for video in videos]
    truths = [None if t is None else as_frames(t) for t in truth or [None] * count]
    training = None if training_clips is None else motion_signatures(training_clips)
    means: list[torch.Tensor] = []
    single = [
        _measure(video, prompt, clip, means, true, training, first)
        for video, prompt, true, first in zip(
            frames, prompts or [None] * count, truths, first_frames or [None] * count, strict=True
        )
    ]
    together = {name: _mean(single, name) for name in MEASURES}
    together.update(_to_truth(list(zip(frames, truths, strict=True))))
    if means:
        together["diversity"] = float(likeness_among(torch.stack(means).sum(0), count))
    if reference is None and not any(isinstance(each, MotionSignature) for each in training_clips or ()):
        reference = training_clips
    for name, extractor in (("fid", fid), ("fvd", fvd)):
        if extractor is not None and reference:
            together[name] = frechet_distance(extractor, frames, [as_frames(video) for video in reference])
    return {**_known(together), "videos": single}


def _measure(
    frames: np.ndarray,
    prompt: str | None,
    clip: ClipJudge | None,
    means: list[torch.Tensor],
    true: np.ndarray | None,
    training: Sequence[MotionSignature] | None,
    first: Any,
) -> dict[str, float]:
    """The measures of one video; its mean CLIP feature is added to ``means``."""
    values: dict[str, float | None] = {}
    several = len(frames) > 1
    if clip is not None:
        features = clip.image_features(frames)
        means.append(mean_feature(features))
        if prompt is not None:
            values["clip_score"] = float(fit(features, clip.text_features([prompt])))
        if several:
            values["frame_consistency"] = float(consistency(features))
            values["frame_consistency_neighbours"] = float(consistency(features, "neighbours"))
        if several and first is not None:
            values["first_frame_fidelity"] = first_frame_fidelity(features, clip.image_features([first]))
    if first is not None:
        values["first_frame_error"] = first_frame_error(frames, first)
    if several:
        values["motion_amount"] = motion_amount(frames)
        seen = FollowedVideo.of(frames)
        values["warping_error"] = warping_error(seen)
        if training is not None and len(frames) >= MEASURES["motion_fidelity"].frames:
            values["motion_fidelity"] = motion_fidelity(seen, training)
    if true is not None:
        values.update(_to_truth([(frames, true)]))
    return _known({name: values.get(name) for name in MEASURES})


def _to_truth(pairs: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, float]:
    """What the metric classes say of videos with their true continuations, those with one."""
    error, flow = MovingPixelError(), FlowAgreement()
    compared = 0
    for video, true in pairs:
        if true is None or min(len(video), len(true)) < 2:
            continue
        made, wanted = alike(video, true)
        error.update(made, wanted)
        if len(made) >= MIN_FRAMES:
            flow.update(made, wanted)
        compared += 1
    if not compared:
        return {}
    values: Mapping[str, torch.Tensor] = {**error.compute(), **flow.compute()}
    return {name: float(value) for name, value in values.items()}


def _mean(single: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [each[name] for each in single if name in each]
    return sum(values) / len(values) if values else None


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
