"""The authors' checkpoint folders: `config.json` and the UNet's weights as their code saves them."""

from __future__ import annotations

import inspect
import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lamp_lightning.errors import UserError
from lamp_lightning.weights.adapter import check_tensors

if TYPE_CHECKING:
    from lamp_lightning.unet import MotionUNet

_CONFIG = "config.json"
_BIN = "diffusion_pytorch_model.bin"
_SAFETENSORS = "diffusion_pytorch_model.safetensors"
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


def load_official(folder: str | Path, norm: Any = "joint") -> MotionUNet:
    """Read a UNet folder that the authors' code saved.

    Args:
        folder: the folder with `config.json` and the weights, or a pipeline folder with such a `unet` in it.
            `.safetensors` is preferred; a `.bin` is read as plain tensors, code in it is never run.
        norm: "joint" as their checkpoints expect, or "per_frame" to compare.

    Raises:
        UserError: not such a folder, a damaged or unsafe file, missing, extra, mis-shaped or non-finite
            tensors.
    """
    from lamp_lightning.unet import MotionUNet

    folder = _unet_folder(Path(folder))
    config = _image_config(folder / _CONFIG)
    with torch.device("meta"):
        unet = MotionUNet.from_unet(UNet2DConditionModel.from_config(config), norm)
    unet._image_queries = None  # their folder holds the tuned queries only
    file, tensors = _read_weights(folder)
    check_tensors(tensors, {name: tuple(t.shape) for name, t in unet.state_dict().items()}, file)
    unet.load_state_dict(tensors, assign=True)
    for parameter in unet.tuned_parameters():
        parameter.requires_grad_(True)
    return unet.eval()


def save_official(unet: MotionUNet, folder: str | Path) -> None:
    """Write `config.json` and `diffusion_pytorch_model.bin` as the authors' code reads them.

    Raises:
        UserError: a norm or a setting that their code does not know, or the folder cannot be written.
    """
    folder = Path(folder)
    if unet.norm != "joint":
        raise UserError(
            "The authors' code pools GroupNorm over frames: only a UNet with norm=joint can be saved."
        )
    config = _official_config(unet)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{_BIN}.part"
        torch.save(tensors, part)
        os.replace(part, folder / _BIN)
        (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error


def _unet_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "unet"):
        if (candidate / _CONFIG).is_file():
            return candidate
    raise UserError(
        f"{folder} is no checkpoint folder of LAMP: it holds neither {_CONFIG} nor unet/{_CONFIG}."
    )


def _image_config(path: Path) -> dict[str, Any]:
    """Their UNet's configuration as one of diffusers' `UNet2DConditionModel`."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}).") from error
    if config.get("_class_name") != _OFFICIAL_CLASS["_class_name"]:
        raise UserError(
            f"{path} describes a {config.get('_class_name')}, not LAMP's {_OFFICIAL_CLASS['_class_name']}."
        )
    if config.get("use_temp") is False:
        raise UserError(f"{path} has use_temp=false: such a checkpoint has no temporal layers.")
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {key: _rename(value, "3D", "2D") for key, value in config.items() if key in known}


def _official_config(unet: MotionUNet) -> dict[str, Any]:
    """The configuration of diffusers' UNet as one of theirs; what theirs lacks must be at its default."""
    defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
    config = dict(unet.config)
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


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    if (file := folder / _SAFETENSORS).is_file():
        try:
            return file, load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged: {error}") from error
    if not (file := folder / _BIN).is_file():
        raise UserError(f"{folder} holds no weights: neither {_SAFETENSORS} nor {_BIN}.")
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} is not a plain file of tensors and was not loaded: it is damaged, or would run code."
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file} is not a dictionary of tensors.")
    return file, tensors
