"""Held-out scenes, what a tuned run makes of them, and what that is worth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lamp_lightning.compare import Result, Scene, SceneVideo, VideoFile
from lamp_lightning.data.cache import file_sha256
from lamp_lightning.data.motion_set import load_motion_set
from lamp_lightning.errors import UserError
from lamp_lightning.methods import load_method
from lamp_lightning.metrics import evaluate_videos, load_clip, motion_signatures
from lamp_lightning.metrics.truth import error_over_frames
from lamp_lightning.motions import is_toy_motion, sample_prompts
from lamp_lightning.runs import RunFolder, write_atomic, write_json

SEEDS = 1000  # so that the scenes of two seeds never share their noise
AT_ONCE = 4  # videos


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
        facts = json.loads(run.metrics.read_text(encoding="utf-8"))
        kept = {
            "asked": asked,
            "seconds_per_video": seconds,
            "minutes": facts.get("minutes"),
            **measured,
        }
        write_json(trial.result, kept)
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
                kept = {"asked": asked, **measure(cfg, held_out, list(videos))}
                write_arrays(target.with_suffix(".npz"), videos=videos)
                write_json(target, kept)
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
    with np.load(file) as arrays:
        truth = arrays["truth"] if "truth" in arrays.files else None
        return HeldOut(tuple(str(p) for p in arrays["prompts"]), arrays["first_frames"][:, 0], truth)


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


def _kept(file: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured before, if the same was asked."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(found, dict) and found.get("asked") == json.loads(json.dumps(asked))
    return found if same and file.with_suffix(".npz").exists() else None


def _as_result(
    entry: str, motion: str, seed: int | None, kept: dict[str, Any], file: Path, truth: np.ndarray | None
) -> Result:
    """What was measured of the videos in ``file``, with the error at each frame where the truth is known."""
    curves = {}
    if truth is not None:
        with np.load(file) as arrays:
            curves["moving_error_ratio"] = tuple(error_over_frames(arrays["videos"], truth).tolist())
    return Result(
        entry,
        motion,
        seed,
        kept["metrics"],
        tuple(
            SceneVideo(str(k), VideoFile(str(file), "videos", k), values)
            for k, values in enumerate(kept["videos"])
        ),
        kept.get("minutes"),
        kept.get("seconds_per_video"),
        curves,
    )


def write_arrays(file: Path, **arrays: np.ndarray) -> None:
    """A compressed ``.npz``, whole or not at all."""

    def write(part: Path) -> None:
        with open(part, "wb") as opened:
            np.savez_compressed(opened, **arrays)  # type: ignore[arg-type]

    write_atomic(file, write)
