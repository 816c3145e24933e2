"""Run folders: where everything of one training run is, and what stands in which file."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lamp_lightning.errors import UserError
from lamp_lightning.runtime.files import explained, remove_dead, write_atomic, write_json, write_text
from lamp_lightning.runtime.locks import hold, in_folder

WRITTEN = ("checkpoints", "videos", "samples/step_*", "inversion", "motion_adapter")  # in a run, by its run
__all__ = ["PACKAGES", "WRITTEN", "RunFolder", "versions", "write_atomic", "write_json", "write_text"]
PACKAGES = ("lamp-lightning", "torch", "lightning", "diffusers", "transformers", "wandb")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    ``config.yaml`` (composed, paths absolute), ``run.json`` (identity, group, versions),
    ``adapter.safetensors``, ``checkpoints/last.ckpt``, ``samples/`` (while training), ``videos/``,
    ``contact_sheet.png``, ``metrics.json``. AnimateDiff's modules are also in ``motion_adapter/``, which
    diffusers loads.
    """

    path: Path
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def info_file(self) -> Path:
        return self.path / "run.json"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter.safetensors"

    @property
    def motion_adapter(self) -> Path:
        return self.path / "motion_adapter"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def contact_sheet(self) -> Path:
        return self.path / "contact_sheet.png"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def name(self) -> str:
        """Short and telling: the motion and when, or the job of a sweep."""
        return f"{self.path.parent.name}/{self.path.name}"

    @classmethod
    def create(cls, path: Path, cfg: DictConfig, group: str | None = None) -> RunFolder:
        """Begin a run in ``path``. UserError where nothing can be written or another run lives already."""
        with cls(path.absolute()).locked():
            return cls._begin(path.absolute(), cfg, group)

    @classmethod
    def _begin(cls, path: Path, cfg: DictConfig, group: str | None) -> RunFolder:
        info = {
            "id": secrets.token_hex(4),
            "group": group,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
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
        """An existing run and its config. Takes the folder or a file in it (``last.ckpt``, the adapter)."""
        given = Path(path).expanduser().absolute()
        if not given.exists():
            raise UserError(f"There is no run at {given}: no such file or folder.")
        for folder in (given, *given.parents[:2]):
            run = cls(folder)
            if run.config_file.is_file():
                try:
                    cfg = OmegaConf.load(run.config_file)
                    info = json.loads(run.info_file.read_text(encoding="utf-8"))
                    if not isinstance(cfg, DictConfig) or not isinstance(info, dict) or "motion" not in cfg:
                        raise ValueError("not the settings of a run")
                except (OSError, ValueError, OmegaConfBaseException) as error:
                    raise UserError(
                        f"The run at {folder} cannot be read ({error}); begin a new one."
                    ) from error
                except Exception as error:  # yaml's own errors have no common public base
                    raise UserError(f"{run.config_file} is damaged ({type(error).__name__}).") from error
                return cls(folder, info), cfg
        raise UserError(f"{given} is no run folder: it has no config.yaml. Runs are at runs/<motion>/<time>.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes there, after what killed ones left half written is removed.

        Raises:
            Busy: another process writes there; says which.
            UserError: nothing can be written there.
        """
        advice = "Wait until it ends, or choose another folder with hydra.run.dir=<folder>."
        with explained(self.path, "Choose another with hydra.run.dir=<folder>."):
            self.path.mkdir(parents=True, exist_ok=True)
        with hold(in_folder(self.path), what=f"The run folder {self.path}", advice=advice):
            remove_dead(self.path, WRITTEN, owned=True)
            yield

    def save_config(self, cfg: DictConfig) -> None:
        """Write ``cfg``, resolved, to config.yaml."""
        write_text(self.config_file, OmegaConf.to_yaml(cfg, resolve=True))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
