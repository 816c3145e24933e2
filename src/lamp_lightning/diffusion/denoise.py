"""Denoising of clips some of whose frames are known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.first_frame import over_known, steadied
from lamp_lightning.diffusion.guidance import Predict, with_guidance
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.latent_adain import adain_towards_first
from lamp_lightning.diffusion.noise_sharing import NoiseSharing
from lamp_lightning.diffusion.noise_sharing import shared_noise as share_noise
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.schedule import first_scale, model_input, noised

StepCallback = Callable[[int, int, Tensor], Tensor | None]
ADAIN_AFTER = 30 / 50  # the share of the steps after which the authors tie frame 1 to frame 0
Generators = torch.Generator | list[torch.Generator] | None


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
    adain_after: float = ADAIN_AFTER,
    eta: float = 0.0,
    generator: Generators = None,
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
            denoises frame 0 too, as an image model does (`b c 1 h w` noise then becomes an image).
        text_embeddings: `2b l d`, unconditional then conditional; `b l d` will do when `guidance_scale` is 1.
        guidance_scale, guidance_rescale: see `with_guidance`.
        num_inference_steps: steps of the scheduler.
        shared_noise, noise_sharing: the share of frame 0's noise in every frame's, and how it is mixed in,
            see `noise_sharing.shared_noise`.
        adain: the authors' AdaIN of latents towards frame 0, see `adain_towards_first`.
        adain_after: share of the steps after which frame 1 is tied to frame 0; the authors' is 30 of 50.
        eta, generator: for schedulers that add noise in each step.
        callback: called as `callback(step, steps, latents)` after each step, `step` counting from 1. Latents
            that it returns take the place of these; frame 0 stays as given.
        known: clean latents `b c h w` of further frames that are given, by frame number. They enter each
            step with their own noise at that step's level, and come out as given.
        added_cond_kwargs: further conditions, rows ordered as in `text_embeddings` (SDXL).

    Returns:
        Latents, `b c f h w`.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> noise, first, text = torch.randn(1, 4, 5, 8, 8), torch.ones(1, 4, 1, 8, 8), torch.zeros(2, 77, 16)
        >>> video = denoise(
        ...     unet, DDIMScheduler(), noise, first, text, guidance_scale=2.0, num_inference_steps=3
        ... )
        >>> video.shape[2], torch.equal(video[:, :, :1], first)
        (5, True)
    """
    frames = KnownFrames.none() if first_frame is None else KnownFrames.first(first_frame)
    if frames.clean.keys() & (known or {}).keys():
        raise ValueError("Frame 0 cannot be known twice: give first_frame, or 0 in known.")
    settings = {
        "num_inference_steps": num_inference_steps,
        "shared_noise": shared_noise,
        "noise_sharing": noise_sharing,
        "adain": adain,
        "eta": eta,
    }
    conditions = Conditions.of(text_embeddings, added_cond_kwargs)
    predict = with_guidance(unet, conditions, scale=guidance_scale, rescale=guidance_rescale)
    return denoise_clips(
        predict,
        scheduler,
        noise,
        frames | KnownFrames(noised=known or {}),
        Sampler().changed(settings),
        adain_after=adain_after,
        generator=generator,
        callback=callback,
    )


def denoise_clips(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    known: KnownFrames,
    sampler: Sampler,
    *,
    adain_after: float = ADAIN_AFTER,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Denoise clips from noise `b c f h w`, with a sampler's steps, start, shared noise and AdaIN.

    The other arguments and the result are those of `denoise`.
    """
    noise = share_noise(noise, sampler.shared_noise, sampler.noise_sharing)
    sampler.set_timesteps(scheduler, noise.device, tuple(noise.shape[-3:]))
    begun = noise * first_scale(scheduler)
    if sampler.start == "first_frame" and known.clean:
        begun = over_known(scheduler, noise, known.like(noise))
    if sampler.steady:
        predict = steadied(predict, scheduler, sampler.steady)
    return solve(
        predict,
        scheduler,
        begun,
        scheduler.timesteps,
        known,
        noise=noise,
        adain_after=adain_after if sampler.adain else None,
        eta=sampler.eta,
        generator=generator,
        callback=callback,
    )


@torch.no_grad()
def solve(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    timesteps: Tensor,
    known: KnownFrames,
    *,
    noise: Tensor | None = None,
    adain_after: float | None = None,
    eta: float = 0.0,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Go along some of a scheduler's timesteps: the one loop behind all sampling.

    Args:
        predict: of `with_guidance`, or another function like it; where it returns None, a step is left out.
        scheduler: its timesteps are set.
        latents: `b c f h w` at the first of the timesteps; what they hold at known frames is not looked at.
        timesteps: a part of the scheduler's.
        known: frames that are given, and come out as given.
        noise: `b c f h w`, with which the `noised` ones of them enter.
        adain_after: see `denoise`; None switches AdaIN off, and so does a frame 0 that is not clean.
        eta, generator, callback: see `denoise`.
    """
    known = known.like(latents)
    places = known.moving(latents.shape[2])
    moving, steps = known.others(latents), len(timesteps)
    step_kwargs = _accepted(scheduler.step, eta=eta, generator=generator)
    for index, timestep in enumerate(timesteps):
        if noise is not None:
            entering = {
                places.index(number): noised(scheduler, clean, noise[:, :, number], timestep)
                for number, clean in known.noised.items()
            }
            moving = _with_frames(moving, entering)
        sample = known.whole(model_input(scheduler, moving, timestep))
        prediction = predict(sample, timestep, known)
        if prediction is None:
            continue
        moving = scheduler.step(prediction, timestep, moving, **step_kwargs, return_dict=False)[0]
        if adain_after is not None and 0 in known.clean:
            late, last = index > adain_after * steps, index == steps - 1
            moving = known.others(adain_towards_first(known.whole(moving), late=late, last=last))
        if callback is not None:
            changed = callback(index + 1, steps, known.whole(moving))
            moving = moving if changed is None else known.others(changed)
    return _with_frames(known.whole(moving), known.noised)


def _with_frames(video: Tensor, frames: Mapping[int, Tensor]) -> Tensor:
    """A copy of a video `b c f h w` with these frames `b c h w` in it, by their places."""
    video = video.clone() if frames else video
    for place, latents in frames.items():
        video[:, :, place] = latents
    return video


def _accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the function knows: schedulers differ in `eta` and `generator`."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}
