"""Muon: each step moves a weight matrix equally far in all directions (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the authors' coefficients: singular values end near 1 in 5 rounds


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for what is no matrix, in one optimiser.

    A step of Muon is as large as one of AdamW at the same learning rate (Liu et al. 2025, arXiv 2502.16982).
    `torch.optim.Muon` takes no convolutions, and computes in bfloat16, which many processors do slowly.

    Args:
        params: parameters, or groups of them, as for any optimiser of torch. Those of two axes or more are
            matrices, and a convolution's weight is the matrix `out x (in * kernel)`; in a group with
            `matrices=False` none is.
        lr: the learning rate.
        weight_decay: decoupled.
        momentum: Nesterov's, of the matrices.
        betas, eps: AdamW's, of the others.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = Muon(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 1e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "matrices": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                is_matrix = group["matrices"] and parameter.ndim >= 2
                change = self._of_matrix if is_matrix else self._of_other
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(change(gradient, self.state[parameter], group), alpha=group["lr"])
        return loss

    @staticmethod
    def _of_matrix(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum_buffer"], group["momentum"])
        return 0.2 * math.sqrt(max(ahead.flatten(1).shape)) * orthogonal(ahead)

    @staticmethod
    def _of_other(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state["step"] = torch.zeros(())
            state |= {name: torch.zeros_like(gradient) for name in ("exp_avg", "exp_avg_sq")}
        state["step"] += 1
        first, second = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
        scale = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt().add_(group["eps"])
        return state["exp_avg"] / (1 - first ** state["step"]) / scale


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values between 0.7 and 1.2.

    Args:
        matrix: `out x in`, or a convolution's weight, whose other axes count as one.
    """
    flat = matrix.flatten(1)
    wide = flat.shape[0] <= flat.shape[1]
    x = flat if wide else flat.T
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).reshape(matrix.shape)
