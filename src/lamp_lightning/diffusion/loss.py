"""The diffusion loss of clips with known frames: LAMP's first frame (paper, section 3.2), or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import add_noise, target


def known_frames_loss(*arguments: Any, **named: Any) -> Tensor:
    """Mean squared error of the prediction, in float32, on the frames of a clip that are not known.

    Arguments are those of `predicted`; weighted, it is the mean over clips of each clip's weighted mean.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> clip, noise, steps = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8), torch.tensor([9])
        >>> known_frames_loss(unet, DDIMScheduler(), clip, noise, steps, torch.zeros(1, 77, 16), known=[0])
        tensor(1.)
    """
    return squared_error(*predicted(*arguments, **named))


def predicted(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditions: Conditions | Tensor,
    *,
    known: Sequence[int],
    weights: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The prediction for the frames that are not known, what it should be, and what it counts.

    Args:
        unet: a MotionUNet (or anything with its forward).
        scheduler: a diffusers scheduler with `alphas_cumprod`; its `prediction_type` decides the target.
        latents: clean latents, `b c f h w`, one frame or more of which is not known.
        noise: Gaussian noise of the same shape.
        timesteps: one per clip, `(b,)`, integers below `num_train_timesteps`.
        conditions: a row for each clip. A tensor is the text alone, `b l d`.
        known: the numbers of the frames that are given. They enter as they are, whatever `noise` holds there.
        weights: what each latent counts, `b f h w`; None: all count alike.
        scale: what the prediction and what it should be are multiplied with, `(b,)`; None: nothing.

    Returns:
        All three `b c n h w` in float32, of the frames that are not known; the last None without weights.
    """
    frames = KnownFrames.of(latents, known)
    if len(known) >= latents.shape[2]:
        raise ValueError(f"The loss needs clips of at least {len(known) + 1} frames, not {latents.shape[2]}.")
    noisy = frames.others(add_noise(scheduler, latents, noise, timesteps))
    told = Conditions.of(conditions)
    prediction = unet(frames.whole(noisy), timesteps, told.text, **told.extra, **frames.said)
    wanted = target(scheduler, latents, noise, timesteps)
    found, true = frames.others(prediction).float(), frames.others(wanted).float()
    if scale is not None:
        found, true = (x * scale.reshape(-1, 1, 1, 1, 1) for x in (found, true))
    return found, true, None if weights is None else frames.others(weights[:, None].float()).expand_as(true)


def squared_error(found: Tensor, true: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean squared error, or the mean over clips of the one weighted by `counts`: all `b c n h w`."""
    if counts is None:
        return F.mse_loss(found, true)
    error = (counts * (found - true) ** 2).sum((1, 2, 3, 4))
    return (error / counts.sum((1, 2, 3, 4)).clamp_min(1e-6)).mean()


def debiased(x: Tensor, anchor: int, beta: float = 1.0) -> Tensor:
    """Predictions or targets `b c n h w` without what one frame looks like.

    MotionDirector's appearance debiasing (Zhao et al. 2024, arXiv 2310.08465, section 3.3).

    Args:
        x: of all frames.
        anchor: the number of the frame whose look is taken off.
        beta: how much of it.

    Example:
        >>> import torch
        >>> debiased(torch.ones(1, 4, 3, 8, 8), anchor=1).mean().item() < 0.42
        True
    """
    return (beta**2 + 1) ** 0.5 * x - beta * x[:, :, anchor : anchor + 1]


def first_frame_loss(*arguments: Any, **named: Any) -> Tensor:
    """`known_frames_loss` of LAMP, where frame 0 is known.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> clip, noise, steps = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8), torch.tensor([9])
        >>> first_frame_loss(unet, DDIMScheduler(), clip, noise, steps, torch.zeros(1, 77, 16))
        tensor(1.)
    """
    return known_frames_loss(*arguments, **named, known=[0])


def all_frames_loss(*arguments: Any, **named: Any) -> Tensor:
    """`known_frames_loss` where no frame is known.

    LAMP's ablation and most video diffusion models are tuned on it (Ho et al. 2022, section 3).

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> unet = lambda sample, timestep, text: torch.zeros_like(sample)
        >>> clip, noise, steps = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8), torch.tensor([9])
        >>> all_frames_loss(unet, DDIMScheduler(), clip, noise, steps, torch.zeros(1, 77, 16))
        tensor(1.)
    """
    return known_frames_loss(*arguments, **named, known=[])
