"""Weights: base models, motion adapters, the authors' checkpoints."""

from __future__ import annotations

from lamp_lightning.weights.adapter import load_motion, read_metadata, save_motion
from lamp_lightning.weights.base import BaseModel, load_base_model
from lamp_lightning.weights.official import load_official, save_official

__all__ = [
    "BaseModel",
    "load_base_model",
    "load_motion",
    "load_official",
    "read_metadata",
    "save_motion",
    "save_official",
]
