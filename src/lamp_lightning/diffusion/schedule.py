"""Noise levels, and what a model predicts of latents at such a level: `signal * clean + sigma * noise`.

Everything here is written in signal and sigma, so that a schedule of another kind (flow matching has
`signal = 1 - sigma`) needs its levels in `signal_and_sigma` and a line in `PREDICTIONS`, and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """A kind of prediction: what a model is to predict, and the noise that follows from its output."""

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    noise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PREDICTIONS = {
    "epsilon": Prediction(
        target=lambda clean, noise, signal, sigma: noise,
        noise=lambda output, noisy, signal, sigma: output,
    ),
    "v_prediction": Prediction(  # Salimans and Ho 2022, appendix D
        target=lambda clean, noise, signal, sigma: signal * noise - sigma * clean,
        noise=lambda output, noisy, signal, sigma: signal * output + sigma * noisy,
    ),
    "sample": Prediction(
        target=lambda clean, noise, signal, sigma: clean,
        noise=lambda output, noisy, signal, sigma: (noisy - signal * output) / sigma,
    ),
}


def prediction_of(kind: str) -> Prediction:
    """The kind of prediction that diffusers calls `prediction_type`. Raises ValueError for an unknown one."""
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type {kind!r} is unknown: use one of {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[kind]


def signal_and_sigma(scheduler: Any, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """`sqrt(alpha_bar_t)` and `sqrt(1 - alpha_bar_t)`, each `(b, 1, ...)` to multiply latents with.

    Taken from `alphas_cumprod`, so that they are the same for every scheduler class with that schedule. A
    timestep below 0 means the schedule's clean end (`final_alpha_cumprod` of a `DDIMScheduler`).
    """
    timesteps = timesteps.to(latents.device)
    alphas = scheduler.alphas_cumprod.to(latents.device)[timesteps.clamp(min=0)]
    if (end := getattr(scheduler, "final_alpha_cumprod", None)) is not None:
        alphas = torch.where(timesteps < 0, end.to(alphas), alphas)  # without asking the device for values
    shape = (-1, *(1,) * (latents.ndim - 1))
    return tuple(x.to(latents.dtype).reshape(shape) for x in (alphas.sqrt(), (1 - alphas).sqrt()))


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The forward process `q(x_t | x_0)` of the model's noise schedule (Ho et al. 2020, equation 4).

    The scheduler is one of diffusers with `alphas_cumprod`; clean latents, Gaussian noise and the noisy
    latents that come out are `b c f h w`, timesteps `(b,)`.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> clean, noise = torch.zeros(2, 4, 3, 8, 8), torch.ones(2, 4, 3, 8, 8)
        >>> noisy = add_noise(DDIMScheduler(), clean, noise, torch.tensor([0, 999]))
        >>> [round(level, 2) for level in noisy[:, 0, 0, 0, 0].tolist()]
        [0.01, 1.0]
    """
    signal, sigma = signal_and_sigma(scheduler, latents, timesteps)
    return signal * latents + sigma * noise


def target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the scheduler's model is to predict: the noise, the velocity or the clean latents.

    Arguments and result are those of `add_noise`.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler
        >>> clean, noise = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8)
        >>> torch.equal(target(DDIMScheduler(), clean, noise, torch.tensor([9])), noise)
        True
    """
    kind = prediction_of(scheduler.config.prediction_type)
    return kind.target(latents, noise, *signal_and_sigma(scheduler, latents, timesteps))
