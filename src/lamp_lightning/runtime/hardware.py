"""What this machine has, and the defaults that follow from it: precision, dtype, device, batch.

`LAMP_LIGHTNING_HARDWARE=<kind>` overrides what is found out.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import Schema, checked, read_json

Kind = Literal["cpu", "cpu_bf16", "cuda", "cuda_bf16", "mps"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VARIABLE = "LAMP_LIGHTNING_HARDWARE"
HALF = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}  # what a mixed precision keeps frozen weights in
FAST = 0.8  # share of float32's time below which bfloat16 is worth it; found are 0.1 to 0.5, or above 2
PLAIN_ATTENTION_SCORES = 1 << 25  # 128 MiB of float32 in each attention layer


@dataclass(frozen=True)
class Hardware:
    """One device and what suits it.

    kind: `cpu_bf16` is a processor that multiplies bfloat16 faster than float32 (AMX, avx512_bf16, ARM's
        bf16), `cpu` one that does not; likewise `cuda_bf16` (from Ampere on) and `cuda` (V100, T4); `mps` is
        Apple's GPU.
    name: what the processor or the card is called.
    """

    kind: Kind
    name: str = ""

    @property
    def device(self) -> str:
        """torch's name of the device's type."""
        return self.kind.removesuffix("_bf16")

    @property
    def precision(self) -> str:
        """`trainer.precision` that is fastest without harm."""
        mixed = {"cpu_bf16": "bf16-mixed", "cuda_bf16": "bf16-mixed", "cuda": "16-mixed"}
        return mixed.get(self.kind, "32-true")

    @property
    def dtype(self) -> str:
        """`model.dtype` of large models: half precision, where layers compute in it."""
        return HALF.get(self.precision, "float32")

    @property
    def videos_at_once(self) -> int:
        """How many videos are generated at once at most: more bring no speed on a processor."""
        return 4 if self.device == "cpu" else 16

    def __str__(self) -> str:
        return f"{self.device} ({self.name})" if self.name else self.device


def hardware(device: str = "auto") -> Hardware:
    """The device that a command computes on.

    Args:
        device: `auto`: a GPU where there is one; a type of torch's with or without a number (`cuda:1`); or
            what Lightning calls an accelerator (`gpu`).

    Raises:
        UserError: `LAMP_LIGHTNING_HARDWARE` is no kind of hardware.
    """
    wanted = str(device).partition(":")[0]
    said = os.environ.get(VARIABLE) or None
    if said is not None and said not in KINDS:
        raise UserError(f"{VARIABLE} must be one of {', '.join(KINDS)}, but is {said!r}.")
    if said is not None:
        own = said.removesuffix("_bf16")
        if wanted in ("auto", own) or (wanted, own) == ("gpu", "mps"):
            return Hardware(said, processor()[0] if own == "cpu" else "")
    if wanted == "cpu":
        return _processor_kind()
    return _found(wanted, said)


def _found(wanted: str, said: str | None) -> Hardware:
    import torch

    if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware("cuda_bf16" if fast else "cuda", torch.cuda.get_device_name())
    if wanted in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return Hardware("mps", processor()[0])
    if wanted in ("gpu", "cuda"):  # there is none, which Lightning or torch will say; no CPU takes its place
        return Hardware("cuda" if said == "cuda" else "cuda_bf16")
    return Hardware("mps") if wanted == "mps" else _processor_kind()


def plain_attention(device: str, scores: int) -> bool:
    """Whether a training step is faster with plain products than with torch's fused attention.

    On a processor the fused kernel's backward pass takes several times as long. That is worth the memory of
    the scores (batch times heads times queries times keys) while they are few.
    """
    return device == "cpu" and scores <= PLAIN_ATTENTION_SCORES


# -- processors ----------------------------------------------------------------------------------------------


class _Measured(Schema):
    """What was measured on a processor: seconds of a product in float32 and in bfloat16."""

    processor: str = Field(max_length=64)
    float32: float = Field(gt=0)
    bfloat16: float = Field(gt=0)


def _processor_kind() -> Hardware:
    name, _ = processor()
    return Hardware("cpu_bf16" if fast_bfloat16() else "cpu", name)


@cache
def processor() -> tuple[str, str]:
    """What the processor is called, and a fingerprint by which it is known again, with torch's version."""
    import torch

    facts: dict[str, str] = {}
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "processor" and facts.get("processor"):
                break  # the second core
            facts[key.strip()] = value.strip()
    changing = ("processor", "cpu MHz", "bogomips", "BogoMIPS", "apicid", "initial apicid", "core id")
    lasting = sorted((key, value) for key, value in facts.items() if key not in changing)
    name = facts.get("model name") or platform.processor() or platform.machine()
    text = repr((name, platform.machine(), lasting, torch.__version__))
    return name, hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32: measured once, and remembered."""
    from lamp_lightning.runtime.files import default_cache_dir

    file = default_cache_dir() / "processor.json"
    found = _remembered(file)
    if found is None:
        found = _Measured(processor=processor()[1], **measure_products())
        _remember(file, found)
    return found.bfloat16 < FAST * found.float32


def _remembered(file: Path) -> _Measured | None:
    what = "the measurement of a processor"
    try:
        found = checked(_Measured, read_json(file, what=what), file=file, what=what, advice="Remove it.")
    except UserError:  # nothing is lost: it is measured again
        return None
    return found if found.processor == processor()[1] else None


def _remember(file: Path, found: _Measured) -> None:
    from lamp_lightning.runtime.files import write_text

    with suppress(OSError, UserError):  # where a cache cannot be written, every command measures anew
        write_text(file, found.model_dump_json() + "\n")


def measure_products(size: int = 512, repetitions: int = 7) -> dict[str, float]:
    """Seconds of a product of two square matrices by the name of the dtype, the best of several, in turns."""
    import torch

    pairs = {name: torch.ones(size, size, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")}
    times: dict[str, list[float]] = {name: [] for name in pairs}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other where others compute, too
    try:
        with torch.no_grad():
            for repetition in range(repetitions + 1):
                for name, matrix in pairs.items():
                    begun = time.perf_counter()
                    matrix @ matrix
                    if repetition:  # the first one sets up
                        times[name].append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return {name: min(each) for name, each in times.items()}


def resolver(what: str, *, _root_: Any) -> str:
    """The value of `${hardware:precision}` and `${hardware:dtype}` in a config.

    What the user says of one of them decides the other, so that no default contradicts them.
    """
    from omegaconf import OmegaConf

    def said(group: str, name: str) -> str | None:
        node = _root_.get(group)
        if node is None or name not in node or OmegaConf.is_interpolation(node, name):
            return None
        return str(node[name])

    found = hardware(said("trainer", "accelerator") or "auto")
    if what == "dtype":  # of a large model: half precision, where layers compute in it
        return HALF.get(said("trainer", "precision") or found.precision, "float32")
    dtype = said("model", "dtype")
    for precision, half in HALF.items():
        if dtype == half and not (found.device == "cpu" and half == "float16"):
            return precision
    return found.precision
