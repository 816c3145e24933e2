"""Commands in processes of their own, for tests that stop or kill them.

To import torch and all takes seconds of a core for each process. So on Linux the process is forked from the
test's own, which has imported everything; it has its own memory, signals and exit status all the same. The
tests of the wheel and of the convert command start Python anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# A forked process cannot use a GPU that its parent has used, and macOS does not support forking well.
FORKS = sys.platform == "linux" and not torch.cuda.is_available()


class Forked:
    """What tests use of `subprocess.Popen`, of a function that runs in a forked process."""

    def __init__(self, command: Any, words: Sequence[str], folder: Path) -> None:
        self._texts = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]  # noqa: SIM115
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(command, list(words), folder, *(text.fileno() for text in self._texts))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def communicate(self, timeout: float = 200) -> tuple[str, str]:
        """Waits for the end; returns stdout and stderr."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired("the forked command", timeout)
            time.sleep(0.005)
        for text in self._texts:
            text.seek(0)
        out, err = (text.read() for text in self._texts)
        return out, err

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def main_of(command: str) -> Any:
    """The function that ``python -m <command>`` runs: a command is a module, or a folder with `__main__`."""
    module = import_module(command)
    return (module if hasattr(module, "main") else import_module(f"{command}.__main__")).main


def start(module: str, words: Sequence[str], folder: Path) -> Any:
    """``python -m <module> <words>`` in `folder`: has the methods of `subprocess.Popen`.

    A session of its own, as in a terminal of its own.
    """
    if FORKS:
        return Forked(main_of(module), words, folder)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", module, *words], cwd=folder, start_new_session=True, **pipes
    )


def _become(command: Any, words: list[str], folder: Path, out: int, err: int) -> None:
    """In the forked process: run the command as Python would run it, and end."""
    status: Any = 1
    with contextlib.suppress(BaseException):
        os.setsid()
        for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        os.chdir(folder)
        try:
            status = command(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1 if status else 0)


def wait_for(file: Path, process: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {file} after {seconds} s"
        time.sleep(0.002)


def state(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_end(a: Path, b: Path) -> None:
    """The same weights and optimiser state, to the bit."""
    tuned_a, tuned_b = load_file(a / "adapter.safetensors"), load_file(b / "adapter.safetensors")
    assert tuned_a.keys() == tuned_b.keys()
    for name, tensor in tuned_a.items():
        assert torch.equal(tensor, tuned_b[name]), name
    state_a, state_b = state(a), state(b)
    assert state_a["global_step"] == state_b["global_step"]
    moments_a, moments_b = (s["optimizer_states"][0]["state"] for s in (state_a, state_b))
    for number, moments in moments_a.items():
        for name, value in moments.items():
            assert torch.equal(value, moments_b[number][name]), (number, name)
