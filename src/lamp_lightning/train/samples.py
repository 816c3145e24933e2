"""The studio of a run: generates videos with the model as it is now, writes and reports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor

from lamp_lightning.data.clip import Clip
from lamp_lightning.data.motions import motion_prompt, sample_prompts
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.devices import evaluation, mixed_precision, on_device
from lamp_lightning.runtime.loggers import log_media, log_picture
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.stopping import Stopped, StopRequest
from lamp_lightning.sample.generate import generate, paint_with
from lamp_lightning.sample.known import find_pictures
from lamp_lightning.sample.motions import MEMORY_SETTINGS
from lamp_lightning.sample.videos import Video
from lamp_lightning.sample.write import measure, save_videos, write_sheet
from lamp_lightning.train.callbacks import TrainingProgress

if TYPE_CHECKING:
    from lamp_lightning.sample.first_frames import Painter
    from lamp_lightning.sample.pipeline import LAMPPipeline


@dataclass
class Studio:
    """What generating needs: the pipeline, how to sample, where to write and report."""

    run: RunFolder
    cfg: DictConfig
    pipeline: LAMPPipeline
    sampler: Sampler
    logger: Logger | None
    progress: TrainingProgress
    stop: StopRequest
    painter: Painter | None = None
    clip: Tensor | None = None  # unscaled latents `f c h w` of the first clip

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """In this context all of the model is on one device, in evaluation mode, in the run's precision."""
        device = self.pipeline.unet.device
        with (
            on_device(self.pipeline.base.beside_denoiser, device),
            evaluation(self.pipeline.unet),
            mixed_precision(device, self.cfg.trainer.precision),
        ):
            yield

    def first_frames(self, count: int) -> list[Any]:
        """The user's pictures, else the painter's first frames of the held-out prompts.

        None for each where there is neither. The painter remembers its own: they do not depend on what is
        tuned.
        """
        if count and (own := self.cfg.samples.get("first_frame")) is not None:
            pictures = [picture.read() for picture in find_pictures(own)]
            return [pictures[i % len(pictures)] for i in range(count)]
        if self.painter is None or not count:
            return [None] * count
        frames = []
        size = self.sampler.size or self.pipeline.default_size
        with self.painter:
            for seed, prompt in enumerate(sample_prompts(self.cfg, count), self.cfg.samples.seed):
                self.stop.check()
                frames.append(paint_with(self.painter, prompt, size, self.sampler, seed))
        return frames

    def generate(self, count: int) -> list[Video]:
        """Videos of `count` held-out prompts. Raises Stopped where a stop is asked for."""
        videos = []
        prompts = sample_prompts(self.cfg, count)
        first = self.first_frames(count)
        with self.sampling():
            for i, prompt in enumerate(prompts):
                video = f"generating {i + 1}/{count}"
                self.progress.say(video)

                def on_step(done: int, steps: int, video: str = video) -> None:
                    self.progress.say(f"{video}, step {done}/{steps}")
                    self.stop.check()

                seed = self.cfg.samples.seed + i
                frames = generate(
                    self.pipeline, prompt, self.sampler, seed=seed, first_frame=first[i], on_step=on_step
                )
                videos.append(Video(prompt, seed, frames=frames))
        self.progress.say(None)
        return videos

    def while_training(self, step: int) -> None:
        """Samples of this step, and the adapter as it is now."""
        self.invert_clip()
        self.save_adapter(step)
        if self.cfg.samples.while_training:
            try:
                self.publish(self.generate(self.cfg.samples.while_training), step, final=False)
            except Stopped:
                self.progress.say(None)  # training ends after this step, too, and saves

    def publish(
        self, videos: Sequence[Video], step: int, *, final: bool
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Write videos and contact sheet, measure and report; returns the mean numbers and each video's."""
        folder = self.run.videos if final else self.run.samples / f"step_{step:06d}"
        sheet = self.run.contact_sheet if final else folder / "contact_sheet.png"
        shown = save_videos(videos, folder, self.sampler.fps)
        write_sheet(videos, sheet, f"{self.cfg.motion.name}, {step} steps, {self.cfg.model.name}")
        values, single = measure(videos, self.cfg.model.clip)
        facts = [
            {"prompt": video.prompt, "seed": video.seed, "file": file.name, **numbers}
            for video, file, numbers in zip(videos, shown, single, strict=True)
        ]
        name = "videos" if final else "samples"
        log_media(self.logger, shown, sheet, name=name, step=step, facts=facts)
        if self.logger is not None:
            self.logger.log_metrics({f"metrics/{name}": value for name, value in values.items()}, step)
        return values, facts

    def show_clips(self, clips: Sequence[Clip]) -> None:
        """A contact sheet of the clips as the model sees them, in the run's folder and its logger."""
        data = self.cfg.data
        rows = [
            (f"{clip.path.name}: {clip.prompt}", clip.frames[:: data.frame_stride][: data.num_frames])
            for clip in clips
        ]
        title = f"{self.cfg.motion.name}, {len(clips)} clips as the model sees them"
        log_picture(self.logger, contact_sheet(rows, self.run.clips, title=title), name="clips", step=0)

    def invert_clip(self) -> None:
        """Where sampling begins at the tuned clip's noise, find it without a prompt, as Tune-A-Video does."""
        if self.sampler.start == "inversion" and self.clip is not None:
            with self.sampling():
                self.pipeline.invert_clip(self.clip, self.sampler)

    def take_saved(self) -> None:
        """Be the motion as its file has it, rounded and whole: what is shown now is what the file does."""
        self.pipeline.unet.load_motion(self.run.adapter)

    def save_adapter(self, step: int) -> None:
        """Write the tuned parameters, with what `sample` needs to generate with this file alone."""
        model = self.cfg.model
        metadata = {
            "base_model": str(model.path),
            **{f"base_{name}": model.get(name) for name in ("config", "variant", "dtype", "lora")},
            "base_lora_scale": model.get("lora_scale") if model.get("lora") else None,
            **{name: model.get(name) for name in ("painter", "painter_config", "painter_variant")},
            "clip": model.clip or "",
            "memory": {name: model.get(name) for name in MEMORY_SETTINGS},
            "method": self.cfg.method.name if self.cfg.get("method") else None,
            "motion": str(self.cfg.motion.name),
            "prompt": motion_prompt(self.cfg),
            "num_frames": self.cfg.data.num_frames,
            "steps": step,
            "sampler": self.sampler.settings(),
        }
        inverted = self.pipeline.inverted_clip
        dtype = getattr(torch, self.cfg.adapter_dtype)
        self.pipeline.unet.save_motion(self.run.adapter, inverted_clip=inverted, dtype=dtype, **metadata)
        if self.pipeline.unet.variant.kind == "animatediff":
            self.pipeline.unet.save_motion_modules(self.run.motion_adapter)
