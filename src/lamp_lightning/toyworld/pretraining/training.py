"""A plain, resumable training loop, and sampling with guidance: what the tiny models' stages share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamp_lightning.runtime.files import save_tensors, write_atomic
from lamp_lightning.runtime.hardware import hardware
from lamp_lightning.runtime.muon import Muon

LossOf = Callable[[int, torch.Generator], Tensor]


def fast_autocast() -> torch.autocast:
    """Computes in bfloat16 where the processor multiplies it faster than float32, else in float32."""
    dtype = getattr(torch, hardware("cpu").dtype)
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def fit(
    name: str,
    model: nn.Module,
    loss_of: LossOf,
    *,
    steps: int,
    rate: float,
    folder: Path,
    weight_decay: float = 1e-2,
    ema_decay: float = 0.999,
    save_every: int = 200,
    seed: int = 0,
    matrices: Sequence[nn.Parameter] = (),
    on_save: Callable[[nn.Module, int], None] | None = None,
) -> None:
    """Train `model` for `steps` and leave the moving average of its weights in it.

    AdamW trains all parameters, or Muon `matrices` and AdamW the others at a quarter of the `rate`.

    `loss_of(step, generator)` draws all its randomness from a generator seeded by `(seed, step)`, so a
    run that is killed and started again goes on as if nothing had happened. State is saved to
    `folder/<name>.pt` every `save_every` steps, by an atomic rename.
    """
    state_file = folder / f"{name}.pt"
    optimiser: torch.optim.Optimizer
    if matrices:
        others = [parameter for parameter in model.parameters() if all(parameter is not m for m in matrices)]
        rest = {"params": others, "matrices": False, "lr": rate / 4}
        optimiser = Muon([{"params": list(matrices)}, rest], lr=rate, weight_decay=weight_decay)
    else:
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
    peaks = [group["lr"] for group in optimiser.param_groups]
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    start = 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, start = state["average"], state["step"]
        print(f"{name}: goes on from step {start} of {state_file}", flush=True)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
        write_atomic(state_file, partial(save_tensors, {**state, "step": step}))

    model.train()
    clock, mean_loss = time.perf_counter(), 0.0
    for step in range(start, steps):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = learning_rate(step, steps, peak)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = loss_of(step, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(ema_decay, (step + 1) / (step + 10))
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                average[key].lerp_(value, 1 - decay)
        mean_loss += loss.item()
        if (step + 1) % 50 == 0:
            seconds = (time.perf_counter() - clock) / 50
            left = seconds * (steps - step - 1) / 60
            pace = f"{seconds:.3f} s/step {left:.1f} min left"
            print(f"{name} {step + 1}/{steps} loss {mean_loss / 50:.5f} {pace}", flush=True)
            clock, mean_loss = time.perf_counter(), 0.0
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(step + 1)
            if on_save:
                on_save(model, step + 1)
            clock = time.perf_counter()
    model.load_state_dict(average)
    model.eval()


@torch.no_grad()
def sample_latents(
    model: nn.Module,
    read: Callable[[list[str]], Callable[[Tensor, Tensor], Tensor]],
    make_scheduler: Callable[[], Any],
    prompts: list[str],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch: int,
) -> Tensor:
    """Latents `(n, c, h, w)` of `prompts` with classifier-free guidance.

    Args:
        model: whose configuration has their size.
        read: takes texts, and gives the prediction for latents at a timestep under them.
        make_scheduler: with the model's noise levels.
        prompts, steps, guidance: as for any text-to-image model.
        seed: of the noise.
        batch: how many are sampled at once.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    done = []
    for k in range(0, len(prompts), batch):
        scheduler, texts = make_scheduler(), prompts[k : k + batch]
        scheduler.set_timesteps(steps)
        with fast_autocast():
            predict = read([""] * len(texts) + texts)
            shape = (len(texts), config.in_channels, config.sample_size, config.sample_size)
            sample = torch.randn(shape, generator=generator)
            for t in scheduler.timesteps:
                plain, guided = predict(torch.cat([sample, sample]), t).float().chunk(2)
                sample = scheduler.step(plain + guidance * (guided - plain), t, sample).prev_sample
        done.append(sample)
    return torch.cat(done)
