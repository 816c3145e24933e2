"""The optimisers of tuning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from packaging.version import Version

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.muon import Muon

BITSANDBYTES = "0.50"  # the first that computes on CPUs, too


def adamw8bit() -> Any:
    """bitsandbytes' AdamW8bit, a quarter of AdamW's memory. UserError where it is missing or too old."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports missing kernels of other layers
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"tuner.optimizer=adamw8bit needs bitsandbytes ({error}): pip install bitsandbytes, or "
            "take tuner.optimizer=adamw."
        ) from error
    found = bitsandbytes.__version__
    if Version(found) < Version(BITSANDBYTES):
        raise UserError(
            f"tuner.optimizer=adamw8bit needs bitsandbytes {BITSANDBYTES} or newer, not {found}: "
            "pip install --upgrade bitsandbytes, or take tuner.optimizer=adamw."
        )
    return bitsandbytes.optim.AdamW8bit


def make_optimizer(name: str, learned: Sequence[torch.nn.Parameter], rate: float, weight_decay: float) -> Any:
    """`adamw`, `adamw8bit` or `muon` over these parameters."""
    settings: dict[str, Any] = {"lr": rate, "weight_decay": weight_decay}
    if name == "adamw8bit":
        return adamw8bit()(learned, **settings)
    if name == "muon":
        return Muon(learned, **settings)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in learned)
    optimizer = torch.optim.AdamW(learned, fused=fused, **settings)
    # A fused optimiser offers to unscale gradients itself, and then nobody could clip them: decline.
    optimizer._step_supports_amp_scaling = False
    return optimizer
