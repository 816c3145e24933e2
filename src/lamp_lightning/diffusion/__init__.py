"""Loss, sampling and inversion of video diffusion with known frames: pure tensors, no model."""

from __future__ import annotations

from lamp_lightning.diffusion.colours import histogram_match
from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.denoise import denoise
from lamp_lightning.diffusion.guidance import guided, with_guidance
from lamp_lightning.diffusion.invert import invert
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.latent_adain import adain, adain_towards_first
from lamp_lightning.diffusion.loss import all_frames_loss, first_frame_loss, known_frames_loss
from lamp_lightning.diffusion.noise_sharing import shared_noise
from lamp_lightning.diffusion.schedule import add_noise, target
from lamp_lightning.diffusion.windows import count_windows, denoise_in_windows

__all__ = [
    "Conditions",
    "KnownFrames",
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
    "known_frames_loss",
    "shared_noise",
    "target",
    "with_guidance",
]
