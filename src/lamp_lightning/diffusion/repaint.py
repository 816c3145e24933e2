"""A picture generated anew by the image model: SDEdit (Meng et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lamp_lightning.diffusion.denoise import Generators, StepCallback, solve
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import add_noise, set_steps


@torch.no_grad()
def repaint(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    *,
    strength: float,
    num_inference_steps: int,
    noisy: Tensor | None = None,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Generate pictures anew from a point on the way to noise, so that they keep their layout.

    Args:
        predict: the image model of a MotionUNet under its conditions and guidance, see `with_guidance`.
        scheduler: a `DDIMScheduler` of the model's noise schedule, or Euler's method for flow matching; its
            steps are set here.
        latents: clean latents of the pictures, `b c 1 h w`.
        strength: how far towards noise to go, 0..1: the last `strength * num_inference_steps` steps are
            taken. 0 leaves the pictures as they are, 1 leaves little of them.
        num_inference_steps: of the whole way.
        noisy: the pictures at that point, as `invert` with the same steps and strength gives them: they keep
            their layout best. None adds drawn noise.
        generator: of the drawn noise.
        callback: see `denoise`.

    Returns:
        Clean latents, `b c 1 h w`.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 and 1, not {strength}.")
    set_steps(scheduler, num_inference_steps, latents.device, tuple(latents.shape[-3:]))
    steps = round(strength * num_inference_steps)
    if steps == 0:
        return latents
    timesteps = scheduler.timesteps[num_inference_steps - steps :]
    if noisy is None:
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy = add_noise(scheduler, latents, noise, timesteps[:1].expand(len(latents)))
    return solve(predict, scheduler, noisy, timesteps, KnownFrames.none(), callback=callback)
