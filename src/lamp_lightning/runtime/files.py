"""Files that are written: whole or not at all, under temporary names that tell who wrote them.

A temporary name is `.<name>.<machine>-<process>-<number>.part`, beside the place. What a killed process left
there is removed by the next command that writes there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lamp_lightning.runtime.errors import UserError, with_causes

if TYPE_CHECKING:
    import numpy as np

LONGEST = 180  # bytes of a name within a temporary name; file systems allow 255 in all
DAY = 24 * 3600
SCRATCH = "lamp-lightning"  # what our folders for intermediate files are called
PERMISSIONS = "Check who may write there, or choose another folder."
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FULL_WORDS = ("no space left on device", "disk quota exceeded")  # as libraries in Rust and C++ say it
_PART = re.compile(r"^\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-\d+\.part$", re.DOTALL)
_FORMER = re.compile(  # as earlier versions called them
    r"^\.(?:(?P<first>\d+)_[0-9a-f]{8}\.part|.+\.(?P<last>\d+)\.part|.+_seed\d+\.part|writing_\w{8}(\.\w+)?)$"
)
_SKEW = 60  # seconds by which the clocks of a machine and of its file server may differ
_mine: set[str] = set()  # temporary names of this process
_numbers = count()


# -- writing -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path, advice: str = PERMISSIONS) -> Iterator[Path]:
    """A temporary file that takes the place of `path`, whole and on the disk, when the block ends well.

    It has the same name, in a temporary folder beside `path`: the block may write it by any library, also
    one that makes temporary files of its own. It gets the permissions of any new file.

    Args:
        path: the file.
        advice: what the user can do where the file cannot be written, a whole sentence.

    Raises:
        UserError: the file cannot be written, or the disk is full.
    """
    folder = part_of(path)
    with explained(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            part = folder / path.name
            with open(part, "wb") as new:
                mode = os.fstat(new.fileno()).st_mode & 0o777
            yield part
            if os.stat(part).st_mode & 0o777 != mode:  # a library made a file that its owner alone may read
                os.chmod(part, mode)
            with open(part, "r+b") as written:
                os.fsync(written.fileno())
            os.replace(part, path)
        finally:
            remove(folder)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, and move it to `path`; raises UserError as `replacing`."""
    with replacing(path) as part:
        write(part)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256((array if array.flags.c_contiguous else array.copy()).data).hexdigest()


def save_tensors(value: Any, file: Path) -> None:
    """`torch.save` that tells why it cannot write: of a full disk PyTorch says "unexpected pos" only."""
    import torch

    with _Watched(io.FileIO(file, "wb")) as watched:
        try:
            torch.save(value, watched)
        except RuntimeError as error:
            if watched.error is not None:
                raise watched.error from error
            raise


class _Watched(io.BufferedWriter):
    """A file that remembers the last error of a write."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


# -- errors in words -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(path: Path, advice: str = PERMISSIONS) -> Iterator[None]:
    """Turn what goes wrong with writing `path` into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(error):
            raise no_space(path) from error
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written: {error.strerror or error}. {advice}") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that the disk or a quota is full."""
    return any(
        (isinstance(each, OSError) and each.errno in _FULL)
        or any(words in str(each).lower() for words in _FULL_WORDS)
        for each in with_causes(error)
    )


def no_space(path: Path | str) -> UserError:
    """What to tell the user where the disk is full."""
    return UserError(
        f"{path} cannot be written: no space is left on the device. Free some space and try again."
    )


# -- temporary names -----------------------------------------------------------------------------------------


def part_of(path: Path) -> Path:
    """A temporary name for `path`: hidden, beside it, with this machine and process in it."""
    name = path.name
    if len(name.encode(errors="surrogateescape")) > LONGEST:
        name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
    return path.absolute().with_name(_temporary(name))


def _temporary(name: str) -> str:
    part = f".{name}.{machine()}-{os.getpid()}-{next(_numbers)}.part"
    _mine.add(part)
    return part


@cache
def machine() -> str:
    """Eight characters that tell this machine, or this container, from others that see the same folder."""
    space = ""
    with contextlib.suppress(OSError):  # Linux: processes of other containers have numbers of their own
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def is_alive(process: int, since: float) -> bool:
    """Whether the process that wrote something at the time `since` still runs on this machine."""
    try:
        return psutil.Process(process).create_time() <= since + _SKEW  # else another process got the number
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is there, and belongs to somebody else
        return True


def numbered(path: Path) -> Iterator[Path]:
    """Names to choose a free one of: the path itself, then `<path>_2` and so on."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}_{number}")


def inside(folder: Path, home: Path) -> Path:
    """A place of ours in the folder `home`. UserError where a link leads out of that."""
    place = folder.resolve()
    if not place.is_relative_to(home.resolve()):
        raise UserError(
            f"{folder} is a link that leads out of {home}, to {place}: nothing is written through it. Put a "
            "folder in its place."
        )
    return folder


def check_links(home: Path) -> None:
    """Refuse a folder of ours with a link to a folder elsewhere, at any depth; raises as `inside` does."""
    for place, folders, _ in os.walk(home):
        for name in folders:
            inside(Path(place, name), home)


def remove_empty(folder: Path) -> None:
    """Remove a folder, and the one above it, where they are empty; never one that the process is in."""
    for each in (folder.absolute(), folder.absolute().parent):
        if not Path.cwd().is_relative_to(each):
            with contextlib.suppress(OSError):
                each.rmdir()


def remove_dead(folder: Path, inside: Sequence[str] = (), *, owned: bool = False) -> None:
    """Remove the temporary files and folders of processes that are no more.

    Args:
        folder: where to look.
        inside: patterns of folders in it where to look, too, such as `samples/*`.
        owned: nobody else writes there now, so that those of other machines go as well.
    """
    for place in (folder, *(found for pattern in inside for found in folder.glob(pattern))):
        if place is not folder and place.is_symlink():
            continue
        try:
            entries = [Path(entry.path) for entry in os.scandir(place)]
        except OSError:
            continue
        for path in entries:
            if path.name.startswith(".") and _is_dead(path, owned):
                remove(path)


def _is_dead(path: Path, owned: bool) -> bool:
    try:
        written = path.lstat().st_mtime
    except OSError:
        return False
    if found := _PART.match(path.name):
        if found["machine"] != machine():
            return owned
        if int(found["process"]) == os.getpid():  # or of an earlier process of this number
            return path.name not in _mine
        return not is_alive(int(found["process"]), written)
    if found := _FORMER.match(path.name):
        process = found["first"] or found["last"]
        if process is not None and owned:
            return not is_alive(int(process), written)
        return owned or time.time() - written > DAY
    return False


def remove(path: Path) -> None:
    """Remove a file or a folder, whatever state it is in."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for intermediate files, removed with all that is in it. UserError where it cannot be made."""
    root = Path(tempfile.gettempdir())
    for old in root.glob(f".{SCRATCH}.*.part"):
        if _is_dead(old, owned=False):
            remove(old)
    folder = root / _temporary(SCRATCH)
    with explained(root, "Set TMPDIR to a folder that you may write to."):
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def default_cache_dir() -> Path:
    """$LAMP_LIGHTNING_CACHE, else lamp-lightning in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("LAMP_LIGHTNING_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lamp-lightning"
