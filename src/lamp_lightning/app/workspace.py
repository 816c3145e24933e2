"""The folder of the page: an ordinary working folder of the commands, with safe names.

`data/<motion>` has clips, `runs/<motion>/<job>` tuned motions, `videos/<job>` and `edits/<job>` what was
made, `pictures` photographs, `jobs` what is asked for. The page reads and writes nothing outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lamp_lightning.data.clips import CLIP_SUFFIXES, list_clips, natural_order
from lamp_lightning.data.pictures import opened_picture
from lamp_lightning.data.video import safe_name
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import explained, numbered

LONGEST_NAME = 48  # bytes of a motion's name
FOLDERS = ("data", "runs", "videos", "edits", "pictures", "sheets", "jobs", "cache", "uploads")
SHOWN = ("runs", "videos", "edits", "pictures", "sheets")  # what a browser may ask for


@dataclass(frozen=True)
class Tuned:
    """A tuned motion.

    Args:
        motion: its name.
        job: the job that tuned it.
        run: its run folder, relative to the workspace.
        steps: that it is tuned; None where its file does not say.
        finished: whether tuning came to its end.
    """

    motion: str
    job: str
    run: str
    steps: int | None
    finished: bool


@dataclass(frozen=True)
class Workspace:
    """The page's folder. Paths that it gives and takes as text are relative to `root`."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> Workspace:
        """The workspace in a folder, which is made if need be. UserError where nothing can be written."""
        root = Path(folder).expanduser().resolve()
        with explained(root, "Choose another with folder=<folder>."):
            for name in FOLDERS:
                (root / name).mkdir(parents=True, exist_ok=True)
        return cls(root)

    def path(self, text: str) -> Path:
        """A path of the workspace. UserError where it leads outside or is not there."""
        path = (self.root / text).resolve()
        if not path.is_relative_to(self.root) or not path.exists():
            raise UserError("That is not there any more. Choose another.")
        return path

    def relative(self, path: Path) -> str:
        """A path as the workspace's files name it."""
        return path.resolve().relative_to(self.root).as_posix()

    # -- what is there -------------------------------------------------------------------------------------

    def motions(self) -> list[str]:
        """The motions that have clips, the newest first."""
        return [folder.name for folder in _newest(self.root / "data") if self.clips(folder.name)]

    def clips(self, motion: str) -> list[Path]:
        """The clips of a motion."""
        try:
            return list_clips(self.root / "data" / motion)
        except UserError:
            return []

    def tuned(self) -> list[Tuned]:
        """All tuned motions, the newest first; those that are not finished come last."""
        files = _sorted((self.root / "runs").glob("*/*/adapter.safetensors"))
        found = [self.tuned_in(file.parent) for file in files if file.parent.name.isdecimal()]
        return sorted(found, key=lambda tuned: not tuned.finished)

    def tuned_in(self, run: Path) -> Tuned:
        """The tuned motion of a run folder that has an adapter."""
        steps, finished = _steps_of(run / "adapter.safetensors"), (run / "metrics.json").is_file()
        return Tuned(run.parent.name, run.name, self.relative(run), steps, finished)

    def runs(self, motion: str) -> list[Path]:
        """The run folders of a motion, the newest work last."""
        found = [run for run in (self.root / "runs" / motion).glob("*") if run.name.isdecimal()]
        return sorted(found, key=lambda run: int(run.name))

    def videos(self) -> list[Path]:
        """All videos that were made, previews too, the newest first."""
        made = ("videos/*/*.mp4", "edits/*/videos/*/edit.mp4")
        places = (*made, "runs/*/*/videos/*.mp4", "runs/*/*/samples/step_*/*.mp4")
        found = (file for place in places for file in self.root.glob(place))
        return _sorted(file for file in found if not file.stem.endswith("_more"))  # several in one

    # -- what is brought -----------------------------------------------------------------------------------

    def new_motion(self, name: str) -> Path:
        """A new folder for the clips of a motion; where the name is taken, that of the next number."""
        wanted = self.root / "data" / safe_name(name, LONGEST_NAME)
        for place in numbered(wanted):
            try:
                place.mkdir()
            except FileExistsError:
                continue
            return place
        raise AssertionError("there is always a next number")

    def keep_picture(self, file: str | Path) -> str:
        """A copy of a photograph, after a look at whether it is one. UserError where it is not."""
        return self._keep(file, "a picture", "Give a PNG or JPEG.", picture=True)

    def keep_video(self, file: str | Path) -> str:
        """A copy of a video to edit; the edit command looks into it."""
        if Path(file).suffix.lower() not in CLIP_SUFFIXES:
            kinds = ", ".join(suffix[1:] for suffix in CLIP_SUFFIXES)
            raise UserError(f"{Path(file).name} is no video that can be read. Give one of these: {kinds}.")
        return self._keep(file, "a video", "Give another.", picture=False)

    def _keep(self, file: str | Path, what: str, advice: str, *, picture: bool) -> str:
        file = self.path(str(file))
        suffix = file.suffix.lower()
        if picture:
            try:
                with opened_picture(file, what=what, advice=advice) as opened:
                    suffix = f".{str(opened.format).lower()}"  # as what it is, whatever it is called
            except UserError as error:
                raise UserError(str(error).replace(str(file), file.name)) from error
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        name = f"{safe_name(file.stem, LONGEST_NAME)}_{digest}{suffix}"
        place = self.root / "pictures" / name
        if not place.exists():
            with explained(place):
                shutil.copyfile(file, place)
        return self.relative(place)


def _steps_of(adapter: Path) -> int | None:
    """The steps that an adapter says it was tuned; None where it says none."""
    with contextlib.suppress(OSError):
        return _said_steps(str(adapter), adapter.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=1000)
def _said_steps(adapter: str, changed: int) -> int | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter, "np") as file:
            said = (file.metadata() or {}).get("steps", "")
    except (OSError, SafetensorError):
        return None
    return int(said) if said.isdecimal() and len(said) < 12 else None


def words_of(name: str) -> str:
    """A name of a folder as people say it."""
    return name.replace("_", " ")


def _newest(folder: Path) -> list[Path]:
    return _sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _sorted(paths: object) -> list[Path]:
    """Paths, the newest first."""

    def when(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    return sorted(sorted(paths, key=natural_order), key=when, reverse=True)  # type: ignore[call-overload]
