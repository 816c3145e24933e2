"""A suite of methods, all tuned on the same clips and shown the same first frames, in one comparison.

Runs are made by the train command, a sweep over motions and seeds for each method, so that any launcher can
take them. Then each run generates the held-out scenes and is measured. What is finished is not done again.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.benchmark.trial import Trial, judge_references, judge_trial, run_folder
from lamp_lightning.data.video import writable_folder
from lamp_lightning.metrics import MEASURES, measures
from lamp_lightning.report import Claim, Comparison, Entry, Result, write_report
from lamp_lightning.report.comparison import TRUTH
from lamp_lightning.report.write import report_to
from lamp_lightning.runtime.attached import attached
from lamp_lightning.runtime.command import data_roots
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import composed, motion_folders, offer_motions, options
from lamp_lightning.runtime.console import counted, quiet_libraries, short, threads
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.runs import RunFolder, versions
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.runtime.stopping import StopRequest
from lamp_lightning.runtime.sweeps import changed_settings
from lamp_lightning.train.__main__ import PATHS, settle_paths
from lamp_lightning.train.run import variant_from

QUICK = {"scenes": 2, "steps": 3}
# The first needs the truth, which only the toy world has.
DECIDING = ("moving_error_ratio", "motion_fidelity")
SHOWN = (
    "moving_error_ratio", "motion_fidelity", "clip_score", "frame_consistency", "first_frame_fidelity",
    "motion_amount", "detail", "still_error", "warping_error", "diversity",
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """An entry of a suite: overrides of the train command, or another entry's runs sampled in another way."""

    entry: Entry
    overrides: tuple[str, ...] = ()
    of: str | None = None
    sampler: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def label(self) -> str:
        return self.entry.label


def run_suite(cfg: DictConfig) -> Path:
    """Tune, generate, measure and report what `cfg` asks for; returns the page.

    Raises:
        UserError: settings that cannot be used, or no run that could be measured.
        Stopped: after a Ctrl-C or SIGTERM; the same overrides go on.
    """
    quiet_libraries()
    torch.set_num_threads(threads(cfg.threads))
    command = command_of(cfg)
    cfg = _quick(cfg) if cfg.quick else cfg
    methods = find_methods(cfg)
    out = Path(str(cfg.out)).expanduser().absolute()
    check_runs(cfg, out)
    with only_writer(out, inside=("scenes", "results/*", "plots")):
        writable_folder(out)
        return _run(cfg, methods, out, command)


def _run(cfg: DictConfig, methods: Sequence[Contender], out: Path, command: str) -> Path:
    print(
        f"{cfg.suite.title}: {len(methods)} methods on {counted(len(cfg.motions), 'motion')} with "
        f"{counted(len(cfg.seeds), 'seed')}, {cfg.scenes} scenes each, in {short(out)}",
        flush=True,
    )
    results: list[Result] = []
    problems: list[str] = []
    trials: list[Trial] = []
    with StopRequest() as stop:
        for method in methods:
            if method.of is None:
                tune(cfg, method, out, stop)
            for motion, seed in product(cfg.motions, cfg.seeds):
                stop.check()
                trial = Trial(out, method.of or method.name, method.name, motion, seed, cfg.scenes)
                try:
                    found = judge_trial(trial, dict(method.sampler), stop.check)
                except UserError as error:
                    problems.append(f"{method.label}, {motion}, seed {seed}: {error}")
                    print(f"Left out: {problems[-1]}", file=sys.stderr, flush=True)
                    continue
                results.append(found)
                trials.append(trial)
                _say(method, found)
        if not results:
            raise UserError(f"None of the suite's runs could be measured; the first: {problems[0]}")
        references, scenes = judge_references(trials, stop.check)
    comparison = compare(cfg, methods, [*references, *results], scenes, problems)
    comparison = replace(comparison, settings={"command": command, **comparison.settings})
    page = write_report(comparison, out)
    logged = report_to(cfg.logger, comparison, out, job_type="benchmark")
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"  page          {short(page)}\n  tables        {short(out)}/table.md, .csv, .tex")
    for what, where in logged:
        print(f"  {what:<14}{where}")
    sys.stdout.flush()
    return page


