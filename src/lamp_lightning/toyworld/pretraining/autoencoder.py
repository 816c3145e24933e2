"""The tiny autoencoder: 64x64 pictures to 16x16 latents of 8 channels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from lamp_lightning.toyworld.pretraining.stills import Stills
from lamp_lightning.toyworld.pretraining.training import fast_autocast, fit


def build_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=True,
    )


def psnr(pictures: Tensor, target: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB of each picture `(n, 3, h, w)` in [-1, 1], rounded to 8 bits."""
    a, b = (((x.clamp(-1, 1) + 1) * 127.5).round() for x in (pictures, target))
    error = (a - b).square().mean(dim=(1, 2, 3)).clamp_min(1e-6)
    return 10 * torch.log10(255**2 / error)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: Tensor, batch: int = 64) -> Tensor:
    """Encode (the posterior's mode) and decode `(n, 3, h, w)`."""
    return torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in pixels.split(batch)])


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train_autoencoder(
    data: Stills, held_out: Stills, folder: Path, *, steps: int, batch: int
) -> AutoencoderKL:
    """Mean squared and absolute error of pixels and of edges, with a light KL term."""
    torch.manual_seed(0)
    vae = build_autoencoder()

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.scenes), (batch,), generator=generator)
        pixels = data.pixels(index)
        with fast_autocast():
            posterior = vae.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            latents = posterior.mean + posterior.std * noise
            out = vae.decode(latents).sample
        out, mean, logvar = out.float(), posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(out), _edges(pixels), strict=True))
        return F.mse_loss(out, pixels) + 0.1 * F.l1_loss(out, pixels) + 0.1 * edges + 5e-5 * kl

    check = held_out.pixels(range(128))

    def report(model: torch.nn.Module, step: int) -> None:
        model.eval()
        decibels = psnr(reconstruct(vae, check), check).mean()
        print(f"autoencoder {step}: PSNR on held-out stills {decibels:.2f} dB", flush=True)
        model.train()

    fit(
        "autoencoder",
        vae,
        loss_of,
        steps=steps,
        rate=2e-3,
        folder=folder,
        weight_decay=1e-4,
        save_every=500,
        on_save=report,
    )
    # Latents with unit variance, as the diffusion model expects them.
    with torch.no_grad():
        latents = torch.cat(
            [vae.encode(data.pixels(range(k, k + 64))).latent_dist.mode() for k in range(0, 1024, 64)]
        )
    vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=None)
    report(vae, steps)
    return vae.eval()
