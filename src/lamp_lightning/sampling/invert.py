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
        here, there = _level(scheduler, int(timestep) - stride), _level(scheduler, int(timestep))
        noise = _noise(latents, output, there, prediction_type)
        clean = (latents - (1 - here) ** 0.5 * noise) / here**0.5
        latents = there**0.5 * clean + (1 - there) ** 0.5 * noise
        if callback is not None:
            callback(index + 1, len(timesteps), latents)
    return latents


def _level(scheduler: Any, timestep: int) -> Tensor:
    """`alpha_bar`; before the first timestep that of the schedule's clean end."""
    return scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod


def _noise(latents: Tensor, output: Tensor, level: Tensor, prediction_type: str) -> Tensor:
    """The noise that the UNet sees in `latents`, which it took for latents at `level`."""
    signal, sigma = level**0.5, (1 - level) ** 0.5
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return signal * output + sigma * latents
    if prediction_type == "sample":
        return (latents - signal * output) / sigma
    raise ValueError(f"prediction_type {prediction_type!r} is unknown: use epsilon, v_prediction or sample.")
