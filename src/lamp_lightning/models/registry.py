"""The registry of backbones: which class has the motion layers of a kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.unet.motion_unet import MotionUNet
from lamp_lightning.models.variant import Kind, Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm

__all__ = ["BACKBONES", "MotionUNet", "Variant", "inflated"]

# A new backbone offers what `VideoBackbone` asks for and stands here by its `Variant.kind`; the kind is added
# to `runtime.settings.Kind`, and what can be tuned of it to `models.variant.SETS`. Modules are imported when
# they are needed.
BACKBONES: dict[Kind, tuple[str, str]] = {
    "lamp": ("lamp_lightning.models.unet.motion_unet", "MotionUNet"),
    "animatediff": ("lamp_lightning.models.unet.animatediff", "AnimateDiffUNet"),
    "image_to_video": ("lamp_lightning.models.transformer.motion_ltx", "MotionLTX"),
}
_OF_TRANSFORMERS = ("lamp_lightning.models.transformer.motion_transformer", "MotionTransformer")


def inflated(
    unet: Any, norm: Norm | None = "joint", variant: Variant | None = None, modules: Any = None
) -> VideoBackbone:
    """An image model's denoiser with the motion layers of a variant's kind.

    Args:
        unet: a `UNet2DConditionModel`, or the transformer of Sana, Stable Diffusion 3 or LTX-Video. It is
            used up: but for the kind "animatediff" it becomes the result, in place.
        norm: "joint" or "per_frame"; None: what is usual for its kind.
        variant: what of the method it has; None: LAMP, or of LTX-Video a LoRA.
        modules: of the kind "animatediff", the structure of its motion modules (`MotionModules`), or a folder
            or hub id of published ones; None: new ones as of version 1.

    Returns:
        A `MotionUNet`, for the kind "animatediff" an `AnimateDiffUNet`, of a transformer a
        `MotionTransformer`, or of LTX-Video a `MotionLTX`: they are used alike.

    Example:
        >>> from lamp_lightning.models import load_base_model
        >>> unet = inflated(load_base_model("tiny").unet)
        >>> unet.variant.kind, unet.norm, unet.trainable_names()[0]
        ('lamp', 'joint', 'conv_in.conv1d.bias')
    """
    is_unet = isinstance(unet, UNet2DConditionModel)
    of_clips = isinstance(unet, LTXVideoTransformer3DModel)
    usual_kind: Kind = "image_to_video" if of_clips else "lamp"
    kind: Kind = usual_kind if variant is None else variant.kind
    if kind == "image_to_video" and not of_clips:
        raise UserError(
            f"method=image_to_video (model.layers.kind) is for models of clips, and a {type(unet).__name__} "
            "is a model of images: give model=ltx, or another method."
        )
    module, name = BACKBONES[usual_kind if of_clips else kind] if is_unet or of_clips else _OF_TRANSFORMERS
    usual: Norm = "joint" if is_unet else "per_frame"
    found = importlib.import_module(module)
    if modules is None:
        return getattr(found, name).from_unet(unet, norm or usual, variant)
    if kind != "animatediff" or not is_unet:
        raise UserError("Motion modules are AnimateDiff's, and go into a UNet: take method=animatediff.")
    if isinstance(modules, str | Path):
        modules = found.load_modules(modules, unet)
    return getattr(found, name).from_unet(unet, norm or usual, variant, modules)
