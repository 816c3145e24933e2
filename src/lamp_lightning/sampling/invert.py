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
    prediction_type: str = "epsilon",
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
        prediction_type: how the UNet's output is read. The authors' code reads every model's as noise; for a
            model of another type pass `scheduler.config.prediction_type`, or sampling does not lead back.
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
        latents = _back(scheduler, latents, output, int(timestep) - stride, int(timestep), prediction_type)
        if callback is not None:
            callback(index + 1, len(timesteps), latents)
    return latents


def _back(scheduler: Any, latents: Tensor, output: Tensor, now: int, then: int, kind: str) -> Tensor:
    """One DDIM step towards noise: from timestep `now` (below 0: clean) to `then`.

    As in DDIM sampling the UNet saw the timestep at the noisier end, `then`.
    """
    alpha_now = scheduler.alphas_cumprod[now] if now >= 0 else scheduler.final_alpha_cumprod
    alpha_then = scheduler.alphas_cumprod[then]
    signal, sigma = alpha_now**0.5, (1 - alpha_now) ** 0.5
    if kind == "epsilon":
        clean, noise = (latents - sigma * output) / signal, output
    elif kind == "v_prediction":
        clean, noise = signal * latents - sigma * output, signal * output + sigma * latents
    elif kind == "sample":
        clean = output
        # At the clean end sigma may be 0; the schedule's own smallest keeps the noise defined.
        noise = (latents - signal * output) / max(sigma, (1 - scheduler.alphas_cumprod[0]) ** 0.5)
    else:
        raise ValueError(f"prediction_type {kind!r} is unknown: use epsilon, v_prediction or sample.")
    return alpha_then**0.5 * clean + (1 - alpha_then) ** 0.5 * noise
