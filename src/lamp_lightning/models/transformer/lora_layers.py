"""LoRA layers as the motion of a model: a change of low rank beside frozen linear layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention, as Lightricks' trainer tunes them


class LoraLinear(nn.Linear):
    """A linear layer with a change of low rank beside it: `y = W x + up(down(x))` (Hu et al. 2022).

    Not constructed: `add` makes a linear layer one, in place. `up` begins at zero, so that nothing changes.
    """

    lora: nn.ModuleDict
    switched_on: bool

    @staticmethod
    def add(layer: nn.Linear, rank: int) -> None:
        """Put factors of this rank beside a layer, in place of any that are there, whose dtype they take."""
        before = layer.lora["up"].weight if isinstance(layer, LoraLinear) else layer.weight
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": before.dtype}
        down = nn.Linear(layer.in_features, rank, bias=False, **like)
        up = nn.Linear(rank, layer.out_features, bias=False, **like)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        layer.__class__ = LoraLinear
        layer.lora = nn.ModuleDict({"down": down, "up": up})
        cast(LoraLinear, layer).switched_on = True

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y + self.lora["up"](self.lora["down"](x)) if self.switched_on else y


def add_to_attention(model: nn.Module, rank: int) -> None:
    """Put factors beside the projections of every attention of a model.

    Adapters hold them by the names `<projection>.lora.down.weight` and `<projection>.lora.up.weight`.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(PROJECTIONS):
            LoraLinear.add(layer, rank)


def layers(model: nn.Module) -> list[LoraLinear]:
    """The layers of a model that have factors beside them."""
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """In this context a model computes without its factors."""
    found = layers(model)
    try:
        for layer in found:
            layer.switched_on = False
        yield
    finally:
        for layer in found:
            layer.switched_on = True


def of_rank(shape: tuple[int, ...], rank: int, name: str) -> tuple[int, ...]:
    """The shape of a factor, by its name, at another rank."""
    return (rank, shape[1]) if name.endswith(".down.weight") else (shape[0], rank)


def side_by_side(motions: Sequence[tuple[float, Mapping[str, Tensor]]]) -> tuple[int, dict[str, Tensor]]:
    """The rank and the factors whose change is the weighted sum of those of some motions.

    Args:
        motions: the weight and the factors of each.
    """
    found: dict[str, Tensor] = {}
    rank = 0
    for name in motions[0][1]:
        if name.endswith(".down.weight"):
            found[name] = torch.cat([factors[name].float() for _, factors in motions])
            rank = len(found[name])
        else:
            found[name] = torch.cat([weight * factors[name].float() for weight, factors in motions], dim=1)
    return rank, found


def is_zero(model: nn.Module) -> bool:
    """Whether the factors of a model change nothing."""
    return not any(factor.any() for layer in layers(model) for factor in layer.lora["up"].parameters())


def as_diffusers_name(name: str) -> str:
    """What diffusers and peft call a factor of a pipeline's transformer.

    Example:
        >>> as_diffusers_name("transformer_blocks.0.attn1.to_q.lora.down.weight")
        'transformer.transformer_blocks.0.attn1.to_q.lora_A.weight'
    """
    return f"transformer.{name.replace('.lora.down.', '.lora_A.').replace('.lora.up.', '.lora_B.')}"
