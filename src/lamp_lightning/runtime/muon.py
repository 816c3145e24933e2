"""Muon: each step moves a weight matrix equally far in all directions (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the authors' coefficients: singular values end near 1 in 5 rounds


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for what is no matrix, in one optimiser.

    A step of Muon is as large as one of AdamW at the same learning rate (Liu et al. 2025, arXiv 2502.16982).
    `torch.optim.Muon` takes no convolutions, and computes in bfloat16, which many processors do slowly.

    Args:
        matrices: linear layers and convolutions; a convolution counts as the matrix `out x (in * kernel)`.
        others: biases, norms, embeddings, depthwise convolutions.
        lr: of the matrices.
        share: of this rate that the others have.
        weight_decay: decoupled, of both.
        momentum: Nesterov's, of the matrices.
        betas: AdamW's.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = Muon([layer.weight], [layer.bias], lr=0.1)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter] = (),
        *,
        lr: float,
        share: float = 1.0,
        weight_decay: float = 1e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "matrices": True, "lr": lr},
            {"params": list(others), "matrices": False, "lr": lr * share},
        ]
        for parameter in groups[0]["params"]:
            if parameter.ndim < 2:
                raise ValueError(f"Muon needs matrices, not a parameter of shape {tuple(parameter.shape)}.")
        defaults = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        super().__init__([group for group in groups if group["params"]], {"lr": lr, **defaults})

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
                change = self._of_matrix if group["matrices"] else self._of_other
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(change(gradient, self.state[parameter], group), alpha=group["lr"])
        return loss

    @staticmethod
    def _of_matrix(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])
        return 0.2 * math.sqrt(max(ahead.flatten(1).shape)) * orthogonal(ahead)

    @staticmethod
    def _of_other(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        scale = (state["square"] / (1 - second ** state["step"])).sqrt().add_(1e-8)
        return state["mean"] / (1 - first ** state["step"]) / scale


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
