"""Held-out scenes, what a method makes of them, and what that is worth.

The suites of `python -m lamp_lightning.benchmark` and the programs in `benchmarks/` measure by this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from omegaconf import DictConfig

from lamp_lightning.benchmark.methods import Method, load_method
from lamp_lightning.data.clips import load_motion_set
from lamp_lightning.data.motions import is_toy_motion, sample_prompts
from lamp_lightning.metrics import evaluate_videos, load_clip, motion_signatures
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.metrics.metrics_json import read_judged, read_metrics
from lamp_lightning.metrics.truth import error_over_frames
from lamp_lightning.report import HeldOutScene, Result, SceneVideo, VideoFile
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.reading import open_file, read_json
from lamp_lightning.runtime.runs import RunFolder, write_atomic, write_json
from lamp_lightning.toyworld import continuation, held_out_scenes

SEEDS = 1000  # so that the scenes of two seeds never share their noise
LARGEST_ARRAYS = 2**32  # bytes of a file of videos


@dataclass(frozen=True)
class HeldOut:
    """What all methods are shown of a motion: prompts, first frames, and the true videos where known."""

    prompts: tuple[str, ...]
    first_frames: np.ndarray  # uint8 n h w 3
    truth: np.ndarray | None = None  # uint8 n f h w 3

    @classmethod
    def drawn(cls, motion: str, count: int, frames: int, size: int = 64, *, skip: int = 0) -> HeldOut:
        """Scenes of the toy world, with the true continuation, after the first `skip` ones."""
        scenes = held_out_scenes(motion, skip + count)[skip:]
        truth = np.stack([continuation(scene, frames, size) for scene in scenes])
        return cls(tuple(scene.caption for scene in scenes), truth[:, 0], truth)

    def generate(
        self,
        method: Method,
        *,
        seed: int = 0,
        noise: torch.Tensor | None = None,
        check: Callable[[], None] | None = None,
    ) -> np.ndarray:
        """The scenes' videos by a method, uint8 `(n, f, h, w, 3)`.

        `seed`: of the first scene's noise; each further one has the next. `noise`: instead of drawn noise,
        `(n, c, f, h, w)`. `check`: called between steps; may raise Stopped.
        """
        made = method.generate(
            self.prompts,
            list(self.first_frames),
            range(seed, seed + len(self.prompts)),
            noise=noise,
            progress=None if check is None else lambda *_: check(),
        )
        return np.stack(made)

    def measure(
        self, videos: np.ndarray, clip: ClipJudge | None, training_clips: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        """All measures of videos of these scenes, as by `evaluate_videos`."""
        return evaluate_videos(
            list(videos),
            self.prompts,
            clip,
            truth=None if self.truth is None else list(self.truth),
            training_clips=training_clips,
            first_frames=list(self.first_frames),
        )


def once(
    file: Path,
    asked: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    usable: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """What `measure` gives, kept in a JSON `file`: it is not measured again where the same is asked.

    Measured anew, too, is what cannot be read, or is not `usable` (which may raise UserError).
    """
    asked = json.loads(json.dumps(asked))
    with suppress(UserError, AttributeError):
        found = read_json(file, what="a measurement")
        if found.get("asked") == asked and usable():
            return found
    found = {"asked": asked, **measure()}
    write_json(file, found)
    return found


# -- the trials of a suite -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A run (of one method, motion and seed) and the entry that it is judged as."""

    out: Path
    method: str  # whose run it is
    entry: str
    motion: str
    seed: int
    scenes: int

    @property
    def run(self) -> Path:
        return run_folder(self.out, self.method, self.motion, self.seed)

    @property
    def result(self) -> Path:
        return self.out / "results" / self.entry / f"{self.motion}_seed{self.seed}.json"

    @property
    def held_out(self) -> Path:
        """The scenes of this motion, for all methods."""
        return self.out / "scenes" / f"{self.motion}_{self.scenes}.npz"


def run_folder(out: Path, method: str, motion: str, seed: int) -> Path:
    """Where a suite keeps a run."""
    return out / "runs" / method / f"{motion}_seed{seed}"


def judge_trial(trial: Trial, sampler: dict[str, Any], check: Callable[[], None]) -> Result:
    """Sample the held-out scenes with a run and measure them, unless that is done already.

    `sampler`: settings other than the run's. `check`: called between steps; raises Stopped. Raises UserError
    where the run is not finished or cannot be used.
    """
    run, cfg = RunFolder.open(trial.run)
    if not run.metrics.exists():
        raise UserError(f"The run {trial.run} is not finished.")
    held_out = find_held_out(cfg, trial)

    def make() -> tuple[np.ndarray, dict[str, Any]]:
        method = load_method(run.path).with_sampler(**sampler)
        begun = time.monotonic()
        videos = held_out.generate(method, seed=trial.seed * SEEDS, check=check)
        seconds = (time.monotonic() - begun) / len(videos)
        return videos, {"seconds_per_video": seconds, "minutes": read_metrics(run.metrics).minutes}

    asked = {"scenes": trial.scenes, "sampler": sampler, "adapter": file_sha256(run.adapter)}
    return _judged(trial.result, asked, make, cfg, held_out, (trial.entry, trial.motion, trial.seed))


