"""Videos of any length from noise: window after window, or in another way that `start` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lamp_lightning.diffusion.denoise import Generators, StepCallback, denoise_clips
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.warp import denoise_warped
from lamp_lightning.runtime.errors import UserError


def count_windows(frames: int, window: int, overlap: int) -> int:
    """How many windows a video of so many frames takes.

    Raises ValueError where several have no room for the first frame, known ones and a new one.

    Example:
        >>> count_windows(16, window=16, overlap=4), count_windows(40, window=16, overlap=4)
        (1, 4)
    """
    if frames <= window:
        return 1
    if not 0 < overlap < window - 1:
        raise ValueError(f"overlap must lie between 1 and window - 2 = {window - 2}, not be {overlap}.")
    return 1 - (window - frames) // (window - 1 - overlap)


def count_steps(sampler: Sampler, frames: int) -> int:
    """The denoising steps of a video of so many frames, through all its windows."""
    return sampler.num_inference_steps * count_windows(frames, sampler.window, sampler.overlap)


def check_sampler(sampler: Sampler, scheduler: Any, frames: int) -> None:
    """Raise UserError for settings that do not go together in a video of so many frames."""
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


@torch.no_grad()
def sample_clips(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    known: KnownFrames,
    sampler: Sampler,
    *,
    clean: bool = False,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Latents of clips in the way that the sampler's `start` says; arguments as `denoise_in_windows`."""
    if sampler.start == "still":
        given = known.like(noise)
        first = {**given.clean, **given.noised}[0]
        return first.unsqueeze(2).expand_as(noise)
    if sampler.start == "warp":
        return denoise_warped(predict, scheduler, noise, known, sampler, callback=callback)
    return denoise_in_windows(
        predict, scheduler, noise, known, sampler, clean=clean, generator=generator, callback=callback
    )


def denoise_in_windows(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    known: KnownFrames,
    sampler: Sampler,
    *,
    clean: bool = False,
    generator: Generators = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Denoise clips of any length, `b c f h w`, in windows under a first frame that anchors them all.

    The first window is `denoise_clips` as it is. Each further one begins with the clips' frame 0, to which
    the first-frame attention looks and whose statistics AdaIN takes, so that looks do not drift; then come
    the last `sampler.overlap` frames so far, which are known, and then new ones.

    Arguments and result are those of `denoise_clips`. Frame 0 is the anchor of further windows whether it is
    known or not; `sampler.window` is what the model sees at once, frame 0 and the overlap included; steps
    count through all windows, and the latents of a callback are the window's. The overlap is given with
    noise, or `clean` to a model that was tuned with any known frames.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> from lamp_lightning.diffusion import KnownFrames, with_guidance
        >>> from lamp_lightning.diffusion.sampler import Sampler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> predict = with_guidance(unet, torch.zeros(1, 77, 16), scale=1.0)
        >>> sampler = Sampler().changed({"window": 4, "overlap": 1, "num_inference_steps": 2})
        >>> first = KnownFrames.first(torch.ones(1, 4, 1, 8, 8))
        >>> denoise_in_windows(predict, DDIMScheduler(), torch.randn(1, 4, 9, 8, 8), first, sampler).shape
        torch.Size([1, 4, 9, 8, 8])
    """
    frames, window, overlap = noise.shape[2], sampler.window, sampler.overlap
    windows, new = count_windows(frames, window, overlap), window - 1 - overlap

    def part(number: int, places: Sequence[int], done: dict[int, Tensor]) -> Tensor:
        def report(step: int, steps: int, latents: Tensor) -> Tensor | None:
            return callback(number * steps + step, windows * steps, latents) if callback else None

        former = KnownFrames(clean=done) if clean else KnownFrames(noised=done)
        given = former | known.at(places)
        own_noise = noise[:, :, places]
        if not given.moving(len(places)):  # nothing is left to generate
            return given.like(own_noise).whole(own_noise[:, :, :0])
        return denoise_clips(
            predict, scheduler, own_noise, given, sampler, generator=generator, callback=report
        )

    video = part(0, range(min(window, frames)), {})
    for number in range(1, windows):
        begin = video.shape[2]
        places = [0, *range(begin - overlap, min(begin + new, frames))]
        done = {k: video[:, :, place] for k, place in enumerate(places) if place < begin}
        video = torch.cat([video, part(number, places, done)[:, :, 1 + overlap :]], dim=2)
    return video
