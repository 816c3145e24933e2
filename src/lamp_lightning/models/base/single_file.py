"""Base models in one file, as people share them: the original format of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from lamp_lightning.models.base.folder import SINGLE_FILES, check_local_config, make_scheduler
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.checks import check_tokenizer, library_reason, quiet_loading
from lamp_lightning.models.tensors import tensor_names
from lamp_lightning.runtime.errors import UserError

_XL_KEY = "conditioner.embedders.1."  # the second text encoder
_UNET_KEY, _VAE_KEY = "model.diffusion_model.", "first_stage_model."
_TEXT_KEYS = ("cond_stage_model.", "conditioner.embedders.0.")


def load_single_file(file: Path, config: str | Path | None, torch_dtype: torch.dtype) -> BaseModel:
    """The parts of a single-file checkpoint (see `models.base.load`).

    The kind of model is told from the tensors. Configurations and tokenizers, which such files do not hold,
    come from `config`, or from the hub (a few small files).
    """
    if file.suffix not in SINGLE_FILES:
        raise UserError(
            f"{file} is no model: give a .safetensors or .ckpt checkpoint, a diffusers folder or a hub id."
        )
    names = tensor_names(file)
    for keys, part in (((_UNET_KEY,), "UNet"), ((_VAE_KEY,), "autoencoder"), (_TEXT_KEYS, "text encoder")):
        if not any(name.startswith(keys) for name in names):
            raise UserError(
                f"{file} is no Stable Diffusion checkpoint: it holds no {part} (no {' or '.join(keys)}*). A "
                "motion adapter, a LoRA or a part alone is no base model; a diffusers folder is given by its "
                "folder."
            )
    source = None if config is None else str(Path(config).expanduser())
    local = source is not None and Path(source).is_dir()
    if source is not None and not local and source.count("/") != 1:
        raise UserError(f"config={config} is neither a diffusers folder nor a hub id like owner/model.")
    xl = any(name.startswith(_XL_KEY) for name in names)
    if local:
        check_local_config(Path(str(source)))
    cls: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    with quiet_loading():
        try:
            pipeline = cls.from_single_file(
                str(file),
                config=source,
                torch_dtype=torch_dtype,
                local_files_only=local,
                **dict.fromkeys(("safety_checker", "feature_extractor", *(["image_encoder"] if xl else []))),
            )
        except Exception as error:  # whatever the libraries meet
            raise _not_loaded(file, source, local, error) from error
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if xl else [])):
        _check_complete(getattr(pipeline, part), f"{file}: its {part}")
    _check_count(pipeline.unet, names, _UNET_KEY, file)
    _check_count(pipeline.vae, names, _VAE_KEY, file)
    for number in ("", "_2") if xl else ("",):
        encoder = getattr(pipeline, f"text_encoder{number}").config
        tokenizer = getattr(pipeline, f"tokenizer{number}")
        where = f"{source or file}: its tokenizer{number}"
        check_tokenizer(tokenizer, encoder.vocab_size, encoder.max_position_embeddings, where)
    second = {name: getattr(pipeline, name) for name in ("text_encoder_2", "tokenizer_2")} if xl else {}
    return BaseModel(
        name=str(file),
        vae=pipeline.vae,
        unet=pipeline.unet,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler=make_scheduler(pipeline.scheduler.config, str(file)),
        zeros_for_no_prompt=xl and bool(pipeline.config.get("force_zeros_for_empty_prompt")),
        **second,
    )


def _check_complete(model: torch.nn.Module, where: str) -> None:
    """diffusers leaves what the file lacks without data."""
    missing = sorted(name for name, tensor in model.state_dict().items() if tensor.is_meta)
    if missing:
        raise UserError(
            f"{where} lacks tensors ({len(missing)}, first {missing[0]!r}): fetch the file again, or give "
            "the model.config of a model of the same kind."
        )


def _check_count(model: torch.nn.Module, names: Collection[str], key: str, file: Path) -> None:
    """diffusers takes what it knows and says nothing of the rest."""
    found, used = sum(name.startswith(key) for name in names), len(model.state_dict())
    if found > used:
        raise UserError(
            f"{file} has {found} tensors {key}*, {found - used} more than such a model has: it is of another "
            "kind than its configuration, or damaged."
        )


def _not_loaded(file: Path, source: Any, local: bool, error: Exception) -> UserError:
    other = "fetch the file again, or give the model.config of a model of the same kind."
    if isinstance(error, KeyError):
        return UserError(f"{file} lacks the tensor {error.args[0]!r}: {other}")
    if isinstance(error, NotImplementedError):  # torch's, of a model that is left partly without data
        return UserError(f"{file} lacks tensors of its UNet or autoencoder: {other}")
    if local:
        return UserError(
            f"{file} cannot be loaded with the configuration of {source}: {library_reason(error)}"
        )
    return UserError(
        f"{file}: its configuration and tokenizers are not in the file and cannot be fetched from the hub "
        f"({library_reason(error)}). Check the network, or give a diffusers folder of a model of the same "
        "kind as model.config=<folder>."
    )
