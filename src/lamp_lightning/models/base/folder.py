"""Base models in diffusers' own format: a folder with a subfolder for each part, here or on the hub."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, ModelMixin
from torch import nn

from lamp_lightning.diffusion.flow import FlowLevels, flow_scheduler, is_flow
from lamp_lightning.models.base.kinds import LTX, SD, SDXL, kind_of, named
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.checks import (
    FETCH,
    check_folder,
    check_size,
    check_tokenizer,
    library_reason,
    quiet_loading,
    weights_variant,
)
from lamp_lightning.models.part_configs import CONFIGS, SchedulerConfig
from lamp_lightning.runtime.errors import UserError, first_line
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.reading import checked, read_json

SINGLE_FILES = (".safetensors", ".ckpt", ".pth")
_LIBRARIES = ("diffusers", "transformers")
_NOT_WEIGHTS = "position_ids"  # once saved in checkpoints, now computed: it may be there or not
FAULTS = {  # in the words of the libraries, which only warn of them, and in ours
    "missing_keys": "lacks tensors",
    "unexpected_keys": "has tensors that such a model does not have",
    "mismatched_keys": "has tensors of other shapes than its config.json says",
}


def load_folder(
    name: str,
    variant: str | None,
    torch_dtype: torch.dtype,
    denoiser: Callable[[Any], Any] | None = None,
) -> BaseModel:
    """The parts of the pipeline folder, hub id or packaged model `name` (see `models.base.load`).

    `denoiser` makes a transformer or UNet of the class that the folder names, in place of the folder's.
    """
    source = find_model(name)
    index = read_index(source)
    kind = kind_of(index)
    parts = {part: named(index.get(part)) for part in kind.parts}
    if not all(parts[part][0] for part in kind.droppable):  # T5, without which Stable Diffusion 3 works, too
        parts = {part: found for part, found in parts.items() if part not in kind.droppable}
    for part, (library, _) in parts.items():
        if library:
            continue
        raise UserError(
            f"{source}: its model_index.json names no {part}. A text-to-image pipeline is needed: of Stable "
            f"Diffusion ({', '.join(SD.parts)}, scheduler), Stable Diffusion XL or 3, or Sana; or LTX-Video."
        )
    with quiet_loading() if os.path.isdir(source) else nullcontext():  # a download does show its progress
        loaded = {
            kind.attribute(part): _load_part(source, part, kind.parts[part], found, variant, torch_dtype)
            for part, found in parts.items()
            if denoiser is None or part != kind.denoiser
        }
    if denoiser is not None:
        loaded["unet"] = denoiser(
            _class_of(source, kind.denoiser, kind.parts[kind.denoiser], parts[kind.denoiser])
        )
    patch = loaded["unet"].config.get("patch_size") if kind.denoiser == "transformer" else None
    levels = _load(DDIMScheduler.load_config, source, "scheduler")
    base = BaseModel(
        name=name,
        scheduler=make_scheduler(levels, source, patch, of_clips=kind is LTX),
        zeros_for_no_prompt=kind is SDXL and bool(index.get("force_zeros_for_empty_prompt")),
        **loaded,
    )
    check_tokenizers(base, f"{source}/")
    return base


def check_tokenizers(base: BaseModel, where: str) -> None:
    """Refuse tokenizers of other text encoders; `where` stands before their names in the message."""
    for number in ("", "_2", "_3"):
        if (tokenizer := getattr(base, f"tokenizer{number}")) is not None:
            text = getattr(base, f"text_encoder{number}").config
            name = f"{where}tokenizer{number}"
            # CLIP's tokenizers know how long a text may be; others are told in `models.base.prompts`.
            of_clip = text.max_position_embeddings if text.model_type == "clip_text_model" else None
            check_tokenizer(tokenizer, text.vocab_size, of_clip, name)


def pipeline_class(path_or_id: str | Path, **hub: Any) -> str | None:
    """The class that a pipeline's index names; None for a single file.

    Args:
        path_or_id: of the pipeline.
        hub: of `hf_hub_download`, such as `revision`.
    """
    if Path(path_or_id).expanduser().is_file():
        return None
    return index_class(read_index(find_model(str(path_or_id)), **hub))


def index_class(index: Mapping[str, Any]) -> str | None:
    """The class that an index names, by itself or, as of diffusers' custom pipelines, after its module."""
    name: Any = index.get("_class_name")
    return name[-1] if isinstance(name, list) and name else name


