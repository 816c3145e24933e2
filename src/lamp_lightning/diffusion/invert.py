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
    keep_first: bool = False,
    strength: float = 1.0,
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
        keep_first: frame 0 stays clean, as in tuning and in `denoise`, whose way is then the one that is gone
            back. The authors' code inverts it with the others, which the model was never tuned for.
        strength: how much of the way to noise to go, 0..1: so much of the steps are taken.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1.

    Returns:
        The latents at the last timestep taken, `b c f h w`; with `keep_first` frame 0 is the clean one.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    extra = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
    timesteps = scheduler.timesteps.flip(0)[: round(strength * num_inference_steps)]
    first, moving = latents.split([int(keep_first), latents.shape[2] - int(keep_first)], dim=2)
    for index, timestep in enumerate(timesteps):
        output = unet(torch.cat([first, moving], dim=2), timestep, text_embeddings, **extra)
        here, there = _level(scheduler, int(timestep) - stride), _level(scheduler, int(timestep))
        noise = _noise(moving, output[:, :, int(keep_first) :], there, prediction_type)
        clean = (moving - (1 - here) ** 0.5 * noise) / here**0.5
        moving = there**0.5 * clean + (1 - there) ** 0.5 * noise
        if callback is not None:
            callback(index + 1, len(timesteps), torch.cat([first, moving], dim=2))
    return torch.cat([first, moving], dim=2)


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
