"""Rendering: stills, clips, and motion sets as folders of mp4 files."""

from __future__ import annotations

import numpy as np

from lamp_lightning.toyworld.canvas import Canvas
from lamp_lightning.toyworld.places import draw_place
from lamp_lightning.toyworld.scenes import Scene
from lamp_lightning.toyworld.subjects import draw_subject

CLIP_FRAMES = 24
FPS = 8


def render_clip(scene: Scene, *, frames: int = CLIP_FRAMES, size: int = 64, start: float = 0.0) -> np.ndarray:
    """A scene's clip from time `start` on: uint8 `(frames, size, size, 3)`, RGB.

    The same scene gives the same pixels each time. `render_clip(scene, start=k)[0]` is frame `k` of
    `render_clip(scene)`, so any frame has a true continuation.

    Example:
        >>> from lamp_lightning.toyworld import Scene, render_clip
        >>> scene = Scene("horse_run", "red", "meadow", "flat", seed=3)
        >>> whole = render_clip(scene, frames=3)
        >>> bool((render_clip(scene, frames=1, start=2)[0] == whole[2]).all())
        True
    """
    if frames < 1 or size < 8:
        raise ValueError(f"A clip needs at least 1 frame of 8 pixels; {frames} of {size} were asked for.")
    backdrop = Canvas(size)
    draw_place(backdrop, scene.place, scene.style, np.random.default_rng([scene.seed, 0]))
    pictures = []
    for k in range(frames):
        canvas = backdrop.copy()
        draw_subject(canvas, scene, start + k)
        pictures.append(canvas.image())
    return np.stack(pictures)


def first_moment(scene: Scene) -> int:
    """When a scene is looked at first where methods are judged: between 0 and 8, in frames."""
    return int(np.random.default_rng(scene.seed).integers(0, 9))


def continuation(scene: Scene, frames: int, size: int = 64) -> np.ndarray:
    """A scene's true clip from its first moment on: uint8 `(frames, size, size, 3)`.

    Example:
        >>> from lamp_lightning.toyworld import continuation, held_out_scenes
        >>> continuation(held_out_scenes("rain", 1)[0], frames=2).shape
        (2, 64, 64, 3)
    """
    return render_clip(scene, frames=frames, size=size, start=first_moment(scene))


def render_still(scene: Scene, *, t: float = 0.0, size: int = 64) -> np.ndarray:
    """A scene at time `t` (frames): uint8 `(size, size, 3)`, RGB.

    Example:
        >>> from lamp_lightning.toyworld import Scene, render_still
        >>> render_still(Scene("firework", "blue", "night", "neon"), size=32).shape
        (32, 32, 3)
    """
    return render_clip(scene, frames=1, size=size, start=t)[0]
