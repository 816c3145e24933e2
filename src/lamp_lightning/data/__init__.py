"""Clips in, latents out: reading motion sets safely and computing what training needs only once.

Importing this package is instant; each name is loaded at first use, so that the process which decodes video
never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamp_lightning.data.clip import Clip, MotionSet
    from lamp_lightning.data.clips import decode_clip, list_clips, load_motion_set
    from lamp_lightning.data.datamodule import MotionSetDataModule
    from lamp_lightning.data.dataset import MotionDataset
    from lamp_lightning.data.latents import LatentClips, encode_motion_set
    from lamp_lightning.data.video import read_video, write_mp4

_EXPORTS = {
    "Clip": "clip",
    "LatentClips": "latents",
    "MotionDataset": "dataset",
    "MotionSet": "clip",
    "MotionSetDataModule": "datamodule",
    "decode_clip": "clips",
    "encode_motion_set": "latents",
    "list_clips": "clips",
    "load_motion_set": "clips",
    "read_video": "video",
    "write_mp4": "video",
}

__all__ = [
    "Clip",
    "LatentClips",
    "MotionDataset",
    "MotionSet",
    "MotionSetDataModule",
    "decode_clip",
    "encode_motion_set",
    "list_clips",
    "load_motion_set",
    "read_video",
    "write_mp4",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
