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

from lamp_lightning.models.unet.attention import MotionTransformerBlock
from lamp_lightning.models.unet.layers import MotionConv


def mix(
    unet: nn.Module, motions: Sequence[tuple[float, Mapping[str, Tensor]]], untuned: Mapping[str, Tensor]
) -> None:
    """Let `unet` move as a weighted sum of motions, from its next forward on.

    Args:
        unet: a MotionUNet.
        motions: weight and tuned parameters by name of each; none of them ends the mixture.
        untuned: the query projections of the image model, by name.
    """
    for name, module in unet.named_modules():
        if isinstance(module, MotionConv):
            module.mixture.parts = [
                (weight, (_filled(module.conv_gate, tensors, f"{name}.conv_gate"),
                          _filled(module.conv1d, tensors, f"{name}.conv1d")))
                for weight, tensors in motions
            ]  # fmt: skip
        elif isinstance(module, MotionTransformerBlock):
            module.mixture.parts = [
                (weight, _filled(module.attn_temp, tensors, f"{name}.attn_temp"))
                for weight, tensors in motions
            ]
    parameters = dict(unet.named_parameters())
    for name, image in untuned.items():
        query = image.float()
        tuned = [(weight, tensors[name].float()) for weight, tensors in motions if name in tensors]
        query = query + sum(weight * (own - query) for weight, own in tuned)
        parameters[name].data.copy_(query)


def parts(unet: nn.Module) -> list[nn.Module]:
    """The layers of the mixture: what has to move to another device or precision along with the UNet."""
    found: list[nn.Module] = []
    for module in unet.modules():
        if isinstance(module, MotionConv):
            found += [layer for _, pair in module.mixture.parts for layer in pair]
        elif isinstance(module, MotionTransformerBlock):
            found += [attention for _, attention in module.mixture.parts]
    return found


def _filled(layer: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """A copy of a layer with the tensors of another motion."""
    processor = getattr(layer, "processor", None)
    twin = copy.deepcopy(layer)
    if processor is not None:
        twin.set_processor(processor)  # not a copy: it must see the clip shape that the UNet sets
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(tensors[f"{name}.{key}"])
    return twin.requires_grad_(False)
