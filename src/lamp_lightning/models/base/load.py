"""Load a base model, given as a folder, a hub id, one file, or the name of the packaged one."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

from lamp_lightning.models.base.folder import SINGLE_FILES, load_folder
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.tensors import check_finite
from lamp_lightning.runtime.errors import UserError


def load_base_model(
    path_or_id: str | Path,
    *,
    config: str | Path | None = None,
    variant: str | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    torch_dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> BaseModel:
    """Load a pipeline's parts: of Stable Diffusion 1.x, 2.x, XL, 3 and 3.5, Sana, or LTX-Video.

    Args:
        path_or_id: a diffusers pipeline folder, a hub id, a single-file checkpoint (`.safetensors`,
            `.ckpt` or `.pth`), or "tiny", the model that comes with this package.
        config: for a single-file checkpoint, the diffusers folder or hub id that its configuration and
            tokenizers are taken from; None: the hub's, by the kind of model that the file holds. Of a file
            with a transformer and no text encoders it brings all else, weights included.
        variant: of the weight files, such as "fp16" (`diffusion_pytorch_model.fp16.safetensors`).
        lora: a style LoRA that is fused into the weights, see `base.style.lora_file`.
        lora_scale: its strength; 1 is the LoRA as it was trained.
        torch_dtype: of all weights. Where float16 is asked for, the autoencoders of SDXL and Sana stay in
            float32, as LTX-Video's does, and Gemma and T5 take bfloat16: their activations pass what float16
            can hold.
        device: of all weights.

    Raises:
        UserError: nothing there, a part that is missing, damaged or lacks tensors, weights that are not
            finite, a model of another kind, or a hub that cannot be reached. Code in a pickle is never run.

    Example:
        >>> base = load_base_model("tiny")
        >>> base.vae_scale_factor, base.encode_prompts(["a bird"]).text.shape[0]
        (4, 1)
    """
    name = str(path_or_id)
    if (file := Path(name).expanduser()).is_file():
        # diffusers' pipelines, which read single files, take seconds to import.
        from lamp_lightning.models.base.single_file import load_single_file

        base = load_single_file(file, config, torch_dtype)
    elif config is not None and file.suffix not in SINGLE_FILES:
        raise UserError(f"config={config} is for single-file checkpoints, and {name} is none.")
    else:
        base = load_folder(name, variant, torch_dtype)
    check_parts(base)
    if lora is not None:
        from lamp_lightning.models.base.style import fuse_lora

        fuse_lora(base, lora, lora_scale)
    for part in (*base.encoders, base.unet):
        dtype = torch_dtype
        if torch_dtype == torch.float16 and part is base.vae and base.overflows_in_float16:
            dtype = torch.float32
        elif torch_dtype == torch.float16 and getattr(part.config, "model_type", "") in ("gemma2", "t5"):
            dtype = torch.bfloat16
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        part.to(device).eval().requires_grad_(False)
    return base


def check_parts(base: BaseModel) -> None:
    """Refuse parts that do not go together, or a denoiser that wants what we have not."""
    unet, vae = base.unet.config, base.vae.config
    what = "transformer" if base.is_transformer else "UNet"
    channels = vae.latent_channels
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        raise UserError(
            f"{base.name}: its {what} takes {unet.in_channels} channels and gives {unet.out_channels}, its "
            f"autoencoder has {channels}. Give a text-to-image model, not one for inpainting or upscaling."
        )
    if base.is_transformer:
        _check_texts_of_transformer(base)
    else:
        _check_texts_of_unet(base)
    for name in ("vae", "unet", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if (part := getattr(base, name)) is not None:
            called = what if name == "unet" and base.is_transformer else name
            check_finite(dict(part.named_parameters()), f"{base.name}: {called}", "Fetch the model again.")


def _check_texts_of_transformer(base: BaseModel) -> None:
    """Refuse text encoders of another model than the transformer."""
    config = base.unet.config
    if config.get("guidance_embeds"):
        raise UserError(
            f"{base.name}: its transformer was distilled to take the guidance as an input, which is not "
            "tuned here. Give the model that it was distilled from."
        )
    width = base.text_encoder.config.hidden_size
    if isinstance(base.unet, LTXVideoTransformer3DModel):
        _check_clips(base)
    if isinstance(base.unet, SanaTransformer2DModel | LTXVideoTransformer3DModel):
        wanted = {"text embeddings": (config.caption_channels, width)}
    else:
        clips = (base.text_encoder.config, base.text_encoder_2.config)
        wanted = {"pooled texts": (config.pooled_projection_dim, sum(each.projection_dim for each in clips))}
        if base.text_encoder_3 is not None:
            wanted["text embeddings"] = (config.joint_attention_dim, base.text_encoder_3.config.d_model)
        elif sum(each.hidden_size for each in clips) > config.joint_attention_dim:
            wanted["text embeddings"] = (config.joint_attention_dim, sum(each.hidden_size for each in clips))
    for what, (reads, given) in wanted.items():
        if reads != given:
            raise UserError(
                f"{base.name}: its transformer reads {what} of {reads} numbers, its text encoders give "
                f"{given}."
            )


def _check_clips(base: BaseModel) -> None:
    """Refuse parts of LTX-Video that do not go together, or a decoder whose result is not always the same."""
    config = base.unet.config
    width = config.num_attention_heads * config.attention_head_dim
    if config.cross_attention_dim != width:
        raise UserError(
            f"{base.name}: its transformer is {width} wide, and its attention to the text reads "
            f"{config.cross_attention_dim} numbers. Fetch the model again."
        )
    if any(base.vae.config.decoder_inject_noise):
        raise UserError(
            f"{base.name}: its autoencoder draws noise while it decodes, so that no two decoded videos would "
            "be the same. Give a version without, such as Lightricks/LTX-Video or Lightricks/LTX-Video-0.9.5."
        )


def _check_texts_of_unet(base: BaseModel) -> None:
    """Refuse text encoders of another model than the UNet, and conditions that we have not."""
    unet = base.unet.config
    wanted = unet.addition_embed_type
    if wanted not in (None, "text_time") or unet.class_embed_type or unet.num_class_embeds:
        raise UserError(f"{base.name}: its UNet needs conditions of the kind {wanted or 'class'}.")
    if (wanted == "text_time") != (base.text_encoder_2 is not None):
        raise UserError(
            f"{base.name}: its UNet and its text encoders do not go together: one is SDXL's, the other not."
        )
    width = base.text_encoder.config.hidden_size
    if base.text_encoder_2 is not None:
        width += base.text_encoder_2.config.hidden_size
        known = 6 * unet.addition_time_embed_dim + base.text_encoder_2.config.projection_dim
        if unet.projection_class_embeddings_input_dim != known:
            raise UserError(
                f"{base.name}: its UNet does not take SDXL's six size conditions; it may be a refiner or "
                "another special model. Give a text-to-image base model."
            )
    if isinstance(unet.cross_attention_dim, int) and unet.cross_attention_dim != width:
        raise UserError(
            f"{base.name}: its UNet reads text embeddings of {unet.cross_attention_dim} numbers, its text "
            f"encoders give {width}."
        )
