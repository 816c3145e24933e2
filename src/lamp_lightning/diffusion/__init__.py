"""Loss, sampling and inversion of first-frame-conditioned video diffusion."""

from __future__ import annotations

from lamp_lightning.diffusion.denoise import denoise, guided
from lamp_lightning.diffusion.invert import invert
from lamp_lightning.diffusion.loss import add_noise, all_frames_loss, first_frame_loss, target
from lamp_lightning.diffusion.tricks import adain, adain_towards_first, histogram_match, shared_noise
from lamp_lightning.diffusion.windows import count_windows, denoise_in_windows

__all__ = [
    "adain",
    "adain_towards_first",
    "add_noise",
    "all_frames_loss",
    "count_windows",
    "denoise",
    "denoise_in_windows",
    "first_frame_loss",
    "guided",
    "histogram_match",
    "invert",
    "shared_noise",
    "target",
]
