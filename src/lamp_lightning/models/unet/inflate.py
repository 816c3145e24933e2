"""Inflation: turn the layers of an image UNet into motion layers, in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from lamp_lightning.models.unet.attention import MotionTransformerBlock
from lamp_lightning.models.unet.layers import ClipGroupNorm, ClipShape, MotionConv
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm


def inflate(unet: UNet2DConditionModel, norm: Norm, clip: ClipShape) -> None:
    """Turn convolutions, GroupNorms and transformer blocks of `unet` into motion layers that share `clip`.

    Raises:
        UserError: unknown `norm`, or a UNet whose attention does not lie in diffusers' transformer blocks.
    """
    clip.joint = is_joint(norm)
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    _check_attention(unet, blocks)
    inflated: dict[nn.Module, nn.Module] = {}  # one convolution may hang under two names
    for parent, name, child in list(_outside_transformers(unet)):
        if isinstance(child, nn.Conv2d):
            setattr(parent, name, inflated.setdefault(child, MotionConv(child, clip)))
        elif isinstance(child, nn.GroupNorm):
            setattr(parent, name, inflated.setdefault(child, ClipGroupNorm(child, clip)))
    for block in blocks:
        MotionTransformerBlock.inflate(block, clip)


def is_joint(norm: str) -> bool:
    """Whether `norm` is "joint"; UserError where it is not "per_frame" either."""
    if norm not in get_args(Norm):
        raise UserError(f"norm={norm!r} is unknown: use 'joint' (the authors') or 'per_frame'.")
    return norm == "joint"


def _outside_transformers(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """All (parent, name, child) below `module` that are not part of a spatial transformer."""
    for name, child in module._modules.items():
        if child is None or isinstance(child, Transformer2DModel):
            continue
        yield module, name, child
        yield from _outside_transformers(child)


def _check_attention(unet: nn.Module, blocks: list[BasicTransformerBlock]) -> None:
    known = {id(module) for block in blocks for module in block.modules()}
    attention = {name: module for name, module in unet.named_modules() if isinstance(module, Attention)}
    strange = [name for name, module in attention.items() if id(module) not in known]
    if strange or not blocks:
        found = f"attention outside of them, first in {strange[0]!r}" if strange else "no such block"
        raise UserError(
            "This UNet cannot be inflated: the motion UNet needs its attention in spatial transformer "
            f"blocks, as Stable Diffusion 1.x, 2.x and XL have them, and this one has {found}."
        )
