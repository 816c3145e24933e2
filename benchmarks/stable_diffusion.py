"""The public Stable Diffusion models in their true sizes, from the configurations that they ship with.

Without a download: what these build has the shapes of Stable Diffusion and random weights (or none, on the
meta device). Sources: the `config.json` files of CompVis/stable-diffusion-v1-4,
stabilityai/stable-diffusion-2-1 and stabilityai/stable-diffusion-xl-base-1.0. Stable Diffusion 1.5 has the
shapes of 1.4.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

UNETS: dict[str, dict[str, Any]] = {
    "sd14": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd21": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
MODELS = tuple(UNETS)

_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
VAES: dict[str, dict[str, Any]] = {
    "sd14": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "sd21": {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
    "sdxl": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
}

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_OPENCLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_OPENCLIP_BIGG = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


def unet(name: str) -> UNet2DConditionModel:
    """The image UNet."""
    return UNet2DConditionModel(**UNETS[name])


def autoencoder(name: str) -> AutoencoderKL:
    """The autoencoder."""
    return AutoencoderKL(**VAES[name])


def text_encoders(name: str) -> list[Any]:
    """The text encoder, or the two of SDXL."""
    if name == "sdxl":
        second = CLIPTextModelWithProjection(CLIPTextConfig(**_OPENCLIP_BIGG))
        return [CLIPTextModel(CLIPTextConfig(**_CLIP_L)), second]
    return [CLIPTextModel(CLIPTextConfig(**(_CLIP_L if name == "sd14" else _OPENCLIP_H)))]
