"""Held-out scenes, what a tuned run makes of them, and what that is worth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from omegaconf import DictConfig

from lamp_lightning.benchmark.methods import load_method
from lamp_lightning.data.motion_set import load_motion_set
from lamp_lightning.data.motions import is_toy_motion, sample_prompts
from lamp_lightning.metrics import evaluate_videos, load_clip, motion_signatures
from lamp_lightning.metrics.results import Judged, read_judged, read_metrics
from lamp_lightning.metrics.truth import error_over_frames
from lamp_lightning.report import Result, Scene, SceneVideo, VideoFile
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.runtime.reading import open_file
from lamp_lightning.runtime.runs import RunFolder, write_atomic, write_json

SEEDS = 1000  # so that the scenes of two seeds never share their noise
AT_ONCE = 4  # videos
LARGEST_ARRAYS = 2**32  # bytes of a file of videos


def run_folder(out: Path, method: str, motion: str, seed: int) -> Path:
    """Where a suite keeps a run."""
    return out / "runs" / method / f"{motion}_seed{seed}"


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


@dataclass(frozen=True)
class HeldOut:
    """What all methods are shown of a motion: prompts, first frames, and the true videos where known."""

    prompts: tuple[str, ...]
    first_frames: np.ndarray  # uint8 n h w 3
    truth: np.ndarray | None  # uint8 n f h w 3


def judge_trial(trial: Trial, sampler: dict[str, Any], check: Callable[[], None]) -> Result:
    """Paint the held-out scenes with a run and measure them, unless that is done already.

    Args:
        trial: what is judged.
        sampler: settings of the sampler other than the run's.
        check: called between videos; raises Stopped.

    Raises:
        UserError: the run is not finished or cannot be used.
    """
    run, cfg = RunFolder.open(trial.run)
    if not run.metrics.exists():
        raise UserError(f"The run {trial.run} is not finished.")
    asked = {"scenes": trial.scenes, "sampler": sampler, "adapter": file_sha256(run.adapter)}
    videos_file = trial.result.with_suffix(".npz")
    kept = _kept(trial.result, asked)
    held_out = find_held_out(cfg, trial)
    if kept is None:
        method = load_method(run.path).with_sampler(**sampler)
        seeds = [trial.seed * SEEDS + k for k in range(len(held_out.prompts))]
        begun = time.monotonic()
        made = method.generate(
            held_out.prompts,
            list(held_out.first_frames),
            seeds,
            at_once=AT_ONCE,
            progress=lambda *_: check(),
        )
        seconds = (time.monotonic() - begun) / len(made)
        measured = measure(cfg, held_out, made)
        write_arrays(videos_file, videos=np.stack(made))
        minutes = read_metrics(run.metrics).minutes
        found = {"asked": asked, "seconds_per_video": seconds, "minutes": minutes, **measured}
        write_json(trial.result, found)
        kept = read_judged(trial.result)
    return _as_result(trial.entry, trial.motion, trial.seed, kept, videos_file, held_out.truth)


def measure(cfg: DictConfig, held_out: HeldOut, videos: Sequence[np.ndarray]) -> dict[str, Any]:
    """All measures of videos of the held-out scenes, with those of each."""
    clip = None if cfg.model.clip is None else _clip(str(cfg.model.clip))
    truth = None if held_out.truth is None else list(held_out.truth)
    training = _training(str(cfg.data.folder), *cfg.data.size, cfg.data.num_frames, cfg.data.frame_stride)
    values = evaluate_videos(
        videos,
        held_out.prompts,
        clip,
        truth=truth,
        training_clips=training,
        first_frames=list(held_out.first_frames),
    )
    return {"metrics": {k: v for k, v in values.items() if k != "videos"}, "videos": values["videos"]}


def judge_references(trials: Sequence[Trial], check: Callable[[], None]) -> tuple[list[Result], list[Scene]]:
    """The truth and a frozen first frame, measured as the methods are; and the scenes, for the page.

    ``trials``: what was judged.
    """
    results, shown = [], []
    for motion in dict.fromkeys(trial.motion for trial in trials):
        check()
        trial = next(trial for trial in trials if trial.motion == motion)
        out, scenes = trial.out, trial.scenes
        _, cfg = RunFolder.open(trial.run)
        held_out = find_held_out(cfg, trial)
        frames = cfg.data.num_frames
        made = {"frozen": np.repeat(held_out.first_frames[:, None], frames, axis=1)}
        if held_out.truth is not None:
            made["truth"] = held_out.truth
        for name, videos in made.items():
            target = out / "results" / name / f"{motion}.json"
            asked = {"scenes": scenes}
            kept = _kept(target, asked)
            if kept is None:
                write_arrays(target.with_suffix(".npz"), videos=videos)
                write_json(target, {"asked": asked, **measure(cfg, held_out, list(videos))})
                kept = read_judged(target)
            file = target.with_suffix(".npz")
            results.append(_as_result(name, motion, None, kept, file, held_out.truth))
        file = held_out_file(out, motion, scenes)
        for k, prompt in enumerate(held_out.prompts):
            true = None if held_out.truth is None else VideoFile(str(file), "truth", k)
            first = VideoFile(str(file), "first_frames", k)
            shown.append(Scene(motion, str(k), prompt, first, true))
    return results, shown


def find_held_out(cfg: DictConfig, trial: Trial) -> HeldOut:
    """The scenes that a motion is judged by, found once for all methods of a suite.

    For the toy world's model and motions they are drawn, with the true continuation. Else they are the
    prompts of `motions.sample_prompts` on first frames that the untuned image model paints.
    """
    file = held_out_file(trial.out, trial.motion, trial.scenes)
    if not file.exists():
        height, width = cfg.data.size
        toy = cfg.model.name == "tiny" and is_toy_motion(str(cfg.motion.name)) and height == width
        prompts, first, truth = (_drawn if toy else _painted)(cfg, trial)
        arrays = {"first_frames": first[:, None]} | ({} if truth is None else {"truth": truth})
        write_arrays(file, prompts=np.array(prompts), **arrays)
    arrays = read_arrays(file)
    try:
        said, first = arrays["prompts"], arrays["first_frames"]
        if first.dtype != np.uint8 or first.ndim != 5 or len(said) != len(first):
            raise ValueError(f"first_frames are {first.dtype} of shape {first.shape}")
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} cannot be used as held-out scenes: {error}. Take it away.") from error
    return HeldOut(tuple(str(prompt) for prompt in said), first[:, 0], arrays.get("truth"))


def held_out_file(out: Path, motion: str, scenes: int) -> Path:
    """Where a suite keeps them."""
    return out / "scenes" / f"{motion}_{scenes}.npz"


def _drawn(cfg: DictConfig, trial: Trial) -> tuple[list[str], np.ndarray, np.ndarray]:
    from lamp_lightning.toyworld import continuation, held_out_scenes

    scenes = held_out_scenes(str(cfg.motion.name), trial.scenes)
    truth = np.stack([continuation(scene, cfg.data.num_frames, cfg.data.size[0]) for scene in scenes])
    return [scene.caption for scene in scenes], truth[:, 0], truth


def _painted(cfg: DictConfig, trial: Trial) -> tuple[list[str], np.ndarray, None]:
    """First frames by the image model below the run: the same for all methods of that model."""
    prompts = sample_prompts(cfg, trial.scenes)
    method = load_method(trial.run).with_sampler(start="still", num_frames=2, histogram_matching=False)
    videos = method.generate(prompts, None, range(len(prompts)), at_once=1)
    return prompts, np.stack([video[0] for video in videos]), None


@cache
def _training(folder: str, height: int, width: int, num_frames: int, stride: int) -> Any:
    """Signatures of all clips of a motion set, whatever number of them a method was tuned on."""
    clips = load_motion_set(
        folder, motion="motion", size=(height, width), num_frames=num_frames, frame_stride=stride
    ).clips
    return motion_signatures([np.asarray(clip.frames) for clip in clips])


@cache
def _clip(name: str) -> Any:
    return load_clip(name)


def _kept(file: Path, asked: dict[str, Any]) -> Judged | None:
    """What was measured before, if the same was asked; what cannot be read is measured anew."""
    try:
        found = read_judged(file)
    except UserError:
        return None
    same = found.asked == json.loads(json.dumps(asked))
    return found if same and file.with_suffix(".npz").is_file() else None


def _as_result(
    entry: str, motion: str, seed: int | None, kept: Judged, file: Path, truth: np.ndarray | None
) -> Result:
    """What was measured of the videos in ``file``, with the error at each frame where the truth is known."""
    curves = {}
    if truth is not None:
        videos = read_arrays(file).get("videos")
        if videos is None or videos.shape != truth.shape:
            raise UserError(f"{file} does not hold the videos of {truth.shape}. Take it away to paint anew.")
        curves["moving_error_ratio"] = tuple(error_over_frames(videos, truth).tolist())
    return Result(
        entry,
        motion,
        seed,
        kept.numbers,
        tuple(
            SceneVideo(str(k), VideoFile(str(file), "videos", k), values)
            for k, values in enumerate(kept.video_numbers)
        ),
        kept.minutes,
        kept.seconds_per_video,
        curves,
    )


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
    """A compressed ``.npz``, whole or not at all."""

    def write(part: Path) -> None:
        with open(part, "wb") as opened:
            np.savez_compressed(opened, **arrays)  # type: ignore[arg-type]

    write_atomic(file, write)
