"""Progress of painting: bars at a terminal, and without one a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

STAGES = {"painting": "painting first frames", "denoising": "denoising", "decoding": "decoding"}


class PaintingProgress:
    """A bar of finished videos, and one for each stage of those that are being painted.

    An instance is called as `progress(stage, done, total)`, like the pipeline calls it. Without a terminal it
    prints a line when `every` seconds have passed since the last one.
    """

    def __init__(
        self,
        videos: int,
        *,
        console: Console | None = None,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self.videos = videos
        self.finished = 0
        self.every = every
        self.clock = clock
        self._said = clock()
        self._bars: dict[str, Any] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> PaintingProgress:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._progress.start()
            self._bars["videos"] = self._progress.add_task("videos", total=self.videos)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            if stage not in self._bars:
                self._bars[stage] = self._progress.add_task(STAGES[stage], total=total)
            self._progress.update(self._bars[stage], completed=done, total=total)
        elif self.clock() - self._said >= self.every:
            self.say(f"  {STAGES[stage]} {done}/{total}, {self.finished} of {self.videos} videos finished")

    def advance(self, videos: int) -> None:
        """So many more videos are finished; the stages begin anew."""
        self.finished += videos
        if self._progress is not None:
            for stage in self._bars.keys() - {"videos"}:
                self._progress.remove_task(self._bars.pop(stage))
            self._progress.update(self._bars["videos"], completed=self.finished)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._said = self.clock()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
