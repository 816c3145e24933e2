"""Modules on devices: where they compute and how exactly, and the memory that there is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch


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
    kinds = {
        "16-mixed": torch.float16,
        "16": torch.float16,
        "bf16-mixed": torch.bfloat16,
        "bf16": torch.bfloat16,
    }
    dtype = kinds.get(str(precision))
    return (
        contextlib.nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype=dtype)
    )


def all_memory(device: torch.device) -> float:
    """Bytes of the device's memory, free or not; infinite where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = [math.inf, psutil.virtual_memory().total + psutil.swap_memory().total]
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def free_memory(device: torch.device) -> float:
    """Bytes that can still be had on the device; infinite where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError, KeyError):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        found.append(int(facts["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):  # a container's limit; "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(stat["inactive_file"]))
    return max(0, min(found))
