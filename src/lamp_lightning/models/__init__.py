"""Models: text-to-image models, video backbones made of them, motion adapters, the authors' checkpoints."""

from __future__ import annotations

from lamp_lightning.models.adapter import load_motion, read_metadata, save_motion
from lamp_lightning.models.base.conditions import TextEmbeddings
from lamp_lightning.models.base.model import BaseModel, load_base_model
from lamp_lightning.models.families import MotionUNet, Variant, inflated
from lamp_lightning.models.official import load_official, save_official

__all__ = [
    "BaseModel",
    "MotionUNet",
    "TextEmbeddings",
    "Variant",
    "inflated",
    "load_base_model",
    "load_motion",
    "load_official",
    "read_metadata",
    "save_motion",
    "save_official",
]
