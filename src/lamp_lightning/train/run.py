"""A training run from its config to its report."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.data.motions import draw_toy_clips, motion_prompt, sample_prompts
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.metrics.diagnosis import Diagnosis, diagnose
from lamp_lightning.metrics.familiar import ELSE, REAL, is_tiny, knows, say_doubts
from lamp_lightning.metrics.metrics_json import read_metrics, write_metrics
from lamp_lightning.metrics.registry import printed
from lamp_lightning.models.devices import on_device
from lamp_lightning.models.registry import Variant, inflated
from lamp_lightning.runtime.console import (
    call,
    counted,
    is_first_process,
    print_results,
    quiet_libraries,
    short,
    threads,
)
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hardware import hardware
from lamp_lightning.runtime.loggers import StepLogger, close, log_adapter, summarise, where_to_look
from lamp_lightning.runtime.precision import check_precision
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.stopping import Stopped, StopRequest
from lamp_lightning.sample.loading import begin_with, load_base_of, load_painter, spare_memory
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.sample.videos import Video
from lamp_lightning.train.callbacks import HeldOutLosses, Samples, SaveState, StepNumbers, TrainingProgress
from lamp_lightning.train.checkpoints import check_checkpoint
from lamp_lightning.train.samples import Studio

DOUBTED = 32  # clips of which it is asked whether the tiny model knows them; more take minutes


def train(run: RunFolder, cfg: DictConfig) -> dict[str, float]:
    """Tune, from the beginning or from `last.ckpt`, then generate videos, measure and report.

    Returns the numbers of `metrics.json`: `loss`, `val/loss` of held-out clips, measures of the videos.
    Raises Stopped after a Ctrl-C or SIGTERM, when everything is saved and the user knows how to go on.
    """

    def how_to_go_on() -> str:
        what = "Saved." if run.checkpoint.exists() else "Stopped before the first checkpoint."
        return f"{what} Go on with:\n  {call('train')} resume={short(run.path)}"

    with prepared(run, cfg, how_to_go_on) as parts:
        start_logger(parts)
        fit(parts)
        numbers = finish(parts)
        if parts.studio.stop.requested and is_first_process():
            print(f"Stopped after this run, which is finished: {short(run.path)}", flush=True)
    return numbers


@contextmanager
def prepared(run: RunFolder, cfg: DictConfig, how_to_go_on: Callable[[], str]) -> Iterator[Parts]:
    """The pieces of a run, ready to fit. Afterwards its logger is closed.

    Raises Stopped after a Ctrl-C or SIGTERM, when the user has read how to go on; where it came too late for
    the block, too, since more may come after it.
    """
    with StopRequest() as stop:
        parts, finished = None, False
        try:
            parts = prepare(run, cfg, stop)
            yield parts
            finished = True
        except (Stopped, KeyboardInterrupt) as stopped:
            if is_first_process():
                print(f"\n{how_to_go_on()}", flush=True)
            if isinstance(stopped, Stopped):
                raise
            raise Stopped(stop.signum or 2) from None
        finally:
            if parts is not None:
                close(parts.studio.logger, failed=not finished)
        stop.check()


@dataclass
class Parts:
    """The pieces of a run, ready to fit."""

    trainer: Trainer
    tuner: Any
    data: Any
    studio: Studio

    @property
    def callbacks(self) -> list[Any]:
        """Those of the trainer, the user's and ours."""
        return self.trainer.callbacks  # type: ignore[attr-defined]


