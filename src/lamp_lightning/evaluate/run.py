"""An evaluation: finds videos, reads them with what they are compared with, measures and publishes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lamp_lightning.data.clips import load_motion_set
from lamp_lightning.data.motions import motion_prompt
from lamp_lightning.evaluate.scores import Evaluated, publish
from lamp_lightning.evaluate.videos import (
    Footage,
    VideoReader,
    as_path,
    cropped_like,
    fitted_picture,
    footage_of,
    key_of,
    list_videos,
    listed_prompts,
    pictures_by_name,
)
from lamp_lightning.metrics import evaluate_videos, load_clip, load_extractor
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.metrics.familiar import say_doubts
from lamp_lightning.metrics.fidelity import MIN_FRAMES, MotionSignature, motion_signatures
from lamp_lightning.metrics.frechet import KINDS, FeatureExtractor, Kind
from lamp_lightning.metrics.metrics_json import read_metrics
from lamp_lightning.runtime.console import call, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import inside
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.stopping import StopRequest

ANY_CLIP = "openai/clip-vit-base-patch32"
REFERENCE_FRAMES = 64  # of each training clip: enough to know its motion


# -- the three ways to ask -----------------------------------------------------------------------------------


def evaluate_folder(folder: Path, cfg: DictConfig) -> bool:
    """Measure a folder of videos; returns whether all could be."""
    videos, passed_over = footage_of(folder, as_path(cfg.prompts))
    if passed_over:
        print(f"No videos of their own, without a record: {', '.join(passed_over)}")
    for video in videos:
        if video.prompt is None:
            warnings.warn(
                f"{video.path.name} has no prompt, so no CLIP score: give prompts=<file>, or call the video "
                "like a_red_horse.mp4.",
                stacklevel=2,
            )
    home = folder if folder.is_dir() else folder.parent
    out = as_path(cfg.out) or inside(home / "evaluation", home)
    with only_writer(out), VideoReader(cfg.decode_timeout, cfg.num_frames) as reader:
        reference = _given_reference(cfg, reader)
        clip = ANY_CLIP if cfg.clip == "auto" else cfg.clip
        if (around := _run_around(folder)) is not None:
            run, settings = around
            clip = settings.model.clip if cfg.clip == "auto" else cfg.clip
            videos = [replace(video, model=str(settings.model.path)) for video in videos]
            reference = _training_clips(run, settings) if reference is None else reference
        result = _measure(
            folder.resolve().name, {"folder": str(folder)}, videos, reference, clip, cfg, reader
        )
        return publish([result], [], out, cfg)


def evaluate_runs(folders: Sequence[Path], cfg: DictConfig) -> bool:
    """Measure the videos of one run or of several; returns whether all could be."""
    out = as_path(cfg.out) or Path("evaluations") / "comparison"
    if cfg.out is None and len(folders) == 1:
        out = inside(folders[0] / "evaluation", folders[0])
    results: list[Evaluated] = []
    left_out: list[dict[str, str]] = []
    with StopRequest() as stop, VideoReader(cfg.decode_timeout, cfg.num_frames) as reader:
        given = _given_reference(cfg, reader)
        for folder in {folder.expanduser().absolute(): folder for folder in folders}.values():  # each once
            stop.check()
            try:
                results.append(_measure_run(folder, given, cfg, reader))
            except UserError as error:
                if len(folders) == 1:
                    raise
                left_out.append({"run": str(folder), "reason": str(error)})
    if not results:
        reasons = "\n".join(each["reason"] for each in left_out[:5])
        raise UserError(f"None of the {len(folders)} runs could be measured:\n{reasons}")
    _tell_apart(results)
    with only_writer(out):
        return publish(results, left_out, out, cfg)


def _tell_apart(results: Sequence[Evaluated]) -> None:
    """Runs of one name, of two benchmarks say, get as much of their folders before it as tells them apart."""
    parts = {id(result): Path(str(result.facts["run"])).resolve().parts for result in results}
    for depth in range(3, 1 + max(map(len, parts.values()))):
        names = Counter(result.name for result in results)
        for result in results:
            if names[result.name] > 1:
                result.name = "/".join(parts[id(result)][-depth:])


def _run_around(folder: Path) -> tuple[RunFolder, DictConfig] | None:
    """The run that the folder is part of, such as its `videos` or `samples`; None where there is none."""
    try:
        return RunFolder.open(folder)
    except UserError:
        return None


def _measure_run(
    folder: Path, reference: Reference | None, cfg: DictConfig, reader: VideoReader
) -> Evaluated:
    run, settings = RunFolder.open(folder)
    videos = _videos_of(run, settings)
    if reference is None:
        reference = _training_clips(run, settings)
    clip = settings.model.clip if cfg.clip == "auto" else cfg.clip
    facts = {"run": str(run.path), "motion": str(settings.motion.name), "model": str(settings.model.name)}
    return _measure(run.name, facts, videos, reference, clip, cfg, reader)


def _videos_of(run: RunFolder, settings: DictConfig) -> list[Footage]:
    """A run's final videos, with the prompts that its metrics.json knows, else its samples."""
    if run.metrics.exists():
        read_metrics(run.metrics)  # so that a damaged one is named
    if run.videos.is_dir() and (known := listed_prompts(run.metrics)):
        size = (int(settings.data.size[0]), int(settings.data.size[1]))
        paths = {key_of(path): path for path in list_videos(run.videos, "run")}
        # A file that is gone is read all the same, so that it is named among those left out.
        return [
            Footage(paths.get(key_of(Path(f)), run.videos / f), text, size, model=str(settings.model.path))
            for f, text in known.items()
        ]
    if run.samples.is_dir():
        recorded = [each for each in footage_of(run.samples)[0] if each.prompt is not None]
        if recorded:
            return recorded
    raise UserError(
        f"{run.path} has no videos: it is not finished, or was tuned with samples.final=0. Paint some by "
        f"{call('sample')} run={short(run.path)}, or go on with it by "
        f"{call('train')} resume={short(run.path)}"
    )