def make_scheduler(config: Any, source: str, patch_size: int | None = None, *, of_clips: bool = False) -> Any:
    """The scheduler with the noise levels of a model's `scheduler_config.json`, whatever class that names.

    Args:
        config: of the scheduler.
        source: the model, for messages.
        patch_size: of a transformer, which is a model of flow matching; None: of a UNet.
        of_clips: whether that is a video model.

    Returns:
        A `DDIMScheduler`, or for flow matching a `FlowMatchEulerDiscreteScheduler`.
    """
    config = dict(config)
    checked(SchedulerConfig, config, file=Path(source), what="a model with its scheduler", advice=FETCH)
    name = config.get("_class_name", "")
    if patch_size is not None:
        if not is_flow(config):
            raise UserError(
                f"{source}: its scheduler is a {name}, without the levels of flow matching that its "
                f"transformer needs. {FETCH}"
            )
        config.pop(
            "_flow", None
        )  # what we keep of the levels stands in the other keys, too, which were checked
        return flow_scheduler("FlowMatchEulerDiscreteScheduler", FlowLevels.of(config, patch_size, of_clips))
    if "beta_schedule" not in config or is_flow(config) or "EDM" in name:
        raise UserError(
            f"{source}: its scheduler is a {name}, without the noise levels of a diffusion model that "
            "predicts noise, velocity or samples. UNets of flow matching and EDM cannot be tuned."
        )
    # Samplers that never clip do not say so, and DDIM's default would clip latents as if they were pixels.
    return DDIMScheduler.from_config({"clip_sample": False, **config})


def find_model(name: str, what: str = "") -> str:
    """The folder, file or hub id of a path, a hub id (not looked up yet) or a packaged model's name.

    `what` stands before the path where it is neither there nor a hub id: "The painter ".
    """
    if name in TOY_MODELS:
        from lamp_lightning.toyworld import tiny_dit_path, tiny_model_path

        folder = tiny_model_path() if name == "tiny" else tiny_dit_path()
        if not folder.is_dir():
            raise UserError(
                f"{what}{name} has no weights in this installation ({folder} is missing): pretrain them with "
                "python -m lamp_lightning.pretrain --stages transformer, which goes on where it was stopped."
            )
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in SINGLE_FILES):
        return str(path)
    is_path = path.is_absolute() or name.startswith((".", "~")) or path.suffix in SINGLE_FILES
    if is_path or name.count("/") != 1 or path.exists():
        fault = "is no model" if path.exists() else "does not exist"
        raise UserError(
            f"{what}{path} {fault}: give a diffusers pipeline folder, a single-file checkpoint "
            "(.safetensors, .ckpt or .pth) or a hub id like owner/model."
        )
    return name


def read_index(source: str, **hub: Any) -> dict[str, Any]:
    """The pipeline's `model_index.json`; of the hub, with what `hf_hub_download` takes."""
    path = Path(source) / "model_index.json"
    if Path(source).is_dir() and not path.is_file():
        raise UserError(f"{source} holds no model_index.json: it is not a diffusers pipeline folder.")
    if not path.is_file():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source, "model_index.json", **hub))
        except Exception as error:
            raise not_from_hub(source, error) from error
    index = read_json(path, what="the index of a diffusers pipeline")
    if not isinstance(index, dict):
        raise UserError(f"{path} is not the index of a diffusers pipeline: fetch the model again.")
    return index


def _load_part(
    source: str,
    part: str,
    classes: Sequence[str],
    found: tuple[str, str],
    variant: str | None,
    torch_dtype: torch.dtype,
) -> Any:
    cls = _class_of(source, part, classes, found)
    folder = Path(source) / part
    if folder.is_dir():
        check_folder(folder, CONFIGS.get(cls.__name__))
    if part.startswith("tokenizer"):
        return _load(cls.from_pretrained, source, part)
    return load_weights(cls, source, part, variant, torch_dtype)


