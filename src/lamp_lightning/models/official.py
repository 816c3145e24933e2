"""The authors' checkpoint folders: `config.json` and the UNet's weights as their code saves them.

Their diffusers 0.11 writes `diffusion_pytorch_model.bin`, or `.safetensors` if asked to; newer ones, through
which checkpoints may have gone, also `diffusion_pytorch_model.fp16.*`. None of them splits such a UNet.

The authors publish code and checkpoints under CC BY-NC 4.0: what is converted from them is for non-commercial
use only.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pydantic import Field
from torch import Tensor

from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.checks import check_config, library_reason
from lamp_lightning.models.part_configs import Count, UNetConfig
from lamp_lightning.models.tensors import check_finite, check_shapes, read_tensors
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import is_full, no_space, part_of, remove_dead, save_tensors
from lamp_lightning.runtime.reading import parse_json, read_text

_CONFIG = "config.json"
_BIN = "diffusion_pytorch_model.bin"
_WEIGHTS = (  # in the order of preference of those who read such folders
    "diffusion_pytorch_model.safetensors",
    _BIN,
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.bin",
)
_WHAT = "the configuration of a UNet"
_LARGEST_CONFIG = 2**20  # bytes; theirs have a thousand
_TUNED = "conv1d, conv_gate, attn1.to_q and attn_temp"
_OFFICIAL_CLASS = {"_class_name": "UNet3DConditionModel", "_diffusers_version": "0.11.1"}
# Keys of their UNet's configuration, with its values where an image model's config leaves them out.
_OFFICIAL_KEYS: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "center_input_sample": False,
    "class_embed_type": None,
    "cross_attention_dim": 1280,
    "down_block_types": (),
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "resnet_time_scale_shift": "default",
    "sample_size": None,
    "up_block_types": (),
    "upcast_attention": False,
    "use_linear_projection": False,
}


_Few = Annotated[int, Field(ge=1, le=32)]
_Levels = Annotated[list[_Few], Field(max_length=8)]


class _OfficialConfig(UNetConfig):
    """What a UNet may be built of: a wrong number here could take for ever, even without its weights."""

    block_out_channels: list[Count] = Field(default=[320, 640, 1280, 1280], min_length=1, max_length=8)
    down_block_types: list[str] = Field(default=["DownBlock3D"], min_length=1, max_length=8)
    up_block_types: list[str] = Field(default=["UpBlock3D"], min_length=1, max_length=8)
    layers_per_block: _Few | _Levels = 2
    transformer_layers_per_block: _Few | _Levels = 1
    reverse_transformer_layers_per_block: _Levels | None = None


def official_image_unet(folder: Path) -> UNet2DConditionModel:
    """The image UNet that a checkpoint folder's `config.json` inflates, without data (on the meta device).

    Raises:
        UserError: it is not the configuration of the authors' UNet, or one that cannot be built.
    """
    path = folder / _CONFIG
    config = _image_config(path, _read_config(path))
    try:
        with torch.device("meta"):
            return cast(UNet2DConditionModel, UNet2DConditionModel.from_config(config))
    except Exception as error:  # whatever diffusers meets in a damaged config
        raise UserError(f"{path} describes a UNet that cannot be built: {library_reason(error)}") from error


def read_official_weights(folder: Path, unet: VideoBackbone) -> dict[str, Tensor]:
    """The state dictionary of a checkpoint folder; UserError where it is not exactly that of `unet`."""
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder} holds no weights: neither {' nor '.join(_WEIGHTS)}.")
    tensors = read_tensors(file)
    check_shapes(_shapes(tensors), _shapes(unet.state_dict()), file)
    check_finite(tensors, str(file), "It is damaged or its training diverged.")
    return tensors


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def save_official(unet: VideoBackbone, folder: str | Path, config: str | None = None) -> None:
    """Write `config.json` and `diffusion_pytorch_model.bin` as the authors' code reads them.

    Until both files are written what was there stays; an interruption after that leaves no `config.json`.

    Args:
        unet: a MotionUNet with norm "joint".
        folder: the UNet's folder. Weights of other formats in it, which their code would prefer, are removed.
        config: the text of an official `config.json` to write again where it describes this UNet; otherwise
            the UNet's own configuration is written.

    Raises:
        UserError: a norm or a setting that their code does not know, or the folder cannot be written.
    """
    folder = Path(folder)
    if unet.norm != "joint":
        raise UserError(
            "The authors' code pools GroupNorm over frames: only a UNet with norm=joint can be saved."
        )
    if different := Variant().differences(unet.variant):
        raise UserError(
            f"The authors' code knows LAMP as it is, and this UNet differs from it in {different}."
        )
    ours = _official_config(unet)
    if config is None or not _describes(config, ours):
        config = json.dumps(ours, indent=2, sort_keys=True) + "\n"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    parts = {name: part_of(folder / name) for name in (_BIN, _CONFIG)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_dead(folder)
        save_tensors(tensors, parts[_BIN])
        parts[_CONFIG].write_text(config, encoding="utf-8")
        for name in (_CONFIG, *_WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        for name, part in parts.items():
            os.replace(part, folder / name)
    except (OSError, RuntimeError) as error:
        if is_full(error):
            raise no_space(folder) from error
        raise UserError(f"{folder} cannot be written: {library_reason(error)}") from error
    finally:
        for path in parts.values():
            with suppress(OSError):
                path.unlink()
        for path in made:
            with suppress(OSError):
                path.rmdir()  # those that stayed empty


def check_new_norms(unet: VideoBackbone, source: Path) -> None:
    """Refuse frozen norms of the temporal attention, new in LAMP, that are not as they start: 1 and 0."""
    for name, tensor in unet.state_dict().items():
        if ".norm_temp." in name and not (tensor == (1 if name.endswith("weight") else 0)).all():
            raise UserError(
                f"{source}: the tensor {name!r} was tuned, and a motion adapter holds only {_TUNED}: this "
                "checkpoint, trained with other trainable_modules, cannot become one."
            )


def check_frozen(unet: VideoBackbone, untuned: VideoBackbone, source: Path, base: str) -> None:
    """Compare every frozen tensor of an official checkpoint with its base model's, `untuned`.

    They must be equal in the checkpoint's precision; those equal in half precision only get a warning.
    """
    tuned = set(unet.trainable_names())
    theirs = {name: tensor for name, tensor in unet.state_dict().items() if name not in tuned}
    ours = {name: tensor for name, tensor in untuned.state_dict().items() if name not in tuned}
    other = sorted({name for name, _ in _shapes(theirs).items() ^ _shapes(ours).items()})
    if other:
        raise UserError(
            f"{source} does not belong to base={base}, a model of another size: {len(other)} frozen tensors "
            f"are missing in one of them or differ in shape, the first is {other[0]!r}."
        )
    kinds = {name: likeness(tensor, ours[name]) for name, tensor in theirs.items()}
    if different := [name for name, kind in kinds.items() if kind == "different"]:
        first = different[0]
        by = (theirs[first].float() - ours[first].float()).abs().max()
        raise UserError(
            f"{source} was not tuned on base={base}: of {len(kinds)} frozen tensors {len(different)} differ, "
            f"the first is {first!r} (by up to {by:.2g}). Give the model that it was tuned on. (Or it was "
            f"trained with other trainable_modules than {_TUNED}: such a one cannot become an adapter.)"
        )
    if rounded := [name for name, kind in kinds.items() if kind == "rounded"]:
        print(
            f"Warning: {len(rounded)} of {len(kinds)} frozen tensors of {source} equal those of base={base} "
            f"only in half precision, the first is {rounded[0]!r}. Sampling and the way back use the base's.",
            file=sys.stderr,
        )


def likeness(theirs: Tensor, ours: Tensor) -> str:
    """How a frozen tensor is like its base model's: "same", "rounded" to half precision, or "different"."""
    if torch.equal(theirs, ours.to(theirs.dtype)):
        return "same"
    halves = (torch.float16, torch.bfloat16)
    return "rounded" if any(torch.equal(theirs.to(h), ours.to(h)) for h in halves) else "different"


