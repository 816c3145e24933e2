"""Kill commands at random points, go on with them, and see whether anything is lost or left behind.

    python benchmarks/kills.py --count 300 --seed 0

Each trial lets one command (a training, one with an empty cache, painting, a sweep or an edit, with tiny
random models) run into SIGKILL, SIGTERM, SIGINT or two SIGINT: at a random time, or at a random one of its
file operations. Then the user's next step is taken: the run, sweep or edit is resumed, or the command is
given again. A trial is at fault if

- the second command fails, or its files differ from those of a command that was never killed (adapters,
  videos and cache byte for byte, measures without times);
- the killed command showed a traceback, or ended with another status than its signal's (or 0, if done);
- a process of it is alive 3 seconds later;
- after the second command a temporary file, a lock or a temporary folder is left.

The trials of a seed are always the same. Results are lines of JSON in <out>/seed<seed>/results.jsonl; called
again it goes on where it was stopped (--slice: at most so many trials in this call). Each trial is a fork of
one process that has imported everything, so that it takes seconds. Needs Linux or another system with fork.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from forks import MARK, Ended, Kill, run

HERE = Path(__file__).resolve().parent
KINDS = ("SIGKILL", "SIGTERM", "SIGINT", "2 SIGINT")
GRACE = 3.0  # seconds that children of a killed process may live on
TIMES = ("minutes", "seconds_per_video")  # what differs from run to run


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    ``words`` and what to call after a kill, from the trial's folder; ``results`` is what has to come out.
    """

    module: str
    words: Callable[[Path], list[str]]
    resumed: Callable[[Path, list[str]], list[str]]
    results: Callable[[Path], dict[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials that are not done yet; the exit status is 1 if one of all was at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--slice", type=int, default=None, help="at most so many trials in this call")
    args = parser.parse_args(argv)
    out = (args.out / f"seed{args.seed}").absolute()
    results = out / "results.jsonl"
    done = {line["trial"]: line for line in _lines(results)}
    left = [number for number in range(args.count) if number not in done][: args.slice]
    if left:
        _import_everything()
        world = _world(out)
        reference = _references(out, world)
        for number in left:
            line = trial(number, args.seed, out, world, reference)
            done[number] = line
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            faults = "; ".join(line["faults"]) or "equal"
            kind = f"{line['scenario']:<7}{line['signal']:<9}{line['when']:<22}"
            print(f"{number:4} {kind}{faults}", flush=True)
    counted = [done[number] for number in range(args.count) if number in done]
    print(summary(counted))
    return int(any(line["faults"] for line in counted))


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """How many trials of each kind, and how many of them were at fault."""
    rows = Counter((line["scenario"], line["signal"]) for line in lines)
    faulty = Counter((line["scenario"], line["signal"]) for line in lines if line["faults"])
    table = [f"  {name:<8}{kind:<10}{rows[name, kind]:>4} trials, {faulty[name, kind]} at fault"
             for name, kind in sorted(rows)]  # fmt: skip
    hit = sum(line["status"] != 0 for line in lines)
    at_fault = [f"  trial {line['trial']}: {'; '.join(line['faults'])}" for line in lines if line["faults"]]
    head = f"{len(lines)} trials, {hit} of them hit a running command, {len(at_fault)} at fault"
    return "\n".join([head, *table, *at_fault])


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    texts = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(text) for text in texts if text.endswith("}")]  # the last may have been cut off


# -- the commands --------------------------------------------------------------------------------------------


def scenarios(world: Path) -> dict[str, Scenario]:
    """The commands by name, on the models and clips of ``world``."""
    small = [
        f"model.path={world / 'model'}", f"model.clip={world / 'clip'}", f"data.root={world / 'clips'}",
        "data.size=[32,32]", "data.num_frames=4", "sampler.num_inference_steps=2", "samples.every=null",
        "threads=1", "logger=none",
    ]  # fmt: skip
    warm = f"data.cache_dir={world / 'cache'}"

    def train(folder: Path) -> list[str]:
        steps = ["trainer.max_steps=4", "save_every=1", "samples.every=2", "samples.while_training=1"]
        return [
            "motion=waterfall",
            *small,
            warm,
            *steps,
            "samples.final=1",
            f"hydra.run.dir={folder / 'run'}",
        ]

    def cache(folder: Path) -> list[str]:
        ends = ["trainer.max_steps=1", "samples.final=0", f"data.cache_dir={folder / 'cache'}"]
        return ["motion=waterfall", *small, *ends, f"hydra.run.dir={folder / 'run'}"]

    def sample(folder: Path) -> list[str]:
        what = ["prompt=[a lake,a red bird]", "count=2", "batch=2", "format=[mp4,png]", "threads=1"]
        return [f"run={world / 'tuned'}", *what, f"out={folder / 'out'}"]

    def sweep(folder: Path) -> list[str]:
        ends = ["trainer.max_steps=2", "save_every=1", "samples.final=0", "hydra.sweep.subdir=seed${seed}"]
        ends += [f"hydra.sweep.dir={folder / 'run'}"]
        return ["-m", "motion=waterfall", "seed=0,1", *small, warm, *ends]

    def edit(folder: Path) -> list[str]:
        ends = ["sampler.paint_steps=2", "trainer.max_steps=2", f"hydra.run.dir={folder / 'run'}"]
        asked = [
            f"video={world / 'clips' / 'rain' / 'clip_3.mp4'}",
            "source_prompt=a bird",
            "prompt=a red bird",
        ]
        kept = [word for word in small if not word.startswith(("data.root", "data.num", "samples."))]
        return [*asked, *kept, warm, *ends]

    def resumed(key: str, cache_dir: Callable[[Path], Path]) -> Callable[[Path, list[str]], list[str]]:
        def words(folder: Path, first: list[str]) -> list[str]:
            begun = any((folder / "run" / name).exists() for name in ("config.yaml", "multirun.yaml"))
            again = [f"{key}={folder / 'run'}"]
            if not (folder / "run" / "multirun.yaml").exists():  # a place to write to has to be given again
                again.append(f"data.cache_dir={cache_dir(folder)}")
            return again if begun else first

        return words

    shared = resumed("resume", lambda _: world / "cache")
    return {
        "train": Scenario("train", train, shared, lambda folder: run_files(folder / "run")),
        "cache": Scenario(
            "train",
            cache,
            resumed("resume", lambda folder: folder / "cache"),
            lambda folder: run_files(folder / "run") | digests(folder / "cache"),
        ),
        "sample": Scenario("sample", sample, lambda _, first: first, lambda folder: digests(folder / "out")),
        "sweep": Scenario("train", sweep, shared, lambda folder: run_files(folder / "run")),
        "edit": Scenario(
            "edit", edit, resumed("run", lambda _: world / "cache"), lambda folder: run_files(folder / "run")
        ),
    }


def run_files(folder: Path) -> dict[str, str]:
    """Digests of what a run or a sweep has to leave, but identities, samples on the way and checkpoints.

    A checkpoint holds times; that it is right shows in the steps that come after it.
    """
    found = digests(folder)
    passed_over = ("config.yaml", "run.json", "multirun.yaml", ".ckpt")
    return {
        name: digest
        for name, digest in found.items()
        if not name.endswith(passed_over) and "samples/" not in name
    }


def digests(folder: Path) -> dict[str, str]:
    """The digest of each file in a folder; of measures, without the times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "metrics.json":
                facts = json.loads(content)
                content = json.dumps({k: v for k, v in facts.items() if k not in TIMES}).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


# -- a trial -------------------------------------------------------------------------------------------------


def trial(
    number: int, seed: int, out: Path, world: Path, reference: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Kill a command, go on with it, and look at what is there; returns the line of the results."""
    drawn = random.Random(f"{seed} {number}")
    commands = scenarios(world)
    name = list(commands)[number % len(commands)]
    scenario, whole = commands[name], reference[name]
    kind = drawn.choice(KINDS)
    by_operation = drawn.random() < 0.5
    at = drawn.random()
    after = at * whole["seconds"]
    operation = 1 + int(at * whole["operations"])
    pause = drawn.uniform(0.01, 0.5)
    folder = out / f"trial_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = scenario.words(folder)
    sent = Kill(kind, pause, operation=operation) if by_operation else Kill(kind, pause, after=after)
    killed = run(scenario.module, words, folder, sent)
    faults = _faults_of_end(killed, kind)
    if alive := _alive(folder):
        faults.append(f"still alive: {alive}")
    begun = time.monotonic()
    again = run(scenario.module, scenario.resumed(folder, words), folder)
    if again.status:
        faults.append(f"resumed: status {again.status}: {again.printed[-300:]}")
    else:
        faults += _differences(scenario.results(folder), whole["results"])
        faults += [f"left behind: {path}" for path in litter(folder, world)]
    if not faults:
        shutil.rmtree(folder)
    return {
        "trial": number,
        "scenario": name,
        "signal": kind,
        "when": f"operation {operation}" if by_operation else f"after {after:.2f} s",
        "status": killed.status,
        "seconds": round(killed.seconds, 2),
        "resumed_seconds": round(time.monotonic() - begun, 2),
        "faults": faults,
    }


def _faults_of_end(killed: Ended, kind: str) -> list[str]:
    allowed = {
        "SIGKILL": (0, -signal.SIGKILL),
        "SIGTERM": (0, -signal.SIGTERM, 128 + signal.SIGTERM),
        "SIGINT": (0, 128 + signal.SIGINT),
        "2 SIGINT": (0, 128 + signal.SIGINT),
    }[kind]
    faults = []
    if killed.status not in allowed:
        faults.append(f"killed: status {killed.status}: {killed.printed[-300:]}")
    if "Traceback" in killed.printed:
        faults.append(f"killed: {killed.printed[-600:]}")
    return faults


def _differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return [
        f"{name} {'is missing' if name not in found else 'differs' if name in wanted else 'is new'}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]


def litter(folder: Path, world: Path) -> list[str]:
    """Temporary files, locks and temporary folders that are left."""
    hidden = [path for place in (folder, world) for path in place.rglob(".*")]
    return [str(path) for path in (*hidden, *(folder / "tmp").iterdir())]


def _alive(folder: Path) -> list[str]:
    """Processes of a trial that live on."""
    end = time.monotonic() + GRACE
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


# -- before the trials ---------------------------------------------------------------------------------------


def _import_everything() -> None:
    """What the commands import, once for all. Nothing is computed: a fork must not inherit threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(HERE.parent / "tests"))
    import torch

    torch.set_num_threads(1)
    import diffusers
    import transformers

    from lamp_lightning.edit import __main__ as edit
    from lamp_lightning.runtime.console import quiet, quiet_libraries
    from lamp_lightning.sample import __main__ as sample
    from lamp_lightning.train import __main__ as train

    for name in ("AutoencoderKL", "DDIMScheduler", "PNDMScheduler", "StableDiffusionPipeline"):
        getattr(diffusers, name)
    for name in ("CLIPModel", "CLIPTextModel", "CLIPTokenizer", "CLIPImageProcessor"):
        with contextlib.suppress(ImportError):
            getattr(transformers, name)
    for command in (train, edit, sample):
        assert command.main
    from lamp_lightning.edit import run as editing
    from lamp_lightning.evaluate import run as evaluating
    from lamp_lightning.sample import run as painting
    from lamp_lightning.train import run as tuning

    for module in (editing, evaluating, painting, tuning):
        assert module.__file__
    quiet()
    quiet_libraries()
    assert threading.active_count() == 1, threading.enumerate()


def _world(out: Path) -> Path:
    """A folder with a model, a CLIP and clips, all tiny and random; made in a process of its own."""
    world = out / "world"
    if (world / "made").exists():
        return world
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        try:
            from conftest import write_clips
            from random_models import save_random_clip, save_random_model

            save_random_model(world / "model")
            save_random_clip(world / "clip")
            for motion in ("waterfall", "rain"):
                write_clips(world / "clips" / motion)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("The random models cannot be made.")
    tuned = scenarios(world)["train"].words(world)
    words = [*tuned[:-1], f"hydra.run.dir={world / 'tuned'}"]
    ended = run("train", words, world)
    if ended.status:
        raise SystemExit(f"The run to paint with cannot be made: {ended.printed}")
    shutil.rmtree(world / "tmp")
    (world / "made").touch()
    return world


def _references(out: Path, world: Path) -> dict[str, dict[str, Any]]:
    """What each command leaves that is not killed, how long it takes, and its number of file operations."""
    file = out / "references.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    found = {}
    for name, scenario in scenarios(world).items():
        for attempt in range(2):  # the second finds what the first has put into caches, as trials will
            folder = out / f"reference_{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            ended = run(scenario.module, scenario.words(folder), folder)
            if ended.status:
                raise SystemExit(f"{name} ends with status {ended.status}: {ended.printed}")
            results = scenario.results(folder)
            if attempt and (different := _differences(results, found[name]["results"])):
                raise SystemExit(f"{name} is not the same twice: {different}")
            found[name] = {"seconds": ended.seconds, "operations": ended.operations, "results": results}
        shutil.rmtree(folder)
        print(f"{name}: {ended.seconds:.1f} s, {ended.operations} file operations", flush=True)
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    sys.exit(main())