def find_methods(cfg: DictConfig) -> list[Contender]:
    """The suite's methods that are asked for.

    Raises:
        UserError: an unknown motion or entry, or overrides that the train command does not take.
    """
    if cfg.out is None:
        raise UserError("The benchmark needs a folder to write to: give out=<folder>.")
    for name in ("motions", "seeds", "entries"):
        values = list(cfg[name] or [])
        twice = [str(value) for k, value in enumerate(values) if value in values[:k]]
        if twice:
            raise UserError(f"{name} has {twice[0]} more than once: give each once.")
    roots = data_roots(cfg.words)
    for root in roots:
        offer_motions(root)
    there = sorted({*options("motion"), *(motion for root in roots for motion in motion_folders(root))})
    for motion in cfg.motions:
        if motion not in there:
            raise UserError(f"There is no motion {motion!r}; there are {', '.join(there)}.")
    known: Any = OmegaConf.to_container(cfg.suite.entries, resolve=True)
    wanted = list(known) if cfg.entries is None else list(cfg.entries)
    for name in wanted:
        if name not in known:
            raise UserError(f"The suite {cfg.suite.name} has no {name!r}; it has {', '.join(known)}.")
    methods = [_contender(cfg, name) for name in wanted]
    for method in methods:
        if method.of is not None and method.of not in wanted:
            raise UserError(f"{method.name} is {method.of} sampled in another way: ask for {method.of}, too.")
        for motion in cfg.motions:  # a typo, or what contradicts itself, is said now
            asked = _composed([*method.overrides, *cfg.words, f"motion={motion}"])
            check_settings(Train, asked)
            variant_from(asked)
    return methods


def _contender(cfg: DictConfig, name: str) -> Contender:
    """An entry of the suite."""
    said: Any = OmegaConf.to_container(cfg.suite.entries[name], resolve=True)
    entry = Entry(name, said["label"], said.get("about", ""), said.get("kind", cfg.suite.kind))
    return Contender(entry, tuple(said.get("words", ())), said.get("of"), said.get("sampler", {}))


def check_runs(cfg: DictConfig, out: Path) -> None:
    """Refuse a folder with runs of other settings, by a UserError that names the run and what differs.

    A run that cannot be opened is passed over: it is named and left out when its turn comes.
    """
    for method in (_contender(cfg, name) for name in cfg.suite.entries):
        for motion, seed in product(cfg.motions, cfg.seeds):
            folder = run_folder(out, method.name, motion, seed)
            if RunFolder(folder).config_file.exists():
                asked = _composed([*_own_overrides(cfg, method), f"motion={motion}"])
                asked.seed = seed
                settle_paths(asked)
                try:
                    _, before = RunFolder.open(folder)
                except UserError:
                    continue
                changed = [name for name in changed_settings(before, asked) if not _moved(before, name)]
                if changed:
                    raise UserError(
                        f"{short(folder)} holds a run with another {', '.join(changed[:3])}. Give another "
                        "out=<folder>, or the overrides that it was tuned with."
                    )


def _moved(cfg: DictConfig, name: str) -> bool:
    """Whether a setting is a path that is no more: with its project a suite may move to another place."""
    value = OmegaConf.select(cfg, name)
    return name in PATHS and value is not None and not Path(str(value)).exists()


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The train command's config with these overrides."""
    return deepcopy(_composed_once(tuple(overrides)))


@lru_cache(maxsize=256)
def _composed_once(overrides: tuple[str, ...]) -> DictConfig:
    """Composing takes a tenth of a second, and the same runs are asked about again and again."""
    return composed("train", overrides)


def _budgets(cfg: DictConfig, methods: Sequence[Contender]) -> str:
    """Steps and clips of each as text, those of most methods first; what is not tuned is left out."""
    labels: dict[str, list[str]] = {}
    for method in (method for method in methods if method.of is None):
        tuned = _composed([*_own_overrides(cfg, method), f"motion={cfg.motions[0]}"])
        if tuned.trainer.max_steps:
            clips = counted(tuned.data.batch_size * tuned.trainer.accumulate_grad_batches, "clip")
            labels.setdefault(f"{tuned.trainer.max_steps} of {clips}", []).append(method.label)
    usual, *others = sorted(labels, key=lambda each: -len(labels[each])) or ["none"]
    return "; ".join([usual, *(f"{', '.join(labels[each])}: {each}" for each in others)])


def _quick(cfg: DictConfig) -> DictConfig:
    """One motion and seed, few scenes and steps; in a folder of its own."""
    small = cfg.copy()
    small.update(QUICK, motions=list(cfg.motions)[:1], seeds=list(cfg.seeds)[:1], out=f"{cfg.out}_quick")
    return small


def command_of(cfg: DictConfig) -> str:
    """The command that asks for this, with what differs from the suite."""
    changed = [name for name in ("motions", "seeds", "scenes", "steps") if cfg[name] != cfg.suite[name]]
    changed += [name for name in ("entries", "words") if cfg[name]]
    overrides = [f"suite={cfg.suite.name}", *(f"{name}={_hydra_value(cfg[name])}" for name in changed)]
    overrides += ["quick=true"] * cfg.quick
    return shlex.join(["python", "-m", "lamp_lightning.benchmark", *overrides])


