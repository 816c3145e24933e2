"""Text2Video-Zero: videos without training (Khachatryan et al. 2023, arXiv 2303.13439, section 3.3).

Frame 0 is denoised down to a level t0, copied to every frame and moved there by a global translation that
grows with the frame's number, noised again up to a level t1, and from there all frames are denoised together
under first-frame attention. The numbers are those of diffusers' TextToVideoZeroPipeline, which is deprecated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lamp_lightning.diffusion.denoise import StepCallback, solve
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.sampler import Sampler

T0, T1 = 44 / 50, 47 / 50  # the share of the steps that follow the two levels
_GRID = 512  # pixels of the picture in which translations are given


@torch.no_grad()
def denoise_warped(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    known: KnownFrames,
    sampler: Sampler,
    *,
    callback: StepCallback | None = None,
) -> Tensor:
    """Generate clips of moved first frames, latents `b c f h w`.

    Args:
        predict: an untuned MotionUNet with first-frame attention and norm "per_frame", see `with_guidance`.
        scheduler: a DDIMScheduler of the model; its steps are set here.
        noise: `b c f h w`, Gaussian. Frame 0's is where frame 0 begins, the others' is what they are noised
            with on the way back from t0 to t1.
        known: none, as in the paper, or a noised frame 0. That takes the denoised frame 0's place at both
            levels, with its own noise, and stays what frames look at and what comes out.
        sampler: `warp_strength` of it is that of the motion, see `translated`.
        callback: see `denoise`; it counts the steps of the last stage, of all frames.
    """
    steps, frames = sampler.num_inference_steps, noise.shape[2]
    after_t0, after_t1 = levels(steps)
    sampler.set_timesteps(scheduler, noise.device, tuple(noise.shape[-3:]))
    timesteps = scheduler.timesteps
    low, high = timesteps[-after_t0 - 1], timesteps[-after_t1 - 1]
    own_noise = noise[:, :, :1]
    if 0 in known.noised:
        first = known.like(noise).noised[0].unsqueeze(2)
        at_t0, at_t1 = (scheduler.add_noise(first, own_noise, t.reshape(1)) for t in (low, high))
    else:
        at_t1 = own_noise * scheduler.init_noise_sigma
        at_t1 = solve(predict, scheduler, at_t1, timesteps[: -after_t1 - 1], known)
        at_t0 = solve(predict, scheduler, at_t1, timesteps[-after_t1 - 1 : -after_t0 - 1], known)
    moved = translated(at_t0.expand(-1, -1, frames - 1, -1, -1), sampler.warp_strength)
    kept = scheduler.alphas[int(low) : int(high)].prod()  # as diffusers has it
    moved = kept.sqrt() * moved + (1 - kept).sqrt() * noise[:, :, 1:]
    video = torch.cat([at_t1, moved], dim=2)
    return solve(predict, scheduler, video, timesteps[-after_t1 - 1 :], known, noise=noise, callback=callback)


def levels(steps: int) -> tuple[int, int]:
    """How many of so many steps follow the levels t0 and t1: the paper's 44 and 47 of 50, in proportion."""
    if steps < 3:
        raise ValueError(f"Text2Video-Zero needs at least 3 steps, not {steps}.")
    after_t1 = min(steps - 1, round(T1 * steps))
    return min(after_t1 - 1, round(T0 * steps)), after_t1


def translated(latents: Tensor, strength: float) -> Tensor:
    """Move the k-th of the frames after the first by `strength * k` pixels of 512, in x and in y.

    Latents are `b c n h w`, of frames 1.. . They are read that far to the right and down, so that the picture
    moves the other way; by nearest neighbours, mirrored at the borders, as diffusers' pipeline does.
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
