"""Editing a video: tuned on it alone, inverted, and made again with another first frame and prompt."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from lamp_lightning.data.cache import Cache
from lamp_lightning.data.clip import Clip
from lamp_lightning.data.clips import load_clip
from lamp_lightning.data.datamodule import ClipDataModule
from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.data.motions import motion_prompt
from lamp_lightning.data.video import (
    SHOWN_SIZE,
    contact_sheet,
    safe_name,
    writable_folder,
    write_gif,
    write_mp4,
)
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.edit.inversion import (
    OnStep,
    from_noise,
    paint_over,
    to_noise,
    weakened,
    without_noise_tricks,
)
from lamp_lightning.metrics import flow_correlation
from lamp_lightning.metrics.metrics_json import write_metrics
from lamp_lightning.metrics.registry import printed
from lamp_lightning.models.adapter import read_metadata
from lamp_lightning.runtime.console import call, counted, is_first_process, print_results, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import file_sha256, part_of, remove, remove_dead
from lamp_lightning.runtime.locks import beside, hold, remove_free
from lamp_lightning.runtime.loggers import log_adapter, log_media, where_to_look
from lamp_lightning.runtime.reading import read_json
from lamp_lightning.runtime.runs import RunFolder, write_json
from lamp_lightning.sample.videos import Video
from lamp_lightning.sample.write import measure
from lamp_lightning.train.run import Parts, fit, prepared, start_logger
from lamp_lightning.train.samples import Studio


def count_frames(cfg: DictConfig) -> int:
    """How many frames will be edited. UserError where the video cannot be read or has too few."""
    size = (cfg.data.size[0], cfg.data.size[1])
    reading = {
        "cache_dir": cfg.data.cache_dir,
        "timeout_s": cfg.data.decode_timeout,
        "fps": cfg.data.get("fps"),
    }
    clip = load_clip(cfg.video, "", size=size, **reading)
    stride = cfg.data.frame_stride
    count = (len(clip.frames) - 1) // stride + 1
    if count < 2:
        raise UserError(
            f"{cfg.video}: found {counted(len(clip.frames), 'frame')}; editing with "
            f"data.frame_stride={stride} needs at least {stride + 1}. Give a longer video."
        )
    return min(count, cfg.data.num_frames)


def check_first_frame(cfg: DictConfig) -> None:
    """UserError where the given first frame is no picture: before the tuning, not after it."""
    if cfg.first_frame is not None:
        pixels_from_image(cfg.first_frame, (cfg.data.size[0], cfg.data.size[1]))


def edit(run: RunFolder, cfg: DictConfig) -> None:
    """Tune and invert where that is not done yet; then edit, measure and report.

    Raises Stopped after a Ctrl-C or SIGTERM, when the user knows how to go on.
    """
    folder = Path(cfg.out) if cfg.out else run.videos / f"{safe_name(str(cfg.prompt))}_seed{cfg.seed}"
    if not cfg.overwrite and is_finished(folder, cfg):
        print(f"Finished already: {short(folder)}", flush=True)
        run.tidy_up()
        remove_free(folder.parent)
        return
    advice = "Wait until it ends, or choose another folder with out=<folder>."
    with run.locked(), hold(beside(folder), what=f"The folder {folder}", advice=advice):
        remove_dead(folder.parent)
        check_free(folder, cfg.overwrite)
        _edit(run, cfg, folder)


def _edit(run: RunFolder, cfg: DictConfig, folder: Path) -> None:
    where = f" out={shlex.quote(short(Path(cfg.out)))}" if cfg.out else ""
    advice = f"Stopped. Go on with:\n  {call('edit')} run={short(run.path)}{where}"
    with prepared(run, cfg, lambda: advice) as parts:
        check_scheduler(parts.studio.sampler)
        check_video(run, parts.data.clip)
        if is_first_process():
            run.save_config(cfg)
        start_logger(parts)
        tune(parts)
        if parts.trainer.is_global_zero:
            publish(make_edit(parts), folder, parts.studio)


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What decides how an edit looks, as metrics.json keeps it."""
    return {
        "prompt": str(cfg.prompt),
        "source_prompt": motion_prompt(cfg),
        "seed": cfg.seed,
        "first_frame": cfg.first_frame,
        **{key: None if cfg.first_frame else cfg[key] for key in ("strength", "paint_follow")},
        "follow": cfg.follow,
        "motion_strength": cfg.motion_strength,
        "steps": cfg.trainer.max_steps,
        "sampler": OmegaConf.to_container(cfg.sampler, resolve=True),
    }


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether the edit that `cfg` asks for lies in the folder, whole."""
    try:
        facts = read_json(folder / "metrics.json", what="the measures of an edit")
    except UserError:
        return False
    files = ("edit.mp4", "edit.gif", "first_frame.png", "contact_sheet.png")
    wanted = json.loads(json.dumps(settings_of(cfg)))
    return (
        isinstance(facts, dict)
        and all((folder / name).is_file() for name in files)
        and all(key in facts and facts[key] == value for key, value in wanted.items())
    )


def check_free(folder: Path, overwrite: bool) -> None:
    """UserError where something else is in the place of the results, or nothing can be written there."""
    if folder.exists() and not overwrite:
        raise UserError(
            f"{folder} exists already. Choose another folder with out=<folder>, another seed, or replace it "
            "with overwrite=true."
        )
    if folder.exists() and not (folder / "metrics.json").is_file():
        raise UserError(f"{folder} holds no edited video and is not replaced. Choose another out=<folder>.")
    writable_folder(folder.parent)


def check_scheduler(sampler: Sampler) -> None:
    """Inversion goes DDIM's way back, which others do not take."""
    if sampler.scheduler != "DDIMScheduler":
        raise UserError(
            f"Editing inverts the video by DDIM and needs sampler.scheduler=DDIMScheduler, not "
            f"{sampler.scheduler}."
        )


