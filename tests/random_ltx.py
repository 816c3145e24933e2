"""LTX-Video with random weights, in the folders of the hub.

Sixteen pixels are a latent in each direction, and four frames: 32x32 pixels have 2x2, five frames have 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from random_transformers import LETTERS

CHANNELS, TEXT, WIDTH = 8, 12, 32  # of latents, of T5's embeddings, of the transformer


def random_ltx(seed: int = 0, **changes: Any) -> LTXVideoTransformer3DModel:
    """A transformer of two blocks; `changes` go over its configuration."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": WIDTH // 2,
        "cross_attention_dim": WIDTH,
        "num_layers": 2,
        "caption_channels": TEXT,
    }
    return LTXVideoTransformer3DModel(**(config | changes)).eval()


def random_clip_vae(seed: int = 1, **changes: Any) -> AutoencoderKLLTXVideo:
    """An autoencoder whose latents have a mean and a spread of their own."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "latent_channels": CHANNELS,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False),
    }
    vae = AutoencoderKLLTXVideo(**(config | changes)).eval()
    vae.latents_mean.copy_(0.1 * torch.randn(CHANNELS))
    vae.latents_std.copy_(0.5 + torch.rand(CHANNELS))
    return vae


def save_random_ltx(folder: Path, *, vae: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A whole pipeline as diffusers saves it, with the hub's noise levels; returns `folder`.

    Args:
        folder: made if need be.
        vae: over the autoencoder's configuration.
        changes: over the transformer's.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((x, -3.0) for x in LETTERS)]
    config = T5Config(
        vocab_size=len(pieces), d_model=TEXT, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(2)
    pipeline = diffusers.LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
        vae=random_clip_vae(**(vae or {})),
        text_encoder=T5EncoderModel(config),
        tokenizer=T5Tokenizer(vocab=pieces, extra_ids=0),
        transformer=random_ltx(**changes),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tune_randomly(model: Any, seed: int = 5) -> Any:
    """Fill the factors that begin at zero, as training would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
