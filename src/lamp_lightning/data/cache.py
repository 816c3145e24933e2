"""The on-disk cache: named by what went in, checked by checksum, written atomically.

An entry's name is a hash of everything that its content depends on, so a stale entry is never found: change a
clip, the size or the model, and another name is asked for. A damaged entry is computed again, with a warning.
The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import array_sha256, default_cache_dir, remove_dead, replacing
from lamp_lightning.runtime.locks import beside, hold, remove_free
from lamp_lightning.runtime.reading import Schema, checked, read_json
from lamp_lightning.runtime.stopping import check_stop

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
VERSION = 1
_ADVICE = "Choose another folder with cache_dir or LAMP_LIGHTNING_CACHE."


_Side = Annotated[int, Field(ge=1, le=2**20)]


class _Facts(Schema):
    """What is known of decoded frames, beside the fields that only people read."""

    model_config = ConfigDict(extra="ignore")
    shape: Annotated[list[_Side], Field(min_length=4, max_length=4)]
    source_size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    fps: Annotated[float, Field(ge=0)]
    sha256: str


class Cache:
    """One cache folder. Raises UserError where it cannot be made or written."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_cache_dir()

    def path(self, kind: str, fields: Mapping[str, Any], suffix: str) -> Path:
        """Where the entry of `kind` that depends on exactly `fields` lives."""
        text = json.dumps({"version": VERSION, **fields}, sort_keys=True)
        return self.folder / kind / (hashlib.sha256(text.encode()).hexdigest()[:32] + suffix)

    @contextlib.contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Be the only process that makes the entry `path`, after waiting for another one that does."""
        with hold(beside(path), what=str(path), permissions=_ADVICE, wait=True):
            yield

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """A temporary file beside `path`, which takes its place when the block ends well."""
        remove_dead(path.parent)
        remove_free(path.parent)
        with replacing(path, _ADVICE) as temporary:
            yield temporary

    def tensors(self, path: Path, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of the entry `path`, by `make` where it is not there; made by one process at a time."""
        found = self.load_tensors(path)
        if found is not None:
            return found
        with self.alone(path):
            found = again(self.load_tensors, path)
            if found is None:
                check_stop()
                found = make()
                self.save_tensors(path, found)
        return found

    def save_tensors(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Write named tensors as one safetensors file with a checksum in its metadata."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with self.writing(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={"sha256": _tensors_sha256(tensors)}))

    def load_tensors(self, path: Path) -> dict[str, torch.Tensor] | None:
        """What `save_tensors` wrote; None where there is nothing, or (with a warning) nothing sound."""
        if not path.exists():
            return None
        from safetensors import safe_open

        try:
            if not path.is_file():
                raise ValueError("it is no regular file")
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no mapping
                expected = (file.metadata() or {}).get("sha256")
        except Exception as error:
            _warn_damaged(path, str(error))
            return None
        if expected != _tensors_sha256(tensors):
            _warn_damaged(path, "its checksum is wrong")
            return None
        return tensors

    def load_frames(self, path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        """Memory-mapped frames (f, h, w, 3) with their "fps" and "source_size" (h, w), or None as above."""
        facts_path = path.with_suffix(".json")
        if not path.exists() or not facts_path.exists():
            return None
        try:
            what = "the facts of a clip"
            found = read_json(facts_path, what=what)
            facts = checked(_Facts, found, file=facts_path, what=what, advice="It is made anew.")
            if not path.is_file() or path.stat().st_size != math.prod(facts.shape):
                raise ValueError("its size is wrong")
            frames = np.memmap(path, dtype=np.uint8, mode="r", shape=tuple(facts.shape))
            if array_sha256(frames) != facts.sha256:
                raise ValueError("its checksum is wrong")
        except (OSError, ValueError, UserError) as error:
            _warn_damaged(path, str(error))
            return None
        return frames, {"fps": facts.fps, "source_size": tuple(facts.source_size)}

    def save_facts(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the .json beside `path`: the entry counts from then on."""
        with self.writing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")


def again(load: Callable[[Path], T], path: Path) -> T:
    """Look for an entry once more, without repeating the warning that it is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(path)


def _warn_damaged(path: Path, reason: str) -> None:
    warnings.warn(f"{path}: this cache file is damaged ({reason}); computing it again.", stacklevel=3)


def _tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
