"""Prompts and first frames to videos, with a sampler's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lamp_lightning.sampling.settings import Sampler
from lamp_lightning.video import as_frames

if TYPE_CHECKING:
    from PIL import Image

    from lamp_lightning.painter import Painter
    from lamp_lightning.pipeline import LAMPPipeline


def generate(
    pipeline: LAMPPipeline,
    prompt: str,
    sampler: Sampler,
    *,
    seed: int,
    first_frame: Any = None,
    painter: Painter | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Paint one video, uint8 ``(f, h, w, 3)``.

    The same seed gives the same video. Without a ``first_frame`` the ``painter`` paints one, or without that
    the image model below the motion. ``on_step(done, steps)`` is called after each denoising step.
    """
    height, width = sampler.size or (None, None)
    if first_frame is None and painter is not None:
        first_frame = paint_with(painter, pipeline, prompt, sampler, seed)
    before = pipeline.scheduler
    pipeline.scheduler = sampler.make_scheduler(before.config)
    try:
        with torch.no_grad():
            output: Any = pipeline(
                prompt=prompt,
                first_frame=first_frame,
                num_frames=sampler.num_frames,
                height=height,
                width=width,
                num_inference_steps=sampler.num_inference_steps,
                guidance_scale=sampler.guidance_scale,
                guidance_rescale=sampler.guidance_rescale,
                paint_guidance_scale=sampler.paint_guidance_scale,
                paint_steps=sampler.paint_steps,
                generator=torch.Generator().manual_seed(seed),
                negative_prompt=sampler.negative_prompt,
                shared_noise=sampler.shared_noise,
                noise_sharing=sampler.noise_sharing,
                window=sampler.window,
                overlap=sampler.overlap,
                adain=sampler.adain,
                histogram_matching=sampler.histogram_matching,
                output_type="np",
                progress=None if on_step is None else _steps_only(on_step),
            )
    finally:
        pipeline.scheduler = before
    return as_frames(np.clip(np.asarray(output.frames[0], dtype=np.float32), 0, 1))


def paint_with(
    painter: Painter, pipeline: LAMPPipeline, prompt: str, sampler: Sampler, seed: int
) -> Image.Image:
    """A first frame by another model, with the settings of the sampler that say so."""
    return painter.paint(
        prompt,
        sampler.size or pipeline.default_size,
        seed=seed,
        guidance_scale=sampler.paint_guidance_scale,
        num_inference_steps=sampler.paint_steps,
        negative_prompt=sampler.negative_prompt,
    )


def _steps_only(on_step: Callable[[int, int], None]) -> Callable[[str, int, int], None]:
    def report(stage: str, done: int, total: int) -> None:
        if stage == "denoising":
            on_step(done, total)

    return report


def spare_memory(pipeline: LAMPPipeline, settings: Mapping[str, Any]) -> None:
    """Switch on what of ``attention_slicing``, ``vae_slicing`` and ``vae_tiling`` the settings ask for."""
    if settings.get("attention_slicing"):
        pipeline.enable_attention_slicing()
    if settings.get("vae_slicing"):
        pipeline.vae.enable_slicing()
    if settings.get("vae_tiling"):
        pipeline.vae.enable_tiling()


@contextmanager
def on_device(modules: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """Modules on a device for a while, and then back where they were: a GPU has room for what works on it."""
    before = [next(module.parameters()).device for module in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, before, strict=True):
            module.to(home)


@contextmanager
def evaluation(*modules: torch.nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, and afterwards as they were."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def mixed_precision(device: torch.device | str, precision: Any) -> Any:
    """The autocast that ``trainer.precision`` asks for, or none."""
    kinds = {
        "16-mixed": torch.float16,
        "16": torch.float16,
        "bf16-mixed": torch.bfloat16,
        "bf16": torch.bfloat16,
    }
    dtype = kinds.get(str(precision))
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype=dtype)
