"""How alike videos are among each other, and how true to the first frame that was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.batches import Values, VideoMetric, one_each
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.metrics.truth import alike
from lamp_lightning.runtime.errors import UserError


class Diversity(VideoMetric):
    """How alike the videos are among each other: the authors' diversity. Lower is more diverse.

    The mean cosine, over all pairs of videos, of their mean CLIP features. NaN for fewer than two videos.
    `update(frames)` takes a video or a batch.

    Example:
        >>> from lamp_lightning.metrics import load_clip
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> diversity = Diversity(load_clip("tiny"))
        >>> for _ in range(2):
        ...     diversity.update(video)
        >>> round(float(diversity.compute()), 4)
        1.0
    """

    higher_is_better = False
    plot_upper_bound = 1.0
    total: Tensor
    videos: Tensor

    def __init__(self, clip: ClipJudge, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip
        width = int(clip.model.config.projection_dim)
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, frames: Any) -> None:
        for video in as_videos(frames):
            self.total += mean_feature(self.clip.image_features(video)).to(self.total.device)
            self.videos += 1

    def compute(self) -> Tensor:
        return likeness_among(self.total, int(self.videos))


def mean_feature(features: Tensor) -> Tensor:
    """The mean of unit features `f d` as a unit vector `d`, float64."""
    mean = features.double().mean(0).cpu()
    return mean / mean.norm().clamp_min(1e-8)


def likeness_among(total: Tensor, count: int) -> Tensor:
    """Mean cosine over all pairs of `count` unit vectors, from their sum `d`; NaN for fewer than 2."""
    if count < 2:
        return torch.tensor(float("nan"))
    return (total @ total - count) / (count * (count - 1))  # the square of the sum: each, and each pair twice


class FirstFrameFidelity(VideoMetric):
    """How true a video stays to the first frame that it was given.

    `first_frame_fidelity`: mean cosine of the CLIP features of its frames and of that picture; higher is
    better, and a frozen video has 1. `first_frame_error`: mean difference of its frame 0 to that picture,
    in percent of the colours' range, which no motion excuses; lower is better.

    `update(frames, first_frame)` takes a video and a picture (PIL, or uint8 or floats, `h w c` or `c h w`),
    which is resized where it has another size; or a batch and a picture for each.

    Example:
        >>> from lamp_lightning.metrics import load_clip
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> fidelity = FirstFrameFidelity(load_clip("tiny"))
        >>> fidelity.update(video, video[0])
        >>> float(fidelity.compute()["first_frame_error"])
        0.0
    """

    fidelity: Tensor
    error: Tensor
    videos: Tensor

    def __init__(self, clip: ClipJudge, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip
        for name in ("fidelity", "error", "videos"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, frames: Any, first_frame: Any) -> None:
        videos = as_videos(frames)
        for video, picture in zip(videos, one_each(first_frame, videos, "first frames"), strict=True):
            features = self.clip.image_features(video)
            self.fidelity += first_frame_fidelity(features, self.clip.image_features([picture]))
            self.error += first_frame_error(video, picture)
            self.videos += 1

    def compute(self) -> Values:
        return Values(
            first_frame_fidelity=self.fidelity / self.videos, first_frame_error=self.error / self.videos
        )


def first_frame_fidelity(features: Tensor, picture: Tensor) -> float:
    """Mean cosine of the unit features of frames 1 and on, of `f d`, with a picture's `1 d`."""
    if len(features) < 2:
        raise UserError("First-frame fidelity is of the frames after the first: this video has only one.")
    return float((features[1:] @ picture[0]).mean())


def first_frame_error(frames: Any, picture: Any) -> float:
    """Mean absolute difference of frame 0 and a picture in percent of the colours' range.

    Compared at the size of the smaller one.
    """
    made, given = alike(as_frames(frames)[:1], as_frames([picture]))
    return float(100 / 255 * np.abs(made.astype(np.float32) - given).mean())
