"""The motion UNet: a text-to-image UNet inflated in place to paint clips."""

from __future__ import annotations

from typing import Any

from lamp_lightning.models.unet.inflate import Norm
from lamp_lightning.models.unet.motion_unet import MotionUNet
from lamp_lightning.models.variant import Variant

__all__ = ["MotionUNet", "Variant", "inflated"]


def inflated(unet: Any, norm: Norm = "joint", variant: Variant | None = None) -> Any:
    """A `UNet2DConditionModel` with the motion layers of a variant's kind.

    Args:
        unet: of an image model; it is used up: for the kind "lamp" it becomes the result, in place.
        norm: "joint" or "per_frame".
        variant: what of the method it has; None: LAMP.

    Returns:
        A `MotionUNet`, or for the kind "animatediff" an `AnimateDiffUNet`: they are used alike.
    """
    if variant is not None and variant.kind == "animatediff":
        from lamp_lightning.models.unet.animatediff import AnimateDiffUNet

        return AnimateDiffUNet.from_unet(unet, norm, variant)
    return MotionUNet.from_unet(unet, norm, variant)
