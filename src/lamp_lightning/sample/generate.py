"""Prompts and first frames to videos, with a sampler's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lamp_lightning.data.video import as_frames
from lamp_lightning.diffusion.colours import match_colours
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from lamp_lightning.sample.first_frames import Painter
    from lamp_lightning.sample.pipeline import LAMPPipeline, Progress


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
    """Paint one video, uint8 ``(f, h, w, 3)``, as ``generate_batch`` does.

    ``on_step(done, steps)`` is called after each denoising step.
    """
    given = None if first_frame is None else [first_frame]
    progress = None if on_step is None else _steps_only(on_step)
    return generate_batch(
        pipeline, [prompt], sampler, seeds=[seed], first_frames=given, painter=painter, progress=progress
    )[0]


def generate_batch(
    pipeline: LAMPPipeline,
    prompts: Sequence[str],
    sampler: Sampler,
    *,
    seeds: Sequence[int],
    first_frames: Sequence[Any] | None = None,
    painter: Painter | None = None,
    noise: torch.Tensor | None = None,
    colours: Sequence[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Paint videos at once, each uint8 ``(f, h, w, 3)``, with a prompt, a seed and perhaps a first frame.

    The same seed gives the same video; in a batch it differs by what other shapes of matrices are rounded
    to. Without ``first_frames`` the ``painter`` paints them, or without that the image model below the
    motion. ``noise`` ``(b, c, f, h, w)`` instead of drawn noise is what `diffusion.invert` gives.
    ``colours`` are pictures ``(h, w, 3)`` whose histograms the videos take. Without them the sampler's
    histogram matching takes the decoded first frame's, by ``match_colours`` as well: the authors' own
    matching, which the pipeline does when it is called alone, would make several tones of what a batch rounds
    otherwise. ``progress(stage, done, total)`` is called as by the pipeline.
    """
    if first_frames is None and painter is not None:
        size = sampler.size or pipeline.default_size
        first_frames = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            first_frames.append(paint_with(painter, prompt, size, sampler, seed))
            if progress is not None:
                progress("painting", len(first_frames), len(prompts))
    before = pipeline.scheduler
    pipeline.scheduler = sampler.make_scheduler(pipeline.own_scheduler.config)
    try:
        with torch.no_grad():
            output: Any = pipeline(
                prompt=list(prompts),
                first_frame=None if first_frames is None else list(first_frames),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                sampler=sampler.changed({"histogram_matching": False}),  # below
                noise=noise,
                output_type="np",
                progress=progress,
            )
    finally:
        pipeline.scheduler = before
    painted = [np.asarray(video, dtype=np.float32) for video in output.frames]
    if not all(np.isfinite(video).all() for video in painted):
        raise UserError(
            "The model painted NaN, which is no picture: its weights are damaged, their training diverged, "
            f"or they do not bear the precision (they are in {pipeline.unet.dtype}). Try precision=32-true "
            "or another adapter."
        )
    videos = [np.clip(video, 0, 1) for video in painted]
    if colours is not None:
        videos = [match_colours(video, picture) for video, picture in zip(videos, colours, strict=True)]
    elif sampler.histogram_matching:
        videos = [np.concatenate([video[:1], match_colours(video[1:], video[0])]) for video in videos]
    return [as_frames(video) for video in videos]


def paint_with(
    painter: Painter, prompt: str, size: tuple[int, int], sampler: Sampler, seed: int
) -> Image.Image:
    """A first frame by another model, with the sampler's settings for painting, else the model's own."""
    return painter.paint(
        prompt,
        size,
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
        pipeline.enable_vae_slicing()
    if settings.get("vae_tiling"):
        pipeline.enable_vae_tiling()


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
