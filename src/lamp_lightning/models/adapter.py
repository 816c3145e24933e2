"""The motion adapter: one safetensors file with the tuned parameters of a motion and what they belong to.

An adapter that was converted from a checkpoint of the authors (its header has `official_config`) stays under
that checkpoint's licence, CC BY-NC 4.0: for non-commercial use only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lamp_lightning.models.header_schema import (
    FORMAT,
    FORMAT_VERSION,
    LARGEST_HEADER,
    Header,
    as_texts,
    read_header,
)
from lamp_lightning.models.lowrank import multiplied, stored_shapes
from lamp_lightning.models.tensors import FLOATS, check_finite, check_float, check_shapes, open_safetensors
from lamp_lightning.models.variant import query_names
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import replacing

_INVERTED = "inverted_clip"  # a tensor beside the tuned parameters, in adapters that have it
_SAME_BASE = 5e-3  # above the rounding of bfloat16 (2e-3), below what any fine-tuning changes


@dataclass(frozen=True)
class Adapter:
    """What an adapter's file holds: its header as texts and typed, and the tuned parameters by name."""

    file: Path
    metadata: dict[str, str]
    header: Header
    tensors: dict[str, Tensor]


def write_adapter(
    file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], inverted_clip: Tensor | None
) -> None:
    """Write a motion adapter, whole or not at all: the tuned parameters by name, and facts for its header.

    See `VideoBackbone.save_motion`. Texts are kept as they are, other facts become JSON, None is left out.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(tensors, "The tuned UNet", "The training has diverged: lower the learning rate.")
    if inverted_clip is not None:
        tensors[_INVERTED] = inverted_clip.detach().float().cpu().contiguous()
    version = FORMAT_VERSION if facts.get("queries") == "difference" or facts.get("rank") else "1"
    header = as_texts({**facts, "format": FORMAT, "format_version": version, **_versions()}, file)
    try:
        with replacing(file) as part:
            save_file(tensors, part, metadata=header)
            _sort_header(part)
    except SafetensorError as error:
        raise UserError(f"{file} cannot be written: {error}") from error


def copy_adapter(file: Path, out: Path, changes: Mapping[str, Any]) -> None:
    """Write a copy of an adapter with other facts in its header (None: without them), and the same tensors.

    Raises:
        UserError: no adapter, a fact that does not fit the header, or a place that cannot be written.
    """
    header = as_texts({**read_metadata(file), **changes}, file)
    with _opened(file) as opened, replacing(out) as part:
        save_file({name: opened.get_tensor(name) for name in opened.keys()}, part, metadata=header)  # noqa: SIM118
        _sort_header(part)


def _sort_header(file: Path) -> None:
    """Sort the texts of a safetensors header, whose order is random: the same content is the same bytes.

    The length of the header, and so the place of every tensor, stays as it is.
    """
    with open(file, "r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # always, as both writers are as short as JSON can be
            opened.seek(8)
            opened.write(text.ljust(length))


def read_adapter(file: Path, shapes: Mapping[str, tuple[int, ...]], channels: int) -> Adapter:
    """A motion adapter with its tensors, which are read only after names, shapes and types fit.

    Factors of low rank are multiplied, so that there are whole weights.

    Args:
        file: path of the `.safetensors` file.
        shapes: of the tuned parameters, by name.
        channels: of the latents that an inverted clip goes with.

    Raises:
        UserError: it is no adapter, or its tensors are not exactly those, or not finite.
    """
    metadata = read_metadata(file)
    header = read_header(metadata, file)
    with _opened(file) as opened:
        found = {name: opened.get_slice(name) for name in opened.keys() if name != _INVERTED}  # noqa: SIM118
        sizes = {name: tuple(each.get_shape()) for name, each in found.items()}
        check_shapes(sizes, stored_shapes(shapes, header.rank), file, header.base_model or "")
    tensors = multiplied(stored_tensors(file))
    inverted = inverted_clip(file)
    if inverted is not None and inverted.shape[1] != channels:
        raise UserError(
            f"{file}: the tensor {_INVERTED!r} has {inverted.shape[1]} channels, and this UNet's latents "
            f"have {channels}: it belongs to another model."
        )
    return Adapter(file, metadata, header, tensors)


def stored_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a motion adapter by name, as they are stored, without an inverted clip.

    Raises:
        UserError: they are not finite floating point numbers.
    """
    with _opened(file) as opened:
        names = [name for name in opened.keys() if name != _INVERTED]  # noqa: SIM118
        for name in names:
            check_float(name, opened.get_slice(name).get_dtype(), file)
        tensors = {name: opened.get_tensor(name) for name in names}
    check_finite(tensors, str(file), "It is damaged or its training diverged.")
    return tensors


