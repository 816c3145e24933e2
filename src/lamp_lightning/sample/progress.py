"""Progress of generating: bars at a terminal, and without one a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

STAGES = {"painting": "painting first frames", "denoising": "denoising", "decoding": "decoding"}


class GeneratingProgress:
    """A bar of finished videos, and one for each stage of those that are being generated.

    The pipeline calls it as `progress(stage, done, total)`. Without a terminal it prints a line when `every`
    seconds have passed since the last one.
    """

    def __init__(
        self,
        videos: int,
        *,
        console: Console | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self.videos = videos
        self.finished = 0
        self.every = every
        self.clock = clock
        self._said = clock()
        self._progress = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._all = self._progress.add_task("videos", total=videos)
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> GeneratingProgress:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._progress.disable:  # earlier versions of rich would print an empty line
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(STAGES[stage])
        self._progress.update(self._stages[stage], completed=done, total=total)
        if self._progress.disable and self.clock() - self._said >= self.every:
            self.say(f"  {STAGES[stage]} {done}/{total}, {self.finished} of {self.videos} videos finished")

    def advance(self, videos: int) -> None:
        """So many more videos are finished; the stages begin anew."""
        self.finished += videos
        self._progress.update(self._all, completed=self.finished)
        for stage in self._stages.values():
            self._progress.remove_task(stage)
        self._stages.clear()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._said = self.clock()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
