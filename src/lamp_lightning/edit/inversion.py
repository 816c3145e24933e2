"""From a video back to noise, and from there to another: what editing does with a tuned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.diffusion import invert, with_guidance
from lamp_lightning.diffusion.follow import Way, following
from lamp_lightning.diffusion.repaint import repaint
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.schedule import prediction_type
from lamp_lightning.sample.generate import generate_batch
from lamp_lightning.sample.pipeline import LAMPPipeline

OnStep = Callable[..., None]  # called after each step of any kind


def without_noise_tricks(sampler: Sampler, num_frames: int) -> Sampler:
    """The sampler for inverted latents: each frame keeps its own noise, and all are seen at once."""
    window = max(sampler.window, num_frames)
    return sampler.changed({"shared_noise": 0.0, "num_frames": num_frames, "window": window})


def to_noise(
    pipeline: LAMPPipeline, latents: Tensor, prompt: str, sampler: Sampler, on_step: OnStep | None = None
) -> Tensor:
    """The way from a video's unscaled latents, `f c h w`, to noise: those of each step, `steps c f h w`.

    Frame 0 stays clean where the model was tuned with a first frame.
    """
    scheduler = sampler.make_scheduler(pipeline.scheduler.config)
    scaled = pipeline.base.scale(latents.to(pipeline.unet.device)).transpose(0, 1).unsqueeze(0)
    way, keep = _kept(on_step)
    invert(
        pipeline.unet,
        scheduler,
        scaled,
        pipeline.conditions([prompt], None, 1, _pixels(pipeline, latents)),
        num_inference_steps=sampler.num_inference_steps,
        prediction_type=prediction_type(scheduler),
        keep_first=pipeline.unet.variant.first_frame,
        callback=keep,
    )
    return torch.stack(way)


def from_noise(
    pipeline: LAMPPipeline,
    way: Tensor,
    first_frame: Any,
    prompt: str,
    sampler: Sampler,
    *,
    source_prompt: str,
    follow: float,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """From the end of such a way to a video that begins with the first frame, uint8 `(f, h, w, 3)`.

    In a share `follow` of the steps the inverted video's attention is injected, see `diffusion.follow`.
    """
    conditions = pipeline.conditions([source_prompt], None, 1, _pixels(pipeline, way))
    with following(pipeline.unet, Way(way, conditions), follow):
        return generate_batch(
            pipeline,
            [prompt],
            sampler,
            seeds=[0],
            first_frames=[first_frame],
            noise=way[-1:],
            progress=on_step,
        )[0]


@contextmanager
def weakened(pipeline: LAMPPipeline, adapter: Path, strength: float) -> Iterator[None]:
    """In this context the motion that was tuned has this strength; 1 leaves it as it is.

    Layers that were tuned on a single clip know its look, too: weaker ones bring less of it into the edited
    video, and the motion comes from attention injection.
    """
    if strength == 1:
        yield
        return
    pipeline.unet.set_motions({adapter: strength})
    try:
        yield
    finally:
        pipeline.unet.load_motion(adapter)


def _kept(on_step: OnStep | None) -> tuple[list[Tensor], OnStep]:
    """A list of one clip's latents `c f h w` in each step, and the callback that fills it."""
    way: list[Tensor] = []

    def keep(step: int, steps: int, latents: Tensor) -> None:
        way.append(latents[0])
        if on_step is not None:
            on_step(step, steps, latents)

    return way, keep


def _pixels(pipeline: LAMPPipeline, latents: Tensor) -> tuple[int, int]:
    """Height and width of what such latents decode to."""
    height, width = latents.shape[-2:]
    return height * pipeline.base.vae_scale_factor, width * pipeline.base.vae_scale_factor


def paint_over(
    pipeline: LAMPPipeline,
    frame: np.ndarray,
    prompt: str,
    sampler: Sampler,
    *,
    source_prompt: str | None,
    strength: float,
    follow: float,
    seed: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """A frame edited by the untuned image model, `3 h w` in 0..1.

    Args:
        frame: uint8 `(h, w, 3)`.
        source_prompt: what it shows, to begin with its own noise by inversion; None: with drawn noise.
        strength: see `diffusion.repaint`.
        follow: the share of the steps with attention injection from the inverted frame, see
            `diffusion.follow`; there is none with drawn noise.
    """
    size, scheduler = frame.shape[:2], pipeline.scheduler
    scale = sampler.guidance_scale if sampler.paint_guidance_scale is None else sampler.paint_guidance_scale
    steps = sampler.paint_steps or sampler.num_inference_steps
    latents = pipeline.base.latents_from_pixels(pixels_from_image(frame, size)[None]).unsqueeze(2)
    latents, noisy = latents.to(pipeline.unet.device), None
    with pipeline.unet.image_model() as image_model, ExitStack() as led:
        if source_prompt is not None:
            conditions, way, keep = pipeline.conditions([source_prompt], None, 1, size), *_kept(on_step)
            noisy = invert(
                image_model,
                scheduler,
                latents,
                conditions,
                num_inference_steps=steps,
                prediction_type=prediction_type(scheduler),
                strength=strength,
                callback=keep,
            )
            led.enter_context(following(image_model, Way(way, conditions), follow))
        conditions = pipeline.conditions([prompt], sampler.negative_prompt, scale, size)
        painted = repaint(
            with_guidance(image_model, conditions, scale=scale),
            scheduler,
            latents,
            strength=strength,
            num_inference_steps=steps,
            noisy=noisy,
            generator=torch.Generator().manual_seed(seed),
            callback=on_step,
        )
    return (pipeline.base.decode_latents(painted[:, :, 0])[0].float() / 2 + 0.5).clamp(0, 1).cpu()
