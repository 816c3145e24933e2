"""Models: text-to-image models, video backbones made of them, motion adapters, the authors' checkpoints."""

from __future__ import annotations

from lamp_lightning.models.adapter import read_metadata
from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.registry import MotionUNet, Variant, inflated
from lamp_lightning.models.unet.shared import image_unet

__all__ = [
    "BaseModel",
    "MotionUNet",
    "Variant",
    "VideoBackbone",
    "image_unet",
    "inflated",
    "load_base_model",
    "read_metadata",
]
