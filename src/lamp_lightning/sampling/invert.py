"""DDIM inversion: the noise from which deterministic sampling leads back to a given clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def invert(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    text_embeddings: Tensor,
    num_inference_steps: int,
    *,
    added_cond_kwargs: dict[str, Tensor] | None = None,
    callback: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """DDIM inversion of whole clips without guidance, as the authors' editing does.

    Args:
        unet: a MotionUNet.
        scheduler: a `DDIMScheduler` of the model's noise schedule; its steps are set here.
        latents: clean latents, `b c f h w`.
        text_embeddings: the clips' prompts, `b l d`.
        num_inference_steps: the steps that sampling will take.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1.

    Returns:
        The latents at the last timestep, `b c f h w`.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    extra = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
    timesteps = scheduler.timesteps.flip(0)
    for index, timestep in enumerate(timesteps):
        output = unet(latents, timestep, text_embeddings, **extra)
        latents = _back(scheduler, latents, output, int(timestep) - stride, int(timestep))
        if callback is not None:
            callback(index + 1, len(timesteps), latents)
    return latents


def _back(scheduler: Any, latents: Tensor, output: Tensor, now: int, then: int) -> Tensor:
    """One DDIM step towards noise: from timestep `now` (below 0: clean) to `then`."""
    alpha_now = scheduler.alphas_cumprod[now] if now >= 0 else scheduler.final_alpha_cumprod
    alpha_then = scheduler.alphas_cumprod[then]
    clean = (latents - (1 - alpha_now) ** 0.5 * output) / alpha_now**0.5
    return alpha_then**0.5 * clean + (1 - alpha_then) ** 0.5 * output
