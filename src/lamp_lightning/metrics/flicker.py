"""How much changes from frame to frame that motion does not explain."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from torchmetrics import MeanMetric

from lamp_lightning.data.video import as_videos
from lamp_lightning.metrics.batches import VideoMetric
from lamp_lightning.metrics.flow import FollowedVideo, moved


def warping_error(video: Any) -> float:
    """See `WarpingError`."""
    seen = FollowedVideo.of(video)
    errors = []
    before: Any = np.inf
    for t, (now, later) in enumerate(pairwise(seen.frames)):
        after = np.abs(moved(later, seen.forward[t]) - now).mean(-1)
        errors.append(np.where(seen.certain(t), after, np.minimum(after, before)).mean())
        before = np.abs(moved(now, seen.backward[t]) - later).mean(-1)
    return 100 * float(np.mean(errors))


class WarpingError(VideoMetric, MeanMetric):
    """How much flickers: the difference of each frame to the next, moved to it along the optical flow.

    In percent of the colours' range, mean over pixels. Lower is better; a frozen video has 0: read it beside
    `MotionAmount`. Where flow there and back do not agree, a pixel is compared with the frame before if it
    fits that better: what gets hidden in the next frame mostly showed there.

    `update(frames)` takes a video of at least 2 frames, or a batch; large ones are reduced to 128 pixels.

    Example:
        >>> import numpy as np
        >>> frozen = np.full((4, 32, 32, 3), 128, np.uint8)
        >>> error = WarpingError()
        >>> error.update(frozen)
        >>> float(error.compute())
        0.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def update(self, frames: Any) -> None:
        super().update([warping_error(video) for video in as_videos(frames)])