def _class_of(source: str, part: str, classes: Sequence[str], found: tuple[str, str]) -> Any:
    """The class of a part that `model_index.json` names by library and name, if it is one of `classes`."""
    library, class_name = found
    if library not in _LIBRARIES:
        raise UserError(f"{source}: its {part} is a {library}.{class_name}; only {_LIBRARIES} are known.")
    cls = getattr(importlib.import_module(library), class_name, None)
    if cls is None:
        raise UserError(
            f"{source}: its {part} is a {class_name}, which the installed {library} does not have."
        )
    if class_name not in classes:
        raise UserError(
            f"{source}: its {part} is a {class_name}; LAMP works with {' or '.join(classes)} there."
        )
    return cls


def load_weights(
    cls: Any,
    source: str,
    part: str,
    variant: str | None,
    dtype: torch.dtype,
    faults: Sequence[str] = tuple(FAULTS),
) -> Any:
    """A model of a pipeline folder or hub id; refused where the library made up tensors that it lacks."""
    folder = Path(source) / part
    if (folder / "config.json").is_file():
        check_size(folder, cls, read_json(folder / "config.json", what="a configuration"), dtype)
    precision = "torch_dtype" if issubclass(cls, ModelMixin) else "dtype"
    model, report = _load(
        cls.from_pretrained,
        source,
        part,
        variant=weights_variant(folder, variant) if folder.is_dir() else variant,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report names them
        **{precision: dtype},
    )
    for fault in faults:
        names = [name if isinstance(name, str) else name[0] for name in report.get(fault) or ()]
        _check_names(names, f"{folder} {FAULTS[fault]}", "fetch the model again.")
    return model


def check_data(model: nn.Module, where: str, advice: str) -> None:
    """Refuse a model from a single file that lacks tensors: diffusers leaves those without data."""
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    _check_names(missing, f"{where} {FAULTS['missing_keys']}", advice)


def _check_names(names: Sequence[str], fault: str, advice: str) -> None:
    names = [name for name in names if not name.endswith(_NOT_WEIGHTS)]
    if names:
        raise UserError(f"{fault} ({len(names)}, first {min(names)!r}): {advice}")


def config_source(config: str | Path) -> str:
    """The diffusers folder or hub id that a single file's configuration is taken from."""
    source = str(Path(config).expanduser())
    if not Path(source).is_dir() and source.count("/") != 1:
        raise UserError(f"config={config} is neither a diffusers folder nor a hub id like owner/model.")
    return source


def check_local_config(folder: Path) -> None:
    """Refuse a pipeline folder whose configurations, for a single file's weights, cannot be used."""
    index = read_index(str(folder))
    parts = kind_of(index).parts
    for part, entry in index.items():
        library, class_name = named(entry)
        if part in parts and (library not in _LIBRARIES or class_name not in parts[part]):
            known = " or ".join(parts[part])
            raise UserError(f"{folder}: its {part} is a {library}.{class_name}; LAMP works with {known}.")
        if (folder / part).is_dir():
            check_folder(folder / part, CONFIGS.get(class_name))


def _load(method: Any, source: str, part: str, **options: Any) -> Any:
    """Call a library's loading method for one part, with its errors in our words."""
    local = os.path.isdir(source)
    if local and not (Path(source) / part).is_dir():
        raise UserError(f"{source} lacks the folder {part}: fetch the model again.")
    try:
        return method(source, subfolder=part, **options)
    except Exception as error:  # whatever the libraries meet in a damaged folder
        if not local:
            raise not_from_hub(f"{source} ({part})", error) from error
        raise UserError(f"{source}/{part} cannot be loaded: {library_reason(error)}") from error


def not_from_hub(what: str, error: Exception) -> UserError:
    """The error of a hub that cannot be reached or does not have it."""
    return UserError(
        f"{what} cannot be fetched from the hub: {first_line(error).rstrip('.')}. Check the id (and "
        "model.variant) and the network, or download the model elsewhere and give its folder."
    )
