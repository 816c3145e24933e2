"""Videos become files: with their records, side by side, as a contact sheet, and with their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamp_lightning.data.sheet import draw_wall, shrunk, wall_cell
from lamp_lightning.data.video import contact_sheet, place, read_video, safe_name, write_as
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.loggers import ShownVideo
from lamp_lightning.runtime.runs import versions, write_json
from lamp_lightning.sample.generate import Made
from lamp_lightning.sample.jobs import Job, Output
from lamp_lightning.sample.motions import MEMORY_SETTINGS, Adapter
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.sample.record import Place, Record, begun, complete


@dataclass(frozen=True)
class Painted:
    """A generated video: what was asked for, with which seed, and its frames, uint8 `(f, h, w, 3)`.

    `picture` is what the given first frame is called.
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

    Without the CLIP model (`null`, or it cannot be loaded) only the motion amount, with a warning.
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


class Gallery:
    """Writes videos and what shows all of them.

    Args:
        output: where to.
        places: the videos, in the order in which they are shown; some may be finished.
        adapter: the motion.
    """

    def __init__(self, output: Output, places: Sequence[Place], adapter: Adapter) -> None:
        self.output = output
        self.places = {p.job.name: p for p in places}
        self.adapter = adapter
        self.records = {name: p.finished for name, p in self.places.items() if p.finished is not None}
        self.cell = wall_cell(len(places))
        self._identity: dict[str, str] = {}
        self._made: Record = {}
        self._small: dict[str, Painted] = {}  # as large as they are on the wall

    def describe(self, pipeline: LAMPPipeline, device: str) -> None:
        """Note what is the same for all videos that are painted now."""
        self._identity = pipeline.base.identity
        self._made = {
            "device": device,
            "threads": torch.get_num_threads(),
            "memory": {name: self.adapter.memory.get(name) for name in MEMORY_SETTINGS},
            "versions": versions(),
        }

    def add(self, videos: Sequence[Made], say: Callable[[str], None]) -> None:
        """Measure and write videos. A record is there before the files, and says when they are whole."""
        painted = [painted_by(made.job, made.frames) for made in videos]
        measured = measure(painted, self.adapter.clip)[1]
        folder, formats = self.output.folder, self.output.formats
        for made in videos:  # of all at once: from them an interruption among these files is known
            write_json(folder / f"{made.job.name}.json", begun(self._settings(made.job.name)))
        for made, video, values in zip(videos, painted, measured, strict=True):
            name = made.job.name
            settings = self._settings(name)
            files = [write_as(kind, folder, name, made.frames, made.job.sampler.fps) for kind in formats]
            how = self._made | {"batch": made.batch, "place": made.place}
            self.records[name] = complete(settings, made.frames, formats=formats, measured=values, made=how)
            write_json(folder / f"{name}.json", self.records[name])
            self._keep(name, video)
            others = ", ".join("frames" if file.is_dir() else file.suffix for file in files[1:])
            say(f"  video         {short(files[0])}" + (f" (and {others})" if others else ""))

    def _settings(self, name: str) -> Record:
        settings = self.places[name].settings
        return settings | {"base": settings["base"] | {"identity": self._identity}}

    def show(self) -> None:
        """Print the mean numbers; write a contact sheet and, of several videos, one with all of them."""
        for name, p in self.places.items():
            if name not in self._small:
                kinds = self.records[name]["formats"]
                kind = next(kind for kind in ("png", "mp4", "webp", "gif") if kind in kinds)
                frames = read_video(place(kind, self.output.folder, name))
                self._keep(name, painted_by(p.job, frames))
        names = list(self.places)
        videos = [self._small[name] for name in names]
        for what, value in _means([self.records[name].get("measured", {}) for name in names]).items():
            print(f"  {what.replace('_', ' '):<32}{value:.4f}")
        title = names[0]
        if len(names) > 1:
            title = f"{self.output.stem}_all" if self.output.stem else f"{title}_and_{len(names) - 1}_more"
            fps = self.places[names[0]].job.sampler.fps
            for file in write_wall(videos, self.output.folder, title, fps, self.output.formats, self.cell):
                print(f"  all together  {short(file)}")
        sheet = write_sheet(videos, self.output.folder / f"{title}_sheet.png", self.adapter.title)
        print(f"  contact sheet {short(sheet)}", flush=True)

    def _keep(self, name: str, video: Painted) -> None:
        self._small[name] = replace(video, frames=shrunk(video.frames, self.cell))


def painted_by(job: Job, frames: np.ndarray) -> Painted:
    """The video of a job."""
    picture = None if job.picture is None else job.picture.file.stem
    return Painted(job.prompt, job.seed, frames, picture)


def _means(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for values in measured:
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
