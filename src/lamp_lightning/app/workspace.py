"""The folder of the page: an ordinary working folder of the commands, with safe names.

`data/<motion>` has clips, `runs/<motion>/<job>` tuned motions, `videos/<job>` and `edits/<job>` what was
made, `pictures` photographs, `jobs` what is asked for. The page reads and writes nothing outside.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
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
    """A tuned motion: its name, the job that tuned it, and its run folder, relative to the workspace."""

    motion: str
    job: str
    run: str

    @property
    def label(self) -> str:
        return f"{words_of(self.motion)}, number {int(self.job)}"


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
        """All tuned motions, the newest first."""
        files = _sorted((self.root / "runs").glob("*/*/adapter.safetensors"))
        runs = [file.parent for file in files if file.parent.name.isdecimal()]
        return [Tuned(run.parent.name, run.name, self.relative(run)) for run in runs]

    def videos(self) -> list[Path]:
        """All videos that were made, the newest first."""
        places = ("videos/*/*.mp4", "edits/*/videos/*/edit.mp4", "runs/*/*/videos/*.mp4")
        return _sorted(file for place in places for file in self.root.glob(place))

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
