"""The public text-to-image models in their true sizes, from the configurations that they ship with.

Without a download: what these build has the shapes of those models and random weights (or none, on the
meta device). Sources: the `config.json` files of CompVis/stable-diffusion-v1-4,
stabilityai/stable-diffusion-2-1, stabilityai/stable-diffusion-xl-base-1.0,
stabilityai/stable-diffusion-3.5-medium and Efficient-Large-Model/Sana_1600M_512px_diffusers. Stable Diffusion
1.5 has the shapes of 1.4.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

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
TRANSFORMERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sana": (SanaTransformer2DModel, {"sample_size": 16}),
    "sd35": (
        SD3Transformer2DModel,
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
    ),
}

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
    "sd35": {
        **_VAE,
        "latent_channels": 16,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}
_DEEP: dict[str, Any] = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
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


def unet(name: str) -> Any:
    """The image UNet, or the image transformer."""
    if name in TRANSFORMERS:
        cls, config = TRANSFORMERS[name]
        return cls(**config)
    return UNet2DConditionModel(**UNETS[name])


def autoencoder(name: str) -> Any:
    """The autoencoder."""
    return AutoencoderDC(**_DEEP) if name == "sana" else AutoencoderKL(**VAES[name])


def text_encoders(name: str) -> list[Any]:
    """The text encoder, the two of SDXL, or the three of Stable Diffusion 3.5."""
    if name == "sana":
        return [Gemma2Model(Gemma2Config())]  # of 2B, by default
    if name == "sd35":
        clips = [CLIPTextModelWithProjection(CLIPTextConfig(**each)) for each in (_CLIP_L, _OPENCLIP_BIGG)]
        xxl = T5Config(
            vocab_size=32128, d_model=4096, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        return [*clips, T5EncoderModel(xxl)]
    if name == "sdxl":
        second = CLIPTextModelWithProjection(CLIPTextConfig(**_OPENCLIP_BIGG))
        return [CLIPTextModel(CLIPTextConfig(**_CLIP_L)), second]
    return [CLIPTextModel(CLIPTextConfig(**(_CLIP_L if name == "sd14" else _OPENCLIP_H)))]
