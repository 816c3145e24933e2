"""Denoising of clips under a fixed first frame."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.tricks import NoiseSharing, adain_towards_first, shared_noise

StepCallback = Callable[[int, int, Tensor], Tensor | None]


@torch.no_grad()
def denoise(
    unet: Callable[..., Tensor],
    scheduler: Any,
    noise: Tensor,
    first_frame: Tensor | None,
    text_embeddings: Tensor,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    guidance_rescale: float = 0.0,
    shared_noise: float = 0.2,
    noise_sharing: NoiseSharing = "authors",
    adain: bool = True,
    adain_after: float = 0.6,
    eta: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    callback: StepCallback | None = None,
    known: Mapping[int, Tensor] | None = None,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Tensor:
    """Denoise clips whose frame 0 is given (paper, section 3.4, and the authors' inference).

    Args:
        unet: a MotionUNet.
        scheduler: any diffusers scheduler of the model's noise schedule; its steps are set here.
        noise: `b c f h w`: independent Gaussian noise, or the latents from `invert` (then `shared_noise=0`).
            Frame 0's enters only through `shared_noise`.
        first_frame: clean latent of frame 0, `b c 1 h w` or `b c h w`; it stays as it is, to the bit. None
            denoises frame 0 too, as an image model does (`b c 1 h w` noise then paints an image).
        text_embeddings: `2b l d`, unconditional then conditional; `b l d` will do when `guidance_scale` is 1.
        guidance_scale: 1 means no guidance, and half the work.
        num_inference_steps: steps of the scheduler.
        guidance_rescale: see `guided`.
        shared_noise: the share of frame 0's noise in every frame's; 0 switches it off.
        noise_sharing: how it is mixed in, see `shared_noise`.
        adain: the authors' AdaIN of latents towards frame 0, see `adain_towards_first`.
        adain_after: share of the steps after which frame 1 is tied to frame 0; 0.6 is the authors' 30 of 50.
        eta, generator: for schedulers that add noise in each step.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1. Latents
            that it returns take the place of these; frame 0 stays as given.
        known: clean latents `b c h w` of further frames that are given, by frame number. They enter each
            step with their own noise at that step's level, and come out as given.
        added_cond_kwargs: further conditions, rows ordered as in `text_embeddings` (SDXL).

    Returns:
        Latents, `b c f h w`.
    """
    guidance = guidance_scale != 1
    text_embeddings, added_cond_kwargs = conditions_for(
        text_embeddings, added_cond_kwargs, clips=noise.shape[0], guidance=guidance
    )
    first = noise[:, :, :0] if first_frame is None else _first(first_frame, noise)
    given = first.shape[2]
    noise = _share(noise, shared_noise, noise_sharing)
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    step_kwargs = _accepted(scheduler.step, eta=eta, generator=generator)
    extra = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
    moving = noise[:, :, given:] * scheduler.init_noise_sigma
    pins = _pins(known, noise, given)
    steps = len(scheduler.timesteps)
    for index, timestep in enumerate(scheduler.timesteps):
        for frame, (clean, own_noise) in pins.items():
            moving[:, :, frame] = scheduler.add_noise(clean, own_noise, timestep.reshape(1))
        sample = torch.cat([first, scheduler.scale_model_input(moving, timestep)], dim=2)
        if guidance:
            sample = sample.repeat(2, 1, 1, 1, 1)
        prediction = unet(sample, timestep, text_embeddings, **extra)[:, :, given:]
        if guidance:
            prediction = guided(prediction, guidance_scale, guidance_rescale)
        moving = scheduler.step(prediction, timestep, moving, **step_kwargs, return_dict=False)[0]
        if adain and given:
            late, last = index > adain_after * steps, index == steps - 1
            tied = adain_towards_first(torch.cat([first, moving], dim=2), late=late, last=last)
            moving = tied[:, :, given:]
        if callback is not None:
            changed = callback(index + 1, steps, torch.cat([first, moving], dim=2))
            moving = moving if changed is None else changed[:, :, given:]
    for frame, (clean, _noise) in pins.items():
        moving[:, :, frame] = clean
    return torch.cat([first, moving], dim=2)


def guided(prediction: Tensor, guidance_scale: float, guidance_rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance: `2b ...`, unconditional then conditional, to `b ...`.

    Args:
        prediction: the UNet's output for both.
        guidance_scale: how far to go from the unconditional one past the conditional one.
        guidance_rescale: share in which the result takes the conditional one's standard deviation, which
            strong guidance overshoots (Lin et al. 2024, section 3.4: 0.7); 0 leaves it.
    """
    unconditional, conditional = prediction.chunk(2)
    result = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale == 0:
        return result
    wanted, found = (x.flatten(1).std(1).view(-1, *(1,) * (x.ndim - 1)) for x in (conditional, result))
    return guidance_rescale * result * (wanted / found) + (1 - guidance_rescale) * result


def _pins(known: Mapping[int, Tensor] | None, noise: Tensor, given: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Known frames among the moving ones, by their place there, each with its noise."""
    for frame in known or {}:
        if not given <= frame < noise.shape[2]:
            raise ValueError(f"Frame {frame} cannot be known among frames {given} to {noise.shape[2] - 1}.")
    return {k - given: (clean.to(noise), noise[:, :, k].clone()) for k, clean in (known or {}).items()}


_share = shared_noise  # `denoise` has an argument of that name


def _first(first_frame: Tensor, noise: Tensor) -> Tensor:
    """`b c 1 h w` in the noise's dtype; one first frame may serve all clips."""
    first = first_frame if first_frame.ndim == 5 else first_frame.unsqueeze(2)
    clips, channels, _frames, *size = noise.shape
    wanted = (channels, 1, *size)
    if tuple(first.shape[1:]) != wanted or first.shape[0] not in (1, clips):
        raise ValueError(
            f"first_frame must be a latent of shape {(clips, *wanted)} to go with noise of "
            f"{tuple(noise.shape)}, not {tuple(first_frame.shape)}."
        )
    return first.to(noise).expand(clips, *wanted)


def conditions_for(
    text: Tensor, added: dict[str, Tensor] | None, *, clips: int, guidance: bool
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """The rows of text and further conditions that are needed: all `2b` with guidance, else the conditional.

    Raises:
        ValueError: the number of rows does not go with so many clips.
    """
    rows = text.shape[0]
    if rows != 2 * clips and (guidance or rows != clips):
        need = f"{2 * clips} (unconditional, then conditional)" if guidance else f"{clips} or {2 * clips}"
        raise ValueError(f"text_embeddings has {rows} rows; {clips} clips need {need}.")
    if guidance or rows == clips:
        return text, added
    return text[clips:], None if added is None else {k: v[clips:] for k, v in added.items()}


def _accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the function knows: schedulers differ in `eta` and `generator`."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}
