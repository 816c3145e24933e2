"""A smaller file of a motion: factors of low rank in place of weights, and half precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.models.adapter import inverted_clip, read_metadata, stored_tensors, write_adapter
from lamp_lightning.models.header_schema import Header, read_header
from lamp_lightning.models.lowrank import Loss, factored, losses, multiplied
from lamp_lightning.models.stored import differences, in_precision
from lamp_lightning.models.variant import SETS, query_names
from lamp_lightning.runtime.errors import UserError


@dataclass(frozen=True)
class Compressed:
    """A smaller file, and what it costs.

    losses: of each kind of layers, and as "all" of all together (`models.lowrank.Loss`).
    before, after: sizes of the files in bytes.
    """

    losses: dict[str, Loss]
    before: int
    after: int


def compress(
    file: Path,
    out: Path,
    *,
    rank: int | None = None,
    dtype: torch.dtype = torch.float16,
    queries_of_base: Callable[[Header, list[str]], dict[str, Tensor]],
) -> Compressed:
    """Write a motion adapter again, smaller: an ordinary one, which is loaded and mixed as it was.

    Of queries the change to the base's is compressed. A temporal attention is random when tuning begins,
    of which low rank keeps little: `tuner.rank=` tunes factors from the start and loses nothing.

    Args:
        file: the adapter.
        out: where to write.
        rank: of the factors; None: weights stay as they are.
        dtype: the precision of the file.
        queries_of_base: the base model's queries, of the names given, for an adapter that has whole ones.

    Returns:
        The errors and sizes.

    Raises:
        UserError: no adapter, one that is of low rank already, or no base model where one is needed.
    """
    metadata = read_metadata(file)
    header = read_header(metadata, file)
    if rank is not None and header.rank is not None:
        raise UserError(
            f"{file} is of rank {header.rank} already: compress the adapter that it was made from, or give "
            "rank=null for another precision alone."
        )
    if rank is not None and header.variant.kind != "lamp":
        raise UserError(f"{file} has layers of the kind {header.variant.kind!r}, which have no low rank.")
    tensors = stored_tensors(file)
    facts: dict[str, Any] = dict(metadata)
    if header.queries == "whole" and (names := query_names(tensors)):
        tensors = differences(tensors, queries_of_base(header, names))
        facts["queries"] = "difference"
    smaller = in_precision(tensors if rank is None else factored(tensors, rank), dtype)
    if rank is not None:
        facts["rank"] = rank
    write_adapter(out, smaller, facts, inverted_clip(file))
    cost = losses(multiplied(tensors), smaller, SETS[header.variant.kind])
    return Compressed(cost, file.stat().st_size, out.stat().st_size)
