"""Values and damages: what is put into a field, and what is done to a file's bytes or to its place."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile.world import SECRET_NAME

Path_ = tuple[str | int, ...]  # of a field in nested mappings and lists
DEEP = 100_000

# Each with a name for the report. Numbers that JSON and YAML write differently are Python's own.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "text",
    "empty text": "",
    "zero": 0,
    "negative": -1,
    "fraction": 0.5,
    "huge": 10**30,
    "2^63": 2**63,
    "billion": 10**9,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "empty list": [],
    "empty mapping": {},
    "list": [1, "a", None],
    "mapping": {"a": {"b": [1]}},
    "nested list": [[[[["a"]]]]],
    "long list": list(range(20_000)),
    "deep": json.loads("[" * 60 + "]" * 60),
    "parent folder": "../../outside/canary.txt",
    "home": "~/.profile",
    "root": "/etc/passwd",
    "zero byte": "a\0b",
    "half a pair": "\ud83d",
    "escape sequence": "\x1b]0;title\x07\x1b[2J",
    "long text": "waterfall " * 50_000,
    "words of a command": "a lake out=/etc overwrite=true",
    "secret": f"${{oc.env:{SECRET_NAME}}}",
    "secret behind a backslash": f"a lake \\${{oc.env:{SECRET_NAME}}}",
    "secret behind two": f"\\\\${{oc.env:{SECRET_NAME}}}",
    "decoded": "${oc.decode:'[1,2]'}",
    "hardware": "${hardware:dtype}",
    "missing": "???",
    "unclosed": "${",
}


def fields(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """The places of all values in nested mappings and lists, groups included."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield (*at, key)
        yield from fields(each, (*at, key))


def replaced(value: Any, at: Path_, new: Any) -> Any:
    """A copy of ``value`` with another value at the place ``at``."""
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return value


def without(value: Any, at: Path_) -> Any:
    """A copy of ``value`` without the field at the place ``at``."""
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    del inner[at[-1]]
    return value


def mutated(rng: random.Random, value: Any) -> tuple[Any, str]:
    """A copy of a document with one field of another value, missing, or more; and what was done, in words."""
    places = list(fields(value))
    at = rng.choice(places) if places else ()
    where = ".".join(map(str, at))
    kind = rng.random()
    if kind < 0.12 and at:
        return without(value, at), f"lacks {where}"
    if kind < 0.2 or not at:
        name = rng.choice(["unknown_key", "out", "overwrite", "_target_", "_partial_", "__class__"])
        new = copy.deepcopy(value)
        groups = [(), *(place for place in places if isinstance(_get(value, place), dict))]
        group = rng.choice(groups)
        if isinstance(_get(new, group), dict):
            _get(new, group)[name] = rng.choice([1, "../../outside/canary.txt", {"a": 1}])
        return new, f"unknown {'.'.join(map(str, (*group, name)))}"
    name = rng.choice(list(VALUES))
    return replaced(value, at, VALUES[name]), f"{where}: {name}"


def _get(value: Any, at: Path_) -> Any:
    for key in at:
        value = value[key]
    return value


# -- bytes ---------------------------------------------------------------------------------------------------


def _truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) or 1)]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _stretch(rng: random.Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) or 1)
    return data[:begin] + rng.randbytes(rng.choice([16, 300])) + data[begin + 300 :]


BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "truncated": _truncated,
    "flipped bits": _flipped,
    "a random stretch": _stretch,
    "random bytes": lambda rng, data: rng.randbytes(rng.choice([1, 100, 5000])),
    "empty": lambda rng, data: b"",
    "zeros": lambda rng, data: bytes(len(data)),
    "twice": lambda rng, data: data + data,
    "UTF-16": lambda rng, data: data.decode("latin-1").encode("utf-16"),
    "no UTF-8": lambda rng, data: b"\xff\xfe\xe9" + data,
    "deep JSON": lambda rng, data: b"[" * DEEP + b"]" * DEEP,
    "deep JSON objects": lambda rng, data: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a JSON list": lambda rng, data: b"[1, 2, 3]",
    "a JSON text": lambda rng, data: b'"text"',
    "a JSON null": lambda rng, data: b"null",
    "a number of 10,000 digits": lambda rng, data: b"9" * 10_000,
    "20 MB of text": lambda rng, data: b"a lake\n" * 3_000_000,
}
YAML: dict[str, str] = {
    "an anchor bomb": "motion: &a0 [lake, lake]\n"
    + "".join(f"b{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30)),
    "an anchor that holds itself": "motion: &a [*a]\nmodel: *a\n",
    "a Python object": "motion: !!python/object/apply:os.system ['touch {mark}']\n",
    "a Python module": "motion: !!python/name:os.system ''\nmodel: !!python/module:os\n",
    "a merge of itself": "motion: &a\n  <<: *a\n  name: lake\n",
    "a deep flow": "motion: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "deep blocks": "".join(f"{' ' * k}a:\n" for k in range(2_000)),
    "two documents": "motion: {name: lake}\n---\nmodel: 3\n",
    "a list": "- 1\n- 2\n",
    "a date": "motion: {name: 2026-01-01}\nseed: 0x10\nthreads: 1_000\n",
    "binary": "motion: {name: !!binary aGVsbG8=}\n",
    "a set": "motion: !!set {a, b}\n",
    "keys that are lists": "? [a, b]\n: 1\nmotion: {name: a}\n",
    "a key twice": "motion: {name: a}\nmotion: {name: b}\n",
    "tabs": "motion:\n\tname: a\n",
}


# -- places --------------------------------------------------------------------------------------------------


def _remove(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def _pipe(file: Path, box: Path) -> None:
    os.mkfifo(file)


def _folder(file: Path, box: Path) -> None:
    file.mkdir()


def _loop(file: Path, box: Path) -> None:
    file.symlink_to(file.name)


def _dangling(file: Path, box: Path) -> None:
    file.symlink_to(box / "outside" / "nothing")


def _elsewhere(file: Path, box: Path) -> None:
    file.symlink_to(box / "outside" / "canary.txt")


def _endless(file: Path, box: Path) -> None:
    file.symlink_to("/dev/zero")


def _sparse(file: Path, box: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(2**40)


def _gone(file: Path, box: Path) -> None:
    pass


PLACES: dict[str, Callable[[Path, Path], None]] = {
    "a pipe": _pipe,
    "a folder": _folder,
    "a link to itself": _loop,
    "a dangling link": _dangling,
    "a link elsewhere": _elsewhere,
    "a link to an endless device": _endless,
    "a terabyte of nothing": _sparse,
    "gone": _gone,
}


def put(file: Path, box: Path, name: str) -> None:
    """Something else in the place of a file."""
    _remove(file)
    PLACES[name](file, box)
