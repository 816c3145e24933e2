"""Inversion by DDIM or Euler: the noise from which deterministic sampling leads back to a given clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.flow import is_flow
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import prediction_of, set_steps, signal_and_sigma


@torch.no_grad()
def invert(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    text_embeddings: Tensor | Conditions,
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
        scheduler: a `DDIMScheduler` of the model's noise schedule, or of a model of flow matching Euler's
            method, whose way is then taken back; its steps are set here.
        latents: clean latents, `b c f h w`.
        text_embeddings: the clips' prompts, `b l d`, or all of their conditions.
        num_inference_steps: the steps that sampling will take.
        prediction_type: how the UNet's output is read. The authors' code reads every model's as noise; for a
            model of another type pass `schedule.prediction_type(scheduler)`, or sampling does not lead back.
            Of flow matching it is always the velocity.
        keep_first: frame 0 stays clean, as in tuning and in `denoise`. The authors' code inverts it with the
            others, which the model was never tuned for.
        strength: how much of the way to noise to go, 0..1: so much of the steps are taken.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1.

    Returns:
        The latents at the last timestep taken, `b c f h w`; with `keep_first` frame 0 is the clean one.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> clip = torch.ones(1, 4, 5, 8, 8)
        >>> noise = invert(unet, DDIMScheduler(), clip, torch.zeros(1, 77, 16), 10, keep_first=True)
        >>> torch.equal(noise[:, :, 0], clip[:, :, 0]), torch.equal(noise[:, :, 1], clip[:, :, 1])
        (True, False)
    """
    set_steps(scheduler, num_inference_steps, latents.device, tuple(latents.shape[-3:]))
    conditions = Conditions.of(text_embeddings, added_cond_kwargs)
    timesteps = scheduler.timesteps.flip(0)[: round(strength * num_inference_steps)]
    known = KnownFrames.of(latents, [0] if keep_first else [])
    moving = known.others(latents)
    step = _euler(scheduler) if is_flow(scheduler.config) else _ddim(scheduler, prediction_type)
    for index, timestep in enumerate(timesteps):
        output = known.others(unet(known.whole(moving), timestep, conditions.text, **conditions.extra))
        moving = step(moving, output, timesteps, index)
        if callback is not None:
            callback(index + 1, len(timesteps), known.whole(moving))
    return known.whole(moving)


Step = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # latents, output, timesteps and number -> latents


def _ddim(scheduler: Any, prediction_type: str) -> Step:
    """One step of DDIM towards noise, from a stride below a timestep to it."""
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    noise_of = prediction_of(prediction_type).noise

    def step(moving: Tensor, output: Tensor, timesteps: Tensor, index: int) -> Tensor:
        signal, sigma = signal_and_sigma(scheduler, moving, timesteps[index])
        noise = noise_of(output, moving, signal, sigma)
        signal_here, sigma_here = signal_and_sigma(scheduler, moving, timesteps[index] - stride)
        clean = (moving - sigma_here * noise) / signal_here
        return signal * clean + sigma * noise

    return step


def _euler(scheduler: Any) -> Step:
    """One step along a velocity towards noise, from the timestep before, or the clean end, to a timestep."""

    def step(moving: Tensor, output: Tensor, timesteps: Tensor, index: int) -> Tensor:
        _, sigma = signal_and_sigma(scheduler, moving, timesteps[index])
        before = timesteps[index - 1] if index else torch.zeros_like(timesteps[0])
        _, sigma_here = signal_and_sigma(scheduler, moving, before)
        return moving + (sigma - sigma_here) * output

    return step
