"""Measures against the true continuation of a first frame, which the toy world knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.batches import Values, VideoMetric, one_each
from lamp_lightning.metrics.motion import MIN_FRAMES, drift


def moving_pixels(true: np.ndarray, threshold: float = 0.1) -> np.ndarray:
    """Where the true video, uint8 `f h w c`, differs from its first frame: bool `f h w`.

    By more than `threshold` (of 0..1) in any colour.
    """
    return np.abs(true.astype(np.float32) - true[:1]).max(axis=-1) > 255 * threshold


def alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two videos `f h w c`, cut to the frames that both have and reduced to the smaller size."""
    count = min(len(a), len(b))
    height, width = min(a.shape[1:3], b.shape[1:3], key=lambda shape: shape[0] * shape[1])

    def fitted(video: np.ndarray) -> np.ndarray:
        if video.shape[1:3] == (height, width):
            return video[:count]
        return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in video[:count]])

    return fitted(a), fitted(b)


def _pair(video: Any, true: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = as_frames(video, min_frames=2), as_frames(true, min_frames=2)
    if a.shape != b.shape:
        raise ValueError(f"The video has shape {a.shape} and the true one {b.shape}: they must be the same.")
    return a, b


def _pairs(video: Any, true: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The videos of a batch, uint8 `f h w c`, each with its true continuation.

    Raises:
        ValueError: they are not as many, or not of the same shape.
    """
    videos = as_videos(video)
    wanted = one_each(as_videos(true), videos, "true videos")
    return [_pair(*pair) for pair in zip(videos, wanted, strict=True)]


class MovingPixelError(VideoMetric):
    """Mean squared error (colours 0..1) to the true video over the pixels that truly move.

    `moving_error` is the error itself, `moving_error_ratio` its share of what a frozen first frame has
    over the same pixels: 1 is no better than standing still, 0 is the truth. Lower is better.

    `update(video, true)` takes a video and its true continuation, or a batch of each.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> error = MovingPixelError()
        >>> error.update(video[:1].repeat(4, axis=0), video)
        >>> round(float(error.compute()["moving_error_ratio"]), 3)
        1.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    error: Tensor
    frozen: Tensor
    pixels: Tensor

    def __init__(self, threshold: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for name in ("error", "frozen", "pixels"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Any, true: Any) -> None:
        for pair in _pairs(video, true):
            moving = moving_pixels(pair[1], self.threshold)
            made, wanted = (x.astype(np.float64) / 255 for x in pair)
            self.error += float((made - wanted)[moving].__pow__(2).sum())
            self.frozen += float((wanted[:1] - wanted)[moving].__pow__(2).sum())
            self.pixels += 3 * int(moving.sum())

    def compute(self) -> Values:
        return Values(moving_error=self.error / self.pixels, moving_error_ratio=self.error / self.frozen)


def error_over_frames(
    videos: Sequence[Any] | np.ndarray, truth: Sequence[Any] | np.ndarray, threshold: float = 0.1
) -> np.ndarray:
    """The `moving_error_ratio` of `MovingPixelError` taken apart by frame: float `(f,)`.

    Its mean is that ratio: each frame's squared error is a share of what a frozen first frame has in the
    mean of all frames. Thus frame 0, where nothing has moved yet, has 0, and a frozen video's curve rises.

    Args:
        videos, truth: as many videos uint8 `f h w c`, all of one length.
        threshold: from where on a pixel moves, of 0..1.
    """
    error, frozen = 0.0, 0.0
    for video, true in zip(videos, truth, strict=True):
        made, wanted = (x.astype(np.float64) / 255 for x in _pair(video, true))
        moving = moving_pixels(as_frames(true), threshold)[..., None]
        error = error + (moving * (made - wanted) ** 2).sum(axis=(1, 2, 3))
        frozen = frozen + (moving * (wanted[:1] - wanted) ** 2).sum(axis=(1, 2, 3))
    return np.asarray(error) / np.mean(frozen)


class FlowAgreement(VideoMetric):
    """How the mean motion of a video compares to the true one's, where details are random (rain, waterfall).

    `flow_angle`: degrees between the two velocities (see `drift`), averaged over videos; 180 where the
    made one stands still. `flow_length`: their lengths' ratio, all videos together; 1 is right, 0 frozen.
    Videos whose truth goes nowhere as a whole do not count; NaN where none counts.

    `update(video, true)` takes a video and its true continuation, or a batch of each.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> rain = render_clip(held_out_scenes("rain", 1)[0], frames=8)
        >>> agreement = FlowAgreement()
        >>> agreement.update(rain, rain)
        >>> {name: round(float(value), 3) for name, value in agreement.compute().items()}
        {'flow_angle': 0.0, 'flow_length': 1.0}
    """

    plot_lower_bound = 0.0
    angle: Tensor
    length: Tensor
    true_length: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("angle", "length", "true_length", "videos"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Any, true: Any) -> None:
        for pair in _pairs(video, true):
            made, wanted = (drift(x) for x in pair)
            lengths = np.linalg.norm(made), np.linalg.norm(wanted)
            if lengths[1] == 0:
                continue
            cosine = made @ wanted / (lengths[0] * lengths[1]) if lengths[0] > 0 else -1.0
            self.angle += float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
            self.length += float(lengths[0])
            self.true_length += float(lengths[1])
            self.videos += 1

    def compute(self) -> Values:
        return Values(flow_angle=self.angle / self.videos, flow_length=self.length / self.true_length)


class StillPixelError(VideoMetric):
    """Mean squared error (colours 0..1) to the true video over the pixels that never move. Lower is better.

    A pixel moves where the true video differs from its first frame by more than `threshold` in any frame.
    Frame 0, which is given, does not count. A background that trembles or loses its colours shows here; a
    frozen video has next to nothing. NaN where every pixel moves.

    `update(video, true)` takes a video and its true continuation, or a batch of each.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> error = StillPixelError()
        >>> error.update(video, video)
        >>> float(error.compute())
        0.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    error: Tensor
    pixels: Tensor

    def __init__(self, threshold: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for name in ("error", "pixels"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Any, true: Any) -> None:
        for made, wanted in _pairs(video, true):
            still = ~moving_pixels(wanted, self.threshold).any(axis=0)
            error = ((made[1:, still].astype(np.float64) - wanted[1:, still]) / 255) ** 2
            self.error += float(error.mean(axis=-1).sum())
            self.pixels += error[..., 0].size

    def compute(self) -> Tensor:
        return self.error / self.pixels


class Detail(VideoMetric):
    """How sharp what moves is: its edges' strength as a share of the truth's. 1 is right, less is blurred.

    Edges are the mean length of the colours' gradient over the pixels that truly move. A frozen video, whose
    edges are elsewhere, is no measure of sharpness. NaN where nothing moves.

    `update(video, true)` takes a video and its true continuation, or a batch of each.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> detail = Detail()
        >>> detail.update(video, video)
        >>> float(detail.compute())
        1.0
    """

    plot_lower_bound = 0.0
    edges: Tensor
    true_edges: Tensor

    def __init__(self, threshold: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for name in ("edges", "true_edges"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Any, true: Any) -> None:
        for made, wanted in _pairs(video, true):
            moving = moving_pixels(wanted, self.threshold)
            self.edges += float(_edges(made)[moving].sum())
            self.true_edges += float(_edges(wanted)[moving].sum())

    def compute(self) -> Tensor:
        return self.edges / self.true_edges


def _edges(video: np.ndarray) -> np.ndarray:
    """The length of the gradient at each pixel of uint8 `f h w c`, the mean of the colours: float `f h w`."""
    down, right = np.gradient(video.astype(np.float64) / 255, axis=(1, 2))
    return np.hypot(down, right).mean(axis=-1)


def compared_to_truth(pairs: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, float]:
    """What the metrics of this module say of all videos that have a true continuation.

    Args:
        pairs: videos and their true continuations, uint8 `f h w c`. Where lengths or sizes differ, the frames
            that both have are compared at the smaller size.
    """
    error, flow, still, detail = MovingPixelError(), FlowAgreement(), StillPixelError(), Detail()
    for video, true in pairs:
        if true is None or min(len(video), len(true)) < 2:
            continue
        made, wanted = alike(video, true)
        for metric in (error, still, detail):
            metric.update(made, wanted)
        if len(made) >= MIN_FRAMES:
            flow.update(made, wanted)
    if not error.update_called:
        return {}
    single = {"still_error": still.compute(), "detail": detail.compute()}
    return {name: float(value) for name, value in {**error.compute(), **single, **flow.compute()}.items()}