# -- what videos are compared with ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Clips of the motion as it should be, uint8 `f h w c`, and how they move."""

    clips: list[np.ndarray]
    signatures: list[MotionSignature]

    @classmethod
    def of(cls, clips: list[np.ndarray]) -> Reference:
        """Of these clips. UserError where nothing moves in them."""
        return cls(clips, motion_signatures([clip for clip in clips if len(clip) >= MIN_FRAMES]))


def _given_reference(cfg: DictConfig, reader: VideoReader) -> Reference | None:
    """The clips of the folder `reference`. All must be readable: without one the numbers would differ."""
    if cfg.reference is None:
        return None
    paths = list_videos(Path(str(cfg.reference)).expanduser(), "reference")
    return Reference.of([reader.read(path)[:REFERENCE_FRAMES] for path in paths])


def _training_clips(run: RunFolder, settings: DictConfig) -> Reference | None:
    """The clips that a run was tuned on, as it saw them, mirrored ones too; None where they are gone."""
    data = settings.data
    size, cache = (int(data.size[0]), int(data.size[1])), data.cache_dir
    try:
        return _motion_clips(
            str(data.folder),
            motion_prompt(settings),
            size,
            data.frame_stride,
            data.flip,
            cache,
            data.get("fps"),
        )
    except UserError as error:
        warnings.warn(
            f"The motion fidelity of {short(run.path)} is left out, since its training clips cannot be used: "
            f"{error} Name the clips with reference=<folder>.",
            stacklevel=2,
        )
        return None


@lru_cache(maxsize=8)  # the runs of a sweep share their clips
def _motion_clips(
    folder: str,
    motion: str,
    size: tuple[int, int],
    stride: int,
    flip: bool,
    cache_dir: str | None,
    fps: float | None = None,
) -> Reference:
    """The clips of a motion set at that size, every `stride`-th frame."""
    motion_set = load_motion_set(folder, motion=motion, size=size, num_frames=2, cache_dir=cache_dir, fps=fps)
    clips = [np.asarray(clip.frames)[::stride][:REFERENCE_FRAMES] for clip in motion_set.clips]
    return Reference.of(clips + [clip[:, :, ::-1] for clip in clips] if flip else clips)


@lru_cache(maxsize=2)
def _clip(name: str) -> ClipJudge | None:
    try:
        return load_clip(name)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


# -- measuring -----------------------------------------------------------------------------------------------


