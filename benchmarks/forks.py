"""Commands as forks of this process, which has imported everything, so that each takes seconds.

A fork may be killed: at a random time by its parent, or by itself before one of its file operations.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MARK = "LAMP_LIGHTNING_TRIAL"  # in the environment of all processes of a trial
LIMIT = 300.0  # seconds that a command may take
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (negative: by that signal), its time, and what it did and printed."""

    status: int
    seconds: float
    operations: int
    printed: str


@dataclass(frozen=True)
class Kill:
    """Which signal, and when: at an operation, by the process itself, or after a time, by its parent."""

    kind: str
    pause: float
    after: float | None = None
    operation: int | None = None

    def send(self, process: int) -> None:
        """The signal, or both."""
        name = self.kind.removeprefix("2 ")
        os.kill(process, getattr(signal, name))
        if self.kind.startswith("2 "):
            threading.Timer(self.pause, _send_if_there, (process, signal.SIGINT)).start()


def _send_if_there(process: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signum)


def run(module: str, words: Sequence[str], folder: Path, kill: Kill | None = None) -> Ended:
    """Run a command as a fork of this process, with or without a kill on its way."""
    (folder / "tmp").mkdir(exist_ok=True)
    output, counter = folder / "tmp.output", folder / "tmp.operations"
    begun = time.monotonic()
    process = os.fork()
    if process == 0:
        _be_command(module, words, folder, output, counter, kill)
    child = psutil.Process(process)
    if kill is not None and kill.after is not None:
        with contextlib.suppress(psutil.TimeoutExpired):
            _wait(child, kill.after)
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            kill.send(process)
    if not _wait(child, LIMIT):
        os.kill(process, signal.SIGKILL)
    _, code = os.waitpid(process, 0)
    seconds = time.monotonic() - begun
    printed = output.read_text(encoding="utf-8", errors="replace")
    operations = int(counter.read_text() or 0) if counter.exists() else 0
    for file in (output, counter):
        file.unlink(missing_ok=True)
    return Ended(os.waitstatus_to_exitcode(code), seconds, operations, printed)


def _wait(child: psutil.Process, seconds: float) -> bool:
    """Whether it ends in time; it stays a zombie."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.005)
    return False


def _be_command(
    module: str, words: Sequence[str], folder: Path, output: Path, counter: Path, kill: Kill | None
) -> None:
    """Become the command; never returns."""
    status = 1
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdin = open(os.devnull)  # noqa: SIM115 as long as the process lives
        os.environ[MARK], os.environ["TMPDIR"] = str(folder), str(folder / "tmp")
        tempfile.tempdir = None
        os.chdir(folder)
        command = __import__(f"lamp_lightning.{module}.__main__", fromlist=["main"])
        sys.argv = [command.__file__, *words]
        from lamp_lightning.runtime.stopping import quiet_interrupts

        quiet_interrupts()
        operations = _count_operations(kill)
        status = command.main(list(words))
        counter.write_text(str(operations()))
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _count_operations(kill: Kill | None) -> Callable[[], int]:
    """Count changes of files in this process, and send the signal before the one that it is for."""
    count, here, main_thread = 0, os.getpid(), threading.main_thread()

    def hook(event: str, arguments: Any) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
        elif event not in CHANGES:
            return
        if os.getpid() != here or threading.current_thread() is not main_thread:
            return
        count += 1
        if kill is not None and count == kill.operation:
            kill.send(here)

    sys.addaudithook(hook)
    return lambda: count
