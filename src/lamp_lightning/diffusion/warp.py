"""Text2Video-Zero's way to a video: the first frame's latents, moved a little from frame to frame.

Khachatryan et al. 2023 (arXiv 2303.13439), section 3.3: no training. Frame 0 is denoised down to a level t0,
copied to every frame and moved there by a global translation that grows with the frame's number, noised again
up to a level t1, and from there all frames are denoised together, looking at frame 0 (first-frame attention).
The numbers are those of diffusers' TextToVideoZeroPipeline, which is deprecated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lamp_lightning.diffusion.denoise import StepCallback, conditions_for, guided

T0, T1 = 44 / 50, 47 / 50  # the share of the steps that follow the two levels
_GRID = 512  # pixels of the picture in which translations are given


@torch.no_grad()
def denoise_warped(
    unet: Callable[..., Tensor],
    scheduler: Any,
    noise: Tensor,
    first_frame: Tensor | None,
    text_embeddings: Tensor,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    guidance_rescale: float = 0.0,
    strength: float = 12.0,
    callback: StepCallback | None = None,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Tensor:
    """Make clips of moved first frames.

    Args:
        unet: an untuned MotionUNet with first-frame attention and norm "per_frame".
        scheduler: a DDIMScheduler of the model; its steps are set here.
        noise: `b c f h w`, Gaussian. Frame 0's is where frame 0 begins, the others' is what they are noised
            with on the way back from t0 to t1.
        first_frame: clean latents `b c 1 h w`. The paper has none; a given one takes the denoised frame 0's
            place at both levels, with its own noise, and stays what frames look at and what comes out.
        strength: of the motion, see `translated`.
        callback: as of `denoise`; it counts the steps of the last stage, of all frames.
        text_embeddings, guidance_scale, num_inference_steps, guidance_rescale, added_cond_kwargs: likewise.

    Returns:
        Latents, `b c f h w`.
    """
    clips, frames = noise.shape[0], noise.shape[2]
    text, added = conditions_for(
        text_embeddings, added_cond_kwargs, clips=clips, guidance=guidance_scale != 1
    )
    extra = {} if added is None else {"added_cond_kwargs": added}
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    timesteps = scheduler.timesteps
    after_t0, after_t1 = levels(num_inference_steps)
    low, high = timesteps[-after_t0 - 1], timesteps[-after_t1 - 1]

    def step(latents: Tensor, timestep: Tensor) -> Tensor:
        sample = latents if guidance_scale == 1 else latents.repeat(2, 1, 1, 1, 1)
        prediction = unet(scheduler.scale_model_input(sample, timestep), timestep, text, **extra)
        if guidance_scale != 1:
            prediction = guided(prediction, guidance_scale, guidance_rescale)
        return scheduler.step(prediction, timestep, latents, return_dict=False)[0]

    own_noise = noise[:, :, :1]
    if first_frame is None:
        at_t1 = own_noise * scheduler.init_noise_sigma
        for timestep in timesteps[: -after_t1 - 1]:
            at_t1 = step(at_t1, timestep)
        at_t0 = at_t1
        for timestep in timesteps[-after_t1 - 1 : -after_t0 - 1]:
            at_t0 = step(at_t0, timestep)
    else:
        first_frame = first_frame.to(noise)
        at_t0, at_t1 = (scheduler.add_noise(first_frame, own_noise, t.reshape(1)) for t in (low, high))
    moved = translated(at_t0.expand(-1, -1, frames - 1, -1, -1), strength)
    kept = scheduler.alphas[int(low) : int(high)].prod()  # as diffusers has it
    moved = kept.sqrt() * moved + (1 - kept).sqrt() * noise[:, :, 1:]
    video = torch.cat([at_t1, moved], dim=2)
    last = timesteps[-after_t1 - 1 :]
    for index, timestep in enumerate(last):
        if first_frame is not None:
            video[:, :, :1] = scheduler.add_noise(first_frame, own_noise, timestep.reshape(1))
        video = step(video, timestep)
        if callback is not None:
            changed = callback(index + 1, len(last), video)
            video = video if changed is None else changed
    if first_frame is not None:
        video[:, :, :1] = first_frame
    return video


def levels(steps: int) -> tuple[int, int]:
    """How many of so many steps follow the levels t0 and t1: the paper's 44 and 47 of 50, in proportion.

    Raises:
        ValueError: fewer than 3 steps have no place for them.
    """
    if steps < 3:
        raise ValueError(f"Text2Video-Zero needs at least 3 steps, not {steps}.")
    after_t1 = min(steps - 1, round(T1 * steps))
    return min(after_t1 - 1, round(T0 * steps)), after_t1


def translated(latents: Tensor, strength: float) -> Tensor:
    """Move the k-th of the frames after the first by `strength * k` pixels of 512, in x and in y.

    Args:
        latents: `b c n h w`, of frames 1.. .
        strength: how far to the right and down a frame is read from; the picture moves the other way.

    Returns:
        The like, by nearest neighbours, mirrored at the borders, as diffusers' pipeline does.
    """
    clips, _channels, frames, height, width = latents.shape
    like: dict[str, Any] = {"device": latents.device, "dtype": torch.float32}
    shift = torch.arange(1, frames + 1, **like)[:, None] * strength  # n 1
    # A picture's grid scaled down to the latents': its points lie amid those of the large one.
    x, y = ((torch.arange(n, **like) + 0.5) * _GRID / n - 0.5 for n in (width, height))
    columns = (x + shift)[:, None, :].expand(-1, height, -1)
    rows = (y + shift)[:, :, None].expand(-1, -1, width)
    grid = (torch.stack([columns, rows], dim=-1) / _GRID * 2 - 1).repeat(clips, 1, 1, 1).to(latents.dtype)
    folded = latents.transpose(1, 2).flatten(0, 1)
    read = F.grid_sample(folded, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return read.unflatten(0, (clips, frames)).transpose(1, 2)
