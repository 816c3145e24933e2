"""From painted videos to what people look at: mp4 and gif files, a contact sheet, numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.data.sheet import draw_wall
from lamp_lightning.data.video import contact_sheet, safe_name, write_as
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.loggers import ShownVideo


@dataclass(frozen=True)
class Painted:
    """A generated video: what was asked for, with which seed, and its frames, uint8 ``(f, h, w, 3)``.

    ``picture`` is what the given first frame is called.
    """

    prompt: str
    seed: int
    frames: np.ndarray
    picture: str | None = None


def save_videos(videos: Sequence[Painted], folder: Path, fps: float) -> list[ShownVideo]:
    """Write each video as mp4 and gif, named by prompt and seed; returns the mp4s with their captions."""
    shown = []
    for video in videos:
        name = f"{safe_name(video.prompt)}_seed{video.seed}"
        file = write_as("mp4", folder, name, video.frames, fps)
        write_as("gif", folder, name, video.frames, fps)
        shown.append(ShownVideo(file, f"{video.prompt} (seed {video.seed})"))
    return shown


def write_wall(
    videos: Sequence[Painted], folder: Path, name: str, fps: float, formats: Sequence[str], cell: int
) -> list[Path]:
    """All videos side by side as one, in each of the formats but PNG frames."""
    frames = draw_wall(list(zip(labels(videos), (video.frames for video in videos), strict=True)), cell)
    moving = [kind for kind in formats if kind != "png"]
    return [write_as(kind, folder, name, frames, fps) for kind in moving]


def labels(videos: Sequence[Painted]) -> list[str]:
    """The videos' prompts, and before them what else it takes to tell them apart: seeds, pictures."""
    prompts = {video.prompt for video in videos}
    pairs = {(video.prompt, video.picture) for video in videos}
    seeds = len(pairs) < len(videos)
    pictures = len(pairs) > len(prompts)
    return [
        (f"seed {video.seed}, " if seeds else "")
        + (f"{video.picture}, " if pictures and video.picture else "")
        + video.prompt
        for video in videos
    ]


def write_sheet(videos: Sequence[Painted], file: Path, title: str) -> Path:
    """A contact sheet of the videos, a row each."""
    rows = zip(labels(videos), (video.frames for video in videos), strict=True)
    return contact_sheet(list(rows), file, title=title)


def measure(
    videos: Sequence[Painted], clip_name: str | None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """CLIP score, frame consistency and motion amount: means over the videos, and those of each video.

    Without the CLIP model (``null``, or it cannot be loaded) only the motion amount, with a warning.
    """
    from lamp_lightning.metrics import evaluate_videos

    clip = None if clip_name is None else _clip(str(clip_name))
    values = evaluate_videos([video.frames for video in videos], [video.prompt for video in videos], clip)
    return {name: value for name, value in values.items() if name != "videos"}, values["videos"]


@lru_cache(maxsize=1)
def _clip(name: str) -> Any:
    from lamp_lightning.metrics import load_clip

    try:
        return load_clip(name)
    except UserError as error:
        warnings.warn(f"{error} CLIP score and frame consistency are left out.", stacklevel=3)
        return None
