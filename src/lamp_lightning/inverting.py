"""A video back to noise, and from there to another: what editing does with a tuned model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamp_lightning.generate import generate_batch
from lamp_lightning.pipeline import LAMPPipeline
from lamp_lightning.sampling import invert, pixels_from_image
from lamp_lightning.sampling.repaint import repaint
from lamp_lightning.sampling.settings import Sampler

OnStep = Callable[..., None]  # called after each step of any kind


def without_noise_tricks(sampler: Sampler, num_frames: int) -> Sampler:
    """The sampler for inverted latents: each frame keeps its own noise, and all are seen at once."""
    return replace(sampler, shared_noise=0.0, num_frames=num_frames, window=max(sampler.window, num_frames))


def to_noise(
    pipeline: LAMPPipeline, latents: Tensor, prompt: str, sampler: Sampler, on_step: OnStep | None = None
) -> Tensor:
    """The way from a video's unscaled latents, `f c h w`, to noise, `1 c f h w`; frame 0 stays clean."""
    scheduler = sampler.make_scheduler(pipeline.scheduler.config)
    scaled = pipeline.base.scale(latents.to(pipeline.unet.device)).transpose(0, 1).unsqueeze(0)
    (height, width), factor = latents.shape[-2:], pipeline.base.vae_scale_factor
    return invert(
        pipeline.unet,
        scheduler,
        scaled,
        **pipeline._conditions([prompt], None, 1, (height * factor, width * factor)),
        num_inference_steps=sampler.num_inference_steps,
        prediction_type=scheduler.config.prediction_type,
        keep_first=True,
        callback=on_step,
    )


def from_noise(
    pipeline: LAMPPipeline,
    noise: Tensor,
    first_frame: Any,
    prompt: str,
    sampler: Sampler,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """From noise to a video that begins with the first frame, uint8 `(f, h, w, 3)`."""
    return generate_batch(
        pipeline, [prompt], sampler, seeds=[0], first_frames=[first_frame], noise=noise, progress=on_step
    )[0]


def paint_over(
    pipeline: LAMPPipeline,
    frame: np.ndarray,
    prompt: str,
    sampler: Sampler,
    *,
    source_prompt: str | None,
    strength: float,
    seed: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """A frame painted over by the untuned image model.

    Args:
        frame: uint8 `(h, w, 3)`.
        source_prompt: what it shows, to begin with its own noise by inversion; None: with drawn noise.
        strength: see `sampling.repaint`.

    Returns:
        `3 h w` in 0..1.
    """
    size, scheduler = frame.shape[:2], pipeline.scheduler
    scale = sampler.guidance_scale if sampler.paint_guidance_scale is None else sampler.paint_guidance_scale
    steps = sampler.paint_steps or sampler.num_inference_steps
    latents = pipeline.base.latents_from_pixels(pixels_from_image(frame, size)[None]).unsqueeze(2)
    latents, noisy = latents.to(pipeline.unet.device), None
    with pipeline.unet.image_model() as image_model:
        if source_prompt is not None:
            noisy = invert(
                image_model,
                scheduler,
                latents,
                **pipeline._conditions([source_prompt], None, 1, size),
                num_inference_steps=steps,
                prediction_type=scheduler.config.prediction_type,
                strength=strength,
                callback=on_step,
            )
        painted = repaint(
            image_model,
            scheduler,
            latents,
            **pipeline._conditions([prompt], sampler.negative_prompt, scale, size),
            strength=strength,
            guidance_scale=scale,
            num_inference_steps=steps,
            noisy=noisy,
            generator=torch.Generator().manual_seed(seed),
            callback=on_step,
        )
    return (pipeline.base.decode_latents(painted[:, :, 0])[0].float() / 2 + 0.5).clamp(0, 1).cpu()
