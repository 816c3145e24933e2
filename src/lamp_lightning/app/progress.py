"""How far a job is, from the files that its command writes."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from lamp_lightning.app.jobs import Job, Jobs
from lamp_lightning.app.requests import Paint

WORDS = " (model=sd15 trainer=gpu)"  # what the page says in another way
TAIL = 4096  # bytes of the end of a table that are looked at


@dataclass(frozen=True)
class Progress:
    """The share that is done, if that can be told, and a few words."""

    share: float | None
    words: str


def progress_of(job: Job, jobs: Jobs) -> Progress:
    """How far a job is."""
    if job.state == "waiting":
        before = jobs.place(job)
        return Progress(None, "next" if not before else f"{before} before it")
    if job.state != "running":
        return Progress(None, job.state)
    if jobs.is_stopping(job.id):
        return Progress(None, "stopping after this step")
    request = job.request
    if isinstance(request, Paint):
        return Progress(None, "painting")
    total = request.steps_of_all
    numbers = last_numbers(jobs.workspace.root / request.folder(job.id) / "csv" / "metrics.csv")
    done = min(total, int(numbers.get("step", -1)) + 1)
    if not done:
        begun = re.search(r"^Tuning ", jobs.log(job.id), re.MULTILINE)
        return Progress(0.0, "the first steps" if begun else "loading the model and the clips")
    if done >= total:
        return Progress(1.0, "making the last videos" if request.kind == "tune" else "making the edit")
    left = (total - done) * numbers.get("train/step_seconds", 0.0)
    words = f"step {done} of {total}"
    if left:
        words += f", {duration(left)} left"
    return Progress(done / total, words)


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return (
        time.strftime("%H:%M h", time.gmtime(seconds)) if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
    )


def last_numbers(file: Path) -> dict[str, float]:
    """The numbers of the last step in a table of Lightning's; {} where there is none yet."""
    try:
        with file.open("rb") as table:
            head = table.readline(TAIL).decode("utf-8", errors="replace")
            table.seek(0, os.SEEK_END)
            table.seek(max(len(head), table.tell() - TAIL))
            lines = table.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    names = next(csv.reader([head]), [])
    found: dict[str, float] = {}
    for line in lines[-20:]:
        values = next(csv.reader([line]), [])
        if len(values) != len(names):
            continue  # half a line
        for name, value in zip(names, values, strict=True):
            with contextlib.suppress(ValueError):
                found[name] = float(value)
    return found


def said(job: Job, jobs: Jobs) -> list[str]:
    """What a job's command warned of."""
    lines = re.findall(r"^(?:Warning|Note): (.+)$", jobs.log(job.id), re.MULTILINE)
    root = f"{jobs.workspace.root}{os.sep}"
    lines = [line.replace(root, "").replace(WORDS, "") for line in lines]
    return [line[:600] for line in dict.fromkeys(lines)][-4:]
