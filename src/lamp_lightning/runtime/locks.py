"""One writer at a time: a lock for a folder or a file, which ends with its process however that ends.

The lock is the operating system's, on a small hidden file that says who holds it and goes with the lock. A
killed process leaves it behind, free for the next. Reading needs no lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import PERMISSIONS, explained, is_alive, machine, remove_dead
from lamp_lightning.runtime.reading import Schema, parse_json, read_text
from lamp_lightning.runtime.stopping import check_stop

NAME = ".lock"
POLL = 0.1  # seconds
PATIENCE = 15.0  # seconds for the children of a process that was killed: they end a little later
_LARGEST = 4096  # bytes of a lock file
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # file systems without locks
_held: dict[tuple[int, Path], int] = {}  # how many times by this process
_guard = threading.Lock()
_kept = contextlib.ExitStack()


class Busy(UserError):
    """Another process holds the lock."""


class Holder(Schema):
    """Who holds a lock."""

    process: int
    machine: str
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        told = f"process {self.process} on {self.host}, since {self.since} ({self.command})"
        return "".join(c if c.isprintable() else "?" for c in told)

    @property
    def is_dead(self) -> bool:
        """Whether it ended on this machine."""
        if self.machine != machine():
            return False
        try:
            since = datetime.fromisoformat(self.since).timestamp()
        except (ValueError, OverflowError):
            return False
        return not is_alive(self.process, since)


def in_folder(folder: Path) -> Path:
    """The lock file of a folder."""
    return folder / NAME


def beside(path: Path) -> Path:
    """The lock file of a file, or of a folder that is replaced as a whole."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def hold(
    lock_file: Path,
    *,
    what: str,
    advice: str = "",
    permissions: str = PERMISSIONS,
    wait: bool = False,
) -> Iterator[None]:
    """Hold a lock, if the file system has locks; within one process it may be held several times at once.

    Args:
        lock_file: `in_folder` or `beside` of what is to be written.
        what: what that is, for the message: "The run folder runs/rain/1".
        advice: what the user can do where another process holds it, a whole sentence.
        permissions: what the user can do where nothing can be written there, a whole sentence.
        wait: wait until it is free, instead of raising `Busy`.

    Raises:
        Busy: another process holds it; says which.
        Stopped: a stop was asked for while waiting.
        UserError: nothing can be written there.
    """
    key = (os.getpid(), lock_file.absolute())
    with _guard:
        again = _held.get(key, 0)
        _held[key] = again + 1
    lock = None
    try:
        if not again:
            lock = _acquired(lock_file, what, advice, permissions, wait)
        yield
    finally:
        if lock is not None:
            if os.name == "posix":  # while it is still held: who waits looks whether its file is still there
                with contextlib.suppress(OSError):
                    lock_file.unlink()
            lock.release()
        with _guard:
            _held[key] -= 1
            if not _held[key]:
                del _held[key]


def _acquired(lock_file: Path, what: str, advice: str, permissions: str, wait: bool) -> FileLock | None:
    lock = FileLock(str(lock_file), timeout=0, thread_local=False)
    begun, told = time.monotonic(), False
    while True:
        holder = holder_of(lock_file)  # before the attempt: older versions of filelock empty the file
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            break
        except Timeout:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            with explained(lock_file.parent, permissions):
                raise
        ending = holder is not None and holder.is_dead and time.monotonic() - begun < PATIENCE
        if not wait and not ending:
            raise Busy(f"{what} is being written by {holder or 'another process'}. {advice}".rstrip())
        if wait and not told and time.monotonic() - begun > 1:
            print(f"Waiting for {holder or 'another process'}, which writes {what}.", file=sys.stderr)
            told = True
        check_stop()
        time.sleep(POLL)
    with contextlib.suppress(OSError):
        lock_file.write_text(_self().model_dump_json() + "\n", encoding="utf-8")
    return lock


@contextlib.contextmanager
def only_writer(folder: Path, *, inside: Sequence[str] = (), wait: bool = False) -> Iterator[None]:
    """Be the only process that writes the results of a command into a folder, after dead ones are tidied up.

    It is made if need be, and removed again if nothing was written.
    """
    advice = "Wait until it ends, or choose another folder with out=<folder>."
    new = not folder.exists()
    try:
        with hold(in_folder(folder), what=f"The folder {folder}", advice=advice, wait=wait):
            remove_dead(folder, inside, owned=True)
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def keep(lock: contextlib.AbstractContextManager[None]) -> None:
    """Take a lock that is held until the command ends (`release_kept`)."""
    _kept.enter_context(lock)


def release_kept() -> None:
    """Give back what `keep` took."""
    _kept.close()


def remove_free(folder: Path) -> None:
    """Remove the lock files that killed processes left beside files in a folder."""
    for lock_file in folder.glob(".*.lock"):
        holder = holder_of(lock_file)
        if holder is not None and holder.is_dead:
            with contextlib.suppress(UserError), hold(lock_file, what=str(lock_file)):
                pass  # the lock takes its file with it


def holder_of(lock_file: Path) -> Holder | None:
    """Who wrote a lock file last; None where nobody can be made out."""
    try:
        text = read_text(lock_file, what="a lock file", limit=_LARGEST)
        return Holder.model_validate(parse_json(text, file=lock_file, what="a lock file"))
    except (UserError, ValueError):
        return None


def _self() -> Holder:
    """This process."""
    program, *words = sys.argv or [""]
    if Path(program).parent.name == "lamp_lightning":
        words = ["python", "-m", f"lamp_lightning.{Path(program).stem}", *words]
    else:
        words = [Path(program).name, *words]
    command = shlex.join(words)
    return Holder(
        process=os.getpid(),
        machine=machine(),
        host=platform.node(),
        since=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command if len(command) <= 200 else f"{command[:197]}...",
    )
