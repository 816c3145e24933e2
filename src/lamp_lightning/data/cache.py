"""The on-disk cache: named by what went in, checked by checksum, written atomically.

An entry's name is a hash of everything that its content depends on, so a stale one is never found. A damaged
entry is computed again, with a warning. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lamp_lightning.data.decoder_process import DecodedFile
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import array_sha256, default_cache_dir, remove_dead, replacing
from lamp_lightning.runtime.locks import beside, hold, remove_free
from lamp_lightning.runtime.reading import checked, read_json
from lamp_lightning.runtime.stopping import check_stop

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
VERSION = 1
_ADVICE = "Choose another folder with cache_dir or LAMP_LIGHTNING_CACHE."


class Cache:
    """One cache folder. Raises UserError where it cannot be made or written."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_cache_dir()

    def path(self, kind: str, fields: Mapping[str, Any], suffix: str) -> Path:
        """Where the entry of `kind` that depends on exactly `fields` lives."""
        text = json.dumps({"version": VERSION, **fields}, sort_keys=True)
        return self.folder / kind / (hashlib.sha256(text.encode()).hexdigest()[:32] + suffix)

    def entry(self, path: Path, load: Callable[[Path], T | None], make: Callable[[], T]) -> T:
        """What `load` finds at `path`, else what `make` leaves there; made by one process at a time."""
        found = load(path)
        if found is not None:
            return found
        with hold(beside(path), what=str(path), permissions=_ADVICE, wait=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is damaged was said above
                found = load(path)
            if found is None:
                check_stop()
                found = make()
        return found

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """A temporary file beside `path`, which takes its place when the block ends well."""
        remove_dead(path.parent)
        remove_free(path.parent)
        with replacing(path, _ADVICE) as temporary:
            yield temporary

    def tensors(self, path: Path, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of the entry `path`, by `make` where it is not there."""

        def make_and_save() -> dict[str, torch.Tensor]:
            made = make()
            self.save_tensors(path, made)
            return made

        return self.entry(path, self.load_tensors, make_and_save)

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

    def load_frames(self, path: Path) -> tuple[np.ndarray, DecodedFile] | None:
        """Memory-mapped frames (f, h, w, 3) and what is known of them, or None as above."""
        facts_path = path.with_suffix(".json")
        if not path.exists() or not facts_path.exists():
            return None
        try:
            what = "the facts of a clip"
            found = read_json(facts_path, what=what)
            facts = checked(DecodedFile, found, file=facts_path, what=what, advice="It is made anew.")
            if not path.is_file() or path.stat().st_size != math.prod(facts.shape):
                raise ValueError("its size is wrong")
            frames = np.memmap(path, dtype=np.uint8, mode="r", shape=facts.shape)
            if array_sha256(frames) != facts.sha256:
                raise ValueError("its checksum is wrong")
        except (OSError, ValueError, UserError) as error:
            _warn_damaged(path, str(error))
            return None
        return frames, facts

    def save_facts(self, path: Path, facts: DecodedFile) -> None:
        """Write the .json beside `path`: the entry counts from then on."""
        with self.writing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts.model_dump()), encoding="utf-8")


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
