"""How tuned parameters stand in an adapter's file, so that it is small and fits whatever base lies below.

Queries (`attn1.to_q`) have a weight in the image model, and a motion changes it. A file has that change, the
difference to the base's weight. So a LoRA or a fine-tuned checkpoint below a motion keeps its own change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.models.adapter import same_weights
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.header_schema import Header
from lamp_lightning.runtime.errors import UserError


def differences(tensors: Mapping[str, Tensor], queries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tuned parameters in which the queries are differences to those of the base, in float64.

    A difference of two float32 numbers is exact in float64, unless one is 2^29 times the other. So the sum is
    the tuned weight to the bit. For weights of half precision, as in some checkpoints of the authors, float32
    does the same.
    """
    found = dict(tensors)
    for name, base in queries.items():
        tuned = tensors[name]
        precise = torch.float32 if tuned.dtype in (torch.float16, torch.bfloat16) else torch.float64
        found[name] = (tuned.double() - base.to(tuned.device).double()).to(precise)
    return found


def added(tensors: Mapping[str, Tensor], queries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tuned parameters of a base that has these queries: the inverse of `differences`, in float32."""
    whole = {name: (each.double().cpu() + tensors[name].double()).float() for name, each in queries.items()}
    return {**tensors, **whole}


def in_precision(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors in a file's precision; what float16 cannot hold stays as it is."""
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return {name: each if torch.isfinite(each).all() else tensors[name] for name, each in cast.items()}


def tuned_below(backbone: Any, header: Header, file: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The queries of the base model that an adapter with whole queries was tuned on, by name.

    Args:
        backbone: the class of the adapter's kind.
        header: of the adapter; it names the base model.
        file: the adapter.
        names: of the queries.

    Raises:
        UserError: the adapter does not name its base model, or that cannot be loaded, or is not what it was.
    """
    why = (
        f"{file} has its queries as a whole, as earlier versions wrote them. On other weights than those "
        "that it was tuned on, only what it changed of them may be added"
    )
    advice = (
        f"Where its base model is at hand, convert it: python -m lamp_lightning.convert from={file} "
        "out=<name>.safetensors base=<its base model>"
    )
    if header.base_model is None:
        raise UserError(f"{why}, and it does not say which model that was. {advice}")
    try:
        base = load_base_model(
            header.base_model,
            config=header.base_config,
            variant=header.base_variant,
            lora=header.base_lora,
            lora_scale=header.base_lora_scale,
            torch_dtype=getattr(torch, header.base_dtype),
        )
    except UserError as error:
        raise UserError(
            f"{why}, and its base model {header.base_model!r} cannot be loaded: {error} {advice}"
        ) from error
    below = backbone.from_unet(base.unet, header.norm)
    if not same_weights(below.fingerprint(header.variant), header.base_fingerprint):
        raise UserError(f"{why}, and {header.base_model!r} has other weights than it had then. {advice}")
    return below.base_queries(names)
