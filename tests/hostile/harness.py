"""Runs commands on hostile inputs, each in a process of its own, and judges how they end.

    python -m hostile.harness --count 1000 --report hostile.jsonl

runs what is not in the report yet (from the folder ``tests``); ``--only 17`` one again, with what it printed.
The commands are imported once; each trial is a fork, with a limit of time and memory, in a fresh copy of the
world. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import pickle
import pkgutil
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lamp_lightning
from hostile import world
from hostile.generator import Case, make
from processes import main_of

LIMIT = 20.0  # seconds
MEMORY = 6 * 2**30  # bytes of address space
RESIDENT = 3 * 2**30  # bytes in memory
LONGEST = 1500  # characters of a message
HASHED = 64 * 2**20  # bytes of a file that are compared
COMMANDS = ("train", "sample", "edit", "evaluate", "collect", "convert")
ALWAYS = ("tmp", "cache", "home/hf")  # folders of the world that any command may write into


class Harness:
    """The world in a folder, and the trials in it.

    Args:
        folder: for the world; made anew.
        seed: of all inputs.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.box, self.sound = folder / "box", folder / "sound"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(world.environment(self.box))
        self._programs()
        _import()
        status, text = self._forked(lambda: world.build(self.box), limit=300)[:2]
        if status != 0:
            raise RuntimeError(f"the world could not be made:\n{text}")
        self.box.rename(self.sound)

    def _programs(self) -> None:
        """Ghostscript and the like, which nothing may start."""
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("gs", "ffmpeg", "dwebp", "inkscape", "antigravity"):
            (programs / name).write_text(f"#!/bin/sh\ntouch {self.box}/outside/mark\n")
            (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"

    def trial(self, index: int) -> dict[str, Any]:
        """Run the input of that number; returns the line of the report."""
        _remove_tree(self.box)
        shutil.copytree(self.sound, self.box, symlinks=True)
        made = self.folder / "case"
        status, text = self._forked(lambda: _keep(made, make(self.seed, index, self.box)))[:2]
        if status != 0:
            raise RuntimeError(f"input {index} could not be made:\n{text}")
        case: Case = pickle.loads(made.read_bytes())
        before = snapshot(self.box)
        begun = time.monotonic()
        status, text, resident = self._forked(lambda: _command(case, self.box))
        seconds = time.monotonic() - begun
        faults = list(self._faults(case, status, text, before))
        if resident > RESIDENT:
            faults.append(f"memory: {resident / 2**30:.1f} GiB")
        line = {"index": index, "kind": case.kind, "what": case.what[:200], "command": case.command[0]}
        line |= {"status": status, "seconds": round(seconds, 2), "faults": faults}
        if faults:
            line |= {"words": [word[:300] for word in case.command[1]], "said": _shown(text)}
        return line

    def _faults(self, case: Case, status: int | None, text: str, before: dict[bytes, str]) -> Iterable[str]:
        after = snapshot(self.box)
        if os.path.lexists(self.box / "outside" / "mark"):
            yield "code ran"
        secret = world.SECRET.encode()
        if world.SECRET in text or any(secret in name for name in after):
            yield "the secret is shown"
        elif any(_holds(self.box, name, secret) for name in after if after[name] != before.get(name)):
            yield "the secret is written"
        if status is None:
            yield "hangs"
        elif status < 0:
            yield f"crash: {signal.Signals(-status).name}"
        elif "Traceback (most recent call last)" in text:
            last = [line for line in text.splitlines() if line and not line.startswith(" ")]
            yield f"traceback: {last[-1][:200] if last else ''}"
        elif status not in (0, 1, 3):
            yield f"status {status}"
        elif status == 1:
            yield from _faults_of_message(case, text)
        yield from self._faults_of_files(case, status, before, after)

    def _faults_of_files(
        self, case: Case, status: int | None, before: dict[bytes, str], after: dict[bytes, str]
    ) -> Iterable[str]:
        writes = [os.fsencode(os.path.relpath(path, self.box)) for path in case.writes]
        writes += [name.encode() for name in ALWAYS]
        changes = {os.fsencode(os.path.relpath(path, self.box)) for path in case.changes}
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            inside = any(name == each or name.startswith(each + b"/") for each in writes)
            always = any(name.startswith(each.encode()) for each in ALWAYS)
            if was == now or name == b"outside/mark" or always:
                continue
            shown = os.fsdecode(name).encode("unicode_escape").decode()
            if was is None and not inside:
                yield f"written elsewhere: {shown}"
            elif was is not None and now is None and not (was == "folder" and inside):
                yield f"lost: {shown}"
            elif was is not None and now is not None and name not in changes:
                yield f"overwritten: {shown}"
            elif was is None and (b".part" in name or b".writing" in name or b"/.lamp" in name):
                yield f"left behind: {shown}"

    def _forked(self, task: Callable[[], Any], limit: float = LIMIT) -> tuple[int | None, str, int]:
        """Run ``task`` in a fork: its status (None: it took too long), what it printed, bytes of memory."""
        with tempfile.TemporaryFile() as printed:
            child = os.fork()
            if child == 0:
                _child(task, printed.fileno())
            status, usage = _wait(child, limit)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what it has left running
            printed.seek(0)
            text = printed.read(4 * 2**20).decode(errors="backslashreplace")
        return status, text, usage


def _child(task: Callable[[], Any], output: int) -> None:
    """The fork's life; never returns."""
    status = 99
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = task()
        status = found if isinstance(found, int) else 0
        sys.stdout.flush()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status & 0xFF)


