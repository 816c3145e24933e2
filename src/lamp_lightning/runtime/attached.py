"""Commands as child processes that end with their parent, however that ends.

The child has a pipe for standard input that only its parent holds. When it closes, the child stops itself as
by SIGTERM: it saves and goes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

WAIT = "--wait"
PATIENCE = 60.0  # seconds to save in, for a child that is asked to stop


def start(module: str, overrides: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """`python -m <module> <overrides>` as a child in a session of its own; `options` are those of `Popen`.

    It runs as long as its parent and the pipe of its standard input live.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "lamp_lightning.runtime.attached", module, *overrides],
        stdin=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def warm(modules: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """A child as of `start` that imports modules, which takes seconds, and then waits for `begin`."""
    return subprocess.Popen(
        [sys.executable, "-m", "lamp_lightning.runtime.attached", WAIT, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )


def begin(process: subprocess.Popen[bytes], module: str, overrides: Sequence[str], log: Path) -> bool:
    """Let a child of `warm` run a module that writes to `log`, a new file. False where the child is gone."""
    asked = json.dumps({"log": str(log.absolute()), "argv": [module, *overrides]})
    assert process.stdin is not None
    try:
        process.stdin.write(asked.encode() + b"\n")
        process.stdin.flush()
    except OSError:
        return False
    return process.poll() is None


@contextlib.contextmanager
def attached(module: str, overrides: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m <module> <overrides>` as a child, in a session of its own: a Ctrl-C reaches its parent only.

    A child that still runs when the block ends is asked to stop, and killed where it does not.
    """
    process = start(module, overrides)
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Run a module as a command until it ends or its parent does."""
    argv = sys.argv[1:]
    if argv[0] == WAIT and not (argv := _asked(argv[1:])):
        return
    threading.Thread(target=_watch, daemon=True).start()
    module, sys.argv = argv[0], argv
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _asked(modules: Sequence[str]) -> list[str]:
    """Import modules; then wait for what `begin` asks for. Empty where the parent has gone."""
    from lamp_lightning.runtime.console import quiet

    quiet()  # as commands do: before the libraries are imported
    for module in modules:
        with contextlib.suppress(ImportError):  # which the command will say
            importlib.import_module(module)
    line = b""
    while not line.endswith(b"\n"):
        if not (block := os.read(0, 65536)):
            return []
        line += block
    asked = json.loads(line)
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    return [str(word) for word in asked["argv"]]


def _watch() -> None:
    """Wait until the parent is no more; then stop this process, in the end by force."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
