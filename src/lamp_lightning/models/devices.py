"""Modules on devices: where they compute and how exactly, and the memory that there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from lamp_lightning.runtime.hardware import HALF


@contextlib.contextmanager
def on_device(modules: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """Modules on a device for a while, and then back where they were: a GPU has room for what works on it."""
    before = [next(module.parameters()).device for module in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, before, strict=True):
            module.to(home)


@contextlib.contextmanager
def evaluation(*modules: torch.nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, and afterwards as they were."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def mixed_precision(device: torch.device | str, precision: Any) -> Any:
    """The autocast that `trainer.precision` asks for, or none."""
    if precision not in HALF:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, HALF[precision]))


def all_memory(device: torch.device) -> int:
    """Bytes of the device's memory, free or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = [psutil.virtual_memory().total + psutil.swap_memory().total]
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, ValueError, KeyError):  # a container's limit; "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(stat["inactive_file"]))
    return max(0, min(found))
