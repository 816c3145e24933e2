"""The parent's side of the decoding process: start it, ask it, stop it when it hangs, replace it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict, ValidationError

from lamp_lightning.runtime.reading import Schema, describe

_START_LIMIT_S = 120.0
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from lamp_lightning.data.decode import main; main()"
)


class DecodeError(Exception):
    """A clip could not be decoded; the text says what was found."""


_Side = Annotated[int, Field(ge=1, le=2**20)]


class DecodedFile(Schema):
    """What the child wrote: raw uint8 RGB of `shape` (f, h, w, 3), from frames of `source_size` (H, W)."""

    model_config = ConfigDict(extra="ignore")
    shape: Annotated[tuple[_Side, _Side, _Side, _Side], Strict(False)]  # JSON has lists
    source_size: Annotated[tuple[_Side, _Side], Strict(False)]
    fps: Annotated[float, Field(ge=0)]
    sha256: str
    source_fps: Annotated[float, Field(ge=0)] | None = None  # of the file; None: earlier versions kept none
    variable: bool = False  # whether the file's frames are shown for different times


class ClipDecoder(AbstractContextManager["ClipDecoder"]):
    """Decodes clips one after another in one child process, each within `timeout_s` seconds.

    A damaged file may make FFmpeg hang, leak or crash. `decode` then raises DecodeError, and the next clip
    gets a new child. Use as a context manager; the child starts at the first clip. `command` replaces the
    child's program.
    """

    def __init__(self, timeout_s: float = 60.0, command: Sequence[str] | None = None) -> None:
        self.timeout_s = timeout_s
        self._command = list(command) if command else [sys.executable, "-c", _PROGRAM, _import_path()]
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def decode(
        self, path: Path, out: Path, size: tuple[int, int] | None = None, fps: float | None = None
    ) -> DecodedFile:
        """Decode `path` into the raw file `out`, each frame fitted to `size` (h, w) if given.

        With `fps` the frames are those that are shown nearest to the ticks of that rate.

        Raises DecodeError where that fails, OSError where `out` cannot be written.
        """
        process = self._start()
        request: dict[str, Any] = {"path": os.path.abspath(path), "out": os.path.abspath(out)}
        request |= {"size": size, "limit_s": self.timeout_s}
        request |= {} if fps is None else {"fps": fps}
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError as error:  # it died between two clips
            self.close()
            raise DecodeError("the decoding process died") from error
        reply = self._wait(self.timeout_s)
        if "fatal" in reply:
            self.close()
            raise DecodeError(reply["fatal"])
        if "disk" in reply:
            raise OSError(*reply["disk"])
        if "error" in reply:
            raise DecodeError(reply["error"])
        try:
            return DecodedFile.model_validate(reply)
        except ValidationError as error:
            raise DecodeError(describe(error)) from error

    def close(self) -> None:
        """Stop the child, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        # One BLAS thread: the child computes nothing, and each thread would reserve memory.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
        )
        self._answers = queue.Queue()
        threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()
        self._wait(_START_LIMIT_S)
        return self._process

    def _wait(self, limit_s: float) -> dict:
        try:
            line = self._answers.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise DecodeError(
                f"decoding took longer than {limit_s:g} s (decode_timeout) and was stopped"
            ) from None
        except BaseException:  # Ctrl-C must not leave a child behind
            self.close()
            raise
        if line is None:
            code = self._process.wait() if self._process else None
            self.close()
            raise DecodeError(f"the decoding process died (exit status {code})")
        return json.loads(line)


def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    """Runs in a thread, because a pipe cannot be read with a time limit on every system."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answers.put(line)
    except ValueError:  # closed from the other thread
        pass
    answers.put(None)


def _import_path() -> str:
    """This process's import path, so that the child finds the same packages."""
    return json.dumps([os.path.abspath(entry) for entry in sys.path])
