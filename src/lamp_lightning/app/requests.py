"""What the page can ask for, as the commands that do it.

A request stands in a file of the workspace. It has folders, numbers and texts, and no words of a command
line: so a file from somebody else cannot bring a command that the page would not have.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from lamp_lightning.app.workspace import words_of
from lamp_lightning.runtime.command import quoted
from lamp_lightning.runtime.config import composed, options
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.reading import Schema
from lamp_lightning.runtime.settings import LARGEST_SEED

Folder = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=80)]
Run = Annotated[str, Field(pattern=r"^runs/[\w-]+/\d+$", max_length=200)]
Brought = Annotated[str, Field(pattern=r"^pictures/[\w-]+\.\w+$", max_length=200)]
Prompt = Annotated[str, Field(max_length=1000)]
Call = tuple[str, list[str]]  # the module of a command, and its overrides


def check_model(name: str) -> str:
    """A model's name, of the group `model`."""
    if name not in options("model"):
        raise ValueError(f"there is no model {name!r}")
    return name


class _Request(Schema):
    @property
    def steps_of_all(self) -> int:
        """How many steps of tuning there are, before what comes after them."""
        return 0


class _OfModel(_Request):
    model: str = "tiny"

    _known = field_validator("model")(check_model)

    @property
    def _chosen(self) -> list[str]:
        # The toy world's models run anywhere; the others are tuned in reasonable time on a GPU only.
        return [f"model={self.model}", *([] if self.model in TOY_MODELS else ["trainer=gpu"])]


class Tune(_OfModel):
    """Tune a motion on its clips."""

    kind: Literal["tune"] = "tune"
    motion: Folder
    steps: int = Field(ge=1, le=1_000_000)
    frames: int = Field(16, ge=2, le=128)
    fps: float | None = Field(None, gt=0, le=1000)  # at which clips are read; None: as they are
    every: int = Field(ge=1, le=1_000_000)  # steps between previews
    picture: Brought | None = None  # what previews begin with
    prompt: Prompt = ""  # of the previews

    @property
    def title(self) -> str:
        return f"Tuning {words_of(self.motion)}"

    @property
    def steps_of_all(self) -> int:
        return self.steps

    def folder(self, job: str) -> str:
        """Where the results of a job go, relative to the workspace."""
        return f"runs/{self.motion}/{job}"

    def call(self, job: str, root: Path) -> Call:
        """The command, or the one that goes on where it was begun."""
        folder = self.folder(job)
        cache_dir = "data.cache_dir=cache"
        if (root / folder / "config.yaml").is_file():
            return "lamp_lightning.train", [f"resume={folder}", cache_dir]
        known = self.motion in options("motion")
        asked = [
            f"motion={self.motion if known else 'custom'}",
            f"motion.name={quoted(self.motion)}",
            f"data.folder=data/{self.motion}",
            cache_dir,
            f"data.num_frames={self.frames}",
            f"trainer.max_steps={self.steps}",
            f"samples.every={self.every}",
            "samples.while_training=1",
            "samples.final=2",
            f"hydra.run.dir={folder}",
            "logger=csv",
            *self._chosen,
        ]
        if self.fps is not None:
            asked.append(f"data.fps={self.fps:g}")
        if self.prompt:
            asked.append(f"motion.prompts=[{quoted(self.prompt)}]")
        if self.picture is not None:
            asked.append(f"samples.first_frame={self.picture}")
        return "lamp_lightning.train", asked


class Paint(_Request):
    """Generate videos with a motion, or with two."""

    kind: Literal["paint"] = "paint"
    run: Run
    weight: float = Field(1.0, ge=0, le=2)
    second: Run | None = None
    second_weight: float = Field(0.5, ge=0, le=2)
    prompt: Prompt = ""
    picture: Brought | None = None
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    count: int = Field(1, ge=1, le=8)

    @property
    def title(self) -> str:
        return f"Painting {self.prompt or words_of(self.run.split('/')[1])}"

    def folder(self, job: str) -> str:
        """Where the results of a job go, relative to the workspace."""
        return f"videos/{job}"

    def call(self, job: str, root: Path) -> Call:
        """The command; it passes over what is there already."""
        motions = f"{self.run}:{self.weight:g}"
        if self.second is not None and self.second != self.run:
            motions += f",{self.second}:{self.second_weight:g}"
        asked = [f"run={motions}", f"seed={self.seed}", f"count={self.count}", f"out={self.folder(job)}"]
        if self.prompt:
            asked.append(f"prompt={quoted(self.prompt)}")
        if self.picture is not None:
            asked.append(f"first_frame={self.picture}")
        return "lamp_lightning.sample", asked


class Edit(_OfModel):
    """Make a video again in another look."""

    kind: Literal["edit"] = "edit"
    video: Brought
    source_prompt: Prompt = ""
    prompt: Annotated[Prompt, Field(min_length=1)]
    steps: int = Field(ge=1, le=1_000_000)

    @property
    def title(self) -> str:
        return f"Editing to {self.prompt}"

    @property
    def steps_of_all(self) -> int:
        return self.steps

    def folder(self, job: str) -> str:
        """Where the results of a job go, relative to the workspace."""
        return f"edits/{job}"

    def call(self, job: str, root: Path) -> Call:
        """The command, or the one that goes on where it was begun."""
        folder = self.folder(job)
        if (root / folder / "config.yaml").is_file():
            return "lamp_lightning.edit", [f"run={folder}", "data.cache_dir=cache"]
        asked = [
            f"video={self.video}",
            f"prompt={quoted(self.prompt)}",
            f"trainer.max_steps={self.steps}",
            "data.cache_dir=cache",
            f"hydra.run.dir={folder}",
            "logger=csv",
            *self._chosen,
        ]
        if self.source_prompt:
            asked.append(f"source_prompt={quoted(self.source_prompt)}")
        return "lamp_lightning.edit", asked


Request = Annotated[Tune | Paint | Edit, Field(discriminator="kind")]


@cache
def recipe(model: str) -> dict[str, int]:
    """What suits a model: steps of tuning and of editing, steps between previews, height and width."""
    found = composed("train", [f"model={check_model(model)}"])
    height, width = found.data.size
    return {
        "steps": int(found.trainer.max_steps),
        "edit_steps": int(found.model.recipe.edit.max_steps),
        "every": max(1, int(found.trainer.max_steps) // 6),
        "height": int(height),
        "width": int(width),
    }
