"""Motion layers of low rank, for tuning: two small layers in the place of each tuned one (`models.lowrank`).

peft's LoRA layers do not fit here. Its convolutions are padded on both sides, and a motion looks at the past
only. Its layers add to a weight, and a temporal attention has none in the image model. And a motion's factors
have to stay apart from those of a style LoRA, which is loaded and unloaded by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamp_lightning.models.lowrank import factor_shapes, product
from lamp_lightning.models.unet.attention import TemporalBlock
from lamp_lightning.models.unet.layers import ClipShape, MotionLayer, PastConv1d
from lamp_lightning.runtime.errors import UserError


class Factors(nn.Module):
    """A layer whose weight, or the change of it, is `up @ down`.

    A weight that is zero begins with `up` at zero. `down` has the standard deviation `scale`, so that a rate
    that suits whole weights suits factors. A first step of AdamW changes each number of `up` by the rate. At
    `rank ** -0.5` it changes the weight by as much as a step on the whole weight does, but only within the
    few directions of `down`. At `inner ** 0.5 / rank` the loss falls by as much, and the weight changes by
    more. `scale` is the geometric mean of both.
    """

    def __init__(self, layer: Any, rank: int) -> None:
        super().__init__()
        shapes = factor_shapes(tuple(layer.weight.shape), rank)
        if shapes is None:
            raise ValueError(f"A weight of shape {tuple(layer.weight.shape)} has no factors of rank {rank}.")
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        inner = math.prod(shapes[0][1:])
        self.scale = (rank**-0.5 * inner**0.5 / rank) ** 0.5
        self.down = nn.Parameter(torch.randn(shapes[0], **like) * self.scale)
        self.up = nn.Parameter(torch.zeros(shapes[1], **like))
        self.bias = layer.bias


class FactoredPastConv1d(Factors):
    """A `PastConv1d` of low rank, `b c f n -> b c f n`: over frames into few channels, and back."""

    def forward(self, x: Tensor, causal: bool = True) -> Tensor:
        ends = (2, 0) if causal else (1, 1)
        z = F.conv2d(F.pad(x, (0, 0, *ends)), self.down.unsqueeze(-1))
        return F.conv2d(z, self.up[:, :, None, None], self.bias)

    def whole(self) -> PastConv1d:
        """The layer with the weight that the factors make."""
        return _with_weight(PastConv1d(len(self.up), **_like(self)), self)


class FactoredConvFirst(Factors):
    """A 1x1 convolution of low rank, `b c h w`: into few channels, and back."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.down), self.up[:, :, None, None])

    def whole(self) -> nn.Conv2d:
        """The layer with the weight that the factors make."""
        channels = len(self.up)
        return _with_weight(nn.Conv2d(channels, channels, 1, bias=False, **_like(self)), self)


class FactoredLinear(Factors):
    """A linear layer of low rank, `... in -> ... out`. One whose weight is random begins at a random one."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer, rank)
        with torch.no_grad():
            if not layer.weight.is_meta and layer.weight.any():
                nn.init.normal_(self.up, std=float(layer.weight.float().std()) / (self.scale * rank**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down), self.up, self.bias)

    def whole(self) -> nn.Linear:
        """The layer with the weight that the factors make."""
        out, inner = len(self.up), self.down.shape[1]
        return _with_weight(nn.Linear(inner, out, bias=self.bias is not None, **_like(self)), self)


class FactoredQuery(Factors):
    """The image model's queries, whose `weight` is frozen, and a change of low rank, `... in -> ... out`."""

    def __init__(self, layer: nn.Linear, rank: int, clip: ClipShape) -> None:
        super().__init__(layer, rank)
        self.weight = layer.weight
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y + F.linear(F.linear(x, self.down), self.up) if self.clip.motion else y

    def whole(self) -> nn.Linear:
        """The layer with the changed weight, which is tuned then."""
        out, inner = self.weight.shape
        layer = _with_weight(nn.Linear(inner, out, bias=False, **_like(self)), self)
        with torch.no_grad():
            layer.weight.add_(self.weight.to(layer.weight.dtype))
        layer.bias = self.bias
        return layer


def factor(model: nn.Module, rank: int, clip: ClipShape, queries: Iterable[str]) -> None:
    """Put factors of this rank in the place of a model's tuned layers, where that is less.

    Args:
        model: with LAMP's layers.
        rank: of the factors.
        clip: of the model.
        queries: names of the parameters of tuned queries.

    Raises:
        UserError: there is a motion in it already.
    """
    sets = clip.variant.sets
    layers = [module for module in model.modules() if isinstance(module, MotionLayer)]
    if any(each.mixture or (not each.conv1d.weight.is_meta and each.conv1d.weight.any()) for each in layers):
        raise UserError(f"There is a motion in this model: tuning at rank {rank} begins at an untuned one.")
    for layer in layers:
        if "conv1d" in sets and _is_less(layer.conv1d, rank):
            layer.conv1d = FactoredPastConv1d(layer.conv1d, rank)  # type: ignore[assignment]
        if "conv_first" in sets and _is_less(layer.conv_first, rank):
            layer.conv_first = FactoredConvFirst(layer.conv_first, rank)  # type: ignore[assignment]
    for block in model.modules() if "attn_temp" in sets else ():
        if isinstance(block, TemporalBlock):
            temporal: Any = block.attn_temp
            for parent, name in ((temporal, "to_q"), (temporal, "to_k"), (temporal, "to_v")):
                _replace(parent, name, rank)
            _replace(temporal.to_out, "0", rank)
    for name in queries:
        attention: Any = model.get_submodule(name.rpartition(".to_q.")[0])
        if name.endswith(".weight") and _is_less(attention.to_q, rank):
            attention.to_q = FactoredQuery(attention.to_q, rank, clip)


def merge(unet: nn.Module) -> None:
    """Put whole layers in the place of factors: the same model, as it is after `load_motion`."""
    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Factors):
                setattr(parent, name, child.whole())  # type: ignore[operator]


def _replace(parent: nn.Module, name: str, rank: int) -> None:
    layer: Any = getattr(parent, name)
    if _is_less(layer, rank):
        setattr(parent, name, FactoredLinear(layer, rank))


def _is_less(layer: Any, rank: int) -> bool:
    return factor_shapes(tuple(layer.weight.shape), rank) is not None


def _like(layer: Factors) -> dict[str, Any]:
    return {"device": layer.up.device, "dtype": layer.up.dtype}


def _with_weight(layer: Any, factors: Factors) -> Any:
    with torch.no_grad():
        layer.weight.copy_(product(factors.down, factors.up))
    layer.bias = factors.bias
    return layer
