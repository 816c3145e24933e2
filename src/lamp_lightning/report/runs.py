"""Run folders as a comparison: settings that differ become entries, seeds become spread."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from lamp_lightning.metrics.metrics_json import RunMetrics, read_judged, read_metrics
from lamp_lightning.metrics.registry import measures
from lamp_lightning.report.comparison import (
    COSTS,
    Comparison,
    Entry,
    HeldOutScene,
    Result,
    SceneVideo,
    VideoFile,
)
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder

DECIDING = ("motion_fidelity", "moving_error_ratio")  # where they were measured
# Settings that make no difference to what a run learns and paints, or stand in another one already.
FREE = ("seed", "threads", "resume", "save_every", "logger", "samples", "motion", "model.recipe",
        "data.root", "data.folder", "data.cache_dir", "data.num_workers", "data.decode_timeout",
        "trainer.log_every_n_steps", "sampler.fps")  # fmt: skip
OF_MOTION = ("data.flip", "data.captions")  # differ with the motion, which is no setting
_FACTS = ("steps", "minutes", "seconds_per_video")  # of a run, but no measure


@dataclass(frozen=True)
class Run:
    """A finished run: its settings by dotted name, and what metrics.json holds."""

    folder: Path
    started: str
    motion: str
    seed: int
    settings: dict[str, str]
    metrics: dict[str, float]
    videos: tuple[tuple[str, VideoFile, dict[str, float]], ...]  # prompt, file, metrics


def find_runs(asked: Sequence[str]) -> list[Path]:
    """The run folders that the paths and patterns name, or that lie anywhere below, sorted.

    Raises:
        UserError: a path does not exist, a pattern fits nothing, or there is no run below.
    """
    found: set[Path] = set()
    for text in asked:
        path = os.path.expanduser(text)
        places = sorted(glob(path)) if has_magic(path) and not os.path.exists(path) else [path]
        runs = {run for place in places for run in _below(Path(place).absolute())}
        if not places or not os.path.exists(places[0]):
            raise UserError(f"runs={text}: there is no such folder. Runs are at runs/<motion>/<time>.")
        if not runs:
            raise UserError(
                f"runs={text}: there is no run in it. A run's folder has config.yaml and run.json, as "
                "lamp_lightning.train writes them."
            )
        found |= runs
    return sorted(found)


def _below(folder: Path) -> list[Path]:
    if (folder / "config.yaml").is_file() and (folder / "run.json").is_file():
        return [folder]
    if not folder.is_dir():
        return []
    return [run for each in sorted(folder.iterdir()) if each.is_dir() for run in _below(each)]


def compare_runs(folders: Sequence[Path], *, title: str | None = None, videos: int = 8) -> Comparison:
    """All finished runs as one comparison; unfinished and broken ones are named in `left_out`.

    Raises:
        UserError: none is finished.
    """
    runs, left_out = [], []
    for folder in folders:
        found = _read(folder, videos)
        if isinstance(found, Run):
            runs.append(found)
        else:
            left_out.append(found)
    if not runs:
        raise UserError("None of the runs can be compared. " + " ".join(left_out))
    columns, others = differing(runs)
    chosen, repeated = _newest(runs, columns)
    left_out += repeated
    entries: dict[str, Entry] = {}
    results, scenes = [], {}
    for run in chosen:
        name, settings = _label(run, columns)
        entries.setdefault(name, Entry(name, name, kind="setting", settings=settings))
        results.append(_result(name, run))
        for prompt, _, _ in run.videos:
            scenes[run.motion, prompt] = HeldOutScene(run.motion, prompt, prompt)
    entries = _named(entries)
    names = {key for result in results for key in result.metrics}
    motions = sorted({run.motion for run in chosen})
    facts = {"runs": str(len(chosen)), "motions": ", ".join(motions)}
    facts["seeds"] = ", ".join(map(str, sorted({run.seed for run in chosen})))
    facts |= {f"differs along with {key}": ", ".join(same) for key, same in others.items()}
    if not names:
        raise UserError(
            "None of the runs has any measure in its metrics.json: tune with samples.final=4, or more."
        )
    return Comparison(
        title=title or f"{len(chosen)} run{'s' * (len(chosen) != 1)} of {', '.join(motions)}",
        question=f"What difference do {_listed(columns)} make?" if columns else "What do these runs show?",
        measures=measures(names),
        entries=tuple(
            sorted(entries.values(), key=lambda e: [_sortable(v) for v in (*e.settings.values(), e.label)])
        ),
        motions=tuple(motions),
        results=tuple(sorted(results, key=lambda r: (r.entry, r.motion, r.seed))),
        scenes=tuple(scenes[key] for key in sorted(scenes)),
        settings=facts,
        deciding=tuple(name for name in DECIDING if name in names),
        moves_by="motion_amount" if "motion_amount" in names else None,
        left_out=tuple(left_out),
    )


# -- reading -------------------------------------------------------------------------------------------------


def _read(folder: Path, videos: int) -> Run | str:
    """A run, or why it is left out."""
    try:
        run, cfg = RunFolder.open(folder)
        if not run.metrics.is_file():
            return f"{short(folder)} is not finished: it has no metrics.json."
        found = read_metrics(run.metrics)
        metrics = dict(found.numbers)
        costs = [found.minutes, found.seconds_per_video]
        settings = _flat(OmegaConf.to_container(cfg, resolve=True))
        made = _videos(run, found)
        evaluated = folder / "evaluation" / "metrics.json"
        if evaluated.is_file():  # lamp_lightning.evaluate measures more, and anew
            metrics |= read_metrics(evaluated).measured
        of_suite = folder.parent.parent.parent / "results" / folder.parent.name / f"{folder.name}.json"
        if of_suite.is_file():  # a benchmark measures its runs itself
            judged = read_judged(of_suite)
            metrics |= judged.numbers
            costs[1] = judged.seconds_per_video
        metrics |= {name: cost for name, cost in zip(COSTS, costs, strict=True) if cost is not None}
        seed, motion = int(settings.get("seed", 0)), settings["motion.name"]
        return Run(folder, str(run.info.get("started", "")), motion, seed, settings, metrics, made[:videos])
    except UserError as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:  # of its config
        return f"{short(folder)} is broken: {type(error).__name__}: {error}."


def _videos(run: RunFolder, metrics: RunMetrics) -> tuple[tuple[str, VideoFile, dict[str, float]], ...]:
    made = []
    for video in metrics.videos:
        file = run.videos / video.file
        if file.is_file() and video.prompt is not None:
            made.append((video.prompt, VideoFile(str(file)), video.numbers))
    prompts = [prompt for prompt, _, _ in made]
    return tuple(v for k, v in enumerate(made) if v[0] not in prompts[:k])  # one scene for each prompt


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, each in value.items():
            found |= _flat(each, f"{name}.{key}" if name else str(key))
        return found
    if isinstance(value, list):
        return {name: "[" + ", ".join(map(_shown, value)) + "]"}
    return {name: _shown(value)}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if _is_number(value) or isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


# -- which settings differ -----------------------------------------------------------------------------------


def differing(runs: Sequence[Run]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Settings that differ between runs: their full names by heading, and by heading what differs with it.

    Of settings that always differ together (a model and its size) one is a column.
    """
    table = pd.DataFrame([run.settings for run in runs]).fillna("null").sort_index(axis=1)
    motions = [run.motion for run in runs]
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, values in table.items():
        if any(key == free or str(key).startswith(f"{free}.") for free in FREE) or "_target_" in str(key):
            continue
        follows_motion = key in OF_MOTION and values.groupby(motions).nunique().max() == 1
        if values.nunique() > 1 and not follows_motion:
            groups.setdefault(tuple(pd.factorize(values)[0]), []).append(str(key))
    leaders = [min(same, key=_telling) for same in groups.values()]
    ends = [key.rpartition(".")[2] for key in leaders]
    columns, others = {}, {}
    for key, end, same in zip(leaders, ends, groups.values(), strict=True):
        heading = key if ends.count(end) > 1 or end == "name" else end
        columns[heading] = key
        if len(same) > 1:
            others[heading] = [each for each in same if each != key]
    return columns, others


