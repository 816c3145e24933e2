"""Pictures that are given to the sample command: first frames, and the other known frames of `known=`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lamp_lightning.data.clips import decode_clip, is_clip
from lamp_lightning.data.images import PICTURES, read_image
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.runtime.names import is_unicode


@dataclass(frozen=True)
class Picture:
    """A photograph: its file, what is in it, and its height and width as people see it.

    frame: which frame of a clip it is; None: the file is a picture.
    """

    file: Path
    sha256: str
    shape: tuple[int, int]
    frame: int | None = None

    @property
    def where(self) -> str:
        """As `known=` names it."""
        return str(self.file) if self.frame is None else f"{self.file}@{self.frame}"

    def read(self) -> np.ndarray:
        """Its pixels, uint8 `h w 3`."""
        return read_image(self.file) if self.frame is None else _frames(self.file)[self.frame]


@lru_cache(maxsize=2)
def _frames(file: Path) -> np.ndarray:
    return decode_clip(file).frames


def find_pictures(where: Any, setting: str = "first_frame") -> list[Picture]:
    """The pictures that a setting names: a file, a list of files, or all of a folder by name.

    Each is read once, so that what is no picture is refused before anything is generated.
    """
    if where is None:
        return []
    paths = [Path(str(path)).expanduser() for path in (where if OmegaConf.is_list(where) else [where])]
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [f for f in path.iterdir() if f.suffix.lower() in PICTURES and f.is_file()]
            found = sorted((f for f in found if not f.name.startswith(".")), key=lambda file: file.name)
            if not found:
                raise UserError(f"{setting}={path} has no pictures in it (png, jpg, webp, ...).")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            if re.match(r"-?\d+:", str(path)):
                raise UserError(
                    f"{setting}={path} is one place of several: a shell takes braces apart. Put them in "
                    "quotes, like 'known={0:a.png,15:b.png}'."
                )
            raise UserError(
                f"{setting}={path} is no file and no folder. Give a picture (png, jpg, webp, ...) or a "
                "folder of pictures."
            )
    return [_picture(file, setting) for file in files]


def find_known(where: Any, every: int) -> dict[int, Picture]:
    """The frames that `known=` gives, by their places.

    Args:
        where: a clip, a folder of pictures, a list of pictures, or a mapping of places to pictures, each a
            file or, of a clip, `<file>@<frame>`.
        every: how far apart they are placed where no places are given.

    Raises:
        UserError: a file that is missing or cannot be read, or a place that is no number.
    """
    if where is None:
        return {}
    if OmegaConf.is_dict(where) or isinstance(where, Mapping):
        places = {_place(key): str(value) for key, value in where.items()}
        return {place: _named(name) for place, name in places.items()}
    file = Path(str(where)).expanduser()
    if not OmegaConf.is_list(where) and file.is_file() and is_clip(file):
        sha256, frames = file_sha256(file), _frames(file)
        found = [Picture(file, sha256, frames.shape[1:3], number) for number in range(len(frames))]
    else:
        found = find_pictures(where, "known")
    return {number * every: picture for number, picture in enumerate(found)}


def check_known(variant: Variant, known: Mapping[int, Any] | None, loop: bool, frames: int) -> dict[int, Any]:
    """Further frames that are given, by their place in a video of so many frames, counted from its beginning.

    Raises:
        UserError: a motion that was tuned with the first frame only, or places that are not there.
    """
    if not known and not loop:
        return {}
    if variant.kind == "image_to_video":
        raise UserError(
            "A video model goes on from its first frame alone: it takes no further known frames, and "
            "closes no loop. Tune an image model with method=lamp_known."
        )
    if variant.known != "any":
        raise UserError(
            "This motion was tuned with the first frame as the only known one. It takes no further ones, and "
            "closes no loop. Tune one with method=lamp_known (model.layers.known=any)."
        )
    if loop and frames < 2:
        raise UserError("loop=true needs a video of at least 2 frames.")
    places: dict[int, Any] = {}
    for number, picture in (known or {}).items():
        place = number + frames if number < 0 else number
        if not 1 <= place < frames or place in places:
            raise UserError(
                f"known has frame {number}, and can have frames 1 to {frames - 1} of this video, each once; "
                "frame 0 is first_frame."
            )
        places[place] = picture
    if len(places) >= frames - 1:
        raise UserError(f"known has all {frames} frames of the video: there is nothing left to generate.")
    return places


def _place(key: Any) -> int:
    try:
        return int(key)
    except ValueError as error:
        raise UserError(
            f"known has {key!r}, and needs the numbers of frames, like 'known={{0:a.png,15:b.png}}'."
        ) from error


def _named(name: str) -> Picture:
    """A picture by its file, or a clip's by `<file>@<frame>`."""
    file, sign, number = name.rpartition("@")
    if Path(name).expanduser().is_file() or not sign:
        found = find_pictures(name, "known")
        if len(found) != 1:
            raise UserError(f"known has {name}, which is a folder: give a picture for each place.")
        return found[0]
    clip = Path(file).expanduser()
    if not clip.is_file():
        raise UserError(f"known has {name}, and there is no file {clip}.")
    frames = _frames(clip)
    if not number.isdecimal() or int(number) >= len(frames):
        raise UserError(f"known has {name}, and {clip} has frames 0 to {len(frames) - 1}.")
    return Picture(clip, file_sha256(clip), frames.shape[1:3], int(number))


def _picture(file: Path, setting: str) -> Picture:
    if not is_unicode(str(file)):
        raise UserError(f"{setting}={str(file)!a} has a name that is no UTF-8. Rename it.")
    shape = read_image(file).shape[:2]  # before the hash: this refuses what is too large
    return Picture(file, file_sha256(file), shape)
