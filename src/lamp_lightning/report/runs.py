"""Run folders as a comparison: settings that differ become entries, seeds become spread."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.metrics.metrics_json import RunMetrics, read_judged, read_metrics
from lamp_lightning.metrics.registry import measures
from lamp_lightning.models.adapter import header_of
from lamp_lightning.report.comparison import (
    Comparison,
    Entry,
    HeldOutScene,
    Result,
    SceneVideo,
    VideoFile,
)
from lamp_lightning.report.verdict import joined
from lamp_lightning.runtime import sweeps
from lamp_lightning.runtime.console import counted, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder

DECIDING = ("motion_fidelity", "moving_error_ratio")  # where they were measured
# Settings that make no difference to what a run learns and generates, or stand in another one.
FREE = (*sweeps.FREE, "seed", "resume", "samples", "motion", "model.recipe",
        "data.root", "data.folder", "data.cache_dir", "data.num_workers", "data.decode_timeout",
        "trainer.log_every_n_steps", "sampler.fps")  # fmt: skip
OF_MOTION = ("data.flip", "data.captions")  # differ with the motion, which is no setting
_FACTS = ("steps", "minutes", "seconds_per_video")  # of a run, but no measure


@dataclass(frozen=True)
class Run:
    """A finished run: its settings by dotted name, and its result, whose entry is not known yet."""

    folder: Path
    started: str
    settings: dict[str, str]
    result: Result
    fps: float = 8

    def entry(self, columns: dict[str, str]) -> Entry:
        """The entry of runs with these settings; `columns` are the settings' full names by heading."""
        settings = {heading: self.settings.get(key, "null") for heading, key in columns.items()}
        name = ", ".join(f"{heading}={value}" for heading, value in settings.items()) or "all runs"
        return Entry(name, name, kind="setting", settings=settings)


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
        found = read_run(folder, videos)
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
        entry = run.entry(columns)
        entries.setdefault(entry.name, entry)
        result = replace(run.result, entry=entry.name)
        results.append(result)
        for video in result.videos:
            scenes[result.motion, video.scene] = HeldOutScene(result.motion, video.scene, video.scene)
    named = _named(list(entries.values()))
    names = {key for result in results for key in result.metrics}
    motions = sorted({result.motion for result in results})
    seeds = sorted({result.seed for result in results if result.seed is not None})
    facts = {"runs": str(len(chosen)), "motions": ", ".join(motions), "seeds": ", ".join(map(str, seeds))}
    facts |= {f"differs along with {key}": ", ".join(same) for key, same in others.items()}
    if not names:
        raise UserError(
            "None of the runs has any measure in its metrics.json: tune with samples.final=4, or more."
        )
    return Comparison(
        title=title or f"{counted(len(chosen), 'run')} of {', '.join(motions)}",
        question=f"What difference do {joined(list(columns))} make?"
        if columns
        else "What do these runs show?",
        measures=measures(names),
        entries=tuple(
            sorted(named, key=lambda e: [_sortable(value) for value in (*e.settings.values(), e.label)])
        ),
        motions=tuple(motions),
        results=tuple(sorted(results, key=lambda r: (r.entry, r.motion, r.seed))),
        scenes=tuple(scenes[key] for key in sorted(scenes)),
        settings=facts,
        deciding=tuple(name for name in DECIDING if name in names),
        moves_by="motion_amount" if "motion_amount" in names else None,
        left_out=tuple(left_out),
        fps=Counter(run.fps for run in chosen).most_common(1)[0][0],
    )


# -- reading -------------------------------------------------------------------------------------------------


def read_run(folder: Path, videos: int = 0) -> Run | str:
    """A run, or why it is left out."""
    try:
        run, cfg = RunFolder.open(folder)
        if not run.metrics.is_file():
            return f"{short(folder)} is not finished: it has no metrics.json."
        found = read_metrics(run.metrics)
        metrics, seconds = found.numbers, found.seconds_per_video
        settings = _settings(cfg)
        evaluated = folder / "evaluation" / "metrics.json"
        if evaluated.is_file():  # lamp_lightning.evaluate measures more, and anew
            metrics |= read_metrics(evaluated).measured
        of_suite = folder.parent.parent.parent / "results" / folder.parent.name / f"{folder.name}.json"
        if of_suite.is_file():  # a benchmark measures its runs itself
            judged = read_judged(of_suite)
            metrics |= judged.numbers
            seconds = judged.seconds_per_video
        metrics = {name: value for name, value in metrics.items() if name not in _FACTS}
        made = _videos(run, found, metrics)[:videos]
        motion, seed = settings["motion.name"], int(settings.get("seed", 0))
        steps = int(found.numbers["steps"]) if "steps" in found.numbers else None
        count = len(found.videos) or None
        result = Result("", motion, seed, metrics, made, found.minutes, seconds, steps=steps, count=count)
        return Run(folder, str(run.info.get("started", "")), settings, result, _rate(run, settings))
    except UserError as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:  # of its config
        return f"{short(folder)} is broken: {type(error).__name__}: {error}."


def _rate(run: RunFolder, settings: dict[str, str]) -> float:
    """Frames per second of a run's videos: of its config, else of its adapter."""
    if (said := settings.get("sampler.fps", "null")) != "null":
        return float(said)
    try:
        return header_of(run.adapter).sampler.fps
    except UserError:  # none, or a damaged one: the run's figures count all the same
        return 8.0


def _videos(run: RunFolder, metrics: RunMetrics, names: Container[str]) -> tuple[SceneVideo, ...]:
    """The first video of each prompt, which is its scene, with its measures of these names."""
    made: dict[str, SceneVideo] = {}
    for video in metrics.videos:
        file = run.videos / video.file
        if file.is_file() and video.prompt is not None:
            values = {name: value for name, value in video.numbers.items() if name in names}
            made.setdefault(video.prompt, SceneVideo(video.prompt, VideoFile(str(file)), values))
    return tuple(made.values())


def _settings(cfg: DictConfig) -> dict[str, str]:
    """All settings as text, by dotted name."""
    table = pd.json_normalize(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    [settings] = table.astype(object).to_dict("records")
    return {str(name): _shown(value) for name, value in settings.items()}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
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
    motions = [run.result.motion for run in runs]
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
    """One run for each setting, motion and seed: the newest; and sentences on the others."""
    kept: dict[tuple[str, str, int | None], Run] = {}
    said = []
    for run in sorted(runs, key=lambda run: (run.started, str(run.folder))):
        key = (run.entry(columns).name, run.result.motion, run.result.seed)
        if key in kept:
            said.append(
                f"{short(kept[key].folder)} has the same settings as {short(run.folder)}, which is newer."
            )
        kept[key] = run
    return sorted(kept.values(), key=lambda run: str(run.folder)), said


def _named(entries: list[Entry]) -> list[Entry]:
    """Entries that a name in the config (of a method, a model) tells apart are called by it alone."""
    for heading in (each for each in entries[0].settings if each.endswith(".name")):
        if len({entry.settings[heading] for entry in entries}) == len(entries) > 1:
            return [
                replace(
                    entry,
                    label=entry.settings[heading].replace("_", " "),
                    settings={name: value for name, value in entry.settings.items() if name != heading},
                )
                for entry in entries
            ]
    return entries


def _sortable(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
