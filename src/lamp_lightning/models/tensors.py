"""Files of tensors, read safely: safetensors, and torch's own (.bin, .ckpt, .pt, .pth) as plain tensors only.

They may come from somebody else: code in them is never run, and small files do not fill the memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lamp_lightning.runtime.errors import UserError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
FLOATS = {  # as safetensors calls them
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_FETCH = "Fetch the model again."


@contextmanager
def open_safetensors(file: Path, largest_header: int | None = None) -> Iterator[Any]:
    """A safetensors file, of which nothing but the header is read yet.

    Raises:
        UserError: it is none, its header has more bytes, or reading a tensor fails inside the context.
    """
    try:
        with open(file, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
        if largest_header is not None and largest_header < length < file.stat().st_size:
            raise UserError(
                f"{file} is no motion adapter: its header has {length:,} bytes, and {largest_header:,} are "
                "the most. Give the .safetensors file of a run."
            )
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}).") from error


def tensor_names(file: Path) -> set[str]:
    """Names of the tensors in a file of either kind, as far as possible without reading them.

    Raises:
        UserError: the file is damaged, or a pickle of more than tensors.
    """
    if file.suffix in PICKLES:
        return {str(name) for name in read_pickle(file)}
    with open_safetensors(file) as opened:
        return set(opened.keys())


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file of either kind, which must be plain floating point numbers.

    Raises:
        UserError: the file is damaged, a pickle of more than tensors, or has tensors of another type.
    """
    if file.suffix in PICKLES:
        tensors = read_pickle(file)
    else:
        with open_safetensors(file) as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                check_float(name, opened.get_slice(name).get_dtype(), file)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{file} is not a dictionary of tensors: {str(name)!r} is none.")
        if tensor.dtype not in FLOATS.values():
            raise UserError(f"{file}: the tensor {name!r} is not one of plain floating point numbers.")
    return tensors


def read_pickle(file: Path) -> dict[str, Any]:
    """The tensors of a file of torch's, by name and as far as possible without reading them; code is not run.

    Raises:
        UserError: it is no plain file of tensors, or one of its tensors has more numbers than the file.
    """
    _check_packing(file)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises many kinds for damaged files
        raise UserError(
            f"{file} is not a plain file of tensors and was not loaded: it is damaged, or would run code."
        ) from error
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a plain file of tensors: it holds a {type(found).__name__}. {_FETCH}")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{file}: the tensor {str(name)!r} has {tensor.numel():,} numbers, more than the file has. "
                f"{_FETCH}"
            )
    return found


def _check_packing(file: Path) -> None:
    """Refuse a compressed pickle of tensors: torch never packs, and a small one could fill the memory."""
    if not zipfile.is_zipfile(file):
        return  # torch's older format, which has no compression
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{file} is not a plain file of tensors ({error}). {_FETCH}") from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise UserError(f"{file} is compressed, which torch's files of tensors never are. {_FETCH}")


def check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], file: Path, base: str = ""
) -> None:
    """Refuse shapes by name, found in a file, that are not exactly those that the UNet wants.

    `base` is the base model that the file names, for the message; it may be empty.
    """
    belongs = f" It was tuned on {base!r}." if base else ""
    for kind, names in (
        ("lacks tensors of this UNet", wanted.keys() - found.keys()),
        ("has tensors unknown to this UNet", found.keys() - wanted.keys()),
    ):
        if names:
            raise UserError(
                f"{file} {kind} ({len(names)}, first {min(names)[:200]!r}): it belongs to another model or "
                f"is damaged.{belongs}"
            )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{file}: the tensor {name!r} has shape {found[name]}, this UNet needs {shape}: it belongs "
                f"to another model.{belongs}"
            )


def check_float(name: str, kind: str, file: Path) -> None:
    """Refuse a tensor of a type, in the words of safetensors, that is not floating point numbers."""
    if kind not in FLOATS:
        raise UserError(
            f"{file}: the tensor {name!r} is of type {kind}, where floating point numbers "
            f"({', '.join(FLOATS)}) belong: it is damaged or of another kind."
        )


def check_finite(tensors: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Refuse tensors with NaN or infinite values; `what` has them, and `advice` says what to do."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{what}: the tensor {name!r} holds NaN or infinite values. {advice}")
