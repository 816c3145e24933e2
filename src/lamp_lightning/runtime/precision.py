"""Precisions: which of the trainer and the weights go together, and what a GPU multiplies float32 in.

The tuned weights are always float32, as steps of 3e-5 vanish in half precision. `trainer.precision` is what
layers compute in, `model.dtype` what the frozen weights are kept in.
"""

from __future__ import annotations

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hardware import HALF, hardware

PRECISIONS = ("32-true", *HALF)


def check_precision(precision: str, dtype: str, accelerator: str) -> None:
    """Raise UserError, with what to choose, where a run could not train, or not as its settings say."""
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision must be one of {', '.join(PRECISIONS)}, but is {precision!r}. The tuned "
            "weights are float32 in all of them; model.dtype=bfloat16 or float16 keeps the frozen ones in "
            "half precision."
        )
    cpu = is_cpu(accelerator)
    if precision == "16-mixed" and cpu:  # Lightning would train in bfloat16 and only warn
        raise UserError(
            "trainer.precision=16-mixed needs a GPU. On a CPU take trainer.precision=bf16-mixed or 32-true."
        )
    if dtype in ("float32", HALF.get(precision)):
        return
    no_float16 = cpu and dtype == "float16"
    ways = [] if no_float16 else [f"trainer.precision={p}" for p, half in HALF.items() if half == dtype]
    ways += [f"model.dtype={half}" for half in (HALF.get(precision), "float32") if half]
    what = f"trainer.precision={precision}{' on a CPU' if no_float16 else ''}"
    raise UserError(f"model.dtype={dtype} does not go with {what}: take {' or '.join(ways)}.")


def is_cpu(accelerator: str) -> bool:
    """Whether a trainer with `trainer.accelerator`, or a device of this type, computes on the CPU."""
    return accelerator == "cpu" or (accelerator == "auto" and hardware().device == "cpu")


def sampling_dtype(dtype: str, precision: str) -> str:
    """What to load a model of `model.dtype` in, to generate with it in any of the precisions."""
    return "float32" if dtype == "float32" else HALF.get(precision, "float32")


def fast_float32(device: str) -> None:
    """Let a CUDA device multiply float32 matrices in TF32, as it does in convolutions anyway."""
    if device == "cuda":
        import torch

        torch.set_float32_matmul_precision("high")
