"""The page's work: jobs one after the other, each a command in a process of its own, and all of it on disk.

So a job can be stopped and gone on with like any command, a reload of the page changes nothing, and a new
server finds what the one before was asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from lamp_lightning.app.requests import Paint, Request
from lamp_lightning.app.words import for_page
from lamp_lightning.app.workspace import Workspace
from lamp_lightning.runtime import attached
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import write_json
from lamp_lightning.runtime.locks import holder_of, in_folder
from lamp_lightning.runtime.reading import Schema, checked, read_json

WHAT = "a job of the page"
LARGEST_LOG = 64 * 1024  # bytes of the end of a log that are looked at
PATIENCE = 60.0  # seconds for the process of a server that was killed: it saves and ends
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
IMPORTED = ("lamp_lightning.train.run", "lamp_lightning.sample.run")  # by a process that is ready
State = Literal["waiting", "running", "stopped", "failed", "finished"]


class Job(Schema):
    """A request and what became of it."""

    id: str = Field(pattern=r"^\d{4,9}$")
    request: Request
    state: State = "waiting"
    message: str = Field(default="", max_length=20_000)
    asked: float = Field(ge=0)  # seconds since 1970

    @property
    def is_open(self) -> bool:
        return self.state != "finished"


class Jobs:
    """All jobs of a workspace, and the thread that does them one at a time.

    Jobs that a killed server left count as stopped: nothing begins by itself.

    Args:
        workspace: their folder.
        warm: keep a process ready that has imported what commands need, so that they begin at once.
    """

    def __init__(self, workspace: Workspace, *, warm: bool = False) -> None:
        self.workspace = workspace
        self._keeps_warm = warm
        self._ready: subprocess.Popen[bytes] | None = None
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_asked: set[str] = set()
        self._closing = False
        self._read()
        self._warm_up()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for file in sorted((self.workspace.root / "jobs").glob("*.json")):
            try:
                found = read_json(file, what=WHAT)
                job = checked(Job, found, file=file, what=WHAT, advice="It is left out.")
            except UserError as error:
                print(f"Warning: {error}", file=sys.stderr)
                continue
            if job.id != file.stem:
                print(f"Warning: {file} says that it is job {job.id}. It is left out.", file=sys.stderr)
                continue
            if job.state in ("running", "waiting"):
                job = job.model_copy(update={"state": "stopped", "message": "The server ended in between."})
                self._write(job)
            self._jobs[job.id] = job

    # -- what the page asks ---------------------------------------------------------------------------------

    def all(self) -> list[Job]:
        """All jobs in the order in which they were asked for."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: (job.asked, job.id))

    def get(self, number: str | None) -> Job | None:
        """A job by its number."""
        with self._changed:
            return self._jobs.get(number or "")

    def add(self, request: Request) -> Job:
        """Put a request at the end of the queue."""
        with self._changed:
            used = [int(file.stem) for file in self._folder.glob("*.json") if file.stem.isdecimal()]
            number = max([0, *used, *map(int, self._jobs)]) + 1
            job = Job(id=f"{number:04d}", request=request, asked=time.time())
            self._set(job)
            return job

    def stop(self, number: str) -> None:
        """Let a job end after its step, with all saved; one that waits will not begin."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state not in ("waiting", "running"):
                return
            if job.state == "waiting":
                self._set(job.model_copy(update={"state": "stopped"}))
                return
            self._stop_asked.add(number)
            if self._process is not None:
                _ask_to_stop(self._process)

    def go_on(self, number: str) -> None:
        """Put a job that was stopped, or failed, at the end of the queue."""
        with self._changed:
            job = self._jobs.get(number)
            if job is not None and job.state in ("stopped", "failed"):
                again = {"state": "waiting", "message": "", "asked": time.time()}
                self._set(job.model_copy(update=again))

    def forget(self, number: str) -> None:
        """Take a job that was stopped, or failed, off the list. What it made stays."""
        with self._changed:
            job = self._jobs.get(number)
            if job is not None and job.state in ("stopped", "failed"):
                del self._jobs[number]
                (self._folder / f"{number}.json").unlink(missing_ok=True)

    def is_stopping(self, number: str) -> bool:
        """Whether a running job was asked to stop."""
        return number in self._stop_asked

    def place(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        before = [each for each in self.all() if each.state in ("running", "waiting")]
        before.sort(key=lambda each: each.state != "running")
        return next((i for i, each in enumerate(before) if each.id == job.id), 0)

    def log(self, number: str) -> str:
        """The end of what a job's command has said."""
        try:
            with (self._folder / f"{number}.log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LARGEST_LOG))
                return file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Stop what runs, with all saved, and wait for it."""
        with self._changed:
            self._closing = True
            if self._process is not None:
                _ask_to_stop(self._process)
            self._changed.notify_all()
        self._thread.join(PATIENCE)
        if self._ready is not None:
            self._ready.kill()
            self._ready.wait()

    # -- the thread -----------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self.workspace.root / "jobs"

    def _write(self, job: Job) -> None:
        write_json(self._folder / f"{job.id}.json", job.model_dump())

    def _set(self, job: Job) -> None:
        """Keep a job, in memory even where the disk is full."""
        self._jobs[job.id] = job
        self._changed.notify_all()
        self._write(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                waiting = [job for job in self.all() if job.state == "waiting"]
                while not waiting and not self._closing:
                    self._changed.wait()
                    waiting = [job for job in self.all() if job.state == "waiting"]
                if self._closing:
                    return
                job = waiting[0].model_copy(update={"state": "running", "message": ""})
                with contextlib.suppress(UserError):
                    self._set(job)
            try:
                state, message = self._run(job)
            except (OSError, UserError) as error:
                state, message = "failed", str(error)
            with self._changed:
                self._stop_asked.discard(job.id)
                with contextlib.suppress(UserError):
                    self._set(job.model_copy(update={"state": state, "message": message}))

    def _run(self, job: Job) -> tuple[State, str]:
        root = self.workspace.root
        self._wait_for_former(root / job.request.folder(job.id))
        module, words = job.request.call(job.id, root)
        with self._changed:
            if self._closing or job.id in self._stop_asked:
                return "stopped", ""
            self._process = self._start(module, words, self._folder / f"{job.id}.log")
            if not isinstance(job.request, Paint):  # which is short: the next one may wait until it ends
                self._warm_up()
        try:
            status = self._process.wait()
        finally:
            with self._changed:
                self._process = None
                self._warm_up()
        if status == 0:
            return "finished", ""
        if status in STOPPED or job.id in self._stop_asked or self._closing:
            return "stopped", ""
        return "failed", self._fault(job.id)

    def _start(self, module: str, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        """The process of a command: the one that is ready, else a new one."""
        ready, self._ready = self._ready, None
        if ready is not None:
            log.write_bytes(b"")  # there from the start, though the child may still be importing
            if attached.begin(ready, module, words, log):
                return ready
            ready.kill()
            ready.wait()
        root, environment = self.workspace.root, _environment()
        with log.open("wb") as file:
            return attached.start(
                module, words, cwd=root, stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def _warm_up(self) -> None:
        if self._keeps_warm and self._ready is None and not self._closing:
            self._ready = attached.warm(IMPORTED, cwd=self.workspace.root, env=_environment())

    def _wait_for_former(self, folder: Path) -> None:
        """A process of a killed server may still be saving what it has."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not self._closing:
            holder = holder_of(in_folder(folder))
            if holder is None or holder.is_dead:
                return
            time.sleep(0.2)

    def _fault(self, number: str) -> str:
        """What a command said when it failed, in the page's words."""
        text = self.log(number)
        found = list(re.finditer(r"^Error: ", text, re.MULTILINE))
        if found:
            said = for_page(text[found[-1].end() :].strip(), self.workspace.root)[:4000]
            return said or f"It failed. All that it said stands in jobs/{number}.log."
        text = text.replace(f"{self.workspace.root}{os.sep}", "")
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "It said nothing.")
        return f"The command ended with a fault: {last[:1000]} All that it said stands in jobs/{number}.log."


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "LAMP_FULL_ERROR"}


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