def check_video(run: RunFolder, clip: Clip) -> None:
    """UserError where these are not the frames that the run was begun with."""
    begun_with = run.info.get("frames")
    if begun_with is None and is_first_process():
        write_json(run.info_file, {**run.info, "frames": clip.digest})
    elif begun_with not in (None, clip.digest):
        raise UserError(
            f"{clip.path} is not the video that {run.path} was tuned on, or other frames of it are asked "
            "for: begin a new edit with video=<file>."
        )


def tune(parts: Parts) -> None:
    """Tune the motion layers on the video, or load them where that is done. Raises Stopped."""
    run = parts.studio.run
    if run.adapter.is_file() and int(read_metadata(run.adapter).get("steps", 0)) >= parts.trainer.max_steps:
        parts.tuner.unet.load_motion(run.adapter)
        print(f"Tuned already: {short(run.adapter)}", flush=True)
        return
    fit(parts)
    if parts.trainer.is_global_zero:
        parts.studio.save_adapter(parts.trainer.global_step)
        parts.studio.take_saved()
        log_adapter(parts.studio.logger, run, {"motion": parts.studio.cfg.motion.name})


@dataclass
class Edited:
    """What an edit gave. Videos are uint8 `(f, h, w, 3)`."""

    source: Clip
    reconstruction: np.ndarray
    first_frame: np.ndarray
    frames: np.ndarray


def make_edit(parts: Parts) -> Edited:
    """Invert the tuned video, or read its inversion; then generate the edited one. Raises Stopped."""
    studio, clip = parts.studio, parts.data.clip
    cfg, pipeline, prompt = studio.cfg, studio.pipeline, motion_prompt(studio.cfg)
    sampler = without_noise_tricks(studio.sampler, len(clip.frames))
    pipeline.unet.to(parts.trainer.strategy.root_device)
    on_step: OnStep = lambda *_: studio.stop.check()  # noqa: E731
    with studio.sampling():
        way, reconstruction = inversion(studio, sampler, parts.data, on_step)
        if cfg.first_frame is None:
            print("Generating the first frame ...", flush=True)
            first = paint_over(
                pipeline,
                clip.frames[0],
                str(cfg.prompt),
                sampler,
                source_prompt=prompt if cfg.paint_from == "inversion" else None,
                strength=cfg.strength,
                follow=cfg.paint_follow,
                seed=cfg.seed,
                on_step=on_step,
            )
        else:
            first = pixels_from_image(cfg.first_frame, clip.frames.shape[1:3]) / 2 + 0.5
        print(f"Generating {len(clip.frames)} frames ...", flush=True)
        with weakened(pipeline, studio.run.adapter, cfg.motion_strength):
            frames = from_noise(
                pipeline,
                way,
                first,
                str(cfg.prompt),
                sampler,
                source_prompt=prompt,
                follow=cfg.follow,
                on_step=on_step,
            )
    first_frame = (first * 255).round().byte().permute(1, 2, 0).numpy()
    return Edited(clip, reconstruction, first_frame, frames)


