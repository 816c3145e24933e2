"""From noise and known frames to a video's latents, in the way that a sampler names."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lamp_lightning.diffusion.denoise import Generators, StepCallback
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.warp import denoise_warped
from lamp_lightning.diffusion.windows import count_windows, denoise_in_windows
from lamp_lightning.runtime.errors import UserError


@torch.no_grad()
def sample_clips(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    known: KnownFrames,
    sampler: Sampler,
    *,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Latents of clips, `b c f h w`: `start` of the sampler says how, see `Sampler`.

    The arguments are those of `denoise_in_windows`.
    """
    if sampler.start == "still":
        given = known.like(noise)
        first = {**given.clean, **given.noised}[0]
        return first.unsqueeze(2).expand_as(noise)
    if sampler.start == "warp":
        return denoise_warped(predict, scheduler, noise, known, sampler, callback=callback)
    return denoise_in_windows(
        predict, scheduler, noise, known, sampler, generator=generator, callback=callback
    )


def count_steps(sampler: Sampler, frames: int) -> int:
    """The denoising steps of a video of so many frames, through all its windows."""
    return sampler.num_inference_steps * count_windows(frames, sampler.window, sampler.overlap)


def check_sampler(sampler: Sampler, scheduler: Any, frames: int) -> None:
    """Refuse settings that do not go together for a video of so many frames.

    Raises:
        UserError: names the setting and its value.
    """
    if sampler.start == "warp" and sampler.num_inference_steps < 3:
        raise UserError(f"start=warp needs at least 3 steps, not {sampler.num_inference_steps}.")
    if sampler.start == "warp" and not isinstance(scheduler, DDIMScheduler):
        raise UserError(
            "start=warp goes DDIM's way back and forth and needs scheduler DDIMScheduler, not "
            f"{type(scheduler).__name__}."
        )
    if frames > sampler.window and sampler.window < sampler.overlap + 2:
        raise UserError(
            f"window={sampler.window} has no room for the first frame, overlap={sampler.overlap} known ones "
            "and a new one: take a larger window or a smaller overlap."
        )
