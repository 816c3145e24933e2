"""A picture painted over by the image model: SDEdit (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lamp_lightning.diffusion.denoise import guided
from lamp_lightning.diffusion.loss import add_noise


@torch.no_grad()
def repaint(
    image_model: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    text_embeddings: Tensor,
    *,
    strength: float,
    guidance_scale: float,
    num_inference_steps: int,
    noisy: Tensor | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    callback: Callable[[int, int, Tensor], None] | None = None,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Tensor:
    """Paint pictures anew from a point on the way to noise, so that they keep their layout.

    Args:
        image_model: what `MotionUNet.image_model()` gives.
        scheduler: a `DDIMScheduler` of the model's noise schedule; its steps are set here.
        latents: clean latents of the pictures, `b c 1 h w`.
        text_embeddings: what they are to show, `2b l d`, unconditional then conditional; `b l d` when
            `guidance_scale` is 1.
        strength: how far towards noise to go, 0..1: the last `strength * num_inference_steps` steps are
            taken. 0 leaves the pictures as they are, 1 leaves little of them.
        guidance_scale: 1 means no guidance.
        num_inference_steps: of the whole way.
        noisy: the pictures at that point, as `invert` with the same steps and strength gives them: they keep
            their layout best. None adds drawn noise.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1.

    Returns:
        Clean latents, `b c 1 h w`.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 and 1, not {strength}.")
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    steps = round(strength * num_inference_steps)
    timesteps = scheduler.timesteps[num_inference_steps - steps :]
    if steps == 0:
        return latents
    if noisy is None:
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy = add_noise(scheduler, latents, noise, timesteps[:1].expand(len(latents)))
    latents = noisy
    extra = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
    guidance = guidance_scale != 1
    for index, timestep in enumerate(timesteps):
        sample = latents.repeat(2, 1, 1, 1, 1) if guidance else latents
        prediction = image_model(sample, timestep, text_embeddings, **extra)
        if guidance:
            prediction = guided(prediction, guidance_scale)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        if callback is not None:
            callback(index + 1, steps, latents)
    return latents
