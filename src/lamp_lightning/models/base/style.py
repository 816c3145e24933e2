"""A style LoRA of an image model, fused into its weights: the model is then one of that style.

A LoRA adds `s B A` to a weight (Hu et al. 2022, section 4.1). Fused, it costs no time in tuning and sampling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.checks import quiet_loading
from lamp_lightning.models.tensors import check_finite, read_tensors
from lamp_lightning.runtime.errors import UserError, first_line
from lamp_lightning.runtime.hub import HubMotion, fetch

USUAL_NAME = "pytorch_lora_weights.safetensors"  # as diffusers saves it


def lora_file(where: str | Path) -> Path:
    """The file of a LoRA: a file, a folder that has one, or one of the hub.

    Args:
        where: a path, `owner/name` or `owner/name@revision` of the hub, or `owner/name/<file>.safetensors`.

    Raises:
        UserError: nothing there, or nothing that is one safetensors file.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        usual = [file for file in files if file.name == USUAL_NAME]
        if len(usual or files) != 1:
            raise UserError(
                f"lora={where} is a folder with {len(files)} .safetensors files: give the file of the LoRA."
            )
        return (usual or files)[0]
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"lora={where} is no .safetensors file; nothing else is loaded.")
        return path
    owner, _, rest = str(where).removeprefix("hf://").partition("/")
    name, _, inside = rest.partition("/")
    hub = HubMotion.named(f"{owner}/{name}")
    if hub is None or (inside and not inside.endswith(".safetensors")):
        raise UserError(
            f"lora={where} does not exist. Give a .safetensors file, a folder that has one, or owner/name or "
            "owner/name/<file>.safetensors of the hub."
        )
    return fetch(hub, weight_name=inside or USUAL_NAME).file


def fuse_lora(base: BaseModel, where: str | Path, scale: float = 1.0) -> None:
    """Add a LoRA to the weights of a base model's denoiser and text encoders, in place.

    Args:
        base: the model.
        where: see `lora_file`. The file may be of diffusers, or of another trainer that diffusers reads.
        scale: 1 is the LoRA as it was trained, 0 none of it.

    Raises:
        UserError: peft is missing, no such file, or a LoRA of another model.
    """
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND:
        raise UserError("LoRA layers come with peft: pip install 'peft>=0.17', and start again.")
    file = lora_file(where)
    check_finite(read_tensors(file), str(file), "Fetch the LoRA again.")
    pipeline = _pipeline(base)
    known = {name: getattr(pipeline, name) for name in pipeline._lora_loadable_modules}
    models: dict[str, Any] = {name: part for name, part in known.items() if part is not None}
    with quiet_loading():
        try:
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True)
        except Exception as error:  # whatever diffusers and peft meet in a file
            raise UserError(f"{file} is no LoRA of {base.name}: {first_line(error)}") from error
        styled = [name for name, part in models.items() if _has_lora(part)]
        if not styled:
            raise UserError(f"{file} is no LoRA of {base.name}: no layer of it is known there.")
        pipeline.fuse_lora(components=styled, lora_scale=scale)
        pipeline.unload_lora_weights()
    for name, part in models.items():
        check_finite(dict(part.named_parameters()), f"{base.name} with {file}: {name}", "Give less of it.")


def _pipeline(base: BaseModel) -> Any:
    """A base model's parts in diffusers' pipeline of its kind, which knows what files of LoRA are called."""
    import diffusers  # takes seconds

    beside = ("vae", "text_encoder", "tokenizer", "scheduler")
    parts: dict[str, Any] = {name: getattr(base, name) for name in beside}
    second = {name: getattr(base, name) for name in ("text_encoder_2", "tokenizer_2")}
    if isinstance(base.unet, diffusers.SanaTransformer2DModel):
        return diffusers.SanaPipeline(**parts, transformer=base.unet)
    if isinstance(base.unet, diffusers.SD3Transformer2DModel):
        third: Any = {name: getattr(base, name) for name in ("text_encoder_3", "tokenizer_3")}
        return diffusers.StableDiffusion3Pipeline(**parts, **second, **third, transformer=base.unet)
    if isinstance(base.unet, diffusers.LTXVideoTransformer3DModel):
        return diffusers.LTXImageToVideoPipeline(**parts, transformer=base.unet)
    if base.text_encoder_2 is not None:
        return diffusers.StableDiffusionXLPipeline(**parts, **second, unet=base.unet)
    unused: Any = dict.fromkeys(("safety_checker", "feature_extractor"))
    return diffusers.StableDiffusionPipeline(**parts, **unused, unet=base.unet, requires_safety_checker=False)


def _has_lora(part: nn.Module) -> bool:
    return any(".lora_A." in name for name, _ in part.named_parameters())
