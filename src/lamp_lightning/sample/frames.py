"""What a pipeline call is given becomes settings and tensors, and the latents that it makes become frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.diffusion.colours import histogram_match
from lamp_lightning.diffusion.denoise import Generators, StepCallback
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.runtime.errors import UserError

FirstFrame = Any  # path, PIL image, array, tensor, or a list of them
Progress = Callable[[str, int, int], None]  # stage, done, total
StepEnd = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
DECODED_AT_ONCE = 8  # frames: bounds the decoder's memory


def changed(sampler: Sampler, settings: Mapping[str, Any]) -> Sampler:
    """The sampler with other settings, all of which it must know."""
    known = sampler.settings()
    if unknown := sorted(settings.keys() - known.keys()):
        raise TypeError(f"The pipeline takes no {', '.join(unknown)}; its settings are {', '.join(known)}.")
    return sampler.changed(settings)


def for_image(sampler: Sampler) -> Sampler:
    """The sampler for first frames: an image by itself, with `paint_steps` and `paint_guidance_scale`."""
    guidance = {"guidance_scale": sampler.paint_guidance_scale, "guidance_rescale": 0.0}
    return sampler.changed({**guidance, "num_inference_steps": sampler.paint_steps})


def check_hook(inputs: list[str] | None) -> None:
    """Refuse tensors other than the latents for diffusers' hook."""
    if unknown := set(inputs or ()) - {"latents"}:
        raise UserError(
            f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; there is 'latents' and no other."
        )


def find_generators(generator: Generators, seed: int | None, clips: int) -> Generators:
    """The generators of a call: as given, or one per clip, seeded with `seed + i`."""
    if seed is not None:
        if generator is not None:
            raise UserError("Give a generator or a seed, not both.")
        return [torch.Generator().manual_seed(seed + i) for i in range(clips)]
    if isinstance(generator, list) and len(generator) != clips:
        raise UserError(f"{len(generator)} generators do not go with {clips} prompts: give 1 or {clips}.")
    return generator


def first_latents(base: BaseModel, first_frame: FirstFrame, clips: int, size: tuple[int, int]) -> Tensor:
    """Latents `b c 1 h w` of given images, one for all clips or one each."""
    batch = isinstance(first_frame, (np.ndarray, Tensor)) and first_frame.ndim == 4
    images = list(first_frame) if batch or isinstance(first_frame, (list, tuple)) else [first_frame]
    if len(images) not in (1, clips):
        raise UserError(f"{len(images)} first frames do not go with {clips} prompts: give 1 or {clips}.")
    pixels = torch.stack([pixels_from_image(image, size) for image in images])
    latents = base.latents_from_pixels(pixels).unsqueeze(2)
    return latents.expand(clips, -1, -1, -1, -1)


def tuned_clip_noise(
    inverted: Tensor | None, clips: int, num_frames: int, size: tuple[int, int], factor: int
) -> Tensor:
    """The noise that the tuned clip was inverted to, for each of some clips, `b c f h w`."""
    if inverted is None:
        raise UserError(
            "start=inversion begins at the noise of the clip that was tuned on, and none is loaded: load "
            "the motion adapter of a run with method=tune_a_video, or take start=noise."
        )
    found = tuple(inverted.shape[2:])
    if found != (num_frames, size[0] // factor, size[1] // factor):
        raise UserError(
            f"start=inversion begins at a clip of {found[0]} frames of {found[2] * factor}x"
            f"{found[1] * factor}, not {num_frames} of {size[1]}x{size[0]}: take start=noise."
        )
    return inverted.expand(clips, -1, -1, -1, -1)


def decode(
    base: BaseModel, latents: Tensor, histogram_matching: bool, progress: Progress | None = None
) -> np.ndarray:
    """Videos `b f h w 3` in 0..1, float32."""
    videos, done, total = [], 0, latents.shape[0] * latents.shape[2]
    for clip in latents.transpose(1, 2):  # f c h w
        parts = []
        for part in clip.split(DECODED_AT_ONCE):
            parts.append(base.decode_latents(part))
            done += len(part)
            if progress is not None:
                progress("decoding", done, total)
        frames = (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        if histogram_matching:
            frames = np.stack([frames[0], *(histogram_match(frame, frames[0]) for frame in frames[1:])])
        videos.append(frames)
    return np.stack(videos)


def after_step(
    pipeline: Any, bar: Any, stage: str, progress: Progress | None, callback: StepEnd | None = None
) -> StepCallback:
    """What `denoise` calls: advances the bar, reports, and lets the user's hook change the latents."""

    def report(step: int, steps: int, latents: Tensor) -> Tensor | None:
        bar.update()
        if progress is not None:
            progress(stage, step, steps)
        if callback is None:
            return None
        timestep = pipeline.scheduler.timesteps[step - 1]
        changed = callback(pipeline, step - 1, timestep, {"latents": latents}) or {}
        return changed.get("latents")

    return report


def as_type(videos: np.ndarray, output_type: str) -> Any:
    """`b f h w 3` float32 in 0..1 to what was asked for."""
    if output_type == "np":
        return videos
    if output_type == "pt":
        return torch.from_numpy(videos).permute(0, 1, 4, 2, 3)
    return [VaeImageProcessor.numpy_to_pil(video) for video in videos]
