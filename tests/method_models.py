"""Tiny random models for tests: everything that Stable Diffusion has, in a few thousand parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lamp_lightning.unet import MotionUNet


def image_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A random `UNet2DConditionModel` with two levels, one of them with attention."""
    torch.manual_seed(seed)
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(config | changes)).eval()


def motion_unet(seed: int = 0, norm: Any = "joint", *, tuned: bool = True, **changes: Any) -> MotionUNet:
    """A random MotionUNet; `tuned` fills the layers that start at zero, as training would."""
    unet = MotionUNet.from_unet(image_unet(seed, **changes), norm)
    if tuned:
        with torch.no_grad():
            for parameter in unet.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


def video(frames: int = 5, clips: int = 2, size: tuple[int, int] = (8, 8), seed: int = 1) -> Tensor:
    """Gaussian latents, `b 4 f h w`."""
    return torch.randn(clips, 4, frames, *size, generator=torch.Generator().manual_seed(seed))


def text(clips: int = 2, seed: int = 2) -> Tensor:
    """Gaussian text embeddings, `b 7 24`."""
    return torch.randn(clips, 7, 24, generator=torch.Generator().manual_seed(seed))


def save_pipeline(folder: Path, seed: int = 0, prediction_type: str = "epsilon", **unet: Any) -> Path:
    """A whole random Stable Diffusion pipeline as diffusers saves it: 32x32 pixels, 8x8 latents."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300,
            hidden_size=24,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=7,
            bos_token_id=298,
            eos_token_id=299,
        )
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(folder),
        unet=image_unet(seed, **unet),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows single letters and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 298, "<|endoftext|>": 299}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=7)