def read_metadata(file: str | Path) -> dict[str, str]:
    """The header of a motion adapter as texts, checked (`models.header_schema.Header`), without its tensors.

    Raises:
        UserError: no such file, no motion adapter that this version reads, or an unusable header.

    Example:
        >>> from lamp_lightning import LAMPPipeline
        >>> LAMPPipeline.from_pretrained("tiny").unet.save_motion("fly.safetensors", motion="birds fly")
        >>> read_metadata("fly.safetensors")["motion"]
        'birds fly'
    """
    file = Path(file)
    with _opened(file) as opened:
        metadata = opened.metadata() or {}
    read_header(metadata, file)
    return metadata


def header_of(file: str | Path) -> Header:
    """The header of a motion adapter, typed; raises UserError as `read_metadata`."""
    return read_header(read_metadata(file), Path(file))


def inverted_clip(file: str | Path) -> Tensor | None:
    """The noise that an adapter's clip was inverted to, `1 c f h w`; None where it has none.

    Raises:
        UserError: it is not of that shape, or not of finite floating point numbers.
    """
    file = Path(file)
    with _opened(file) as opened:
        if _INVERTED not in opened.keys():  # noqa: SIM118  (it is no mapping)
            return None
        found = opened.get_slice(_INVERTED)
        shape = tuple(found.get_shape())
        if len(shape) != 5 or shape[0] != 1 or 0 in shape:
            raise UserError(
                f"{file}: the tensor {_INVERTED!r} has shape {shape}, not (1, c, f, h, w). Copy it again."
            )
        check_float(_INVERTED, found.get_dtype(), file)
        tensor = opened.get_tensor(_INVERTED)
    check_finite({_INVERTED: tensor}, str(file), "It is damaged: copy it again.")
    return tensor


def precision(file: Path) -> torch.dtype:
    """The precision of the checkpoint that an adapter was converted from; of one that was tuned float32."""
    if header_of(file).official_config is None:
        return torch.float32
    with _opened(file) as opened:
        names = set(opened.keys()) - set(query_names(opened.keys()))  # whose differences are more precise
        kinds = {opened.get_slice(name).get_dtype() for name in names}
    return reduce(torch.promote_types, (FLOATS.get(kind, torch.float32) for kind in kinds))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file to read from, whose header is not too large to look at."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: give a motion adapter, the .safetensors file of a run.")
    with open_safetensors(file, LARGEST_HEADER) as opened:
        yield opened


def check_alike(headers: Mapping[Path, Header], *, same_base: bool) -> None:
    """Refuse to mix the adapters of these headers where norms, variants or, if asked, base models differ."""
    (first, ours), *others = headers.items()
    for file, theirs in others:
        fault = None
        if ours.norm != theirs.norm:
            fault = f"were tuned with different norms ({ours.norm} and {theirs.norm}) and cannot be mixed."
        elif different := ours.variant.differences(theirs.variant):
            fault = f"are motions of different models and cannot be mixed: they differ in {different}."
        elif same_base and not same_weights(ours.base_fingerprint, theirs.base_fingerprint):
            bases = [header.base_model or "an unknown one" for header in (ours, theirs)]
            fault = f"were tuned on different base models ({' and '.join(bases)}) and cannot be mixed."
        if fault:
            raise UserError(f"{first} and {file} {fault}")


def same_weights(fingerprint: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two fingerprints (`VideoBackbone.fingerprint`) are of the same weights, but for rounding."""
    ours, theirs = torch.tensor(fingerprint), torch.tensor(other)
    return ours.shape == theirs.shape and bool((ours - theirs).norm() <= _SAME_BASE * theirs.norm())


def _versions() -> dict[str, str]:
    import diffusers

    from lamp_lightning import __version__

    return {
        "version_lamp_lightning": __version__,
        "version_torch": torch.__version__,
        "version_diffusers": diffusers.__version__,
    }