def _telling(key: str) -> tuple[bool, int, str]:
    """Sorts what says most to a reader to the front: names, then short ones."""
    return not key.endswith(".name"), len(key), key


def _newest(runs: Sequence[Run], columns: dict[str, str]) -> tuple[list[Run], list[str]]:
    """One run for each setting, motion and seed: the newest; and words on the others."""
    kept: dict[tuple[str, str, int], Run] = {}
    said = []
    for run in sorted(runs, key=lambda run: (run.started, str(run.folder))):
        key = (_label(run, columns)[0], run.motion, run.seed)
        if key in kept:
            said.append(
                f"{short(kept[key].folder)} has the same settings as {short(run.folder)}, which is newer."
            )
        kept[key] = run
    return sorted(kept.values(), key=lambda run: str(run.folder)), said


def _label(run: Run, columns: dict[str, str]) -> tuple[str, dict[str, str]]:
    settings = {heading: run.settings.get(key, "null") for heading, key in columns.items()}
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "all runs", settings


def _named(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Entries that a name in the config (of a method, a model) tells apart are called by it alone."""
    headings = next(iter(entries.values())).settings
    for heading in (each for each in headings if each.endswith(".name")):
        if len({entry.settings[heading] for entry in entries.values()}) == len(entries) > 1:
            return {
                key: replace(
                    entry,
                    label=entry.settings[heading].replace("_", " "),
                    settings={name: value for name, value in entry.settings.items() if name != heading},
                )
                for key, entry in entries.items()
            }
    return entries


def _result(name: str, run: Run) -> Result:
    metrics = {key: value for key, value in run.metrics.items() if key not in _FACTS}
    videos = tuple(
        SceneVideo(prompt, video, {key: value for key, value in values.items() if key in metrics})
        for prompt, video, values in run.videos
    )
    minutes, seconds = (run.metrics.get(cost) for cost in COSTS)
    return Result(name, run.motion, run.seed, metrics, videos, minutes, seconds)


def _sortable(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _listed(words: Sequence[str] | dict[str, str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
