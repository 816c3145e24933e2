"""Noise levels, and what a model predicts of latents at such a level: `signal * clean + sigma * noise`.

Everything here is written in signal and sigma. Diffusion models (Ho et al. 2020) have
`signal^2 + sigma^2 = 1`, flow matching (`diffusion.flow`) has `signal + sigma = 1`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.flow import FlowLevels, is_flow, set_flow_steps


@dataclass(frozen=True)
class Prediction:
    """A kind of prediction: what a model is to predict, and the noise and clean latents of its output."""

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    noise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    clean: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


PREDICTIONS = {
    "epsilon": Prediction(
        target=lambda clean, noise, signal, sigma: noise,
        noise=lambda output, noisy, signal, sigma: output,
        clean=lambda output, noisy, signal, sigma: (noisy - sigma * output) / signal,
    ),
    "v_prediction": Prediction(  # Salimans and Ho 2022, appendix D
        target=lambda clean, noise, signal, sigma: signal * noise - sigma * clean,
        noise=lambda output, noisy, signal, sigma: signal * output + sigma * noisy,
        clean=lambda output, noisy, signal, sigma: signal * noisy - sigma * output,
    ),
    "sample": Prediction(
        target=lambda clean, noise, signal, sigma: clean,
        noise=lambda output, noisy, signal, sigma: (noisy - signal * output) / sigma,
        clean=lambda output, noisy, signal, sigma: output,
    ),
    "flow_prediction": Prediction(  # the velocity of flow matching, where signal + sigma = 1
        target=lambda clean, noise, signal, sigma: noise - clean,
        noise=lambda output, noisy, signal, sigma: noisy + signal * output,
        clean=lambda output, noisy, signal, sigma: noisy - sigma * output,
    ),
}


def prediction_of(kind: str) -> Prediction:
    """The kind of prediction that diffusers calls `prediction_type`. Raises ValueError for an unknown one."""
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type {kind!r} is unknown: use one of {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[kind]


def prediction_type(scheduler: Any) -> str:
    """What a scheduler's model predicts, as diffusers calls it.

    Example:
        >>> from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
        >>> prediction_type(DDIMScheduler()), prediction_type(FlowMatchEulerDiscreteScheduler())
        ('epsilon', 'flow_prediction')
    """
    return "flow_prediction" if is_flow(scheduler.config) else scheduler.config.prediction_type


def signal_and_sigma(scheduler: Any, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of clean latents and of noise at timesteps, each `(b, 1, ...)` to multiply latents with.

    Of a diffusion model `sqrt(alpha_bar_t)` and `sqrt(1 - alpha_bar_t)`, taken from `alphas_cumprod`, so that
    they are the same for every scheduler class with that schedule. A timestep below 0 means the schedule's
    clean end (`final_alpha_cumprod` of a `DDIMScheduler`). Of flow matching `1 - s` and `s`.
    """
    shape = (-1, *(1,) * (latents.ndim - 1))
    timesteps = timesteps.to(latents.device)
    if is_flow(scheduler.config):
        sigma = timesteps.float().clamp(min=0) / scheduler.config.num_train_timesteps
        return tuple(x.to(latents.dtype).reshape(shape) for x in (1 - sigma, sigma))
    alphas = scheduler.alphas_cumprod.to(latents.device)[timesteps.clamp(min=0)]
    if (end := getattr(scheduler, "final_alpha_cumprod", None)) is not None:
        alphas = torch.where(timesteps < 0, end.to(alphas), alphas)  # without asking the device for values
    return tuple(x.to(latents.dtype).reshape(shape) for x in (alphas.sqrt(), (1 - alphas).sqrt()))


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The forward process `q(x_t | x_0)` of the model's noise schedule (Ho et al. 2020, equation 4).

    The scheduler is one of diffusers with `alphas_cumprod`, or of flow matching; clean latents, Gaussian
    noise and the noisy latents that come out are `b c f h w`, timesteps `(b,)`.

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
    kind = prediction_of(prediction_type(scheduler))
    return kind.target(latents, noise, *signal_and_sigma(scheduler, latents, timesteps))


# -- timesteps -----------------------------------------------------------------------------------------------


def random_timestep(scheduler: Any, generator: torch.Generator, size: tuple[int, ...]) -> Tensor:
    """A timestep to train at, `(1,)`: uniform, or of flow matching as `FlowLevels.drawn`.

    Args:
        scheduler: of the model.
        generator: where it is drawn from, on the CPU.
        size: rows and columns of the latents, perhaps after the number of frames.
    """
    if is_flow(scheduler.config):
        return FlowLevels.of(scheduler.config).drawn(generator, size)
    return torch.randint(scheduler.config.num_train_timesteps, (1,), generator=generator)


def timestep_at(scheduler: Any, share: float, size: tuple[int, ...]) -> float:
    """The timestep at a share, 0..1, of all noise levels, for latents of so many rows and columns."""
    if is_flow(scheduler.config):
        return FlowLevels.of(scheduler.config).shifted(share, size) * scheduler.config.num_train_timesteps
    return int(share * scheduler.config.num_train_timesteps)


def set_steps(scheduler: Any, steps: int, device: Any, size: tuple[int, ...]) -> None:
    """Give a scheduler so many steps for latents of so many rows and columns."""
    if is_flow(scheduler.config):
        set_flow_steps(scheduler, steps, device, size)
    else:
        scheduler.set_timesteps(steps, device=device)


# -- what diffusers' classes for flow matching do not have, as there is nothing to do ----------------------


def first_scale(scheduler: Any) -> Any:
    """What noise is multiplied with where sampling begins."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def model_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Latents of a step as the model takes them."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)


def noised(scheduler: Any, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Clean latents at the level of one of the timesteps that a scheduler goes along, a scalar."""
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(clean, noise, timestep.reshape(1))
    return add_noise(scheduler, clean, noise, timestep.reshape(1))
