"""Weights: base models, motion adapters, the authors' checkpoints."""

from __future__ import annotations

from lamp_lightning.weights.adapter import load_motion, read_metadata, save_motion
from lamp_lightning.weights.base import BaseModel, load_base_model
from lamp_lightning.weights.official import load_official, save_official
from lamp_lightning.weights.text import TextEmbeddings

__all__ = [
    "BaseModel",
    "TextEmbeddings",
    "load_base_model",
    "load_motion",
    "load_official",
    "read_metadata",
    "save_motion",
    "save_official",
]
