"""What is compared, and what came out: the one structure that tables, plots and the page are made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lamp_lightning.data.video import as_frames, read_video
from lamp_lightning.metrics.registry import Measure
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import write_text

TRUTH, FROZEN = "truth", "frozen"  # names that entries of the kind "reference" may have
COSTS = ("minutes", "seconds_per_video")
COLUMNS = ("entry", "label", "kind", "motion", "seeds")  # of the wide table, before settings and measures
_COSTS = (
    Measure("minutes", "tuning time", digits=1, unit="min", help="Minutes of tuning."),
    Measure("seconds_per_video", "painting time", digits=1, unit="s", help="Seconds to paint one video."),
)
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Entry:
    """A method or setting. References (the truth, a frozen first frame) are shown and never called best.

    `settings`: what tells it from the others, shown as columns.

    Example:
        >>> Entry("frozen", "frozen first frame", kind="reference").settings
        {}
    """

    __pydantic_config__ = _STRICT
    name: str
    label: str
    description: str = ""
    kind: Literal["ours", "baseline", "ablation", "setting", "reference"] = "baseline"
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoFile:
    """A video or picture on disk: mp4, webp, gif, PNG, or frames uint8 `f h w c` in a `.npz`.

    Of an `.npz`, `key` names the array where it holds several, and `index` the video in an array
    `n f h w c`.

    Example:
        >>> VideoFile("results/ours/rain_seed0.npz", key="videos", index=3).index
        3
    """

    __pydantic_config__ = _STRICT
    file: str
    key: str | None = None
    index: int | None = None

    def read(self) -> np.ndarray:
        """The frames, uint8 `f h w c`. Raises UserError, which names the file."""
        if not self.file.endswith(".npz"):
            return read_video(self.file)
        try:
            array = _array(self.file, self.key, os.stat(self.file).st_mtime_ns)
            return as_frames(array if self.index is None else array[self.index])
        except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
            at = "".join(f", {n} {v}" for n, v in (("key", self.key), ("index", self.index)) if v is not None)
            raise UserError(f"The frames {self.file}{at} cannot be read: {error}") from error


@lru_cache(maxsize=6)  # consecutive videos lie in one array; its file is decompressed once
def _array(file: str, key: str | None, changed: int) -> np.ndarray:
    with np.load(file, allow_pickle=False) as arrays:
        if key is None and len(arrays.files) != 1:
            raise KeyError(f"it holds {', '.join(arrays.files)}; name one by its key")
        return arrays[key or arrays.files[0]]


@dataclass(frozen=True)
class HeldOutScene:
    """A held-out scene of a motion: the prompt, and what all methods were given and should have made.

    Example:
        >>> HeldOutScene("rain", "0", "rain falls on a red roof").truth is None
        True
    """

    __pydantic_config__ = _STRICT
    motion: str
    name: str
    prompt: str
    first_frame: VideoFile | None = None
    truth: VideoFile | None = None


@dataclass(frozen=True)
class SceneVideo:
    """One scene's video by one method, with its own values of the metrics.

    Example:
        >>> SceneVideo("0", VideoFile("a.mp4"), {"clip_score": 31.0}).metrics["clip_score"]
        31.0
    """

    __pydantic_config__ = _STRICT
    scene: str
    video: VideoFile | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One entry on one motion with one seed.

    `metrics` are means over the scenes; `minutes` are those of tuning; `over_frames` has the value of a
    metric at each frame (mean over the scenes). References need no seed. `steps` are those of tuning, 0 of an
    untuned model, and `count` is how many videos were measured, where they are known.

    Example:
        >>> result = Result("ours", "rain", seed=0, metrics={"clip_score": 31.0}, minutes=4.5)
        >>> result.value("clip_score"), result.value("minutes"), result.value("fid")
        (31.0, 4.5, None)
    """

    __pydantic_config__ = _STRICT
    entry: str
    motion: str
    seed: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    videos: tuple[SceneVideo, ...] = ()
    minutes: float | None = None
    seconds_per_video: float | None = None
    over_frames: dict[str, tuple[float, ...]] = field(default_factory=dict)
    steps: int | None = None
    count: int | None = None

    def value(self, name: str) -> float | None:
        """A metric's mean, or one of the `COSTS`."""
        return getattr(self, name) if name in COSTS else self.metrics.get(name)


