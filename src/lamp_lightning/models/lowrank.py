"""Weights of low rank: `up @ down` in place of a tuned weight or of its change, as in LoRA (Hu et al. 2022).

A weight `(out, in, ...)` is the product of `up`, `(out, rank)`, and `down`, `(rank, in, ...)`. Where these
have as many numbers as the weight, as those of a gate with its one channel, the weight stays whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


def factor_shapes(shape: Shape, rank: int) -> tuple[Shape, Shape] | None:
    """The shapes of `down` and `up` for a weight of this shape; None where it stays whole.

    Example:
        >>> factor_shapes((1280, 1280, 3), 16), factor_shapes((1, 1280, 3, 3), 16)
        (((16, 1280, 3), (1280, 16)), None)
    """
    out, inner = shape[0], math.prod(shape[1:])
    if len(shape) < 2 or rank * (out + inner) >= out * inner:
        return None
    return (rank, *shape[1:]), (out, rank)


def stored_shapes(shapes: Mapping[str, Shape], rank: int | None) -> dict[str, Shape]:
    """Names and shapes of the tensors in a file, for parameters of these shapes."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        pair = factor_shapes(shape, rank) if rank is not None and name.endswith(".weight") else None
        names = [f"{name.removesuffix('weight')}{part}" for part in ("down", "up")] if pair else [name]
        found |= dict(zip(names, pair or [shape], strict=True))
    return found


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best `down` and `up` of a weight, by singular values, as large as each other."""
    matrix = weight.float().flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).reshape(rank, *weight.shape[1:]), left[:, :rank] * root


def product(down: Tensor, up: Tensor) -> Tensor:
    """The weight of two factors, in float32."""
    return (up.float() @ down.float().flatten(1)).reshape(up.shape[0], *down.shape[1:])


def factored(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Tensors by name, of which weights are factors where that is less."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and factor_shapes(tuple(tensor.shape), rank) is not None:
            place = name.removesuffix("weight")
            found[f"{place}down"], found[f"{place}up"] = factors(tensor, rank)
        else:
            found[name] = tensor
    return found


def multiplied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name with the weights that their factors make: the inverse of `factored`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".down"):
            place = name.removesuffix("down")
            found[f"{place}weight"] = product(tensor, tensors[f"{place}up"])
        elif not name.endswith(".up"):
            found[name] = tensor
    return found


@dataclass(frozen=True)
class Loss:
    """What low rank and half precision cost of some tensors.

    error: the relative error in the Frobenius norm, `|W - W'| / |W|`, of all of them together.
    before, after: how many numbers they are.
    """

    error: float
    before: int
    after: int


def losses(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], kinds: Iterable[str]
) -> dict[str, Loss]:
    """The loss of each kind of layers, such as `conv1d`, and as "all" of all together.

    Args:
        before: whole tensors by name.
        after: those that are stored, of which some may be factors.
        kinds: parts of names.
    """
    whole = multiplied(after)
    found = {}
    for kind in (*kinds, "all"):
        names = [name for name in before if kind == "all" or f".{kind}." in f".{name}"]
        stored = [name for name in after if kind == "all" or f".{kind}." in f".{name}"]
        if not names:
            continue
        error = sum(float((whole[name].double() - before[name].double()).square().sum()) for name in names)
        norm = sum(float(before[name].double().square().sum()) for name in names)
        found[kind] = Loss(
            math.sqrt(error / norm) if norm else 0.0,
            sum(before[name].numel() for name in names),
            sum(after[name].numel() for name in stored),
        )
    return found
