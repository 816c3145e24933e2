"""Files with an inside: documents, adapters, checkpoints and models, damaged in one of their parts."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hostile.payloads import pickled
from hostile.values import BYTES, PLACES, VALUES, YAML, fields, mutated, put


def damage_bytes(rng: random.Random, file: Path) -> str:
    """Other bytes in the file; returns what was done."""
    name = rng.choice(list(BYTES))
    file.write_bytes(BYTES[name](rng, file.read_bytes()))
    return name


def damage_place(rng: random.Random, file: Path, box: Path) -> str:
    """Something else where the file was."""
    name = rng.choice(list(PLACES))
    put(file, box, name)
    return name


def damage_json(rng: random.Random, file: Path, box: Path) -> str:
    """A JSON file with another field, other bytes, or something else in its place."""
    chance = rng.random()
    if chance < 0.65:
        value, what = mutated(rng, json.loads(file.read_text()))
        file.write_text(json.dumps(value))
        return what
    return damage_bytes(rng, file) if chance < 0.88 else damage_place(rng, file, box)


def damage_yaml(rng: random.Random, file: Path, box: Path, mark: Path) -> str:
    """As `damage_json`, with YAML's own dangers, too."""
    chance = rng.random()
    if chance < 0.6:
        value, what = mutated(rng, yaml.safe_load(file.read_text()))
        file.write_text(yaml.safe_dump(value))
        return what
    if chance < 0.75:
        name = rng.choice(list(YAML))
        text = YAML[name].replace("{mark}", str(mark))
        file.write_text(text if rng.random() < 0.5 else f"{file.read_text()}\n{text}")
        return name
    return damage_bytes(rng, file) if chance < 0.92 else damage_place(rng, file, box)


# -- adapters ------------------------------------------------------------------------------------------------


def _split(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(file: Path, header: Any, tensors: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def damage_header(rng: random.Random, file: Path) -> str:
    """A safetensors file whose metadata, or claims about its tensors, are others."""
    header, tensors = _split(file)
    about = header["__metadata__"]
    if rng.random() < 0.75:
        key = rng.choice(sorted(about))
        try:
            inner = json.loads(about[key])
        except ValueError:
            inner = None
        if isinstance(inner, dict | list) and rng.random() < 0.7:
            inner, what = mutated(rng, inner)
            about[key] = json.dumps(inner)
        else:
            what = rng.choice([*VALUES, "deep"])
            value = VALUES[what]
            about[key] = value if isinstance(value, str) and rng.random() < 0.5 else json.dumps(value)
            if what == "deep":
                about[key] = "[" * 100_000 + "]" * 100_000
        what = f"header {key}: {what}"
    else:
        name = rng.choice(sorted(set(header) - {"__metadata__"}))
        field = rng.choice(["dtype", "shape", "data_offsets"])
        value = rng.choice(["F32", "I64", "F8_E4M3", "X", [1], [0], [10**12], [0, 10**15], [-1, 4], None, []])
        header[name][field] = value
        what = f"tensor {field}: {value}"
    _join(file, header, tensors)
    return what


def damage_length(rng: random.Random, file: Path) -> str:
    """A safetensors file that claims a header of another length."""
    length = rng.choice([10**12, 2**63 - 1, 2**64 - 1, 0, 1, 7, 10**8])
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    return f"claims a header of {length} bytes"


def damage_tensors(rng: random.Random, file: Path) -> str:
    """A safetensors file with other tensors: one less, one more, of another shape or kind, or not finite."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    what = _change_tensor(rng, tensors, torch)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=about)
    return what


def _change_tensor(rng: random.Random, tensors: dict[str, Any], torch: Any) -> str:
    name = rng.choice(sorted(tensors))
    what = rng.choice(
        [
            "lacks a tensor",
            "one more",
            "NaN",
            "infinity",
            "huge",
            "another shape",
            "whole numbers",
            "no element",
        ]
    )
    tensor = tensors[name]
    if what == "lacks a tensor":
        del tensors[name]
    elif what == "one more":
        tensors[rng.choice(["more", "../../more", "a" * 5000])] = torch.ones(3)
    elif what == "another shape":
        tensors[name] = torch.zeros(3, 3)
    elif what == "whole numbers":
        tensors[name] = torch.zeros(tensor.shape, dtype=torch.int64)
    elif what == "no element":
        tensors[name] = torch.zeros(0)
    else:
        value = {"NaN": float("nan"), "infinity": float("inf"), "huge": 1e30}[what]
        tensors[name] = torch.full(tensor.shape, value)
    return f"{what} ({name})"


# -- checkpoints and other pickles ---------------------------------------------------------------------------


def _pack(file: Path, kind: int) -> None:
    """The same entries, compressed, and one of zeros that fills the memory where it is read."""
    with zipfile.ZipFile(file) as opened:
        entries = {entry.filename: opened.read(entry) for entry in opened.infolist()}
    root = next(iter(entries)).split("/")[0]
    with zipfile.ZipFile(file, "w", kind) as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
        packed.writestr(f"{root}/data/999", bytes(200 * 2**20))


def _repack(file: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(file) as opened:
        entries = {entry.filename: opened.read(entry) for entry in opened.infolist()}
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as packed:
        for name, data in entries.items():
            packed.writestr(name, change(name, data))
    file.write_bytes(stored.getvalue())


def damage_pickle(rng: random.Random, file: Path, mark: Path) -> str:
    """A file of torch's that runs code, unpacks to more than fits, or has other contents."""
    import torch

    what = rng.choice(
        ["a pickle with code", "a pickle with code in its zip", "compressed", "short tensors"]
        + ["an endless view"] * 2
        + ["a field"] * 5
    )
    if what == "a pickle with code":
        file.write_bytes(pickled(mark))
    elif what == "a pickle with code in its zip":
        _repack(file, lambda name, data: pickled(mark) if name.endswith("data.pkl") else data)
    elif what == "compressed":
        _pack(file, zipfile.ZIP_DEFLATED)
    elif what == "short tensors":
        _repack(file, lambda name, data: data[: len(data) // 2] if "/data/" in name else data)
    else:
        value = torch.load(file, map_location="cpu", weights_only=True)
        if what == "an endless view":
            at = rng.choice([at for at in fields(value) if isinstance(_at(value, at), torch.Tensor)])
            _set(value, at, torch.ones(1).expand(rng.choice([10**9, 10**12])))
        else:
            at = rng.choice(_few(rng, [at for at in fields(value) if len(at) < 5]))
            if isinstance(_at(value, at), torch.Tensor) and rng.random() < 0.7:
                parts = {"it": _at(value, at)}
                what = _change_tensor(rng, parts, torch)
                _set(value, at, parts.get("it"))
            elif rng.random() < 0.3:
                what = "lacks it"
                del _at(value, at[:-1])[at[-1]]
            else:
                what = rng.choice(list(VALUES))
                _set(value, at, VALUES[what])
        what = f"{'.'.join(map(str, at))}: {what}"
        torch.save(value, file)
    return what


def _few(rng: random.Random, places: list[tuple[str | int, ...]]) -> list[tuple[str | int, ...]]:
    """As many of each depth, so that the few fields above the many tensors come up, too."""
    depth = rng.choice(sorted({len(at) for at in places}))
    return [at for at in places if len(at) == depth]


def _at(value: Any, at: tuple[str | int, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


def _set(value: Any, at: tuple[str | int, ...], new: Any) -> None:
    _at(value, at[:-1])[at[-1]] = new
