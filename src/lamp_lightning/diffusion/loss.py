"""The first-frame-conditioned diffusion loss (paper, section 3.2), and the one without a first frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def first_frame_loss(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Tensor:
    """Mean squared error of the prediction on frames 1.., given the clean frame 0.

    Frame 0 enters as it is, whatever `noise` holds there, and its prediction is not looked at.

    Args:
        unet: a MotionUNet (or anything with its forward).
        scheduler: a diffusers scheduler with `alphas_cumprod`; its `prediction_type` decides the target.
        latents: clean latents, `b c f h w`, two frames or more.
        noise: Gaussian noise of the same shape.
        timesteps: one per clip, `(b,)`, integers below `num_train_timesteps`.
        text: `b l d`.

    Returns:
        A scalar, computed in float32.
    """
    if latents.shape[2] < 2:
        raise ValueError(f"The loss needs clips of at least 2 frames, not {latents.shape[2]}.")
    return _loss(unet, scheduler, latents, noise, timesteps, text, added_cond_kwargs, given=1)


def all_frames_loss(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Tensor:
    """Mean squared error of the prediction on all frames, all of them noised: no first frame is given.

    What LAMP's ablation and most video diffusion models are tuned on (Ho et al. 2022, section 3). Arguments
    and result are those of `first_frame_loss`; a clip may have one frame.
    """
    return _loss(unet, scheduler, latents, noise, timesteps, text, added_cond_kwargs, given=0)


def _loss(
    unet: Callable[..., Tensor],
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    added_cond_kwargs: dict[str, Tensor] | None,
    *,
    given: int,
) -> Tensor:
    noisy = add_noise(scheduler, latents, noise, timesteps)
    noisy[:, :, :given] = latents[:, :, :given]
    extra = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
    prediction = unet(noisy, timesteps, text, **extra)
    wanted = target(scheduler, latents, noise, timesteps)
    return F.mse_loss(prediction[:, :, given:].float(), wanted[:, :, given:].float())


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The forward process `q(x_t | x_0)` of the model's noise schedule, `b c f h w` with timesteps `(b,)`.

    Taken from `alphas_cumprod`, so that it is the same for every scheduler class with that schedule.
    """
    signal, sigma = signal_and_sigma(scheduler, latents, timesteps)
    return signal * latents + sigma * noise


def target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the model is to predict, `b c f h w`: the noise, the velocity or the clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    if kind == "v_prediction":
        signal, sigma = signal_and_sigma(scheduler, latents, timesteps)
        return signal * noise - sigma * latents
    raise ValueError(f"prediction_type {kind!r} is unknown: use epsilon, v_prediction or sample.")


def signal_and_sigma(scheduler: Any, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """`sqrt(alpha_bar_t)` and `sqrt(1 - alpha_bar_t)`, each `(b, 1, ...)` to multiply latents with."""
    alphas = scheduler.alphas_cumprod.to(latents.device)[timesteps.to(latents.device)]
    shape = (-1, *(1,) * (latents.ndim - 1))
    return tuple(x.to(latents.dtype).reshape(shape) for x in (alphas.sqrt(), (1 - alphas).sqrt()))