def prepare(run: RunFolder, cfg: DictConfig, stop: StopRequest) -> Parts:
    """Load the model, read the clips, make the trainer."""
    quiet_libraries()
    if re.search("spawn|fork|notebook", cfg.trainer.strategy):
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy} would leave the run in processes that end: take "
            "trainer.strategy=ddp."
        )
    check_precision(cfg.trainer.precision, cfg.model.dtype, cfg.trainer.accelerator)
    torch.set_num_threads(threads(cfg.threads))
    seed_everything(cfg.seed % 2**32, verbose=False)  # numpy takes no larger one
    sampler = Sampler.from_config(cfg)
    variant = variant_from(cfg)
    draw_toy_clips(cfg)
    base = load_base_of(cfg.model, cfg.model.dtype)
    sampler.make_scheduler(base.scheduler.config)  # a wrong name is said now, not after training
    data_cfg = {key: value for key, value in cfg.data.items() if key != "root"}
    for name, usual in (("validation", None), ("fps", None), ("use_masks", True), ("mask_black", 0.0)):
        if data_cfg.get(name) == usual:
            data_cfg.pop(name, None)  # a data module of the user's need not know it
    callbacks = make_callbacks(run, cfg)
    trainer_cfg = dict(cfg.trainer)
    if (longest := trainer_cfg.pop("max_time", None)) is not None:
        callbacks.append(
            make("trainer.max_time", {"_target_": "lightning.pytorch.callbacks.Timer", "duration": longest})
        )
    data = make("data", data_cfg, motion=motion_prompt(cfg), seed=cfg.seed)
    if hasattr(data, "windows_for"):  # a number of frames that the model does not take is said now
        data.windows_for(base)
    begun = cfg.model.get("motion_adapter")
    unet = inflated(base.unet, cfg.model.norm, variant, begun if variant.kind == "animatediff" else None)
    tuner = make(
        "tuner",
        {key: value for key, value in cfg.tuner.items() if (key, value) != ("rank", None)},  # as with data
        unet,
        base.scheduler,
        seed=cfg.seed,
        gradient_checkpointing=cfg.model.gradient_checkpointing,
        **base_names(cfg),
    )
    if begun is not None and variant.kind != "animatediff" and not run.checkpoint.exists():
        begin_with(unet, begun)
    tuner._log_hyperparams = False  # the logger gets the whole config
    progress = TrainingProgress(str(cfg.motion.name))
    pipeline = LAMPPipeline.from_base(base, unet)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.latent_frames(sampler)  # how a video model cannot sample is said now, too
    spare_memory(pipeline, cfg.model)
    studio = Studio(run, cfg, pipeline, sampler, None, progress, stop)
    trainer = make(
        "trainer",
        trainer_cfg,
        logger=False,
        callbacks=[
            *callbacks,  # before ours, which save what they have done
            progress,
            StepNumbers(),
            HeldOutLosses(),  # before the state is saved
            Samples(studio.while_training, cfg.samples.every),
            SaveState(run, cfg.save_every, stop),
        ],
        max_epochs=-1,
        val_check_interval=cfg.trainer.get("val_check_interval")
        or cfg.save_every * cfg.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        **({"limit_val_batches": 0} if "validation" not in data_cfg else {}),
        default_root_dir=str(run.path),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    studio.painter = load_painter(cfg.model, trainer.strategy.root_device, cfg.model.dtype)
    with on_device(base.encoders, trainer.strategy.root_device):
        data.prepare(base)
    studio.clip = data.first_clip
    if cfg.sampler.fps is None and hasattr(data, "fps"):  # a user's own data module may not know
        studio.sampler = sampler.changed({"fps": data.fps})
    if is_first_process():  # now, while the device is empty, and so that what is wrong shows before training
        say_doubts_of(cfg, data)
        while_training = cfg.samples.while_training if cfg.samples.every else 0
        studio.first_frames(max(while_training, cfg.samples.final))
    stop.check()
    return Parts(trainer, tuner, data, studio)


def base_names(cfg: DictConfig) -> dict[str, Any]:
    """What a `MotionTuner` keeps to find its base model again; a class of the user's need not take it."""
    names = {"base_model": str(cfg.model.path)}
    names |= {f"base_{key}": cfg.model.get(key) for key in ("config", "variant", "lora", "lora_scale")}
    taken = inspect.signature(get_object(cfg.tuner._target_)).parameters
    return {name: value for name, value in names.items() if name in taken}


def say_doubts_of(cfg: DictConfig, data: Any) -> None:
    """Warn of clips, prompts and pictures that the tiny model does not know."""
    if not is_tiny(cfg.model.path):
        return
    prompts = [*data.motion_set.prompts, *sample_prompts(cfg, cfg.samples.final)]
    clips = [clip.frames for clip in data.motion_set.clips[:: -(-len(data.motion_set.clips) // DOUBTED)]]
    if cfg.get("video") is not None:  # of an edit
        prompts.append(str(cfg.prompt))
    say_doubts(cfg.model.path, prompts, clips, advice=f"{ELSE} take {REAL}.")


def make_callbacks(run: RunFolder, cfg: DictConfig) -> list[Callback]:
    """The user's Lightning callbacks. What they write goes into the run's folder, unless they name another.

    Raises:
        UserError: one that is none, or that watches held-out clips where there are none.
    """
    callbacks = []
    for name, found in (cfg.get("callbacks") or {}).items():
        options = dict(found)
        try:
            target = get_object(options["_target_"])
        except (ImportError, ValueError) as error:
            raise UserError(
                f"callbacks.{name}._target_={options['_target_']} cannot be imported: {error}"
            ) from error
        if "dirpath" in inspect.signature(target).parameters:
            options["dirpath"] = str(run.path / (options.get("dirpath") or "checkpoints"))
        callback = make(f"callbacks.{name}", options)
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks.{name}._target_={options['_target_']} is no Lightning callback.")
        monitor = str(getattr(callback, "monitor", None))
        waits = isinstance(callback, EarlyStopping) and not callback._check_on_train_epoch_end
        if cfg.data.get("validation") is None and (waits or monitor.startswith("val/")):
            raise UserError(
                f"callbacks.{name} watches {monitor} whenever held-out clips are measured, and there are "
                "none: give a share of the clips or a folder of others, like data.validation=0.25."
            )
        callbacks.append(callback)
    return callbacks


def variant_from(cfg: DictConfig) -> Variant:
    """What of the method the config asks for. UserError where steps would tune nothing."""
    tuner = {name: cfg.tuner.get(name) for name in ("first_frame", "tuned")}
    variant = Variant.from_settings({**(cfg.model.get("layers") or {}), **tuner})
    if cfg.trainer.max_steps and not variant.sets:
        raise UserError(
            "There is nothing to tune: neither tuner.tuned nor model.layers leave a parameter. Give "
            "trainer.max_steps=0 to generate with the untuned model."
        )
    return variant


def make(group: str, cfg: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `cfg._target_` with its settings and more arguments, which stay the objects that they are."""
    target = instantiate(cfg, _partial_=True, _recursive_=False, _convert_="all")
    try:
        return target(*args, **kwargs)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"The settings of {group} cannot be used: {error}") from error


def start_logger(parts: Parts) -> None:
    """Make the logger that the config names, in the first process, and show the clips of a new run."""
    run, cfg = parts.studio.run, parts.studio.cfg
    if is_first_process() and (logger := make("logger", cfg.logger, run)) is not None:
        parts.studio.logger = logger
        parts.trainer.loggers = [logger]
        if isinstance(logger, StepLogger):
            logger.trainer = parts.trainer
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    if not parts.trainer.loggers:  # some callbacks must have one
        parts.trainer.loggers = [DummyLogger()]
    if is_first_process() and not run.checkpoint.exists():  # a run that goes on has them
        parts.studio.show_clips(parts.data.motion_set.clips)


def fit(parts: Parts) -> None:
    """Train to the end, or to a stop: then raises Stopped. `trainer.max_steps=0` tunes nothing."""
    if not parts.trainer.max_steps:
        measure_held_out(parts)
        return
    run, cfg, stop = parts.studio.run, parts.studio.cfg, parts.studio.stop
    checkpoint = run.checkpoint if run.checkpoint.exists() else None
    if checkpoint is not None:
        check_checkpoint(checkpoint, parts.tuner, parts.trainer)
    tuned = sum(p.numel() for p in parts.tuner.unet.tuned_parameters())
    everything = sum(p.numel() for p in parts.tuner.unet.parameters())
    if is_first_process():
        clips = counted(len(parts.data.motion_set.clips), "clip")
        height, width = cfg.data.size
        print(f"Computing on the {hardware(cfg.trainer.accelerator)} in {cfg.trainer.precision}.")
        print(
            f"Tuning {str(cfg.motion.name)!r} on {clips} ({cfg.data.num_frames} frames of "
            f"{width}x{height}) with model {cfg.model.name}: {tuned:,} of {everything:,} parameters, "
            f"in {short(run.path)}",
            flush=True,
        )
    try:
        parts.trainer.fit(parts.tuner, datamodule=parts.data, ckpt_path=checkpoint)
        averaging: Any = getattr(lightning_callbacks, "WeightAveraging", ())  # of Lightning 2.6
        for callback in parts.callbacks:
            if isinstance(callback, averaging):  # not called yet where nothing was left to do
                callback.on_train_end(parts.trainer, parts.tuner)
        if not stop.requested:
            measure_held_out(parts)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        raise Stopped(stop.signum or 2) from None
    finally:
        stop.install()
    if stop.requested:
        if is_first_process():
            parts.studio.save_adapter(parts.trainer.global_step)
        stop.check()


def diagnosed(parts: Parts, videos: Sequence[Video]) -> Diagnosis:
    """What came of tuning, by the final videos beside the clips, and by the losses on held-out clips."""
    cfg, data = parts.studio.cfg, parts.studio.cfg.data
    clips = [clip.frames[:: data.frame_stride][: data.num_frames] for clip in parts.data.motion_set.clips]
    kept = [each for each in parts.callbacks if isinstance(each, HeldOutLosses)]
    return diagnose(
        [video.frames for video in videos],
        clips,
        losses=kept[0].losses if kept else None,
        steps=parts.trainer.global_step,
        familiar=knows(cfg.model.path, clips),
    )


def measure_held_out(parts: Parts) -> None:
    """The loss on held-out clips, of the model as it is at the end."""
    trainer = parts.trainer
    measured = any(getattr(each, "measured_at", None) == trainer.global_step for each in parts.callbacks)
    if parts.studio.cfg.data.get("validation") is not None and not measured:
        trainer.validate(parts.tuner, datamodule=parts.data, verbose=False)


def finish(parts: Parts) -> dict[str, float]:
    """Save the adapter, generate the final videos, measure them and say where everything is.

    Returns the numbers of metrics.json; those of other processes than the first are empty.
    """
    if not parts.trainer.is_global_zero:
        return {}
    studio, step = parts.studio, parts.trainer.global_step
    run, cfg = studio.run, studio.cfg
    parts.tuner.unet.to(parts.trainer.strategy.root_device)
    studio.invert_clip()
    studio.save_adapter(step)
    studio.take_saved()
    studio.stop.check()
    places: list[tuple[str, str | Path]] = [("run", run.path), ("adapter", run.adapter)]
    facts: dict[str, Any] = {"motion": cfg.motion.name, "model": cfg.model.name, "steps": step}
    if studio.progress.loss is not None:
        facts["loss"] = studio.progress.loss
    facts |= {
        name: float(value) for name, value in parts.trainer.callback_metrics.items() if name == "val/loss"
    }
    if parts.trainer.early_stopping_callback is not None and step < cfg.trainer.max_steps:
        facts["stopped_early"] = True
    facts["minutes"] = round(studio.progress.seconds / 60, 3)  # of training
    values: dict[str, float] = {}
    single: list[dict[str, Any]] = []
    diagnosis: Diagnosis | None = None
    if cfg.samples.final:
        print(f"Generating {counted(cfg.samples.final, 'video')} of held-out prompts ...", flush=True)
        begun = time.monotonic()
        videos = studio.generate(cfg.samples.final)
        facts["seconds_per_video"] = (time.monotonic() - begun) / len(videos)
        studio.stop.check()
        values, single = studio.publish(videos, step, final=True)
        places += [("videos", run.videos), ("contact sheet", run.contact_sheet)]
        diagnosis = diagnosed(parts, videos)
        facts["diagnosis"] = diagnosis.as_dict()
    write_metrics(run.metrics, {**facts, **values, "videos": single})
    summarise(studio.logger, {f"metrics/{name}": value for name, value in values.items()})
    log_adapter(studio.logger, run, {"motion": str(cfg.motion.name), "steps": step})
    figures = printed(values)
    if "val/loss" in facts:
        figures = [f"  {'loss on held-out clips ↓':<34}{facts['val/loss']:>7.4f}", *figures]
    if diagnosis is not None:
        figures += diagnosis.lines()
    places += [
        ("metrics", run.metrics),
        *where_to_look(studio.logger),
        ("more videos", f'{call("sample")} run={short(run.path)} prompt="..."'),
    ]
    title = f"The motion {cfg.motion.name!r} is {'tuned' if step else 'left untuned'}."
    print_results(title, figures, places)
    return read_metrics(run.metrics).numbers
