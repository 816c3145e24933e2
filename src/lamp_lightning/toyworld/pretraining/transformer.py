"""The tiny transformer: a text-to-image model of flow matching of Sana's kind.

Autoencoder and text encoder are those of the tiny UNet, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from lamp_lightning.toyworld.pretraining.judge import tokenize
from lamp_lightning.toyworld.pretraining.stills import Stills
from lamp_lightning.toyworld.pretraining.training import fast_autocast, fit, sample_latents

UNIFORM = 0.1  # share of the levels that are drawn evenly: frame 0 of a clip is seen at the clean end


def build_transformer(latent_channels: int = 8, text_channels: int = 128) -> SanaTransformer2DModel:
    """4.6 million parameters: 8 blocks of 192 channels on 8x8 tokens, a position for each."""
    return SanaTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=8,
        num_attention_heads=6,
        attention_head_dim=32,
        num_cross_attention_heads=6,
        cross_attention_head_dim=32,
        cross_attention_dim=192,
        caption_channels=text_channels,
        mlp_ratio=2.0,
        interpolation_scale=1.0,
    )


def matrices_of(transformer: SanaTransformer2DModel) -> list[nn.Parameter]:
    """What Muon trains: the linear layers and 1x1 convolutions of the blocks."""
    matrices = []
    for module in transformer.transformer_blocks.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            matrices += [parameter for name, parameter in module.named_parameters() if name == "weight"]
    return matrices


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def spread_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels 0..1, logit-normal but for a few: one from each of `count` equal parts, shuffled."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    parts = parts.clamp(1e-4, 1 - 1e-4)
    even = torch.rand(count, generator=generator) < UNIFORM
    levels = torch.where(even, torch.rand(count, generator=generator), torch.special.ndtri(parts).sigmoid())
    return levels[torch.randperm(count, generator=generator)]


def read_texts(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Embeddings `n l d` and the mask of the tokens that count `n l`."""
    tokens = tokenize(tokenizer, texts)
    with torch.no_grad():
        return text_encoder(**tokens).last_hidden_state, tokens["attention_mask"]


def train_transformer(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    data: Stills,
    latents: Tensor,
    folder: Path,
    *,
    steps: int,
    batch: int,
    rate: float = 8e-3,
) -> SanaTransformer2DModel:
    """Train on scaled `latents` `(n, c, h, w)`; a tenth of the captions is empty, for guidance."""
    torch.manual_seed(0)
    transformer = build_transformer(latents.shape[1], text_encoder.config.hidden_size)
    for block in transformer.transformer_blocks:
        block.attn2.set_processor(AttnProcessor())  # on a CPU far faster backward than the fused kernel
    text_encoder.eval().requires_grad_(False)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng([step, 13])
        index, texts = data.draw(batch, rng)
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)
        levels = spread_levels(batch, generator)
        share = levels.reshape(-1, 1, 1, 1)
        with fast_autocast():
            text, mask = read_texts(text_encoder, tokenizer, texts)
            out = transformer(
                (1 - share) * clean + share * noise, text, levels * 1000, encoder_attention_mask=mask
            ).sample
        return F.mse_loss(out.float(), noise - clean)

    fit(
        "transformer",
        transformer,
        loss_of,
        steps=steps,
        rate=rate,
        folder=folder,
        save_every=250,
        matrices=matrices_of(transformer),
    )
    return transformer.eval()


def paint_with_flow(
    transformer: SanaTransformer2DModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
    *,
    steps: int = 30,
    guidance: float = 3.0,
    seed: int = 0,
    batch: int = 50,
) -> Tensor:
    """Latents `(n, c, h, w)` of `prompts` by Euler's method with classifier-free guidance."""

    def read(texts: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
        text, mask = read_texts(text_encoder, tokenizer, texts)
        return lambda latents, t: (
            transformer(latents, text, t.expand(len(latents)), encoder_attention_mask=mask).sample
        )

    settings: Any = {"steps": steps, "guidance": guidance, "seed": seed, "batch": batch}
    return sample_latents(transformer, read, build_flow_scheduler, prompts, **settings)


def flow_pipeline(
    transformer: SanaTransformer2DModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
) -> SanaPipeline:
    """The parts as diffusers' pipeline of Sana.

    It reads texts as Gemma does, unless a call says otherwise: `complex_human_instruction=None`,
    `max_sequence_length=32` and `use_resolution_binning=False`.
    """
    # How SanaPipeline tells how much smaller latents are than pictures.
    vae.register_to_config(encoder_block_out_channels=list(vae.config.block_out_channels))
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, build_flow_scheduler())
