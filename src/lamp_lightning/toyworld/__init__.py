"""The toy world: rendered scenes that move, and tiny models pretrained on its stills.

Colours, places and styles stand in `toyworld.scenes`.
"""

from __future__ import annotations

from pathlib import Path

from lamp_lightning.toyworld.render import continuation, render_clip, render_still
from lamp_lightning.toyworld.scenes import (
    MOTIONS,
    Scene,
    held_out_prompts,
    held_out_scenes,
    motion_set_scenes,
)

__all__ = [
    "MOTIONS",
    "Scene",
    "continuation",
    "held_out_prompts",
    "held_out_scenes",
    "motion_set_scenes",
    "render_clip",
    "render_still",
    "tiny_clip_path",
    "tiny_dit_path",
    "tiny_model_path",
]

_WEIGHTS = Path(__file__).parent / "weights"


def tiny_model_path() -> Path:
    """Folder of the tiny text-to-image model, a `StableDiffusionPipeline` of diffusers.

    Example:
        >>> from lamp_lightning.toyworld import tiny_model_path
        >>> (tiny_model_path() / "model_index.json").is_file()
        True
    """
    return _WEIGHTS / "tiny"


def tiny_dit_path() -> Path:
    """Folder of the tiny transformer, a `SanaPipeline` of diffusers, where it has been pretrained.

    Example:
        >>> from lamp_lightning.toyworld import tiny_dit_path
        >>> tiny_dit_path().name
        'tiny_dit'
    """
    return _WEIGHTS / "tiny_dit"


def tiny_clip_path() -> Path:
    """Folder of the tiny `CLIPModel` that judges toy-world pictures.

    Example:
        >>> from lamp_lightning.toyworld import tiny_clip_path
        >>> (tiny_clip_path() / "config.json").is_file()
        True
    """
    return _WEIGHTS / "clip"
