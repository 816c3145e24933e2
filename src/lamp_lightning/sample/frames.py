"""What a pipeline call is given becomes settings and tensors, and the latents that it makes become frames."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.diffusion.colours import histogram_match
from lamp_lightning.diffusion.denoise import Generators
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.runtime.errors import UserError

FirstFrame = Any  # path, PIL image, array, tensor, or a list of them
Progress = Callable[[str, int, int], None]  # stage, done, total
StepEnd = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
CALL = ("num_videos_per_prompt", "first_frame", "prompt_embeds", "callback_on_step_end", "decode_chunk_size")
DECODED_AT_ONCE = 8  # frames: bounds the decoder's memory


def changed(sampler: Sampler, settings: Mapping[str, Any]) -> Sampler:
    """The sampler with other settings, all of which it must know; the scheduler is the pipeline's own."""
    known = {name: value for name, value in sampler.settings().items() if not name.startswith("scheduler")}
    unknown = sorted(settings.keys() - known.keys())
    if any(name.startswith("scheduler") for name in unknown):
        raise TypeError("A call takes no scheduler: set pipe.scheduler = <scheduler> before it.")
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*known, *CALL], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise TypeError(
            f"The pipeline takes no {', '.join(unknown)}.{hint} Beside the arguments of a call it takes the "
            f"settings {', '.join(known)}."
        )
    return sampler.changed(settings)


def either(name: str, value: Any, other_name: str, other: Any) -> Any:
    """One of two arguments that mean the same."""
    if value is not None and other is not None:
        raise UserError(f"{name} and {other_name} are the same: give one of them.")
    return other if value is None else value


def check_noise(noise: Tensor, clips: int, channels: int) -> int:
    """The number of frames of noise for so many clips."""
    if noise.ndim != 5 or tuple(noise.shape[:2]) != (clips, channels):
        raise UserError(
            f"latents must be (b, c, f, h, w) with b={clips}, one for each video, and c={channels}, not "
            f"{tuple(noise.shape)}."
        )
    return noise.shape[2]


def looped(frames: int, sampler: Sampler, noise: Tensor | None) -> tuple[int, Sampler, Tensor | None]:
    """One frame more, which is the first again; in the same window, as one closes a loop better than two."""
    if frames == sampler.window:
        sampler = sampler.changed({"window": frames + 1})
    return frames + 1, sampler, None if noise is None else torch.cat([noise, noise[:, :, :1]], dim=2)


def given_frames(
    base: BaseModel, first: Tensor, places: Mapping[int, Any], prompts: int, *, last: int | None
) -> KnownFrames:
    """The first frame, latents `b c 1 h w`, those of `check_known`, and as frame `last` the first again."""
    size = (first.shape[-2] * base.vae_scale_factor, first.shape[-1] * base.vae_scale_factor)
    clean = {0: first[:, :, 0]}
    for number, picture in places.items():
        clean[number] = first_latents(base, picture, prompts, len(first), size)[:, :, 0].to(first)
    return KnownFrames(clean if last is None else {**clean, last: first[:, :, 0]})


def for_image(sampler: Sampler) -> Sampler:
    """The sampler for first frames: an image by itself, with `paint_steps` and `paint_guidance_scale`."""
    guidance = {"guidance_scale": sampler.paint_guidance_scale, "guidance_rescale": 0.0}
    return sampler.changed({**guidance, "num_inference_steps": sampler.paint_steps})


def find_generators(generator: Generators, seed: int | None, clips: int) -> Generators:
    """The generators of a call: as given, or one per clip, seeded with `seed + i`."""
    if seed is not None:
        if generator is not None:
            raise UserError("Give a generator or a seed, not both.")
        return [torch.Generator().manual_seed(seed + i) for i in range(clips)]
    if isinstance(generator, list) and len(generator) != clips:
        raise UserError(f"{len(generator)} generators do not go with {clips} prompts: give 1 or {clips}.")
    return generator


