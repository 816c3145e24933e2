"""Shared noise: how the noise of frame 0 enters that of every frame (paper, section 3.4)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

NoiseSharing = Literal["authors", "variance_preserving"]


def shared_noise(noise: Tensor, alpha: float = 0.2, sharing: NoiseSharing = "authors") -> Tensor:
    """Let all frames share noise (paper, section 3.4): `alpha * noise[0] + (1 - alpha) * noise[f]`.

    Args:
        noise: independent Gaussian noise, `b c f h w`; frame 0 keeps its own.
        alpha: 0 keeps the noise independent, 1 gives every frame that of frame 0.
        sharing: "authors" is the formula as it stands, whose sum has a variance of alpha^2 + (1 - alpha)^2,
            0.68 at 0.2, where the model was trained on 1; "variance_preserving" divides by its root.

    Example:
        >>> import torch
        >>> noise = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
        >>> [round(value, 2) for value in shared_noise(noise, alpha=0.2).flatten().tolist()]
        [1.0, 0.2]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"shared_noise must lie between 0 and 1, not {alpha}.")
    if alpha == 0:
        return noise
    if sharing not in get_args(NoiseSharing):
        raise ValueError(f"noise_sharing {sharing!r} is unknown: use one of {get_args(NoiseSharing)}.")
    base, rest = noise[:, :, :1], noise[:, :, 1:]
    mixed = alpha * base + (1 - alpha) * rest
    if sharing == "variance_preserving":
        mixed = mixed / (alpha**2 + (1 - alpha) ** 2) ** 0.5
    return torch.cat([base, mixed], dim=2)
