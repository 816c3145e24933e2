"""Clips in, latents out: reading motion sets safely and computing what training needs only once.

Importing this package is instant; each name is loaded at first use, so that the process which decodes video
never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Clip": "clips",
    "decode_clip": "clips",
    "list_clips": "clips",
    "MotionClip": "motion_set",
    "MotionSet": "motion_set",
    "load_motion_set": "motion_set",
    "LatentClips": "latents",
    "MotionDataset": "dataset",
    "encode_motion_set": "latents",
}

__all__ = [
    "Clip",
    "LatentClips",
    "MotionClip",
    "MotionDataset",
    "MotionSet",
    "decode_clip",
    "encode_motion_set",
    "list_clips",
    "load_motion_set",
]

if TYPE_CHECKING:
    from lamp_lightning.data.clips import Clip, decode_clip, list_clips
    from lamp_lightning.data.dataset import MotionDataset
    from lamp_lightning.data.latents import LatentClips, encode_motion_set
    from lamp_lightning.data.motion_set import MotionClip, MotionSet, load_motion_set


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
