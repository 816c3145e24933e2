"""What each setting may be: one table of types and ranges, for command lines and for the files of runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from lamp_lightning.runtime.precision import PRECISIONS

GROUPS = ("motion", "model", "data", "sampler", "trainer", "logger", "method", "experiment")  # in conf/
Rule = tuple[Callable[[Any], bool], str]  # whether it accepts a value, and what that may be, in words


# -- kinds of values -----------------------------------------------------------------------------------------


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or OmegaConf.is_list(value)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) or OmegaConf.is_dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(minimum: int, maximum: int | None = None, *, null: bool = False) -> Rule:
    most = MANY if maximum is None else maximum

    def accepts(value: Any) -> bool:
        if value is None:
            return null
        return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= most

    meaning = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum:,}"
    return accepts, f"a whole number {meaning}" + (" or null" if null else "")


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        return _is_number(value) and (value > low if above else value >= low) and value <= high

    if high < math.inf:
        return accepts, f"a number from {low:g} to {high:g}"
    return accepts, f"a number {'above' if above else 'of at least'} {low:g}"


def _number_or_null(low: float) -> Rule:
    accepts, meaning = _number(low)
    return (lambda value: value is None or accepts(value)), f"{meaning} or null"


def _switch(*, null: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        return isinstance(value, bool) or (null and value is None)

    return accepts, "true or false" + (" or null" if null else "")


def _one_of(*names: Any) -> Rule:
    return (lambda value: value in names), "one of " + ", ".join(
        "null" if name is None else str(name) for name in names
    )


def _text(*, null: bool = True) -> Rule:
    def accepts(value: Any) -> bool:
        return (value is None and null) or (isinstance(value, str | int | float) and bool(str(value).strip()))

    return accepts, "a text" + (" or null" if null else "")


def _is_size(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(_whole(8, LARGEST_SIDE)[0](v) for v in value)


def _is_texts(value: Any) -> bool:
    return value is None or (_is_list(value) and all(isinstance(v, str) and v.strip() for v in value))


def _is_mapping(value: Any) -> bool:
    return value is None or _is_dict(value)


def _several(accepts: Callable[[Any], bool], what: str) -> Rule:
    """One of them or a list of at least one."""

    def all_accepted(value: Any) -> bool:
        return (len(value) > 0 and all(map(accepts, value))) if _is_list(value) else accepts(value)

    return all_accepted, what


def _any_text(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _pattern(pattern: str, meaning: str) -> Rule:
    return (lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None), meaning


def is_plain(value: Any) -> bool:
    """One value: nothing that could hold others."""
    return value is None or isinstance(value, str | int | float)


def _is_options(value: Any, levels: int = 2) -> bool:
    """Names with plain values or lists of them, in so many levels; None is none."""
    if value is None or not _is_dict(value):
        return value is None
    for key, each in value.items():
        if not isinstance(key, str) or key.startswith("_"):
            return False
        inside = _is_list(each) and all(map(is_plain, each))
        if not (is_plain(each) or inside or (levels > 1 and _is_options(each, levels - 1))):
            return False
    return True


def _is_devices(value: Any) -> bool:
    return value == "auto" or value == -1 or _several(_whole(0, 1024)[0], "")[0](value)


# -- the table -----------------------------------------------------------------------------------------------

MANY = 10**12
LARGEST_SIDE = 16384  # pixels
LARGEST_SEED = 2**63 - 1
_TARGET = _pattern(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", "the full name of a class or function")
_FORMATS = ("mp4", "gif", "webp", "png")
_SIZE = f"[height,width] in pixels, both from 8 to {LARGEST_SIDE:,}, like [64,64]"
RULES: dict[str, Rule] = {
    "seed": _whole(0, LARGEST_SEED),
    "seeds": _several(
        _whole(0, LARGEST_SEED, null=True)[0], "a list of whole numbers, like [1,5,9], or null"
    ),
    "prompt": _several(_text()[0], "a text, a list like [a lake,a river], or null"),
    "first_frame": _several(_text()[0], "a file, a folder, a list of files, or null"),
    "format": _several(
        lambda value: value in _FORMATS, f"one or some of {', '.join(_FORMATS)}, like [mp4,png]"
    ),
    "fit": _one_of("crop", "pad"),
    "batch": (
        lambda value: value == "auto" or _whole(1, 1024)[0](value),
        "auto or a whole number from 1 to 1,024",
    ),
    "run": _several(_text()[0], "a run folder, an adapter file, or several like [waterfall:0.7,rain:0.5]"),
    "runs": _several(_text(null=False)[0], "a run folder, a folder or pattern of runs, or a list of these"),
    "title": _text(),
    "folder": _text(),
    "prompts": _text(),
    "truth": _text(),
    "first_frames": _text(),
    "reference": _text(),
    "clip": _text(),
    "fid": _text(),
    "fvd": _text(),
    "fid_arguments": (_is_mapping, "arguments like {return_features: true}, or null"),
    "fvd_arguments": (_is_mapping, "arguments like {rescale: true}, or null"),
    "decode_timeout": _number(0, above=True),
    "videos": _whole(0, 1_000_000),
    "base": _text(),
    "base_config": _text(),
    "count": _whole(1, 1_000_000),
    "precision": _one_of(None, *PRECISIONS),
    "strength": _number(0, 1),
    "follow": _number(0, 1),
    "paint_follow": _number(0, 1),
    "motion_strength": _number(0, 2),
    "paint_from": _one_of("inversion", "noise"),
    "overwrite": _switch(),
    "num_frames": _whole(2, 10_000, null=True),
    "size": (lambda value: value == "auto" or _is_size(value), f"auto, or {_SIZE}"),
    "threads": _whole(1, 1024, null=True),
    "save_every": _whole(1),
    "motion.name": _text(null=False),
    "motion.prompt": _text(),
    "motion.prompts": (_is_texts, "a list of prompts, like [a lake,a river], or null"),
    "model.path": _text(null=False),
    "model.config": _text(),
    "model.variant": _text(),
    "model.painter": _text(),
    "model.painter_config": _text(),
    "model.painter_variant": _text(),
    "model.clip": _text(),
    "model.norm": _one_of("joint", "per_frame"),
    "model.dtype": _one_of("float32", "float16", "bfloat16"),
    "model.layers.kind": _one_of("lamp", "animatediff"),
    "model.layers.gate": _switch(),
    "model.layers.temporal_conv": _switch(),
    "model.layers.causal": _switch(),
    "model.layers.self_attention": _one_of("first_frame", "own", "first_and_former"),
    "model.layers.temporal_attention": _switch(),
    "model.gradient_checkpointing": _switch(),
    "model.attention_slicing": _switch(),
    "model.vae_slicing": _switch(),
    "model.vae_tiling": _switch(),
    "attention_slicing": _switch(null=True),
    "vae_slicing": _switch(null=True),
    "vae_tiling": _switch(null=True),
    "data.num_frames": _whole(2, 10_000),
    "data.frame_stride": _whole(1, 10_000),
    "data.batch_size": _whole(1, 4096),
    "data.num_workers": _whole(0, 256),
    "data.use_captions": _switch(),
    "data.max_clips": _whole(1, null=True),
    "data.decode_timeout": _number(0, above=True),
    "data.flip": _switch(),
    "data.size": (_is_size, _SIZE),
    "tuner.optimizer": _one_of("adamw", "adamw8bit"),
    "tuner.learning_rate": _number(0, above=True),
    "tuner.weight_decay": _number(0),
    "tuner.schedule": _one_of("constant", "cosine"),
    "tuner.warmup_steps": _whole(0),
    "tuner.first_frame": _switch(),
    "tuner.tuned": (_is_texts, "a list of parameter sets, like [conv1d,attn1.to_q], or null"),
    "sampler.num_inference_steps": _whole(1, 1000),
    "sampler.guidance_scale": _number(0),
    "sampler.paint_guidance_scale": _number_or_null(0),
    "sampler.paint_steps": _whole(1, 1000, null=True),
    "sampler.shared_noise": _number(0, 1),
    "sampler.window": _whole(4, 10_000),
    "sampler.overlap": _whole(1, 10_000),
    "sampler.noise_sharing": _one_of("authors", "variance_preserving"),
    "sampler.start": _one_of("noise", "inversion", "warp", "still"),
    "sampler.warp_strength": _number(0),
    "sampler.guidance_rescale": _number(0, 1),
    "sampler.adain": _switch(),
    "sampler.histogram_matching": _switch(),
    "sampler.fps": _number(0, above=True),
    "trainer.max_steps": _whole(0),
    "trainer.precision": _one_of(*PRECISIONS),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.log_every_n_steps": _whole(1),
    "samples.every": _whole(1, null=True),
    "samples.while_training": _whole(0, 10_000),
    "samples.final": _whole(0, 10_000),
    "samples.seed": _whole(0, LARGEST_SEED),
    "motions": (lambda value: _is_texts(value) and bool(value), "a list of motions, like [waterfall,rain]"),
    "scenes": _whole(1, 10_000),
    "steps": _whole(1, null=True),
    "entries": (
        lambda value: value is None or (_is_texts(value) and bool(value)),
        "a list of the suite's methods, like [lamp,untuned], or null",
    ),
    "words": (
        lambda value: value is not None and _is_texts(value),
        'a list of words of the train command, like \'words=["model=sd15","trainer=gpu"]\'',
    ),
    "quick": _switch(),
    "out": _text(),
    "resume": _text(),
    "video": _text(null=False),
    "source_prompt": _text(),
    "method.name": _text(),
    "motion.folder": _text(),
    "motion.flip": _switch(),
    "motion.held_out": (_is_texts, "a list of prompts, like [a lake,a river], or null"),
    "model.name": _text(null=False),
    "model.recipe": (_is_options, "names and values"),
    "data._target_": _TARGET,
    "data.root": _text(),
    "data.folder": _text(),
    "data.cache_dir": _text(),
    "data.captions": _text(),
    "tuner._target_": _TARGET,
    "sampler.negative_prompt": (_any_text, "a text or null"),
    "sampler.scheduler": _text(null=False),
    "sampler.scheduler_options": (_is_options, "options like {timestep_spacing: trailing}, or null"),
    "trainer._target_": _TARGET,
    "trainer.accelerator": _pattern(r"[a-z]+", "auto, cpu, gpu or another of Lightning's accelerators"),
    "trainer.devices": (_is_devices, "auto, a number of devices, or a list of theirs, like [0,1]"),
    "trainer.strategy": _pattern(r"[\w.-]+", "auto, ddp or another of Lightning's strategies"),
    "trainer.gradient_clip_val": _number_or_null(0),
    "trainer.benchmark": _switch(null=True),
    "logger._target_": _TARGET,
    "logger.project": _text(null=False),
    "logger.entity": _text(),
    "logger.mode": _one_of("auto", "online", "offline"),
    "logger.tags": (_is_texts, "a list of texts, like [first,try]"),
}
