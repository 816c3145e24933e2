"""Videos become files: with their records, side by side, as a contact sheet, and with their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lamp_lightning.data.sheet import draw_wall, shrunk, wall_cell
from lamp_lightning.data.video import contact_sheet, place, read_video, safe_name, write_as
from lamp_lightning.metrics.registry import printed
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import versions, write_json
from lamp_lightning.sample.motions import MEMORY_SETTINGS, Adapter
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.sample.record import Record, begun, complete
from lamp_lightning.sample.videos import Output, Video


def save_videos(videos: Sequence[Video], folder: Path, fps: float) -> dict[Path, str]:
    """Write each video as mp4 and gif, named by prompt and seed; returns the mp4s with their captions."""
    captions = {}
    for video in videos:
        name = f"{safe_name(video.prompt)}_seed{video.seed}"
        file = write_as("mp4", folder, name, video.frames, fps)
        write_as("gif", folder, name, video.frames, fps)
        captions[file] = f"{video.prompt} (seed {video.seed})"
    return captions


def write_wall(
    videos: Sequence[Video], folder: Path, name: str, fps: float, formats: Sequence[str], cell: int
) -> list[Path]:
    """All videos side by side as one, in each of the formats but PNG frames."""
    frames = draw_wall(list(zip(labels(videos), (video.frames for video in videos), strict=True)), cell)
    moving = [kind for kind in formats if kind != "png"]
    return [write_as(kind, folder, name, frames, fps) for kind in moving]


def labels(videos: Sequence[Video]) -> list[str]:
    """The videos' prompts, and before them what else it takes to tell them apart: seeds, pictures."""
    prompts = {video.prompt for video in videos}
    pairs = {(video.prompt, video.picture) for video in videos}
    seeds = len(pairs) < len(videos)
    pictures = len(pairs) > len(prompts)
    return [
        (f"seed {video.seed}, " if seeds else "")
        + (f"{video.picture.file.stem}, " if pictures and video.picture else "")
        + video.prompt
        for video in videos
    ]


def write_sheet(videos: Sequence[Video], file: Path, title: str) -> Path:
    """A contact sheet of the videos, a row each."""
    rows = zip(labels(videos), (video.frames for video in videos), strict=True)
    return contact_sheet(list(rows), file, title=title)


def measure(
    videos: Sequence[Video], clip_name: str | None
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
    """Writes videos, finished ones of which have a record, and what shows all of them in their order."""

    def __init__(self, output: Output, videos: Sequence[Video], adapter: Adapter) -> None:
        self.output = output
        self.videos = {video.name: video for video in videos}  # with frames as large as on the wall
        self.adapter = adapter
        self.cell = wall_cell(len(videos))
        self._identity: dict[str, str] = {}
        self._made: Record = {}

    @property
    def finished(self) -> int:
        """How many videos are finished."""
        return sum(video.record is not None for video in self.videos.values())

    def describe(self, pipeline: LAMPPipeline, device: str) -> None:
        """Keep what the records of all videos that are generated now have in common."""
        self._identity = pipeline.base.identity
        self._made = {
            "device": device,
            "threads": torch.get_num_threads(),
            "memory": {name: self.adapter.memory.get(name) for name in MEMORY_SETTINGS},
            "versions": versions(),
        }

    def add(self, videos: Sequence[Video], say: Callable[[str], None]) -> None:
        """Measure and write videos. A record is there before the files, and says when they are whole."""
        measured = measure(videos, self.adapter.clip)[1]
        folder, formats = self.output.folder, self.output.formats
        for video in videos:  # of all at once: from them an interruption among these files is known
            write_json(folder / f"{video.name}.json", begun(self._settings(video)))
        for video, values in zip(videos, measured, strict=True):
            files = [write_as(kind, folder, video.name, video.frames, video.sampler.fps) for kind in formats]
            how = self._made | {"batch": video.batch, "place": video.place}
            facts = {"formats": formats, "measured": values, "made": how}
            record = complete(self._settings(video), video.frames, **facts)
            write_json(folder / f"{video.name}.json", record)
            self._keep(replace(video, record=record))
            others = ", ".join("frames" if file.is_dir() else file.suffix for file in files[1:])
            say(f"  video         {short(files[0])}" + (f" (and {others})" if others else ""))

    def _settings(self, video: Video) -> Record:
        return video.settings | {"base": video.settings["base"] | {"identity": self._identity}}

    def show(self) -> None:
        """Print the mean numbers; write a contact sheet and, of several videos, one with all of them."""
        records = [video.record or {} for video in self.videos.values()]
        for video, record in zip(list(self.videos.values()), records, strict=True):
            if video.frames is None:
                kind = next(kind for kind in ("png", "mp4", "webp", "gif") if kind in record["formats"])
                self._keep(replace(video, frames=read_video(place(kind, self.output.folder, video.name))))
        videos = list(self.videos.values())
        for line in printed(_means([record.get("measured", {}) for record in records])):
            print(line)
        title = videos[0].name
        if len(videos) > 1:
            title = f"{self.output.stem}_all" if self.output.stem else f"{title}_and_{len(videos) - 1}_more"
            fps = videos[0].sampler.fps
            for file in write_wall(videos, self.output.folder, title, fps, self.output.formats, self.cell):
                print(f"  all together  {short(file)}")
        sheet = write_sheet(videos, self.output.folder / f"{title}_sheet.png", self.adapter.title)
        print(f"  contact sheet {short(sheet)}", flush=True)

    def _keep(self, video: Video) -> None:
        self.videos[video.name] = replace(video, frames=shrunk(video.frames, self.cell))


def _means(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for values in measured:
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
