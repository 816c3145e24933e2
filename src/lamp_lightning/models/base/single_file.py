"""Base models in one file, as people share them: in the original formats."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from lamp_lightning.models.base.denoiser_file import kind_of_denoiser, load_denoiser_file
from lamp_lightning.models.base.folder import (
    SINGLE_FILES,
    check_data,
    check_local_config,
    check_tokenizers,
    config_source,
    make_scheduler,
)
from lamp_lightning.models.base.kinds import SD, SD3, SDXL, Kind
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.checks import lacks_data, library_reason, quiet_loading
from lamp_lightning.models.tensors import tensor_names
from lamp_lightning.runtime.errors import UserError

_XL_KEY = "conditioner.embedders.1."  # the second text encoder
_SD3_KEY, _T5_KEY = "model.diffusion_model.joint_blocks.", "text_encoders.t5xxl."
_UNET_KEY, _VAE_KEY = "model.diffusion_model.", "first_stage_model."
_TEXT_KEYS = ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l.")
_PIPELINES: dict[str, Any] = {
    SD.title: StableDiffusionPipeline,
    SDXL.title: StableDiffusionXLPipeline,
    SD3.title: StableDiffusion3Pipeline,
}
_OTHER = "fetch the file again, or give the model.config of a model of the same kind."


def load_single_file(file: Path, config: str | Path | None, torch_dtype: torch.dtype) -> BaseModel:
    """The parts of a single-file checkpoint (see `models.base.load`).

    The kind of model is told from the tensors. Configurations and tokenizers, which such files do not hold,
    come from `config`, or from the hub (a few small files).
    """
    if file.suffix not in SINGLE_FILES:
        raise UserError(
            f"{file} is no model: give a .safetensors, .ckpt or .pth file, a diffusers folder or a hub id."
        )
    names = tensor_names(file)
    of_transformer = kind_of_denoiser(names)
    if of_transformer is not None and not any(name.startswith(_TEXT_KEYS) for name in names):
        return load_denoiser_file(file, of_transformer, names, config, torch_dtype)
    for keys, part in (((_UNET_KEY,), "UNet"), ((_VAE_KEY,), "autoencoder"), (_TEXT_KEYS, "text encoder")):
        if not any(name.startswith(keys) for name in names):
            raise UserError(
                f"{file} is no Stable Diffusion checkpoint: it holds no {part} (no {' or '.join(keys)}*). A "
                "motion adapter, a LoRA or a part alone is no base model; a diffusers folder is given by its "
                "folder."
            )
    source = None if config is None else config_source(config)
    local = source is not None and Path(source).is_dir()
    kind, without = _kind(names)
    if local:
        check_local_config(Path(str(source)))
    with quiet_loading():
        try:
            pipeline = _PIPELINES[kind.title].from_single_file(
                str(file),
                config=source,
                torch_dtype=torch_dtype,
                local_files_only=local,
                **dict.fromkeys(without),
            )
        except Exception as error:  # whatever the libraries meet
            raise _not_loaded(file, source, local, error) from error
    parts = {kind.attribute(part): getattr(pipeline, part) for part in kind.parts if part not in without}
    if (third := parts.get("text_encoder_3")) is not None:
        third.set_input_embeddings(third.shared)  # T5 has its embeddings under two names, files under one
    for part, model in parts.items():
        if isinstance(model, torch.nn.Module):
            check_data(model, f"{file}: its {part}", _OTHER)
    _check_count(parts["unet"], names, _UNET_KEY, file, joined=kind is SD3)
    _check_count(pipeline.vae, names, _VAE_KEY, file)
    patch = parts["unet"].config.patch_size if kind is SD3 else None
    base = BaseModel(
        name=str(file),
        scheduler=make_scheduler(pipeline.scheduler.config, str(file), patch),
        zeros_for_no_prompt=kind is SDXL and bool(pipeline.config.get("force_zeros_for_empty_prompt")),
        **parts,
    )
    check_tokenizers(base, f"{source or file}: its ")
    return base


def _kind(names: Collection[str]) -> tuple[Kind, list[str]]:
    """The kind of model that tensors of these names are of, and the parts that it comes without."""
    if any(name.startswith(_SD3_KEY) for name in names):
        there = any(name.startswith(_T5_KEY) for name in names)
        return SD3, ["image_encoder", "feature_extractor", *([] if there else SD3.droppable)]
    if any(name.startswith(_XL_KEY) for name in names):
        return SDXL, ["safety_checker", "feature_extractor", "image_encoder"]
    return SD, ["safety_checker", "feature_extractor"]


def load_single_unet(path: str | Path, **kwargs: Any) -> UNet2DConditionModel:
    """The UNet of a checkpoint in one file; `kwargs` as of diffusers' `from_single_file`."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file} is no file of this machine: give a .safetensors or .ckpt checkpoint.")
    names = tensor_names(file)
    try:
        with quiet_loading():
            unet = UNet2DConditionModel.from_single_file(str(file), **kwargs)
    except Exception as error:  # whatever the libraries meet
        config = kwargs.get("config")
        raise _not_loaded(file, config, config is not None and Path(config).is_dir(), error) from error
    check_data(unet, f"{file}: its UNet", _OTHER)
    _check_count(unet, names, _UNET_KEY, file)
    return unet


def _check_count(
    model: torch.nn.Module, names: Collection[str], key: str, file: Path, *, joined: bool = False
) -> None:
    """diffusers takes what it knows and says nothing of the rest.

    `joined`: queries, keys and values are one tensor in the file, and three in the model.
    """
    found, used = sum(name.startswith(key) for name in names), len(model.state_dict())
    if joined:
        found += 2 * sum(name.startswith(key) and ".qkv." in name for name in names)
    if found > used:
        raise UserError(
            f"{file} has {found} tensors {key}*, {found - used} more than such a model has: it is of another "
            "kind than its configuration, or damaged."
        )


def _not_loaded(file: Path, source: Any, local: bool, error: Exception) -> UserError:
    if isinstance(error, KeyError):
        return UserError(f"{file} lacks the tensor {error.args[0]!r}: {_OTHER}")
    if lacks_data(error):
        return UserError(f"{file} lacks tensors of its UNet or autoencoder: {_OTHER}")
    if local:
        return UserError(
            f"{file} cannot be loaded with the configuration of {source}: {library_reason(error)}"
        )
    return UserError(
        f"{file}: its configuration and tokenizers are not in the file and cannot be fetched from the hub "
        f"({library_reason(error)}). Check the network, or give a diffusers folder of a model of the same "
        "kind as model.config=<folder>."
    )
