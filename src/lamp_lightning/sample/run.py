"""What the sample command does: generate what was asked for and is not there yet, and report it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from lamp_lightning.data.video import writable_folder
from lamp_lightning.metrics import familiar
from lamp_lightning.models.devices import evaluation
from lamp_lightning.runtime.console import quiet_libraries, short, threads
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hardware import hardware
from lamp_lightning.runtime.locks import only_writer
from lamp_lightning.runtime.precision import fast_float32, sampling_dtype
from lamp_lightning.runtime.stopping import Stopped, StopRequest
from lamp_lightning.sample.generate import Batch, check_memory, how_many, how_many_fit, in_batches, paint
from lamp_lightning.sample.loading import load, load_painter, size_unit
from lamp_lightning.sample.motions import Adapter
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.sample.progress import GeneratingProgress
from lamp_lightning.sample.record import (
    Record,
    differences,
    find_places,
    motions_of,
    read_record,
    settings_of,
)
from lamp_lightning.sample.videos import Output, Video, find_videos
from lamp_lightning.sample.write import Gallery

if TYPE_CHECKING:
    from lamp_lightning.sample.first_frames import Painter


MOST_PICTURES = 16  # that are looked at to tell whether a model knows such


def make_videos(cfg: DictConfig, adapter: Adapter, output: Output, again: Record | None = None) -> None:
    """Generate, measure and write the videos that the command's config asks for and that are not there yet.

    `again` is the record of a video whose bits are wanted once more. Raises Stopped after a Ctrl-C or
    SIGTERM: finished videos stay, and the same command generates the rest.
    """
    quiet_libraries()
    torch.set_num_threads(threads(cfg.threads))
    found = hardware(cfg.device)
    device = found.device if cfg.device == "auto" else cfg.device
    precision = cfg.precision or found.precision
    dtype = sampling_dtype(adapter.dtype, precision)
    fast_float32(device.partition(":")[0])
    model: Callable[[], LAMPPipeline] = cache(lambda: load(adapter, device, dtype))
    asked = find_videos(
        cfg,
        adapter,
        output.stem,
        own_size=lambda: model().default_size,
        unit=lambda: size_unit(model()),
    )
    check_memory(asked)
    say_doubts(asked, adapter)
    with only_writer(output.folder, inside=("*_frames",), wait=True):
        writable_folder(output.folder)
        motions = motions_of(adapter)
        videos = find_places(
            asked,
            output.folder,
            output.formats,
            lambda video: settings_of(video, adapter, motions, precision, cfg),
            named=output.stem is not None,
            overwrite=cfg.overwrite,
        )
        if again is not None and (len(videos) != 1 or differences(videos[0].settings, again)):
            again = None  # it is of another video than those that are asked for
        gallery = Gallery(output, videos, adapter)
        if done := gallery.finished:
            print(f"{done} of {len(videos)} videos are there already, in {short(output.folder)}.", flush=True)
        if done < len(videos):
            with StopRequest() as stop:
                try:
                    pipeline = model()
                    gallery.describe(pipeline, device)
                    painter = load_painter(adapter, pipeline.unet.device, dtype)
                    batches = divide(videos, output.folder, pipeline, cfg.batch, precision, again)
                    paint_rest(pipeline, painter, gallery, batches, precision, stop)
                    stop.check()
                except (Stopped, KeyboardInterrupt):
                    so_far = f"{gallery.finished} of {len(videos)} videos are finished."
                    print(f"{so_far} The same command generates the rest.", flush=True)
                    raise
        gallery.show()
        if again is not None:
            say_whether_same(gallery.videos[videos[0].name].record or {}, again)


def say_doubts(videos: list[Video], adapter: Adapter) -> None:
    """Warn of prompts and pictures that the tiny model does not know."""
    if not familiar.is_tiny(adapter.base):
        return
    pictures = dict.fromkeys(video.picture for video in videos if video.picture is not None)
    familiar.say_doubts(
        adapter.base,
        list(dict.fromkeys(video.prompt for video in videos)),
        [picture.read()[None] for picture in list(pictures)[:MOST_PICTURES]],
        advice=f"{familiar.ELSE} tune the motion with {familiar.REAL}.",
        what="picture",
    )


def divide(
    videos: list[Video],
    folder: Path,
    pipeline: LAMPPipeline,
    batch: Any,
    precision: str,
    again: Record | None,
) -> list[Batch]:
    """The videos in batches; one that is made again stands where it stood, in a batch of copies."""
    check_memory(videos, pipeline, precision)
    if again is not None and batch == "auto":
        copies = again["made"]["batch"]
        if copies == 1 or copies <= how_many_fit(pipeline, videos, precision):
            return [Batch(videos * copies, [again["made"]["place"]])]
        print(
            f"Note: the video was one of {copies} that were generated at once, for which the free memory "
            "does not suffice here. Generated alone, it may differ in the last bits.",
            flush=True,
        )
        return [Batch(videos, [0])]
    at_once = how_many(batch, pipeline, videos, precision)
    interrupted = [video.record is None and _is_begun(folder, video) for video in videos]
    return in_batches(videos, at_once, interrupted)


def _is_begun(folder: Path, video: Video) -> bool:
    """Whether a video was about to be written when its command was killed."""
    try:
        return not read_record(folder / f"{video.name}.json")["finished"]
    except UserError:
        return False


def paint_rest(
    pipeline: LAMPPipeline,
    painter: Painter | None,
    gallery: Gallery,
    batches: list[Batch],
    precision: str,
    stop: StopRequest,
) -> None:
    """Generate the batches and give them to the gallery, until a stop is asked for."""
    stop.check()
    for prompt in dict.fromkeys(video.prompt for batch in batches for video in batch.videos):
        warn_of_length(pipeline, prompt)
    left = sum(len(batch.places) for batch in batches)

    with painter or nullcontext(), evaluation(pipeline.unet), GeneratingProgress(left) as progress:

        def on_progress(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            stop.check()

        for videos in paint(pipeline, batches, precision=precision, painter=painter, progress=on_progress):
            gallery.add(videos, progress.say)
            progress.advance(len(videos))


def say_whether_same(now: Record, then: Record) -> None:
    """Print whether a video that was made again is the same."""
    if now["frames_sha256"] == then["frames_sha256"]:
        print("The same video, bit for bit.", flush=True)
        return
    old, new = (
        {"base model": record["base"]["identity"], **record["made"], **record["made"]["versions"]}
        for record in (then, now)
    )
    keys = ("base model", "device", "threads", "batch", *then["made"]["versions"])
    changed = [f"{key} {old[key]}, now {new.get(key)}" for key in keys if old[key] != new.get(key)]
    why = f" (made with {'; '.join(changed)})" if changed else ""
    print(f"Warning: the video is not the same to the bit{why}.", file=sys.stderr, flush=True)


def warn_of_length(pipeline: LAMPPipeline, prompt: str) -> None:
    """Warn of a prompt that is longer than what the text encoder reads."""
    limit = pipeline.tokenizer.model_max_length
    count = len(pipeline.tokenizer(prompt, truncation=False, verbose=False).input_ids)
    if count > limit:
        print(
            f"Warning: the prompt is {count} tokens long; the model reads the first {limit}.", file=sys.stderr
        )
