"""UNets that share their weights: an image model beside the motion UNet that is made from it."""

from __future__ import annotations

import inspect
import re

import torch
from diffusers import UNet2DConditionModel

from lamp_lightning.models.unet.motion_unet import MotionUNet
from lamp_lightning.models.variant import SETS
from lamp_lightning.runtime.errors import UserError

_TUNED = re.compile(rf"(^|\.)({'|'.join(map(re.escape, SETS['lamp']))})\.")


def image_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """An image model's UNet that shares all weights but those that a motion tunes, which are copied.

    Args:
        unet: an image model's UNet, or a MotionUNet, whose image model it then is: with that,
            `StableDiffusionPipeline.from_pipe(pipeline, unet=image_unet(pipeline.unet))` generates images.

    Raises:
        UserError: a UNet of another architecture, or whose image model is not known.

    Example:
        >>> from lamp_lightning import MotionUNet
        >>> from lamp_lightning.models import load_base_model
        >>> motion = MotionUNet.from_unet(load_base_model("tiny").unet)
        >>> image = image_unet(motion)
        >>> type(image).__name__, image.conv_out.weight is motion.conv_out.conv2d.weight
        ('UNet2DConditionModel', True)
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise UserError(f"A {type(unet).__name__} cannot be inflated: give a UNet2DConditionModel.")
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    config = {name: value for name, value in unet.config.items() if name in known}
    with torch.device("meta"):
        image = UNet2DConditionModel(**config)
    weights = dict(unet.named_parameters()) | dict(unet.named_buffers())
    if isinstance(unet, MotionUNet):
        weights = {name.replace(".conv2d.", "."): tensor for name, tensor in weights.items()}
        weights |= unet.image_queries()
    names = image.state_dict().keys()
    if names - weights.keys() or (not isinstance(unet, MotionUNet) and weights.keys() - names):
        raise UserError(
            "This UNet has other layers than its configuration says, such as those of a LoRA or an "
            "IP-Adapter: unload them, and load them into the pipeline that is made of it."
        )
    shared = {
        name: weights[name].detach().clone() if _TUNED.search(name) else weights[name] for name in names
    }
    for name, parameter in image.named_parameters():  # loading gives the shared ones what the new ones have
        parameter.requires_grad_(weights[name].requires_grad)
    image.load_state_dict(shared, assign=True)
    return image.train(unet.training)