def _measure(
    name: str,
    facts: dict[str, Any],
    videos: Sequence[Footage],
    reference: Reference | None,
    clip_name: str | None,
    cfg: DictConfig,
    reader: VideoReader,
) -> Evaluated:
    """Read and measure one set of videos; what cannot be read is left out. UserError where all is."""
    result = Evaluated(name, {**facts, "clip": clip_name})
    read: list[tuple[Footage, np.ndarray]] = []
    for video in videos:
        try:
            read.append((video, reader.read(video.path, video.size)))
        except UserError as error:  # noqa: PERF203 the others are measured all the same
            reason = str(error).removeprefix(f"{video.path}: ")
            result.left_out.append({"file": video.path.name, "reason": reason})
    if not read:
        reasons = "\n".join(f"{each['file']}: {each['reason']}" for each in result.left_out[:5])
        raise UserError(f"None of the {len(videos)} videos of {name} can be read:\n{reasons}")
    clip = None if clip_name is None else _clip(str(clip_name))
    result.doubts = None if clip is None else _say_doubts(str(clip_name), read)
    extractors = {kind: _extractor(kind, clip, cfg) for kind in KINDS}
    if reference is None and any(each is not None for each in extractors.values()):
        raise UserError("FID and FVD compare with real videos: name their folder with reference=<folder>.")
    values = evaluate_videos(
        [frames for _, frames in read],
        [video.prompt for video, _ in read],
        clip,
        truth=_truths(read, cfg, reader, result),
        training_clips=None if reference is None else reference.signatures,
        first_frames=_first_frames(read, cfg, result),
        reference=None if reference is None else reference.clips,
        **extractors,
    )
    result.videos = [
        {"file": video.path.name, "prompt": video.prompt, "frames": len(frames), **measured}
        for (video, frames), measured in zip(read, values.pop("videos"), strict=True)
    ]
    result.values = values
    return result


def _say_doubts(clip_name: str, read: Sequence[tuple[Footage, np.ndarray]]) -> str | None:
    """Warn of videos and prompts that the tiny CLIP does not know; returns the warning.

    What the tiny model generated is not looked at: that CLIP was made to judge it.
    """
    return say_doubts(
        clip_name,
        list(dict.fromkeys(video.prompt for video, _ in read if video.prompt is not None)),
        [frames for video, frames in read if video.model not in TOY_MODELS],
        advice=f"Its CLIP says nothing of them: measure with clip={ANY_CLIP}.",
        what="video",
    )


def _extractor(kind: Kind, clip: ClipJudge | None, cfg: DictConfig) -> FeatureExtractor | None:
    """What the config names as the extractor of features for FID or FVD."""
    if cfg[kind] is None:
        return None
    return load_extractor(kind, str(cfg[kind]), clip, cfg[f"{kind}_arguments"])


def _truths(
    read: Sequence[tuple[Footage, np.ndarray]], cfg: DictConfig, reader: VideoReader, result: Evaluated
) -> list[np.ndarray | None] | None:
    """The true continuation of each video, from the folder `truth`."""
    if cfg.truth is None:
        return None
    folder = Path(str(cfg.truth)).expanduser()
    named = {key_of(path): path for path in list_videos(folder, "truth")}
    paths = _matched("truth", folder, named, read, result)
    return [
        None if path is None else cropped_like(reader.read(path), frames)
        for path, (_, frames) in zip(paths, read, strict=True)
    ]


def _first_frames(
    read: Sequence[tuple[Footage, np.ndarray]], cfg: DictConfig, result: Evaluated
) -> list[np.ndarray | None]:
    """The picture that each video was to begin with: from the folder `first_frames`, else its record."""
    paths = [video.first_frame for video, _ in read]
    if cfg.first_frames is not None:
        folder = Path(str(cfg.first_frames)).expanduser()
        paths = _matched("first_frames", folder, pictures_by_name(folder, "first_frames"), read, result)
    return [
        None if path is None else fitted_picture(path, video.fit, frames)
        for path, (video, frames) in zip(paths, read, strict=True)
    ]


def _matched(
    what: str,
    folder: Path,
    named: Mapping[str, Path],
    read: Sequence[tuple[Footage, np.ndarray]],
    result: Evaluated,
) -> list[Path | None]:
    """The file of each video's name; those that have none are left out. UserError where no name fits."""
    without = [video.path.name for video, _ in read if video.name not in named]
    if len(without) == len(read):
        found = f"{next(iter(named))!r}" if named else "nothing"
        raise UserError(
            f"{what}={folder}: nothing here is called like a video: there is {found}, and the first video is "
            f"{read[0][0].name!r}. Give files of the same names."
        )
    result.left_out += [
        {"file": name, "reason": f"nothing of that name in {what}={folder}"} for name in without
    ]
    return [named.get(video.name) for video, _ in read]
