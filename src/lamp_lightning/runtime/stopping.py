"""Ctrl-C and SIGTERM as a polite request: finish the step, save, say how to resume."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, ClassVar

from lamp_lightning.runtime.errors import with_causes


class Stopped(Exception):
    """The user or the system asked the command to stop, and everything is saved."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + int(signum)


class StopRequest:
    """Within `with StopRequest() as stop:` the first Ctrl-C or SIGTERM sets `stop.signum` and returns.

    A second one raises KeyboardInterrupt. Outside the main thread Python allows no signal handlers.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    active: ClassVar[list[StopRequest]] = []  # those within their `with` block, the innermost last
    interrupted: ClassVar[bool] = False  # whether one has raised KeyboardInterrupt since the command began

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
            StopRequest.interrupted = True
            raise KeyboardInterrupt
        self.signum = signum
        with contextlib.suppress(OSError, RuntimeError):  # a closed terminal, or one that is just written to
            print("\nStopping after this step; once more stops at once.", file=sys.stderr, flush=True)

    def __enter__(self) -> StopRequest:
        self.active.append(self)
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self.active.remove(self)
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()


class Terminated(KeyboardInterrupt):
    """A SIGTERM outside of any `StopRequest`: while modules are imported, say."""


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """In this context a SIGTERM that nobody handles raises `Terminated`: what was begun is cleared up."""
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before)


def check_stop() -> None:
    """Raise Stopped if a stop was asked for: for long work that does not know the `StopRequest` around it."""
    if StopRequest.active:
        StopRequest.active[-1].check()


def quiet_interrupts() -> None:
    """Let an interrupt that nothing catches, while modules are imported say, end this process in one word."""
    report, report_ignored = sys.excepthook, sys.unraisablehook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            say_stopped()
        else:
            report(kind, error, trace)

    def unraisablehook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report_ignored(unraisable)
        elif threading.main_thread().is_alive():  # it came within a destructor, say, and would be lost
            os.kill(os.getpid(), signal.SIGINT)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is an interrupt, or came of one.

    Libraries trip over it in their own clean-up, and some raise an error that has lost the cause.
    """
    interrupts = (isinstance(each, KeyboardInterrupt) for each in with_causes(error))
    return StopRequest.interrupted or any(interrupts)


def say_stopped() -> None:
    """The one word for an interrupt that leaves nothing to go on with."""
    with contextlib.suppress(OSError, RuntimeError):
        print("Stopped.", file=sys.stderr, flush=True)
