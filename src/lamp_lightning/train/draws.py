"""What is drawn for a training item: its noise and timestep, from its number and the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamp_lightning.diffusion.flow import is_flow
from lamp_lightning.diffusion.schedule import random_timestep, timestep_at

NOISE_STREAM = 1  # sets the noise of item i apart from whatever else is drawn for (seed, i)
HELD_OUT_STREAM = 2
KNOWN_STREAM = 3
FRAME_STREAM = 4
OWN_STREAM = 5
GOLDEN = (5**0.5 - 1) / 2  # its multiples spread evenly over [0, 1), however many there are


def item_generator(seed: int, index: int, stream: int = NOISE_STREAM) -> torch.Generator:
    """The CPU generator of training item `index`: its noise and timestep depend on nothing else.

    So a resumed run draws what an uninterrupted one would have drawn, on any device and number of GPUs.
    """
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def draw(scheduler: Any, latents: Tensor, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Noise like `latents` (b, c, f, h, w) and timesteps (b,) of the items `index` (b,)."""
    noise, timesteps, size = [], [], tuple(latents.shape[-3:])
    for item in index.tolist():
        generator = item_generator(seed, item)
        timesteps.append(random_timestep(scheduler, generator, size))
        noise.append(torch.randn(latents.shape[1:], generator=generator))
    return torch.stack(noise).to(latents), torch.cat(timesteps).to(latents.device)


def draw_noisier(scheduler: Any, timesteps: Tensor, index: Tensor, seed: int, share: float) -> Tensor:
    """For a share of the items a timestep between their own and the last, `(b,)`; others keep their own."""
    last = scheduler.config.num_train_timesteps - (0 if is_flow(scheduler.config) else 1)
    noisier = []
    for own, item in zip(timesteps.cpu(), index.tolist(), strict=True):
        chosen, way = torch.rand(2, generator=item_generator(seed, item, OWN_STREAM)).tolist()
        noisier.append((own + way * (last - own)).to(own.dtype) if chosen < share else own)
    return torch.stack(noisier).to(timesteps.device)


def draw_held_out(scheduler: Any, latents: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, but the same at any seed, with timesteps that spread evenly over all levels."""
    noise, timesteps, size = [], [], tuple(latents.shape[-3:])
    for item in index.tolist():
        generator = item_generator(0, item, HELD_OUT_STREAM)
        noise.append(torch.randn(latents.shape[1:], generator=generator))
        timesteps.append(timestep_at(scheduler, (item + 0.5) * GOLDEN % 1, size))
    return torch.stack(noise).to(latents), torch.tensor(timesteps, device=latents.device)
