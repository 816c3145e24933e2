"""All measures of a set of videos at once, each feature and flow computed only once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.metrics.fidelity import MotionSignature, motion_signatures
from lamp_lightning.metrics.flow import FollowedVideo
from lamp_lightning.metrics.frechet import FeatureExtractor, frechet_distance
from lamp_lightning.metrics.likeness import likeness_among, mean_feature
from lamp_lightning.metrics.registry import MEASURES
from lamp_lightning.metrics.truth import compared_to_truth


@dataclass(frozen=True, eq=False)
class MeasuredVideo:
    """A video and what it is compared with. Features and flow are computed when they are first asked for.

    Args:
        frames: uint8 `f h w c`.
        clip: the CLIP model; None, here and below: not given.
        prompt: what the video is to show.
        truth: the true continuation of its first frame, uint8 `f h w c`.
        training: how the training clips move.
        first_frame: the picture that it was to begin with, uint8 `h w c`.
    """

    frames: np.ndarray
    clip: ClipJudge | None = None
    prompt: str | None = None
    truth: np.ndarray | None = None
    training: Sequence[MotionSignature] | None = None
    first_frame: Any = None

    @cached_property
    def features(self) -> torch.Tensor:
        """CLIP's features of the frames, `f d`."""
        assert self.clip is not None
        return self.clip.image_features(self.frames)

    @cached_property
    def followed(self) -> FollowedVideo:
        """The optical flow there and back."""
        return FollowedVideo.of(self.frames)

    @cached_property
    def to_truth(self) -> dict[str, float]:
        """Error and flow beside the true continuation."""
        return compared_to_truth([(self.frames, self.truth)])

    def measured(self) -> dict[str, float]:
        """Every measure that this video can have."""
        values = {
            name: measure.of_video(self)
            for name, measure in MEASURES.items()
            if measure.of_video is not None
            and len(self.frames) >= measure.frames
            and all(getattr(self, need) is not None for need in measure.needs)
        }
        return _known(values)


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
    """Measure videos of any lengths and sizes. `MEASURES` says what each value is.

    Args:
        videos: at least one: a list of videos `f h w c` or `f c h w`, or a batch `b f h w c` or
            `b f c h w`, all uint8 or floats in 0..1.
        prompts: one for each. None, for this and every further argument and for single items of them, leaves
            out the measures that need it.
        clip: the judge of prompts, consistency, diversity and likeness to the first frame.
        truth: the true continuation of each. Where lengths or sizes differ, the frames that both have are
            compared at the smaller size.
        training_clips: videos with the motion, or their `motion_signatures`, for the motion fidelity.
        first_frames: the picture that each was to begin with, uint8 `h w c`.
        reference: real videos for `fid` and `fvd`; None: the training clips, where those are videos.
        fid: extracts features of frames.
        fvd: extracts features of videos.

    Returns:
        Each measure over all videos, and `videos`, a list with the measures of each. Over all videos a value
        is the mean of theirs; errors to the truth and flow agreement are what the metric classes compute of
        all together. What a video is too short for, or cannot have, is left out.

    Example:
        >>> import numpy as np
        >>> frozen = np.full((4, 32, 32, 3), 128, np.uint8)
        >>> values = evaluate_videos([frozen])
        >>> values["motion_amount"], values["warping_error"]
        (0.0, 0.0)
    """
    if not len(videos):
        raise ValueError("There are no videos to measure.")
    videos = as_videos(videos)
    count = len(videos)
    for what, given in (("prompts", prompts), ("true videos", truth), ("first frames", first_frames)):
        if given is not None and len(given) != count:
            raise ValueError(f"{count} videos do not go with {len(given)} {what}: give one for each.")
    training = None if training_clips is None else motion_signatures(training_clips)
    pairs = zip(
        videos, *([None] * count if each is None else list(each) for each in (prompts, truth, first_frames)),
        strict=True,
    )  # fmt: skip
    measured = [
        MeasuredVideo(video, clip, prompt, None if true is None else as_frames(true), training, first)
        for video, prompt, true, first in pairs
    ]
    single = [video.measured() for video in measured]
    together = {name: _mean(single, name) for name in MEASURES}
    together.update(compared_to_truth([(video.frames, video.truth) for video in measured]))
    if clip is not None:
        features = torch.stack([mean_feature(video.features) for video in measured])
        together["diversity"] = float(likeness_among(features.sum(0), count))
    if reference is None and not any(isinstance(each, MotionSignature) for each in training_clips or ()):
        reference = training_clips
    for name, extractor in (("fid", fid), ("fvd", fvd)):
        if extractor is not None and reference:
            real = [as_frames(video) for video in reference]
            together[name] = frechet_distance(extractor, [video.frames for video in measured], real)
    return {**_known(together), "videos": single}


def _mean(single: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [each[name] for each in single if name in each]
    return sum(values) / len(values) if values else None


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)
    }
