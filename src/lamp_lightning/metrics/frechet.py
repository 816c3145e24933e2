"""FID and FVD, with any feature extractor: a TorchScript file, a Python callable, or CLIP."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.batches import VideoMetric
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.runtime.errors import UserError

Kind = Literal["fid", "fvd"]
KINDS: tuple[Kind, ...] = ("fid", "fvd")


class FeatureExtractor(nn.Module):
    """What gives features `n d` of frames (FID) or of whole videos (FVD).

    `function` gets float32 colours 0..255, frames as `n c h w` and videos as `n c f h w`, at
    their own size, and `arguments`. `name` is what errors call it.
    """

    def __init__(
        self, kind: Kind, function: Any, name: str, arguments: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.kind, self.function, self.name = kind, function, name
        self.arguments = dict(arguments or {})

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        try:
            features = self.function(pixels, **self.arguments)
        except Exception as error:  # of someone else's code: anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(
                f"{self.kind}={self.name} cannot take {self._what(pixels)}: {reason} (Its arguments stand in "
                f"{self.kind}_arguments.)"
            ) from error
        if not isinstance(features, Tensor) or features.shape[:1] != pixels.shape[:1]:
            found = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features)
            raise UserError(
                f"{self.kind}={self.name} gave {found} for {self._what(pixels)}: it has to give a tensor of "
                "features for each of them, (n, d)."
            )
        return features.flatten(1).float()

    def of(self, video: Any, device: Any = "cpu") -> Tensor:
        """The features of one video, uint8 `f h w c`, found on a device: `f d` for FID, `1 d` for FVD."""
        frames = torch.from_numpy(as_frames(video)).float().to(device)
        if self.kind == "fid":
            return self(frames.permute(0, 3, 1, 2))
        return self(frames.permute(3, 0, 1, 2)[None])

    def _what(self, pixels: Tensor) -> str:
        what = "frames" if self.kind == "fid" else "videos"
        return f"{what}, a tensor of shape {tuple(pixels.shape)}"


def load_extractor(
    kind: Kind, where: str, clip: ClipJudge | None = None, arguments: Mapping[str, Any] | None = None
) -> FeatureExtractor:
    """The extractor that a setting names.

    Args:
        kind: for which measure.
        where: `clip` (FID only), a TorchScript file, or `module:callable`, a function or nn.Module.
        clip: the CLIP model that `clip` means.
        arguments: more of the function's arguments, such as
            `{"rescale": True, "resize": True, "return_features": True}` for the usual I3D file.

    Raises:
        UserError: nothing that can be used there.

    Example:
        >>> extractor = load_extractor("fid", "torch:flatten", arguments={"start_dim": 1})
        >>> import numpy as np
        >>> extractor.of(np.zeros((2, 4, 4, 3), np.uint8)).shape
        torch.Size([2, 48])
    """
    if where == "clip" and kind == "fid":
        if clip is None:
            raise UserError("fid=clip takes the features of a CLIP model: name one with clip=<model>.")
        return FeatureExtractor(kind, ClipFeatures(clip), where)
    path = Path(where).expanduser()
    try:
        if path.is_file():
            return FeatureExtractor(kind, torch.jit.load(path, map_location="cpu").eval(), where, arguments)
        module, colon, name = where.partition(":")
        if not colon:
            raise ValueError("there is no such file")
        function = getattr(importlib.import_module(module), name)
        if isinstance(function, nn.Module):
            function.eval()
        return FeatureExtractor(kind, function, where, arguments)
    except (ImportError, AttributeError, RuntimeError, ValueError, OSError) as error:
        options = "clip, " if kind == "fid" else ""
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{kind}={where} cannot be used: {reason}. Give {options}a TorchScript file, or module:callable."
        ) from error


@dataclass(frozen=True)
class ClipFeatures:
    """CLIP as the function of a `FeatureExtractor`: colours 0..255 `n c h w` to features `n d`."""

    clip: ClipJudge

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.clip.image_features(pixels.to(torch.uint8))


class FrechetDistance(VideoMetric, FrechetInceptionDistance):
    """torchmetrics' Frechet distance on the features of an extractor: FID of frames, FVD of videos.

    `update(video, real)` takes a video or a batch. Lower is better. Where there are fewer
    samples than features the distance is mostly chance, and `compute` warns.

    Args:
        extractor: extracts features.
        features: how many it gives of each sample.

    Example:
        >>> import numpy as np
        >>> colours = FeatureExtractor("fid", lambda pixels: pixels.mean((2, 3)), "mean colours")
        >>> video = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
        >>> distance = FrechetDistance(colours, features=3)
        >>> distance.update(video, real=True)
        >>> distance.update(video, real=False)
        >>> abs(round(float(distance.compute()), 3))
        0.0
    """

    def __init__(self, extractor: FeatureExtractor, features: int, **kwargs: Any) -> None:
        known = nn.Identity()  # features come here ready, since videos are of many sizes
        known.num_features = features  # type: ignore[assignment]
        super().__init__(feature=known, **kwargs)
        self.extractor, self.clip = extractor, getattr(extractor.function, "clip", None)

    def update(self, video: Any, real: bool) -> None:
        for each in as_videos(video):
            super().update(self.extractor.of(each, self.device).to(self.device), real)

    def compute(self) -> Tensor:
        fewest = int(min(self.real_features_num_samples, self.fake_features_num_samples))
        features = len(self.real_features_sum)
        if fewest <= features:
            kind, what = self.extractor.kind, "frames" if self.extractor.kind == "fid" else "videos"
            warnings.warn(
                f"{kind.upper()} is unreliable here: {fewest} {what} are too few for {features} features. "
                "Compare only values of equally many, and no small differences.",
                stacklevel=2,
            )
        return super().compute()


def frechet_distance(
    extractor: FeatureExtractor, videos: Sequence[Any], reference: Sequence[Any]
) -> float | None:
    """FID or FVD of videos to reference videos; None with fewer than two samples of either."""
    samples = [
        sum(len(v) for v in each) if extractor.kind == "fid" else len(each) for each in (videos, reference)
    ]
    if min(samples) < 2:
        return None
    metric = FrechetDistance(extractor, extractor.of(reference[0]).shape[1])
    for real, group in ((True, reference), (False, videos)):
        for video in group:
            metric.update(video, real)
    return max(0.0, float(metric.compute()))
