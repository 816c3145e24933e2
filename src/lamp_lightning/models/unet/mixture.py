"""Several motions at once: each adapter's layers add to the image model's, times a weight.

With weights `w` and adapters `i`, a motion layer becomes `y + sum_i w_i * sigmoid(gate_i(y)) * conv1d_i(y)`,
the temporal attention `h + sum_i w_i * attn_temp_i(norm(h))`, and the query projection
`W + sum_i w_i * (W_i - W)`: one adapter of weight 1 is that adapter, one of weight 0 the image model. All of
them are motions of the same variant of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lamp_lightning.models.unet.attention import TemporalBlock
from lamp_lightning.models.unet.layers import MotionLayer

MIXABLE = (MotionLayer, TemporalBlock)


def mix(
    unet: Any, motions: Sequence[tuple[float, Mapping[str, Tensor]]], untuned: Mapping[str, Tensor]
) -> None:
    """Let a MotionUNet move as a weighted sum of motions: weight and tuned parameters of each. None ends it.

    `untuned` are the query projections of the image model, by name.
    """
    for name, module in unet.named_modules():
        if isinstance(module, MIXABLE):
            module.mixture = [
                (weight, *(_filled(module, layer, tensors, name) for layer in module.MIXED))
                for weight, tensors in motions
            ]
    parameters = unet.own_parameters()
    for name, image in untuned.items():
        query = image.float()
        tuned = [(weight, tensors[name].float()) for weight, tensors in motions if name in tensors]
        query = query + sum(weight * (own - query) for weight, own in tuned)
        parameters[name].data.copy_(query)


def parts(unet: nn.Module) -> list[nn.Module]:
    """The layers of the mixture: what has to move to another device or precision along with the UNet."""
    mixable = [module for module in unet.modules() if isinstance(module, MIXABLE)]
    return [
        layer for module in mixable for _, *layers in module.mixture for layer in layers if layer is not None
    ]


def _filled(module: nn.Module, layer: str, tensors: Mapping[str, Tensor], name: str) -> Any:
    """A copy of a layer of the module `name` with the tensors of another motion."""
    original: Any = getattr(module, layer)
    if original is None:  # the variant has no such layer
        return None
    processor = getattr(original, "processor", None)
    twin = copy.deepcopy(original, {id(processor): processor})  # shared: it sees the UNet's clip shape
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(tensors[f"{name}.{layer}.{key}"])
    return twin.requires_grad_(False)