def judge_references(
    trials: Sequence[Trial], check: Callable[[], None]
) -> tuple[list[Result], list[HeldOutScene]]:
    """The truth and a frozen first frame, measured as the methods are; and the scenes, for the page."""
    results, shown = [], []
    for motion in dict.fromkeys(trial.motion for trial in trials):
        check()
        trial = next(trial for trial in trials if trial.motion == motion)
        _, cfg = RunFolder.open(trial.run)
        held_out = find_held_out(cfg, trial)
        references = {"frozen": np.repeat(held_out.first_frames[:, None], cfg.data.num_frames, axis=1)}
        if held_out.truth is not None:
            references["truth"] = held_out.truth
        for name, videos in references.items():
            file = trial.out / "results" / name / f"{motion}.json"
            make: Any = partial(lambda videos: (videos, {}), videos)
            asked = {"scenes": trial.scenes}
            results.append(_judged(file, asked, make, cfg, held_out, (name, motion, None)))
        arrays = str(trial.held_out)
        for k, prompt in enumerate(held_out.prompts):
            true = None if held_out.truth is None else VideoFile(arrays, "truth", k)
            shown.append(HeldOutScene(motion, str(k), prompt, VideoFile(arrays, "first_frames", k), true))
    return results, shown


def _judged(
    file: Path,
    asked: dict[str, Any],
    make: Callable[[], tuple[np.ndarray, dict[str, Any]]],
    cfg: DictConfig,
    held_out: HeldOut,
    of: tuple[str, str, int | None],
) -> Result:
    """What the videos that `make` gives are worth, kept in `file` with the videos beside it."""
    videos_file = file.with_suffix(".npz")

    def measure() -> dict[str, Any]:
        videos, facts = make()
        clip = None if cfg.model.clip is None else _clip(str(cfg.model.clip))
        data = cfg.data
        training = _training(
            str(data.folder), *data.size, data.num_frames, data.frame_stride, data.get("fps")
        )
        values = held_out.measure(videos, clip, training)
        write_arrays(videos_file, videos=videos)
        return {**facts, "videos": values.pop("videos"), "metrics": values}

    once(file, asked, measure, lambda: read_judged(file) is not None and videos_file.is_file())
    judged = read_judged(file)
    curves = {}
    if held_out.truth is not None:
        videos = read_arrays(videos_file).get("videos")
        if videos is None or videos.shape != held_out.truth.shape:
            raise UserError(
                f"{videos_file} does not hold the videos of {held_out.truth.shape}. Take it away, and they "
                "are made anew."
            )
        curves["moving_error_ratio"] = tuple(error_over_frames(videos, held_out.truth).tolist())
    shown = [
        SceneVideo(str(k), VideoFile(str(videos_file), "videos", k), values)
        for k, values in enumerate(judged.video_numbers)
    ]
    return Result(*of, judged.numbers, tuple(shown), judged.minutes, judged.seconds_per_video, curves)


def find_held_out(cfg: DictConfig, trial: Trial) -> HeldOut:
    """The scenes that a motion is judged by, found once for all methods of a suite.

    For the toy world's model and motions they are drawn, with the true continuation. Else they are the
    prompts of `motions.sample_prompts` on first frames that the untuned image model samples.
    """
    file = trial.held_out
    if not file.exists():
        motion, (height, width) = str(cfg.motion.name), cfg.data.size
        if cfg.model.name in TOY_MODELS and is_toy_motion(motion) and height == width:
            found = HeldOut.drawn(motion, trial.scenes, cfg.data.num_frames, height)
        else:  # first frames by the image model below the run: the same for all methods of that model
            prompts = sample_prompts(cfg, trial.scenes)
            method = load_method(trial.run)
            frames = 1 if method.pipeline.base.takes_clips else 2
            stills = method.with_sampler(start="still", num_frames=frames, histogram_matching=False)
            videos = stills.generate(prompts, at_once=1)
            found = HeldOut(tuple(prompts), np.stack([video[0] for video in videos]))
        arrays = {} if found.truth is None else {"truth": found.truth}
        first = found.first_frames[:, None]
        write_arrays(file, prompts=np.array(found.prompts), first_frames=first, **arrays)
    arrays = read_arrays(file)
    try:
        said, first = arrays["prompts"], arrays["first_frames"]
        if first.dtype != np.uint8 or first.ndim != 5 or len(said) != len(first):
            raise ValueError(f"first_frames are {first.dtype} of shape {first.shape}")
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} cannot be used as held-out scenes: {error}. Take it away.") from error
    return HeldOut(tuple(str(prompt) for prompt in said), first[:, 0], arrays.get("truth"))


@cache
def _training(folder: str, height: int, width: int, num_frames: int, stride: int, fps: float | None) -> Any:
    """Signatures of all clips of a motion set, whatever number of them a method was tuned on."""
    clips = load_motion_set(
        folder, motion="motion", size=(height, width), num_frames=num_frames, frame_stride=stride, fps=fps
    ).clips
    return motion_signatures([np.asarray(clip.frames) for clip in clips])


_clip = cache(load_clip)


# -- arrays on disk ------------------------------------------------------------------------------------------


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote. Raises UserError where the file is damaged; nothing in it is executed."""
    try:
        with open_file(file, what="arrays", limit=LARGEST_ARRAYS) as opened:
            if sum(each.file_size for each in ZipFile(opened).infolist()) > LARGEST_ARRAYS:
                raise ValueError(f"it unpacks to more than {LARGEST_ARRAYS >> 30} GiB")
            with np.load(opened, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, MemoryError) as error:
        raise UserError(f"{file} cannot be read ({error}). Take it away, and it is made anew.") from error


def write_arrays(file: Path, **arrays: np.ndarray) -> None:
    """A compressed `.npz`, whole or not at all."""

    def write(part: Path) -> None:
        with open(part, "wb") as opened:
            np.savez_compressed(opened, **arrays)  # type: ignore[arg-type]

    write_atomic(file, write)