def first_latents(
    base: BaseModel, first_frame: FirstFrame, prompts: int, clips: int, size: tuple[int, int]
) -> Tensor:
    """Latents `b c 1 h w` of given images: one for all clips, one for each prompt or one for each clip.

    Latents of images or clips, `c h w`, `b c h w` or `b c f h w`, are known by their channels; of a clip the
    first frame is taken.
    """
    latents = _as_latents(base, first_frame)
    if latents is None:
        batch = isinstance(first_frame, (np.ndarray, Tensor)) and first_frame.ndim == 4
        images = list(first_frame) if batch or isinstance(first_frame, (list, tuple)) else [first_frame]
        count = len(images)
    else:
        count = len(latents)
    if count not in (1, prompts, clips):
        may_be = " or ".join(map(str, sorted({1, prompts, clips})))
        raise UserError(f"{count} first frames do not go with {prompts} prompts: give {may_be}.")
    if latents is None:
        latents = base.latents_from_pixels(torch.stack([pixels_from_image(image, size) for image in images]))
    factor = base.vae_scale_factor
    height, width = (side * factor for side in latents.shape[2:])
    if (height, width) != size:
        raise UserError(
            f"The first frame's latents are of {width}x{height}, the video is to be of {size[1]}x{size[0]}: "
            f"give height={height}, width={width}."
        )
    if count == prompts:
        latents = latents.repeat_interleave(clips // prompts, dim=0)
    return latents.unsqueeze(2).expand(clips, -1, -1, -1, -1)


def _as_latents(base: BaseModel, given: FirstFrame) -> Tensor | None:
    """Latents `b c h w` that were given as such; None for images."""
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    channels = base.vae.config.latent_channels
    if not isinstance(given, Tensor) or not 3 <= given.ndim <= 5 or channels == 3:
        return None
    given = given[:, :, 0] if given.ndim == 5 else given
    return given.reshape(-1, *given.shape[-3:]) if given.shape[-3] == channels else None


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
    base: BaseModel,
    latents: Tensor,
    histogram_matching: bool,
    progress: Progress | None = None,
    at_once: int | None = None,
) -> np.ndarray:
    """Videos `b f h w 3` in 0..1, float32, of which so many frames are decoded at once."""
    if base.takes_clips:
        return _decoded_clips(base, latents, histogram_matching, progress)
    videos, done, total = [], 0, latents.shape[0] * latents.shape[2]
    for clip in latents.transpose(1, 2):  # f c h w
        parts = []
        for part in clip.split(at_once or DECODED_AT_ONCE):
            parts.append(base.decode_latents(part))
            done += len(part)
            if progress is not None:
                progress("decoding", done, total)
        videos.append(_pictures(torch.cat(parts), histogram_matching))
    return np.stack(videos)


def _decoded_clips(
    base: BaseModel, latents: Tensor, histogram_matching: bool, progress: Progress | None
) -> np.ndarray:
    """The same of an autoencoder that takes clips: each is decoded as a whole."""
    videos = []
    for clip in latents.split(1):
        videos.append(_pictures(base.decode_clips(clip)[0].transpose(0, 1), histogram_matching))
        if progress is not None:
            progress("decoding", len(videos), len(latents))
    return np.stack(videos)


def _pictures(pixels: Tensor, histogram_matching: bool) -> np.ndarray:
    """Frames `f 3 h w` in [-1, 1] to `f h w 3` in 0..1, perhaps in the colours of the first."""
    frames = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    if histogram_matching:
        frames = np.stack([frames[0], *(histogram_match(frame, frames[0]) for frame in frames[1:])])
    return frames


def as_type(videos: np.ndarray, output_type: str) -> Any:
    """`b f h w 3` float32 in 0..1 to what was asked for."""
    if output_type == "np":
        return videos
    if output_type == "pt":
        return torch.from_numpy(videos).permute(0, 1, 4, 2, 3)
    return [VaeImageProcessor.numpy_to_pil(video) for video in videos]
