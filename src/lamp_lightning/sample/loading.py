"""Tuned motions into memory: their pipeline, and the model that generates first frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from lamp_lightning.models.adapter import header_of, same_weights
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.first_frames import Painter
from lamp_lightning.sample.motions import MEMORY_SETTINGS, Adapter, find_adapter
from lamp_lightning.sample.pipeline import LAMPPipeline


def load_base_of(model: DictConfig, dtype: str) -> BaseModel:
    """The text-to-image model that a config's group `model` names."""
    return load_base_model(
        model.path,
        config=model.get("config"),
        variant=model.get("variant"),
        lora=model.get("lora"),
        lora_scale=model.get("lora_scale", 1.0),
        torch_dtype=getattr(torch, dtype),
    )


def spare_memory(pipeline: LAMPPipeline, settings: Mapping[str, Any]) -> None:
    """Switch on those of `MEMORY_SETTINGS` that the settings ask for."""
    for name in MEMORY_SETTINGS:
        if settings.get(name):
            getattr(pipeline, f"enable_{name}")()


def load(adapter: Adapter, device: str, dtype: str) -> LAMPPipeline:
    """The pipeline of the adapter's base model with the motion in it, on the device."""
    mixed = bool(adapter.others) or adapter.weight != 1
    pipeline = LAMPPipeline.from_motion(
        adapter.file,
        adapter.base,
        config=adapter.base_config,
        variant=adapter.base_variant,
        lora=adapter.lora,
        lora_scale=adapter.lora_scale,
        check_base=adapter.check_base,
        torch_dtype=getattr(torch, dtype),
        motions={each.file: each.weight for each in adapter.all} if mixed else None,
    )
    if not adapter.check_base:
        say_other_weights(adapter, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    spare_memory(pipeline, adapter.memory)
    try:
        return pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}") from error


def say_other_weights(adapter: Adapter, pipeline: LAMPPipeline) -> None:
    """Tell of motions that were tuned on other weights than those below them now."""
    ours = pipeline.unet.fingerprint()
    others = [each for each in adapter.all if not same_weights(ours, header_of(each.file).base_fingerprint)]
    if others:
        below = adapter.base if adapter.lora is None else f"{adapter.base} with {adapter.lora}"
        print(
            f"Note: {', '.join(each.where for each in others)}: tuned on other weights than those of "
            f"{below}. What was tuned is added to these.",
            flush=True,
        )


def load_painter(model: Adapter | DictConfig, device: str | torch.device, dtype: str) -> Painter | None:
    """The other model that generates first frames, if there is one; it is loaded when it is first used."""
    if model.painter is None:
        return None
    return Painter(
        model.painter,
        config=model.painter_config,
        variant=model.painter_variant,
        device=device,
        dtype=dtype,
    )


def size_unit(pipeline: LAMPPipeline) -> int:
    """Pixels that heights and widths are best multiples of."""
    return pipeline.base.vae_scale_factor * pipeline.unet.even_multiple


def begin_with(unet: Any, motion: str) -> None:
    """Let tuning begin with a motion: a run folder, an adapter or one of the hub."""
    try:
        unet.begin_with(find_adapter(motion).file)
    except UserError as error:
        raise UserError(f"model.motion_adapter={motion} cannot be used. {error}") from error