def warn_of_half(unet: VideoBackbone, source: Path) -> None:
    """Say what becomes of a checkpoint that is not in full precision."""
    kinds = {tensor.dtype for tensor in unet.state_dict().values()}
    names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    if len(kinds) > 1:
        print(
            f"Warning: {source} mixes {names}. The adapter keeps its tensors as they are; converted back, "
            "the folder is in the widest precision of the adapter's.",
            file=sys.stderr,
        )
    elif kinds & {torch.float16, torch.bfloat16}:
        print(
            f"Warning: {source} is in {names}. The adapter keeps its tensors as they are, and converted back "
            "the folder is so again; sampling uses the frozen tensors of the base, in the base's precision.",
            file=sys.stderr,
        )


def unet_folder(folder: str | Path) -> Path:
    """The folder of the UNet: `folder`, or its `unet`; UserError where neither has a `config.json`."""
    folder = Path(folder)
    for candidate in (folder, folder / "unet"):
        if (candidate / _CONFIG).is_file():
            return candidate
    raise UserError(
        f"{folder} is no checkpoint folder of LAMP: it holds neither {_CONFIG} nor unet/{_CONFIG}."
    )


def official_config(folder: str | Path) -> str:
    """The text of a checkpoint folder's `config.json`, checked; for `save_official` to write again."""
    path = unet_folder(folder) / _CONFIG
    text = _read_config(path)
    _image_config(path, text)
    return text


