"""Ctrl-C and SIGTERM as a polite request: finish the step, save, say how to resume."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Stopped(Exception):
    """The user or the system asked the command to stop, and everything is saved."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + int(signum)


class StopRequest:
    """Within ``with StopRequest() as stop:`` the first Ctrl-C or SIGTERM sets ``stop.signum`` and returns.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python allows no signal
    handlers, nothing is caught.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signum is not None

    def install(self) -> None:
        """Take the signals (again: others may have taken them since)."""
        if threading.current_thread() is threading.main_thread():
            for signum in self.SIGNALS:
                before = signal.signal(signum, self._handle)
                self._before.setdefault(signum, before)

    def check(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.signum = signum
        print("\nStopping after this step; once more stops at once.", file=sys.stderr, flush=True)

    def __enter__(self) -> StopRequest:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()
