"""Scheduled sampling: tuning on noisy clips that the model's own prediction led to, as sampling sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import (
    add_noise,
    prediction_of,
    prediction_type,
    signal_and_sigma,
)

FULL_SIGMA = 0.5  # with less noise than that the loss would be of the prediction's error above all


@torch.no_grad()
def own_noise(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    noisier: Tensor,
    conditions: Conditions | Tensor,
    *,
    known: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Noise that makes of the true latents what the model itself would have come to.

    The diffusion loss shows a model noisy true clips. Sampling shows it noisy clips that its own predictions
    led to, with their errors ("exposure bias", Ning et al. 2023, arXiv 2301.11706), which it never learned to
    mend. So a clip is noised to the timestep `noisier`, the model predicts its clean latents, and one step of
    DDIM leads back to `timesteps`: scheduled sampling (Bengio et al. 2015, arXiv 1506.03099). What comes out
    is the noise between the true latents and that. The loss with it asks for the true latents all the same.

    Args:
        unet, scheduler, latents, noise, timesteps, conditions, known: as of `known_frames_loss`.
        noisier: a timestep for each clip, `(b,)`. Clips whose `noisier` is their own timestep keep their
            noise.

    Returns:
        The noise, `b c f h w`, and the `scale` of `known_frames_loss`, `(b,)`: the less noise there is, the
        more a velocity has to change to mend the same error, so below `FULL_SIGMA` the error of the clean
        latents counts, and not that of the velocity.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> clip, noise, text = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8), torch.zeros(1, 77, 16)
        >>> steps = torch.tensor([400])
        >>> own, scale = own_noise(unet, DDIMScheduler(), clip, noise, steps, steps + 300, text, known=[0])
        >>> own.shape, torch.equal(own[:, :, 0], noise[:, :, 0]), torch.equal(own, noise), scale
        (torch.Size([1, 4, 3, 8, 8]), True, False, tensor([1.]))
    """
    rows, scale = (noisier > timesteps).nonzero().flatten(), latents.new_ones(len(latents))
    if not len(rows):
        return noise, scale
    told, clips = Conditions.of(conditions)[rows], latents[rows]
    frames = KnownFrames.of(clips, known)
    begun = frames.others(add_noise(scheduler, clips, noise[rows], noisier[rows]))
    whole = frames.whole(begun)
    output = frames.others(unet(whole, noisier[rows], told.text, **told.extra, **frames.said)).to(begun)
    kind = prediction_of(prediction_type(scheduler))
    levels = signal_and_sigma(scheduler, begun, noisier[rows])
    error = kind.clean(output, begun, *levels) - frames.others(clips)
    signal, sigma = signal_and_sigma(scheduler, begun, timesteps[rows])
    own = kind.noise(output, begun, *levels) + signal / sigma.clamp(min=1e-4) * error
    own = KnownFrames.of(noise[rows], known).whole(own)
    counted = (sigma / sigma.clamp(min=FULL_SIGMA)).flatten()
    return noise.index_copy(0, rows, own), scale.index_copy(0, rows, counted)
