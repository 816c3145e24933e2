"""Prompts and first frames to videos, with the sampler of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig

from lamp_lightning.errors import UserError
from lamp_lightning.sampling.tricks import NoiseSharing
from lamp_lightning.video import as_frames

if TYPE_CHECKING:
    from lamp_lightning.pipeline import LAMPPipeline


@dataclass(frozen=True)
class Sampler:
    """How a trained model paints: one config of the group ``sampler``, and the size of what it paints."""

    scheduler: str = "DDIMScheduler"
    num_inference_steps: int = 50
    guidance_scale: float = 12.5
    guidance_rescale: float = 0.0
    paint_guidance_scale: float | None = None  # of a painted first frame; None: guidance_scale
    paint_steps: int | None = None  # likewise; None: num_inference_steps
    shared_noise: float = 0.2
    noise_sharing: NoiseSharing = "authors"
    adain: bool = True
    histogram_matching: bool = True
    negative_prompt: str | None = None
    fps: float = 8
    num_frames: int = 16
    size: tuple[int, int] | None = None  # height, width

    @classmethod
    def from_config(cls, cfg: DictConfig) -> Sampler:
        """From a run's config: ``sampler``, and ``data`` for frames and size."""
        data = {"num_frames": cfg.data.num_frames, "size": cfg.data.size}
        return cls().changed({**cfg.sampler, **data})

    def settings(self) -> dict[str, Any]:
        """All values, as JSON knows them."""
        return {**asdict(self), "size": None if self.size is None else list(self.size)}

    def changed(self, values: dict[str, Any]) -> Sampler:
        """With those of ``values`` that are known and not None."""
        known = {field.name for field in fields(self)}
        given = {key: value for key, value in values.items() if key in known and value is not None}
        if "size" in given:
            given["size"] = tuple(given["size"])
        return replace(self, **given)

    def make_scheduler(self, config: Any) -> Any:
        """The diffusers scheduler of that name with the noise levels of ``config``."""
        import diffusers

        known = [name for name in dir(diffusers) if name.endswith("Scheduler")]
        if self.scheduler not in known:
            raise UserError(
                f"sampler.scheduler={self.scheduler} is no scheduler of diffusers; there are, among others, "
                "DDIMScheduler, DPMSolverMultistepScheduler and EulerDiscreteScheduler."
            )
        return getattr(diffusers, self.scheduler).from_config(config)


def generate(
    pipeline: LAMPPipeline,
    prompt: str,
    sampler: Sampler,
    *,
    seed: int,
    first_frame: Any = None,
    on_step: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Paint one video, uint8 ``(f, h, w, 3)``.

    The same seed gives the same video. ``on_step(done, steps)`` is called after each denoising step.
    """
    height, width = sampler.size or (None, None)
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
                adain=sampler.adain,
                histogram_matching=sampler.histogram_matching,
                output_type="np",
                callback=None if on_step is None else lambda done, steps, _: on_step(done, steps),
            )
    finally:
        pipeline.scheduler = before
    return as_frames(np.clip(np.asarray(output.frames[0], dtype=np.float32), 0, 1))


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