def inversion(
    studio: Studio, sampler: Sampler, data: ClipDataModule, on_step: OnStep
) -> tuple[Tensor, np.ndarray]:
    """The video's latents on the way to noise, `steps c f h w`, and the video that they lead back to.

    Both are kept in the run folder, in a file named by all that they depend on.
    """
    cache, clip, pipeline = Cache(studio.run.path), data.clip, studio.pipeline
    prompt = motion_prompt(studio.cfg)
    scheduler = sampler.make_scheduler(pipeline.scheduler.config)
    depends_on = {
        "frames": clip.digest,
        "adapter": file_sha256(studio.run.adapter),
        "prompt": prompt,
        "steps": sampler.num_inference_steps,
        "scheduler": {k: str(v) for k, v in scheduler.config.items() if not k.startswith("_")},
        "precision": str(studio.cfg.trainer.precision),
    }
    file = cache.path("inversion", depends_on, ".safetensors")
    found = cache.load_tensors(file)
    if found is None or "way" not in found:  # earlier versions kept the end of the way only
        print(f"Inverting the video in {sampler.num_inference_steps} steps ...", flush=True)
        way = to_noise(pipeline, data.latents, prompt, sampler, on_step)
        plain = sampler.changed({"guidance_scale": 1.0, "adain": False, "histogram_matching": False})
        again = from_noise(
            pipeline, way, clip.frames[0], prompt, plain, source_prompt=prompt, follow=0, on_step=on_step
        )
        found = {"way": way.float(), "reconstruction": torch.from_numpy(again)}
        cache.save_tensors(file, found)
    else:
        print(f"Inverted already: {short(file)}", flush=True)
    return found["way"], found["reconstruction"].numpy()


def publish(edited: Edited, folder: Path, studio: Studio) -> None:
    """Write what there is to see, measure it and say where everything is."""
    run, cfg, logger = studio.run, studio.cfg, studio.logger
    prompt, source_prompt, fps = str(cfg.prompt), motion_prompt(cfg), edited.source.fps
    part = writable_folder(part_of(folder))
    try:
        write_mp4(part / "edit.mp4", edited.frames, fps, min_size=SHOWN_SIZE)
        write_gif(part / "edit.gif", edited.frames, fps, min_size=SHOWN_SIZE)
        Image.fromarray(edited.first_frame).save(part / "first_frame.png")
        contact_sheet(
            [
                (f"source: {source_prompt}", edited.source.frames),
                ("reconstruction", edited.reconstruction),
                (f"edit: {prompt}", edited.frames),
            ],
            part / "contact_sheet.png",
            title=f"{Path(str(cfg.video)).name}, {cfg.trainer.max_steps} steps, {cfg.model.name}",
        )
        values = measured(edited, prompt, source_prompt, cfg.model.clip)
        write_metrics(part / "metrics.json", {**settings_of(cfg), **values})
        former = folder.rename(part_of(folder)) if folder.exists() else None
        part.rename(folder)
        if former is not None:
            remove(former)
    finally:
        remove(part)
    video, sheet, steps = folder / "edit.mp4", folder / "contact_sheet.png", cfg.trainer.max_steps
    captions = {video: f"{source_prompt} -> {prompt} (seed {cfg.seed})"}
    log_media(logger, captions, sheet, name=f"edit/{folder.name}", step=steps)
    if logger is not None:
        logger.log_metrics({f"edit/{name}": value for name, value in values["edit"].items()}, steps)
    places: list[tuple[str, str | Path]] = [
        ("video", f"{short(video)} (and .gif)"),
        ("contact sheet", sheet),
        ("metrics", folder / "metrics.json"),
        *where_to_look(logger),
        ("more prompts", f'{call("edit")} run={short(run.path)} prompt="..."'),
    ]
    print_results(f"Edited: {source_prompt!r} -> {prompt!r}", printed(values["edit"]), places)


def measured(
    edited: Edited, prompt: str, source_prompt: str, clip_name: str | None
) -> dict[str, dict[str, float]]:
    """The numbers of the edited video, beside those of the source and of its reconstruction.

    `clip_score` is to the new prompt, `clip_score_source_prompt` to that of the source.
    """
    source = edited.source.frames
    videos = {"edit": edited.frames, "source": source, "reconstruction": edited.reconstruction}
    prompts = {"clip_score": prompt, "clip_score_source_prompt": source_prompt}
    shown = [Video(text, frames=frames) for frames in videos.values() for text in prompts.values()]
    _, single = measure(shown, clip_name)
    found: dict[str, dict[str, float]] = {}
    for number, (name, frames) in enumerate(videos.items()):
        values, by_source = single[2 * number : 2 * number + 2]
        found[name] = dict(values)
        if "clip_score" in by_source:
            found[name]["clip_score_source_prompt"] = by_source["clip_score"]
        if name != "source":
            found[name]["flow_correlation"] = flow_correlation(frames, source)
    return found