def _hydra_value(value: Any) -> str:
    """A setting in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value if value.isidentifier() else json.dumps(value)
    return str(value) if isinstance(value, int) else f"[{','.join(map(_hydra_value, value))}]"


def train_overrides(cfg: DictConfig, method: Contender, out: Path) -> list[str]:
    """What the train command is called with for all runs of a method."""
    overrides = _own_overrides(cfg, method)
    if cfg.launcher is not None:
        overrides.append(f"hydra/launcher={cfg.launcher}")
    if cfg.threads is not None:
        overrides.append(f"threads={cfg.threads}")
    seeds = ",".join(map(str, cfg.seeds))
    return [
        "-m", *overrides, f"motion={','.join(cfg.motions)}", f"seed={seeds}",
        f"hydra.sweep.dir={out / 'runs' / method.name}", "hydra.sweep.subdir=${motion.name}_seed${seed}",
    ]  # fmt: skip


def _own_overrides(cfg: DictConfig, method: Contender) -> list[str]:
    """The overrides that say what a method's runs are, whatever makes them."""
    trained = _composed([*method.overrides, *cfg.words, f"motion={cfg.motions[0]}"]).trainer.max_steps
    overrides = [*method.overrides, *cfg.words, "logger=none", "samples.final=0", "samples.every=null"]
    if cfg.steps is not None and trained:
        overrides.append(f"model.recipe.max_steps={cfg.steps}")  # for lamp_paper as many clips, in more steps
    return overrides


def tune(cfg: DictConfig, method: Contender, out: Path, stop: StopRequest) -> None:
    """Make a method's runs that are not finished yet, in a process of its own."""
    folders = [run_folder(out, method.name, m, s) for m in cfg.motions for s in cfg.seeds]
    if all((folder / "metrics.json").exists() for folder in folders):
        return
    overrides = train_overrides(cfg, method, out)
    print(f"\n{method.label}: python -m lamp_lightning.train {' '.join(overrides)}", flush=True)
    with attached("lamp_lightning.train", overrides) as process:
        told = False
        while process.poll() is None:
            if stop.requested and not told:
                process.send_signal(stop.signum or 2)
                told = True
            time.sleep(0.1)
    stop.check()


def compare(
    cfg: DictConfig,
    methods: Sequence[Contender],
    results: Sequence[Result],
    scenes: Sequence[Any],
    problems: Sequence[str],
) -> Comparison:
    """Everything that came out, as one structure for tables, plots and the page."""
    found = {name for result in results for name in result.metrics}
    shown = [name for name in SHOWN if name in found]
    references = [entry for entry in _REFERENCES if any(r.entry == entry.name for r in results)]
    columns = measures(shown, truth=any(entry.name == TRUTH for entry in references))
    entries = [m.entry for m in methods]
    names = {entry.name for entry in (*entries, *references)}
    asked: Any = OmegaConf.to_container(cfg.suite.claims) if "claims" in cfg.suite else []
    claims = [Claim(**{**claim, "against": tuple(claim["against"])}) for claim in asked]
    sampled_again = {m.name for m in methods if m.of is not None}
    tuning = sum(r.minutes or 0 for r in results if r.entry not in sampled_again)
    painting = sum((r.seconds_per_video or 0) * len(r.videos) / 60 for r in results)
    return Comparison(
        title=str(cfg.suite.title),
        question=str(cfg.suite.question),
        measures=tuple(sorted(columns, key=lambda column: shown.index(column.name))),
        entries=(*entries, *references),
        motions=tuple(cfg.motions),
        results=tuple(_only(result, shown) for result in results),
        scenes=tuple(scenes),
        settings={
            "steps of tuning": _budgets(cfg, methods),
            "held-out scenes": f"{cfg.scenes} of each motion",
            "minutes of tuning and of painting, in all": f"{tuning:.0f} and {painting:.0f}",
            "processor threads": str(torch.get_num_threads()),
            **versions(),
        },
        deciding=tuple(name for name in DECIDING if name in shown),
        moves_by="motion_amount" if TRUTH in names else None,
        claims=tuple(
            claim for claim in claims if claim.measure in shown and {claim.entry, *claim.against} <= names
        ),
        left_out=tuple(problems),
    )


_REFERENCES = (
    Entry("frozen", "frozen first frame", "The first frame, standing still.", "reference"),
    Entry(TRUTH, "the truth", "How the scene truly goes on.", "reference"),
)


def _only(result: Result, names: Sequence[str]) -> Result:
    """A result with some of its measures."""

    def some(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in names}

    videos = tuple(replace(video, metrics=some(video.metrics)) for video in result.videos)
    return replace(result, metrics=some(result.metrics), videos=videos, over_frames=some(result.over_frames))


def _say(method: Contender, result: Result) -> None:
    values = [
        f"{MEASURES[name].title} {MEASURES[name].number(result.metrics[name])}"
        for name in SHOWN[:4]
        if name in result.metrics
    ]
    print(f"  {method.label}, {result.motion}, seed {result.seed}: {', '.join(values)}", flush=True)
