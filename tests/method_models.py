"""A random UNet by itself, and what it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lamp_lightning.models.registry import MotionUNet
from random_models import TOKENS, WIDTH, random_unet


def image_unet(seed: int = 0, **changes: Any) -> Any:
    """A random `UNet2DConditionModel` of Stable Diffusion 1's kind."""
    return random_unet("sd1", seed, **changes)


def motion_unet(seed: int = 0, norm: Any = "joint", *, tuned: bool = True, **changes: Any) -> MotionUNet:
    """A random MotionUNet; `tuned` fills the layers that start at zero, as training would."""
    unet = MotionUNet.from_unet(image_unet(seed, **changes), norm)
    if tuned:
        with torch.no_grad():
            for parameter in unet.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


def video(frames: int = 5, clips: int = 2, size: tuple[int, int] = (8, 8), seed: int = 1) -> Tensor:
    """Gaussian latents, `b 4 f h w`."""
    return torch.randn(clips, 4, frames, *size, generator=torch.Generator().manual_seed(seed))


def text(clips: int = 2, seed: int = 2) -> Tensor:
    """Gaussian text embeddings, `b 16 16`."""
    return torch.randn(clips, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def output(unet, frames=5):
    with torch.no_grad():
        return unet(video(frames), 9, text())


def images_of(sample, words, timestep=9):
    """What the image model makes of each frame, `b c f h w`."""
    frames = sample.shape[2]
    with torch.no_grad():
        folded = image_unet()(
            sample.transpose(1, 2).flatten(0, 1), timestep, words.repeat_interleave(frames, dim=0)
        ).sample
    return folded.unflatten(0, (-1, frames)).transpose(1, 2)
