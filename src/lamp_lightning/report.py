"""From painted videos to what people look at: mp4 and gif files, a contact sheet, numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.errors import UserError
from lamp_lightning.loggers import ShownVideo
from lamp_lightning.video import contact_sheet, safe_name, write_gif, write_mp4

SHOWN_SIZE = 256  # small videos are enlarged to this many pixels, or a browser shows a stamp


@dataclass(frozen=True)
class Painted:
    """A generated video: what was asked for, with which seed, and its frames, uint8 ``(f, h, w, 3)``."""

    prompt: str
    seed: int
    frames: np.ndarray


def save_videos(
    videos: Sequence[Painted], folder: Path, fps: float, *, stem: str | None = None
) -> list[ShownVideo]:
    """Write each video as mp4 and gif to ``folder``; returns the mp4s with their captions.

    The files are called ``<stem>.mp4``, with the seed behind it where there are several; without a ``stem``
    they are named by prompt and seed.
    """
    shown = []
    for video in videos:
        name = stem if stem and len(videos) == 1 else f"{stem or safe_name(video.prompt)}_seed{video.seed}"
        file = write_mp4(folder / f"{name}.mp4", video.frames, fps, min_size=SHOWN_SIZE)
        write_gif(folder / f"{name}.gif", video.frames, fps, min_size=SHOWN_SIZE)
        shown.append(ShownVideo(file, f"{video.prompt} (seed {video.seed})"))
    return shown


def write_sheet(videos: Sequence[Painted], file: Path, title: str) -> Path:
    """A contact sheet of the videos, a row each."""
    return contact_sheet([(video.prompt, video.frames) for video in videos], file, title=title)


def measure(
    videos: Sequence[Painted], clip_name: str | None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """CLIP score, frame consistency and motion amount: means over the videos, and those of each video.

    Without the CLIP model (``null``, or it cannot be loaded) only the motion amount, with a warning.
    """
    from lamp_lightning.metrics import evaluate_videos

    clip = None
    if clip_name is not None:
        try:
            clip = _clip(str(clip_name))
        except UserError as error:
            warnings.warn(f"{error} CLIP score and frame consistency are left out.", stacklevel=2)
    values = evaluate_videos([video.frames for video in videos], [video.prompt for video in videos], clip)
    return {name: value for name, value in values.items() if name != "videos"}, values["videos"]


@lru_cache(maxsize=1)
def _clip(name: str) -> Any:
    from lamp_lightning.metrics import load_clip

    return load_clip(name)