def _wait(child: int, limit: float) -> tuple[int | None, int]:
    """The status of a child, negative for a signal, None where it had to be killed; and its memory."""
    end = time.monotonic() + limit
    handle = os.pidfd_open(child)
    try:
        import select

        ended = select.select([handle], [], [], max(0, end - time.monotonic()))[0]
        if not ended:
            os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(handle)
    return (os.waitstatus_to_exitcode(status) if ended else None), usage.ru_maxrss * 1024


def _keep(file: Path, case: Case) -> None:
    file.write_bytes(pickle.dumps(case))


def _command(case: Case, box: Path) -> int:
    os.chdir(box / "work")
    name, words = case.command
    # As a shell would give them: no word has a zero byte.
    sys.argv = [f"lamp_lightning.{name}"]
    return main_of(f"lamp_lightning.{name}")([word.replace("\0", "") for word in words])


def _import() -> None:
    """All that the commands import, so that forks begin with it; nothing is computed."""
    import torch

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(lamp_lightning.__path__, "lamp_lightning."):
        importlib.import_module(module.name)
    import matplotlib.pyplot  # noqa: F401
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer  # noqa: F401


def _faults_of_message(case: Case, text: str) -> Iterable[str]:
    """What is wrong with the words that a command ended in."""
    found = list(re.finditer(r"^Error: ", text, re.MULTILINE))
    message = text[found[-1].start() :] if found else ""
    if not message:
        yield "no message"
    elif len(message) > LONGEST:
        yield f"a message of {len(message)} characters"
    elif re.search(r"Error: None$|\(None\)", message.splitlines()[0]):
        yield "a message without a reason"
    elif not any(name and name in message for name in case.names):
        yield "the message names no file"
    if "\x1b" in text.replace("\x1b[K", ""):
        yield "an escape sequence is printed"


def snapshot(folder: Path) -> dict[bytes, str]:
    """What lies below a folder: kind and contents by path, as bytes."""
    found = {}
    root = os.fsencode(folder)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            found[os.path.relpath(path, root)] = _content(path)
    return found


def _content(path: bytes) -> str:
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        return "link to " + os.fsdecode(os.readlink(path))
    if stat.S_ISDIR(about.st_mode):
        return "folder"
    if not stat.S_ISREG(about.st_mode):
        return "special"
    if about.st_size > HASHED:
        return f"{about.st_size} bytes"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _holds(box: Path, name: bytes, secret: bytes) -> bool:
    path = os.path.join(os.fsencode(box), name)
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) > HASHED:
        return False
    with open(path, "rb") as file:
        return secret in file.read()


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(os.fsencode(folder))


def _shown(text: str, most: int = 1600) -> str:
    return text if len(text) <= most else f"{text[:200]} [...] {text[-(most - 200) :]}"


def run(indices: Iterable[int], folder: Path, report: Path | None, seed: int = 0) -> list[dict[str, Any]]:
    """The trials that are not in the report yet; returns all lines of those numbers."""
    lines: dict[int, dict[str, Any]] = {}
    if report is not None and report.exists():
        lines = {line["index"]: line for line in map(json.loads, report.read_text().splitlines())}
    wanted = list(indices)
    missing = [index for index in wanted if index not in lines]
    if missing:
        harness = Harness(folder, seed)
        for index in missing:
            lines[index] = harness.trial(index)
            if report is not None:
                with open(report, "a") as file:
                    file.write(json.dumps(lines[index]) + "\n")
    return [lines[index] for index in wanted]


def main() -> int:
    """The command; the status says whether there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", type=int, nargs="*", help="these numbers, and all that they print")
    parser.add_argument("--report", type=Path, help="JSON lines; what is in it is not run again")
    arguments = parser.parse_args()
    indices = arguments.only or range(arguments.first, arguments.first + arguments.count)
    folder = Path(tempfile.mkdtemp(prefix="hostile_"))
    try:
        lines = run(indices, folder, arguments.report, arguments.seed)
    finally:
        _remove_tree(folder)
    faulty = [line for line in lines if line["faults"]]
    for line in lines if arguments.only else faulty:
        print(json.dumps(line, indent=1 if arguments.only else None))
    kinds = Counter((line["kind"], fault.split(":")[0]) for line in faulty for fault in line["faults"])
    for (kind, fault), count in sorted(kinds.items()):
        print(f"{kind:<24}{fault:<32}{count:>5}", file=sys.stderr)
    ended = Counter(line["status"] for line in lines)
    seconds = sum(line["seconds"] for line in lines)
    print(f"{len(lines)} inputs, {len(faulty)} with faults, {seconds:.0f} s, {dict(ended)}", file=sys.stderr)
    return int(bool(faulty))


if __name__ == "__main__":
    sys.exit(main())