def _read_config(path: Path) -> str:
    return read_text(path, what=_WHAT, limit=_LARGEST_CONFIG)


def _image_config(path: Path, text: str) -> dict[str, Any]:
    """Their UNet's configuration as one of diffusers' `UNet2DConditionModel`."""
    config = parse_json(text, file=path, what=_WHAT)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not the configuration of a UNet.")
    if (found := config.get("_class_name")) != _OFFICIAL_CLASS["_class_name"]:
        raise UserError(
            f"{path} describes a {repr(found)[:60]}, not LAMP's {_OFFICIAL_CLASS['_class_name']}."
        )
    if config.get("use_temp") is False:
        raise UserError(f"{path} has use_temp=false: such a checkpoint has no temporal layers.")
    _check_activation(config, str(path))
    check_config(config, path, _OfficialConfig)
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {key: _rename(value, "3D", "2D") for key, value in config.items() if key in known}


def _check_activation(config: Mapping[str, Any], where: str) -> None:
    """Their code has SiLU in the time embedding and before `conv_out` whatever `act_fn` says."""
    if config.get("act_fn", "silu") not in ("silu", "swish"):
        raise UserError(
            f"{where} has act_fn={repr(config['act_fn'])[:60]}: only silu is computed as the authors' code "
            "does."
        )


def _describes(text: str, ours: dict[str, Any]) -> bool:
    """Whether an official `config.json` says of the UNet what ours does."""
    try:
        theirs = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(theirs, dict) or theirs.get("_class_name") != _OFFICIAL_CLASS["_class_name"]:
        return False
    same = {**_OFFICIAL_CLASS, **_OFFICIAL_KEYS, "use_temp": True, **theirs}
    return all(same[key] == json.loads(json.dumps(value)) for key, value in ours.items() if key[0] != "_")


def _official_config(unet: VideoBackbone) -> dict[str, Any]:
    """The configuration of diffusers' UNet as one of theirs; what theirs lacks must be at its default."""
    defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
    config = dict(unet.config)
    _check_activation(config, "This UNet")
    for key, value in config.items():
        if key in _OFFICIAL_KEYS or key.startswith("_") or key not in defaults:
            continue
        if value != defaults[key].default:
            raise UserError(
                f"The authors' UNet knows no {key}={value!r}: this model cannot be saved in their format."
            )
    ours = {key: _rename(config.get(key, default), "2D", "3D") for key, default in _OFFICIAL_KEYS.items()}
    return _OFFICIAL_CLASS | ours | {"use_temp": True}


def _rename(value: Any, old: str, new: str) -> Any:
    """Block types carry the dimension in their names."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, (list, tuple)):
        return [_rename(item, old, new) for item in value]
    return value