@dataclass(frozen=True)
class Claim:
    """Something to check: `entry` is better (or no worse) than each of `against` by `measure`.

    Example:
        >>> Claim("Ours fits the prompt better.", "clip_score", "ours", against=("theirs",)).relation
        'better'
    """

    __pydantic_config__ = _STRICT
    text: str
    measure: str
    entry: str
    against: tuple[str, ...]
    relation: Literal["better", "no_worse"] = "better"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report shows.

    `question`: what it answers. `settings`: budget, scenes, threads, versions, commands, hours, as text.
    `deciding`: the measures by which a method is called best, the weightiest first. `moves_by`: the
    measure that tells whether a method truly moves: it must have at least half of the truth's. `left_out`:
    what could not be used, and why. Raises UserError where the parts do not fit together.

    Example:
        >>> from lamp_lightning.metrics import measures
        >>> entries = Entry("ours", "LAMP", kind="ours"), Entry("theirs", "another method")
        >>> results = tuple(
        ...     Result(entry, "rain", seed, {"clip_score": score + seed})
        ...     for entry, score in (("ours", 31.0), ("theirs", 29.0))
        ...     for seed in (0, 1)
        ... )
        >>> columns = measures(["clip_score"])
        >>> found = Comparison("Prompts", "Which fits?", columns, entries, ("rain",), results)
        >>> found.seeds
        (0, 1)
        >>> [measure.heading for measure in found.columns]
        ['CLIP score\\xa0↑']
    """

    __pydantic_config__ = _STRICT
    title: str
    question: str
    measures: tuple[Measure, ...]
    entries: tuple[Entry, ...]
    motions: tuple[str, ...]
    results: tuple[Result, ...]
    scenes: tuple[HeldOutScene, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    deciding: tuple[str, ...] = ()
    moves_by: str | None = None
    claims: tuple[Claim, ...] = ()
    left_out: tuple[str, ...] = ()
    fps: float = 8

    def __post_init__(self) -> None:
        _check(self)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({result.seed for result in self.results if result.seed is not None}))

    @property
    def methods(self) -> tuple[Entry, ...]:
        """The entries that can be best: all but the references."""
        return tuple(entry for entry in self.entries if entry.kind != "reference")

    @property
    def ours(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.kind == "ours"), None)

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def measure(self, name: str) -> Measure:
        return next(measure for measure in self.columns if measure.name == name)

    @property
    def columns(self) -> tuple[Measure, ...]:
        """The measures, and the costs where they are known."""
        known = (m for m in _COSTS if any(r.value(m.name) is not None for r in self.results))
        return (*self.measures, *known)

    def save(self, file: Path) -> Path:
        """Write JSON; video files in it are named relative to its folder."""
        root = file.absolute().parent
        moved = _with_files(self, lambda name: os.path.relpath(Path(name).absolute(), root))
        write_text(file, _ADAPTER.dump_json(moved, indent=1).decode() + "\n")
        return file

    @classmethod
    def load(cls, file: Path) -> Comparison:
        """Read what `save` wrote. UserError names the file and the first thing that is wrong in it."""
        try:
            made = _ADAPTER.validate_json(file.read_bytes())
        except OSError as error:
            raise UserError(f"The comparison {file} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(f"{file} is no comparison: {where}: {first['msg']}.") from error
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        return _with_files(made, lambda name: str(file.absolute().parent / name))


_ADAPTER = TypeAdapter(Comparison)


def _with_files(comparison: Comparison, rename: Any) -> Comparison:
    def moved(video: VideoFile | None) -> VideoFile | None:
        return video and replace(video, file=rename(video.file))

    scenes = [replace(s, first_frame=moved(s.first_frame), truth=moved(s.truth)) for s in comparison.scenes]
    results = [
        replace(result, videos=tuple(replace(each, video=moved(each.video)) for each in result.videos))
        for result in comparison.results
    ]
    return replace(comparison, scenes=tuple(scenes), results=tuple(results))


def _check(c: Comparison) -> None:
    names = [measure.name for measure in c.measures]
    for measure in c.measures:
        if not measure.title.strip():
            raise UserError(f"The measure {measure.name!r} has no title.")
    entries = [entry.name for entry in c.entries]
    for kind, found in (("measures", names), ("entries", entries), ("motions", c.motions)):
        _unique(kind, found)
        if not found:
            raise UserError(f"A comparison needs {kind}; it has none.")
    _unique("scenes", [(scene.motion, scene.name) for scene in c.scenes])
    _unique("results", [(result.entry, result.motion, result.seed) for result in c.results])
    if taken := set(names) & {*COSTS, *COLUMNS}:
        raise UserError(f"A measure cannot be called {taken.pop()!r}: tables have a column of that name.")
    _known("deciding", c.deciding, names)
    _known("moves_by", [c.moves_by] if c.moves_by else [], names)
    for claim in c.claims:
        _known(f"The claim {claim.text!r}", [claim.measure], names)
        _known(f"The claim {claim.text!r}", [claim.entry, *claim.against], entries)
    for scene in c.scenes:
        _known(f"The scene {scene.name!r}", [scene.motion], c.motions)
    scenes = {motion: [scene.name for scene in c.scenes if scene.motion == motion] for motion in c.motions}
    for result in c.results:
        what = f"The result of {result.entry!r} on {result.motion!r}, seed {result.seed},"
        _known(what, [result.entry], entries)
        _known(what, [result.motion], c.motions)
        _known(what, [*result.metrics, *result.over_frames], names)
        _known(what, [video.scene for video in result.videos], scenes[result.motion])
        for video in result.videos:
            _known(what, video.metrics, names)
        for name in (*result.metrics, *COSTS):
            value = result.value(name)
            if value is not None and not np.isfinite(value):
                raise UserError(f"{what} has {name} = {value}: leave out what could not be measured.")


def _unique(kind: str, names: Iterable[Any]) -> None:
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise UserError(f"Two of the {kind} are called {name!r}: names must differ.")


def _known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{what} names {name!r}, which is not there; there are {', '.join(known)}.")
