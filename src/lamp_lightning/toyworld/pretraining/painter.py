"""The tiny painter: a latent text-to-image diffusion model with the parts of Stable Diffusion 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lamp_lightning.toyworld.pretraining.judge import text_config, tokenize
from lamp_lightning.toyworld.pretraining.stills import Stills
from lamp_lightning.toyworld.pretraining.training import fast_autocast, fit, sample_latents


def build_unet(latent_channels: int = 8) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 160),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # heads, as in Stable Diffusion 1
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Painter(nn.Module):
    """UNet and text encoder, which are trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder


def build_painter(tokenizer: CLIPTokenizer, clip: CLIPModel | None = None) -> Painter:
    """With `clip` its text tower is where the text encoder starts from."""
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(tokenizer)))
    if clip is not None:
        tower = {k.removeprefix("text_model."): v for k, v in clip.text_model.state_dict().items()}
        own = {k.removeprefix("text_model."): k for k in text_encoder.state_dict()}
        text_encoder.load_state_dict({own[k]: v for k, v in tower.items() if k in own}, strict=True)
    return Painter(build_unet(), text_encoder)


def train_painter(
    tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    data: Stills,
    latents: Tensor,
    folder: Path,
    *,
    steps: int,
    batch: int,
    rate: float = 8e-4,
) -> Painter:
    """Train on scaled `latents` `(n, c, h, w)`; a tenth of the captions is empty, for guidance."""
    torch.manual_seed(0)
    painter = build_painter(tokenizer, clip)
    painter.unet.set_attn_processor(AttnProcessor())  # on a CPU far faster backward than the fused kernel
    scheduler = build_scheduler()

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng([step, 11])
        index, texts = data.draw(batch, rng)
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)
        # One timestep from each of `batch` equal parts: the same distribution, a calmer gradient.
        parts = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (parts * 1000).long().clamp(max=999)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        target = scheduler.get_velocity(clean, noise, timesteps)
        with fast_autocast():
            text = painter.text_encoder(tokenize(tokenizer, texts)["input_ids"]).last_hidden_state
            out = painter.unet(noisy, timesteps, text).sample
        return F.mse_loss(out.float(), target)

    fit("painter", painter, loss_of, steps=steps, rate=rate, folder=folder, save_every=250)
    return painter.eval()


def paint_latents(
    painter: Painter,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
    *,
    steps: int = 30,
    guidance: float = 3.0,
    seed: int = 0,
    batch: int = 50,
) -> Tensor:
    """Latents `(n, c, h, w)` of `prompts` by DDIM with classifier-free guidance."""

    def read(texts: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
        text = painter.text_encoder(tokenize(tokenizer, texts)["input_ids"]).last_hidden_state
        return lambda latents, t: painter.unet(latents, t, text).sample

    settings: Any = {"steps": steps, "guidance": guidance, "seed": seed, "batch": batch}
    return sample_latents(painter.unet, read, build_scheduler, prompts, **settings)
