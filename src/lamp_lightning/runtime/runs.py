"""Run folders: where everything of one training run is, and what stands in which file."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field

from lamp_lightning.runtime.console import is_first_process
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import (
    check_links,
    explained,
    numbered,
    remove_dead,
    remove_empty,
    write_atomic,
    write_json,
    write_text,
)
from lamp_lightning.runtime.hardware import hardware
from lamp_lightning.runtime.locks import Busy, hold, holder_of, in_folder
from lamp_lightning.runtime.reading import Schema, checked, literal, read_json
from lamp_lightning.runtime.run_config import read_config

WRITTEN = ("checkpoints", "videos", "samples/step_*", "inversion", "motion_adapter")  # in a run, by its run
__all__ = ["PACKAGES", "WRITTEN", "RunFolder", "versions", "write_atomic", "write_json", "write_text"]
INFO = "what identifies a run"
PACKAGES = ("lamp-lightning", "torch", "lightning", "diffusers", "transformers", "wandb")


class _Info(Schema):
    """What run.json holds; what later versions add is passed over."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(pattern=r"^[\w-]{1,64}$")
    group: str | None = Field(None, max_length=255)
    started: str = Field("", max_length=64)
    versions: dict[str, str] = Field(default_factory=dict, max_length=100)
    hardware: dict[str, str] = Field(default_factory=dict, max_length=10)
    job_type: str = Field("train", max_length=64)
    frames: str | None = Field(None, max_length=128)


@dataclass(frozen=True)
class _Place:
    """A file or folder of a run, as an attribute of its `RunFolder`."""

    name: str

    def __get__(self, run: RunFolder, kind: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. As long as a command writes there, `.lock` in it says which."""

    path: Path
    info: dict[str, Any] = field(default_factory=dict)

    config_file = _Place("config.yaml")  # composed, with absolute paths
    info_file = _Place("run.json")  # identity, group, versions
    adapter = _Place("adapter.safetensors")
    motion_adapter = _Place("motion_adapter")  # AnimateDiff's modules, as diffusers loads them
    checkpoint = _Place("checkpoints/last.ckpt")
    samples = _Place("samples")  # while training
    videos = _Place("videos")
    contact_sheet = _Place("contact_sheet.png")
    clips = _Place("clips.png")  # the training clips as the model sees them
    metrics = _Place("metrics.json")  # which comes last

    @property
    def name(self) -> str:
        """Short and telling: the motion and when, or the job of a sweep."""
        return f"{self.path.parent.name}/{self.path.name}"

    @classmethod
    def create(cls, path: Path, cfg: DictConfig, group: str | None = None) -> RunFolder:
        """Begin a run in `path`. UserError where nothing can be written or another run lives already."""
        with cls.begun(path, cfg, group) as run:
            return run

    @classmethod
    @contextlib.contextmanager
    def begun(
        cls, path: Path, cfg: DictConfig, group: str | None = None, *, or_next: bool = False
    ) -> Iterator[RunFolder]:
        """Begin a run and be the only process that writes into its folder; raises as `create` and `locked`.

        Args:
            path: the folder.
            cfg: the run's config.
            group: the name of the sweep that it belongs to.
            or_next: where another run has the folder, take the next free one of `files.numbered`.
        """
        with contextlib.ExitStack() as lock:
            for place in numbered(path.absolute()):
                run = cls(place)
                try:
                    if not (or_next and run.config_file.exists()):
                        lock.enter_context(run.locked())
                        if not (or_next and run.config_file.exists()):
                            break
                        lock.close()
                except Busy:
                    if not or_next:
                        raise
            yield cls._begin(run.path, cfg, group)

    @classmethod
    def _begin(cls, path: Path, cfg: DictConfig, group: str | None) -> RunFolder:
        info = {
            "id": secrets.token_hex(4),
            "group": group,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "hardware": asdict(hardware(OmegaConf.select(cfg, "trainer.accelerator", default="auto"))),
        }
        run = cls(path, info)
        if run.config_file.exists():
            raise UserError(
                f"{path} already holds a run. Go on with it by resume={path}, or choose another folder with "
                "hydra.run.dir=<folder>."
            )
        write_text(run.info_file, json.dumps(info, indent=1) + "\n")
        run.save_config(cfg)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple[RunFolder, DictConfig]:
        """An existing run and its config. Takes the folder or a file in it (`last.ckpt`, the adapter).

        The config is checked data. Before code that it names is called, `run_config.check_targets` has to
        look at it. Raises UserError where there is no run, or its files cannot be used.
        """
        given = Path(path).expanduser().absolute()
        if not given.exists():
            raise UserError(f"There is no run at {given}: no such file or folder.")
        for folder in (given, *given.parents[:2]):
            run = cls(folder)
            if run.config_file.is_file():
                cfg = OmegaConf.create(literal(read_config(run.config_file)))
                facts, advice = read_json(run.info_file, what=INFO), "Begin a new run."
                info = checked(_Info, facts, file=run.info_file, what=INFO, advice=advice)
                return cls(folder, info.model_dump(exclude_unset=True)), cfg
        raise UserError(f"{given} is no run folder: it has no config.yaml. Runs are at runs/<motion>/<time>.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes there, after what killed ones left half written is removed.

        Of the processes of a run on several GPUs the first locks for all. Raises as `locks.hold`.
        """
        if not is_first_process():
            yield
            return
        advice = "Wait until it ends, or choose another folder with hydra.run.dir=<folder>."
        with explained(self.path, "Choose another with hydra.run.dir=<folder>."):
            self.path.mkdir(parents=True, exist_ok=True)
        with hold(in_folder(self.path), what=f"The run folder {self.path}", advice=advice):
            check_links(self.path)
            remove_dead(self.path, WRITTEN, owned=True)
            yield

    def forget(self) -> None:
        """Remove a run that failed before anything came of it: it is no more than its config."""
        own = {self.config_file, self.info_file, in_folder(self.path)}
        if set(self.path.iterdir()) <= own:
            for file in own:
                file.unlink(missing_ok=True)
            remove_empty(self.path)

    def tidy_up(self) -> None:
        """Remove what a process left that was killed at the very end of its work; else change nothing."""
        holder = holder_of(in_folder(self.path))
        if holder is not None and holder.is_dead:
            with contextlib.suppress(UserError), self.locked():
                pass

    def is_finished(self, cfg: DictConfig) -> bool:
        """Whether all that a config asks for is there, so that going on has nothing to do."""
        try:
            facts = read_json(self.metrics, what="the metrics of a run")
            steps = cfg.trainer.max_steps if facts.get("stopped_early") is True else int(facts["steps"])
            videos = [self.videos / str(each["file"]) for each in facts["videos"]]
        except (UserError, AttributeError, KeyError, TypeError, ValueError):
            return False
        wanted = OmegaConf.select(cfg, "samples.final", default=0)
        files = [self.adapter, *videos, *(video.with_suffix(".gif") for video in videos)]
        files += [self.contact_sheet] * bool(wanted)
        return (
            steps >= cfg.trainer.max_steps and len(videos) >= wanted and all(file.is_file() for file in files)
        )

    def save_config(self, cfg: DictConfig) -> None:
        """Write a config, resolved, to config.yaml."""
        write_text(self.config_file, OmegaConf.to_yaml(cfg, resolve=True))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
