"""The toy world: rendered scenes that move, and tiny models pretrained on its stills."""

from __future__ import annotations

from pathlib import Path

from lamp_lightning.toyworld.render import (
    CLIP_FRAMES,
    FPS,
    continuation,
    first_moment,
    render_clip,
    render_still,
)
from lamp_lightning.toyworld.scenes import (
    COLOURS,
    MOTIONS,
    PLACES,
    STYLES,
    Scene,
    combinations,
    held_out_prompts,
    held_out_scenes,
    motion_name,
    motion_set_scenes,
)

__all__ = [
    "CLIP_FRAMES",
    "COLOURS",
    "FPS",
    "MOTIONS",
    "PLACES",
    "STYLES",
    "Scene",
    "combinations",
    "continuation",
    "first_moment",
    "held_out_prompts",
    "held_out_scenes",
    "motion_name",
    "motion_set_scenes",
    "render_clip",
    "render_still",
    "tiny_clip_path",
    "tiny_model_path",
]

_WEIGHTS = Path(__file__).parent / "weights"


def tiny_model_path() -> Path:
    """Folder of the tiny text-to-image model, a ``StableDiffusionPipeline`` of diffusers."""
    return _WEIGHTS / "tiny"


def tiny_clip_path() -> Path:
    """Folder of the tiny ``CLIPModel`` that judges toy-world pictures."""
    return _WEIGHTS / "clip"
