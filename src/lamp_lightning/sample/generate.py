"""Prompts and first frames to videos: one, several at once, or many in batches that fit into memory."""

from __future__ import annotations

import gc
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lamp_lightning.data.fit import fit_frame, inner_box, pad_frame
from lamp_lightning.data.video import as_frames
from lamp_lightning.diffusion.colours import match_colours
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.devices import all_memory, free_memory, mixed_precision
from lamp_lightning.runtime.errors import UserError, first_line, is_out_of_memory
from lamp_lightning.runtime.hardware import hardware

if TYPE_CHECKING:
    from PIL import Image

    from lamp_lightning.sample.first_frames import Painter
    from lamp_lightning.sample.known import Picture
    from lamp_lightning.sample.pipeline import LAMPPipeline, Progress
    from lamp_lightning.sample.videos import Video

USABLE = 0.8  # share of free memory
BYTES_OF_PIXEL = 24  # of a decoded video, which is there twice, in float32


def generate(
    pipeline: LAMPPipeline,
    prompt: str,
    sampler: Sampler,
    *,
    seed: int,
    first_frame: Any = None,
    painter: Painter | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Generate one video, uint8 `f h w 3`, by `generate_batch`; `on_step(done, steps)` follows denoising."""
    given = None if first_frame is None else [first_frame]

    def progress(stage: str, done: int, total: int) -> None:
        if on_step is not None and stage == "denoising":
            on_step(done, total)

    return generate_batch(
        pipeline, [prompt], sampler, seeds=[seed], first_frames=given, painter=painter, progress=progress
    )[0]


def generate_batch(
    pipeline: LAMPPipeline,
    prompts: Sequence[str],
    sampler: Sampler,
    *,
    seeds: Sequence[int],
    first_frames: Sequence[Any] | None = None,
    known: Mapping[int, Sequence[Any]] | None = None,
    loop: bool = False,
    painter: Painter | None = None,
    noise: torch.Tensor | None = None,
    colours: Sequence[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Generate videos at once, each uint8 `f h w 3`; a batch changes a video by rounding only.

    Args:
        pipeline, prompts, sampler: what to sample.
        seeds: of each video.
        first_frames: of each video; None: from the `painter`, or else the image model below the motion.
        known: further frames that are given, by their number, of each video.
        loop: whether the videos end where they begin.
        painter: another text-to-image model.
        noise: `b c f h w` instead of drawn noise, such as `diffusion.invert` gives.
        colours: pictures `h w 3` whose histograms the videos take; None: with histogram matching the decoded
            first frame's. Both by `match_colours`: the authors' matching, which the pipeline does by itself,
            makes several tones of what a batch rounds otherwise.
        progress: called as by the pipeline.
    """
    if first_frames is None and painter is not None:
        size = sampler.size or pipeline.default_size
        first_frames = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            first_frames.append(paint_with(painter, prompt, size, sampler, seed))
            if progress is not None:
                progress("painting", len(first_frames), len(prompts))
    before = pipeline.scheduler
    pipeline.scheduler = sampler.make_scheduler(pipeline.own_scheduler.config)
    try:
        with torch.no_grad():
            output: Any = pipeline(
                prompt=list(prompts),
                first_frame=None if first_frames is None else list(first_frames),
                known=None if known is None else {number: list(each) for number, each in known.items()},
                loop=loop,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                sampler=sampler.changed({"histogram_matching": False}),  # below
                noise=noise,
                output_type="np",
                progress=progress,
            )
    finally:
        pipeline.scheduler = before
    generated = [np.asarray(video, dtype=np.float32) for video in output.frames]
    if not all(np.isfinite(video).all() for video in generated):
        raise UserError(
            "The model generated NaN, which is no picture: its weights are damaged, their training diverged, "
            f"or they do not bear the precision (they are in {pipeline.unet.dtype}). Try precision=32-true "
            "or another adapter."
        )
    videos = [np.clip(video, 0, 1) for video in generated]
    if colours is not None:
        videos = [match_colours(video, picture) for video, picture in zip(videos, colours, strict=True)]
    elif sampler.histogram_matching:
        videos = [np.concatenate([video[:1], match_colours(video[1:], video[0])]) for video in videos]
    return [as_frames(video) for video in videos]


def paint_with(
    painter: Painter, prompt: str, size: tuple[int, int], sampler: Sampler, seed: int
) -> Image.Image:
    """A first frame by another model, with the sampler's settings for it, else the model's own."""
    return painter.paint(
        prompt,
        size,
        seed=seed,
        guidance_scale=sampler.paint_guidance_scale,
        num_inference_steps=sampler.paint_steps,
        negative_prompt=sampler.negative_prompt,
    )


# -- batches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Videos that are generated at once, and the places of those that are wanted.

    The bits of a video depend on the size of its batch and its place in it, by rounding, but not on its
    neighbours: a batch of copies makes it again.
    """

    videos: list[Video]
    places: list[int]

    def halves(self) -> list[Batch]:
        """Two batches of half the size."""
        middle = math.ceil(len(self.videos) / 2)
        first = Batch(self.videos[:middle], [place for place in self.places if place < middle])
        second = Batch(self.videos[middle:], [place - middle for place in self.places if place >= middle])
        return [part for part in (first, second) if part.places]


def in_batches(videos: Sequence[Video], most: int, interrupted: Sequence[bool]) -> list[Batch]:
    """The videos without a record, those of one size and with the same known frames at most `most` at once.

    All are divided before the finished ones (with a record) are left out, so that the rest is in the same
    batches after an interruption. A batch that was `interrupted` while it was written is generated as a
    whole again: by itself each missing video would be rounded otherwise.
    """
    by_size: dict[Any, list[tuple[Video, bool]]] = {}
    for video, cut_off in zip(videos, interrupted, strict=True):
        alike = video.sampler.size, [place for place, _ in video.known]
        by_size.setdefault(str(alike), []).append((video, cut_off))
    batches = []
    for same in by_size.values():
        for begin in range(0, len(same), most):
            part = same[begin : begin + most]
            whole = [video for video, _ in part]
            left = [k for k, video in enumerate(whole) if video.record is None]
            together = any(_made_at(video) == (len(whole), k) for k, video in enumerate(whole))
            if together and any(cut_off for _, cut_off in part):
                batches.append(Batch(whole, left))
            elif left:
                batches.append(Batch([whole[k] for k in left], list(range(len(left)))))
    return [batch for batch in batches if batch.places]


def _made_at(video: Video) -> tuple[int, int] | None:
    """The size of the batch in which a finished video was generated, and its place there."""
    if video.record is None:
        return None
    made = video.record.get("made") or {}
    return made.get("batch", 1), made.get("place", 0)


def paint(
    pipeline: LAMPPipeline,
    batches: Sequence[Batch],
    *,
    precision: str,
    painter: Painter | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Video]]:
    """Generate batch by batch, in halves where memory does not suffice; UserError if one is too large."""
    waiting = deque(batches)
    most = max((len(batch.videos) for batch in batches), default=1)
    while waiting:
        batch = waiting.popleft()
        if len(batch.videos) > most:
            waiting.extendleft(reversed(batch.halves()))
            continue
        frames = None
        try:
            frames = _painted(pipeline, batch, precision, painter, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.videos) == 1:
                raise UserError(_too_large(batch.videos[0], first_line(error))) from error
        if frames is None:  # outside the handler: the error holds the tensors of the attempt
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            most = math.ceil(len(batch.videos) / 2)
            print(f"Out of memory: {most} videos at once from here on.", file=sys.stderr, flush=True)
            waiting.appendleft(batch)
            continue
        size = len(batch.videos)
        yield [replace(batch.videos[p], frames=frames[p], batch=size, place=p) for p in batch.places]


def _painted(
    pipeline: LAMPPipeline,
    batch: Batch,
    precision: str,
    painter: Painter | None,
    progress: Progress | None,
) -> list[np.ndarray]:
    videos, sampler = batch.videos, batch.videos[0].sampler
    pictures = None if videos[0].picture is None else [fitted(video, video.picture) for video in videos]
    columns = zip(*(video.known for video in videos), strict=True)
    known = {
        column[0][0]: [fitted(video, picture) for video, (_, picture) in zip(videos, column, strict=True)]
        for column in columns
    }
    with mixed_precision(pipeline.unet.device, precision):
        generated = generate_batch(
            pipeline,
            [video.prompt for video in videos],
            sampler,
            seeds=[video.seed for video in videos],
            first_frames=pictures,
            known=known,
            loop=videos[0].loop,
            painter=painter,
            colours=pictures if sampler.histogram_matching else None,  # the photograph's own
            progress=progress,
        )
    return [shown_part(video, frames) for video, frames in zip(videos, generated, strict=True)]


def fitted(video: Video, picture: Picture | None) -> np.ndarray:
    """A picture of the video at the size that is generated, uint8 `h w 3`."""
    assert picture is not None
    assert video.sampler.size is not None
    fit = pad_frame if video.fit == "pad" else fit_frame
    return fit(picture.read(), video.sampler.size)


def shown_part(video: Video, frames: np.ndarray) -> np.ndarray:
    """Of a padded video the part that the picture covers, else all of it."""
    if video.picture is None or video.fit != "pad":
        return frames
    assert video.sampler.size is not None
    rows, columns = inner_box(*video.picture.shape, video.sampler.size)
    return np.ascontiguousarray(frames[:, rows, columns])


# -- memory --------------------------------------------------------------------------------------------------


def how_many(wanted: Any, pipeline: LAMPPipeline, videos: Sequence[Video], precision: str) -> int:
    """Videos to generate at once: the number wanted, or for "auto" what free memory holds, within reason."""
    if wanted != "auto":
        return int(wanted)
    most = hardware(pipeline.unet.device.type).videos_at_once
    return max(1, min(most, how_many_fit(pipeline, videos, precision)))


def how_many_fit(pipeline: LAMPPipeline, videos: Sequence[Video], precision: str) -> int:
    """Videos, each as large as the largest of these, for which the device's free memory suffices."""
    need = max(bytes_of_video(pipeline, video, precision) for video in videos)
    return int(USABLE * min(free_memory(pipeline.unet.device), sys.maxsize) / need)


def bytes_of_video(pipeline: LAMPPipeline, video: Video, precision: str) -> int:
    """What one more video in a batch takes while the UNet works, about. Decoding goes video by video."""
    sampler, factor = video.sampler, pipeline.base.vae_scale_factor
    assert sampler.size is not None
    rows = 1 if sampler.guidance_scale in (0, 1) else 2
    frames = min(pipeline.base.latent_frames(sampler.num_frames), sampler.window)
    numbers = pipeline.unet.live_numbers(sampler.size[0] // factor, sampler.size[1] // factor)
    each = 4 if precision == "32-true" and pipeline.unet.dtype == torch.float32 else 2
    return max(1, rows * frames * numbers * each)


def check_memory(videos: Sequence[Video], pipeline: LAMPPipeline | None = None, precision: str = "") -> None:
    """Refuse videos that this machine could never hold, before the system ends the process for them.

    With a `pipeline` that computes in `precision`, its need is looked at beside that of the frames.
    """
    cpu = torch.device("cpu")
    for video in videos:
        height, width = video.sampler.size or (1, 1)
        needs = [(video.sampler.num_frames * height * width * BYTES_OF_PIXEL, cpu)]
        if pipeline is not None:
            needs.append((bytes_of_video(pipeline, video, precision) // 2, pipeline.unet.device))
        for need, device in needs:
            if need > (there := all_memory(device)):
                why = f"it needs at least {need / 2**30:,.0f} GiB, and there are {there / 2**30:,.0f}"
                raise UserError(_too_large(video, why))


def _too_large(video: Video, why: str) -> str:
    frames, (height, width) = video.sampler.num_frames, video.sampler.size or ("?", "?")
    return (
        f"One video of {frames} frames of {width}x{height} does not fit into memory ({why}). "
        "Try attention_slicing=true, vae_slicing=true, vae_tiling=true, fewer num_frames, a smaller "
        "sampler.window or a smaller size."
    )
