"""Commands as child processes that end with their parent, however that ends.

The child has a pipe for standard input that only its parent holds. When it closes, the child stops itself as
by SIGTERM: it saves and goes.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

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
    threading.Thread(target=_watch, daemon=True).start()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


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
