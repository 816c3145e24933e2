"""What a given first frame says of the others: where sampling begins, and what stands still.

Neither is in the paper. Both are for sampling alone, and leave a model as it was tuned.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lamp_lightning.diffusion.flow import is_flow
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import (
    noised,
    prediction_of,
    prediction_type,
    signal_and_sigma,
)

BLUR = 3  # rows and columns of latents over which the first frame is averaged where sampling begins
NEAR = 3  # rows and columns around a latent in which a change keeps it from standing still
LEAST_SIGNAL = 1e-3  # below that share of clean latents a prediction says nothing of them


def over_known(scheduler: Any, noise: Tensor, known: KnownFrames) -> Tensor:
    """Noise over blurred known frames, at the level of a scheduler's first timestep: `b c f h w`.

    At its first timestep a diffusion model sees a little of the clean latents. Pure noise, where sampling
    usually begins, has none of it, so that colours of large areas are made up (Lin et al. 2024, section 3.1).
    Low frequencies change least over a clip: every frame begins with those of the first, or with what lies
    between those of several known ones. Details would stay where they are.

    Args:
        scheduler: its timesteps are set.
        noise: `b c f h w`, of unit variance or with shared noise.
        known: some of the frames, clean.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler()
        >>> scheduler.set_timesteps(10)
        >>> known = KnownFrames.first(torch.ones(1, 4, 8, 8))
        >>> begun = over_known(scheduler, torch.zeros(1, 4, 3, 8, 8), known)
        >>> begun.shape, round(begun.mean().item(), 3)
        (torch.Size([1, 4, 3, 8, 8]), 0.016)
    """
    padded = F.pad(known.between(noise.shape[2]), (BLUR // 2,) * 4 + (0, 0), mode="replicate")
    blurred = F.avg_pool3d(padded, (1, BLUR, BLUR), stride=1)
    return noised(scheduler, blurred, noise, scheduler.timesteps[0])


def steadied(predict: Predict, scheduler: Any, threshold: float) -> Predict:
    """A prediction in which small changes from the first frame fade, so that still places stand still.

    Each prediction says what the clean latents are. Their change `d` from the clean frame 0, or from what
    lies between several known ones, becomes `d * e / (e + threshold^2)`, where `e` is the largest mean square
    of `d` in the neighbourhood: what a Wiener filter leaves of a signal of energy `e` in noise of the energy
    `threshold^2`. Where something moves, little changes; where nothing does, the known frames stay.

    Args:
        predict: of `with_guidance`.
        scheduler: of the model.
        threshold: in the unit of scaled latents, whose standard deviation is about 1.
    """
    kind = prediction_of(prediction_type(scheduler))

    def steady(sample: Tensor, timestep: Tensor, known: KnownFrames) -> Tensor | None:
        output = predict(sample, timestep, known)
        if output is None or not known.clean:
            return output
        level = timestep.reshape(1) if is_flow(scheduler.config) else timestep.reshape(1).round().long()
        noisy = known.others(sample)
        signal, sigma = signal_and_sigma(scheduler, noisy, level)
        noise = kind.noise(output, noisy, signal, sigma)
        clean = (noisy - sigma * noise) / signal.clamp(min=LEAST_SIGNAL)
        given = known.others(known.between(sample.shape[2]))
        kept = _kept_changes(clean, given, threshold)
        noise = (noisy - signal * kept) / sigma
        return torch.where(signal < LEAST_SIGNAL, output, kind.target(kept, noise, signal, sigma))

    return steady


def _kept_changes(clean: Tensor, first: Tensor, threshold: float) -> Tensor:
    """Clean latents `b c f h w` whose small changes from given ones of that shape are smaller still."""
    change = clean - first
    energy = (change**2).mean(dim=1)  # b f h w
    energy = F.max_pool2d(energy, NEAR, stride=1, padding=NEAR // 2).unsqueeze(1)
    return first + change * (energy / (energy + threshold**2))
