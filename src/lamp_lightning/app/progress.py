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
from lamp_lightning.app.requests import Edit, Paint
from lamp_lightning.app.words import for_page

TAIL = 4096  # bytes of the end of a table that are looked at
# A video that a run makes, as its log says it, and the step of denoising.
_GENERATING = re.compile(r"generating (\d+)/(\d+)(?:, step (\d+)/(\d+))?")


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
        return _painting(request, job, jobs)
    total = request.steps_of_all
    numbers = last_numbers(jobs.workspace.root / request.folder(job.id) / "csv" / "metrics.csv")
    done = min(total, int(numbers.get("step", -1)) + 1)
    if not done:
        begun = re.search(r"^Tuning ", jobs.log(job.id), re.MULTILINE)
        return Progress(0.0, "the first steps" if begun else "loading the model and the clips")
    if done >= total:
        return _editing(job, jobs) if isinstance(request, Edit) else _last_videos(job, jobs)
    left = (total - done) * numbers.get("train/step_seconds", 0.0)
    words = f"step {done} of {total}"
    if _is_previewing(job, jobs):
        return Progress(done / total, f"{words}, making a preview")
    if left:
        words += f", {duration(left)} left"
    return Progress(done / total, words)


def _is_previewing(job: Job, jobs: Jobs) -> bool:
    """Whether a preview is the last that a run has told of: its log is then newer than its table of steps."""
    log = jobs.workspace.root / "jobs" / f"{job.id}.log"
    table = jobs.workspace.root / job.request.folder(job.id) / "csv" / "metrics.csv"
    last = jobs.log(job.id).rstrip().rpartition("\n")[2]
    with contextlib.suppress(OSError):
        return bool(_GENERATING.search(last)) and log.stat().st_mtime > table.stat().st_mtime
    return False


def _last_videos(job: Job, jobs: Jobs) -> Progress:
    """How many of the videos are made that come after the last step of tuning."""
    _, begun, log = jobs.log(job.id).rpartition("\nGenerating ")
    found = _GENERATING.findall(log) if begun else []
    if not found:
        return Progress(0.0, "tuned; making the videos")
    video, videos, step, steps = (int(each or 0) for each in found[-1])
    if video == videos and steps and step == steps:
        return Progress(1.0, "tuned; looking at the videos")
    return Progress((video - 1 + step / max(1, steps)) / videos, f"tuned; making video {video} of {videos}")


def _painting(request: Paint, job: Job, jobs: Jobs) -> Progress:
    """How many of the videos are there, and how far the next is, as far as the command says it."""
    log, folder = jobs.log(job.id), jobs.workspace.root / request.folder(job.id)
    made = sum(not file.stem.endswith("_more") for file in folder.glob("*.mp4"))
    if made >= request.count:
        return Progress(1.0, "looking at the videos")
    stages = re.findall(r"^  ([a-z ]+) (\d+)/(\d+), (\d+) of \d+ videos finished$", log, re.MULTILINE)
    words, part = f"video {made + 1} of {request.count}", 0.0
    if stages and int(stages[-1][3]) == made:
        stage, step, steps = stages[-1][0], int(stages[-1][1]), max(1, int(stages[-1][2]))
        words += f", {stage}"
        part = step / steps if stage == "denoising" else 0.0
    if not (made or part):
        return Progress(None, words)  # loading the model: nothing is known yet
    return Progress((made + part) / request.count, words)


def _editing(job: Job, jobs: Jobs) -> Progress:
    """Which of the stages of an edit it is in."""
    log = jobs.log(job.id)
    stages = {
        "Inverting the video": "finding the way back to noise",
        "Generating the first frame": "painting the first frame",
        r"Generating \d+ frames": "painting the other frames",
    }
    begun = [words for line, words in stages.items() if re.search(f"^{line}", log, re.MULTILINE)]
    return Progress(None, f"tuned; {begun[-1]}" if begun else "tuned")


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
    lines = [for_page(line.replace(root, ""), jobs.workspace.root) for line in lines]
    return [line[:600] for line in dict.fromkeys(lines) if line][-4:]
