"""Any text-to-image pipeline that diffusers knows, with all of its weights, or an error that says why not."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

from lamp_lightning.models.base.folder import (
    check_data,
    config_source,
    load_weights,
    not_from_hub,
    read_index,
)
from lamp_lightning.models.checks import check_folder, check_vocabulary, lacks_data, quiet_loading
from lamp_lightning.models.tensors import read_pickle
from lamp_lightning.runtime.errors import UserError

_SPECIAL = {  # arguments of pipelines that do more than generate an image from a text
    *("image", "images", "control_image", "mask_image", "image_embeds", "token_indices"),
    *("video", "num_frames", "frames", "video_length"),
}


def load_text_to_image(
    source: str, *, config: str | None = None, variant: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A diffusers pipeline that generates images from text, on the CPU, without its safety checker.

    `source` is from `find_model`; the other arguments are those of `load_base_model`.

    Raises:
        UserError: a part that is missing, damaged or lacks tensors, a pipeline for something else, or a hub
            that cannot be reached. Pickles are read as plain tensors, and code in a model is never run.
    """
    with quiet_loading():
        if Path(source).is_file():
            return _load_file(Path(source), config, dtype)
        return _load_folder(source, variant, dtype)


def _load_folder(source: str, variant: str | None, dtype: torch.dtype) -> Any:
    index = read_index(source)
    cls = _text_to_image_class(index, source)
    _check_index(index, source)
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(cls.download(source, variant=variant))
        except Exception as error:
            raise not_from_hub(source, error) from error
    known = inspect.signature(cls.__init__).parameters
    options: dict[str, Any] = {}
    if "requires_safety_checker" in known:
        options = {"safety_checker": None, "requires_safety_checker": False}
    for part, entry in index.items():
        if part not in known or part in options or not isinstance(entry, list) or len(entry) != 2:
            continue
        if entry == [None, None]:  # saved without, as Stable Diffusion 3 can be
            options[part] = None
            continue
        if not (folder / part).is_dir():
            raise UserError(f"{source} lacks the folder {part}: fetch the model again.")
        check_folder(folder / part)
        if (model := _model_class(*entry)) is not None:
            # Tensors too many do no harm: text encoders are often shared with parts that no painter needs.
            faults = ("missing_keys", "mismatched_keys")
            options[part] = load_weights(model, str(folder), part, variant, dtype, faults)
    try:
        pipeline = cls.from_pretrained(folder, torch_dtype=dtype, **options)
    except Exception as error:  # whatever the libraries meet in a damaged folder
        raise UserError(f"{source} cannot be loaded: {one_line(error)}") from error
    for part, tokenizer in pipeline.components.items():
        if isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
            check_vocabulary(tokenizer, f"{source}/{part}")
    return pipeline


def _check_index(index: Mapping[str, Any], source: str) -> None:
    """Refuse parts that are no classes of the libraries: diffusers would look for code of that name."""
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        if len(entry) != 2 or not all(isinstance(word, str) for word in entry):
            raise UserError(
                f"{source}: its model_index.json names no class for {part}: fetch the model again."
            )
        library, name = entry
        known = library in ("diffusers", "transformers") or hasattr(diffusers.pipelines, library)
        if not known or (library == "transformers" and name.startswith("Auto")):
            raise UserError(
                f"{source}: its {part} is a {library}.{name}, which is no class that diffusers or "
                "transformers load by themselves; code that comes with a model is never run. Give "
                "another model."
            )


def _load_file(file: Path, config: str | None, dtype: torch.dtype) -> Any:
    source = config_source(config or _kind_of_file(file))
    local = Path(source).is_dir()
    try:
        index = read_index(source)
        _check_index(index, source)
        for part in index if local else ():
            if (Path(source) / part).is_dir():
                check_folder(Path(source) / part)
    except UserError as error:
        if config is not None:
            raise
        raise UserError(
            f"{file}: its configuration and tokenizers are not in the file. {error} A diffusers folder of a "
            "model of the same kind can be given as the painter's config."
        ) from error
    cls = _text_to_image_class(index, source)
    if not hasattr(cls, "from_single_file"):
        raise UserError(f"{source} is a {cls.__name__}, which has no single files: give a diffusers folder.")
    optional = ("safety_checker", "feature_extractor", "image_encoder")
    options: dict[str, Any] = {part: None for part in optional if part in cls._optional_components}
    options |= {"config": source, "torch_dtype": dtype, "local_files_only": local}
    try:
        pipeline = cls.from_single_file(str(file), **options)
    except Exception as error:  # whatever the libraries meet
        reason = f"it lacks the tensor {error}." if isinstance(error, KeyError) else one_line(error)
        if lacks_data(error):
            reason = "it lacks tensors of such a model."
        raise UserError(f"{file} cannot be loaded with the configuration of {source}: {reason}") from error
    for part, model in pipeline.components.items():
        if isinstance(model, torch.nn.Module):
            check_data(model, f"{file}: its {part}", "fetch the model again.")
    return pipeline


def _kind_of_file(file: Path) -> str:
    """The hub id of a model of the same kind, told from the tensors."""
    if file.suffix != ".safetensors":
        read_pickle(file)
    try:
        return fetch_diffusers_config(load_single_file_checkpoint(str(file)))["pretrained_model_name_or_path"]
    except Exception as error:
        raise UserError(
            f"{file} is not a plain file of tensors and was not loaded: it is damaged, or would run code."
        ) from error


def _text_to_image_class(index: Mapping[str, Any], source: str) -> Any:
    """The pipeline class that generates images from text with the parts of this pipeline."""
    name = index.get("_class_name")
    own = getattr(diffusers, name, None) if isinstance(name, str) else None
    if packages := getattr(own, "_backends", None):  # how diffusers stands in for what it cannot import
        raise UserError(
            f"{source} is a {name}, which needs the packages {', '.join(packages)}: install them."
        )
    if not inspect.isclass(own) or not issubclass(own, diffusers.DiffusionPipeline):
        raise UserError(
            f"{source} is a {name}, which is no pipeline of the installed diffusers; code that comes with a "
            "model is never run. Give another model, or update diffusers."
        )
    automatic = _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name, throw_error_if_not_exist=False)
    cls = automatic or own
    takes = inspect.signature(cls.__call__).parameters
    # diffusers' own table also names pipelines that can do with images or without, and some for videos.
    special = takes.keys() & ({"num_frames"} if automatic else _SPECIAL)
    needed = {"prompt", "output_type", *([] if automatic else ["num_images_per_prompt"])}
    if special or not needed <= takes.keys():
        raise UserError(
            f"{source} is a {name}, which generates no images from text alone: give a text-to-image model."
        )
    return cls


def _model_class(library: str, name: str) -> Any:
    """The class of a part with weights, as the index names it; of a tokenizer or scheduler None."""
    if library in ("diffusers", "transformers"):
        cls = getattr(importlib.import_module(library), name, None)
    else:
        cls = getattr(getattr(diffusers.pipelines, library, None), name, None)
    models = (diffusers.ModelMixin, transformers.PreTrainedModel)
    return cls if inspect.isclass(cls) and issubclass(cls, models) else None


def one_line(error: Exception) -> str:
    """What a library said, in one line that ends in a full stop."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return reason if reason.endswith(".") else f"{reason}."
