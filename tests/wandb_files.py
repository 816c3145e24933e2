"""Reads W&B's offline files: blocks of 32 KiB with records in LevelDB's log format, protobuf inside."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What an offline run recorded."""

    group: str = ""
    id: str = ""
    name: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)

    def keys(self) -> set[str]:
        """All names that were logged over time."""
        return {key for row in self.history for key in row}


def records(data: bytes) -> list[bytes]:
    """The records of a ``.wandb`` file."""
    assert data[:4] == b":W&B", "not a .wandb file"
    found, part, at = [], b"", HEADER
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block too short for a header is padding
            at += BLOCK - at % BLOCK
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        at += HEADER
        if kind == 0 or at + length > len(data):  # still being written
            break
        piece = data[at : at + length]
        at += length
        part = piece if kind in (FULL, FIRST) else part + piece
        if kind in (FULL, LAST):
            found.append(part)
    return found


def read_finished(file: Path, seconds: float = 30) -> WandbRun:
    """A run that was finished: W&B's own process writes the last records a moment after that."""
    end = time.monotonic() + seconds
    while (run := read_run(file)).exit_code is None and time.monotonic() < end:
        time.sleep(0.05)
    return run


def read_run(file: Path) -> WandbRun:
    """Everything in a ``.wandb`` file that the tests look at."""
    from wandb.proto import wandb_internal_pb2 as pb

    run = WandbRun()
    for data in records(file.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.group, run.id, run.name = record.run.run_group, record.run.run_id, record.run.display_name
        elif kind == "history":
            run.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "config":
            run.config |= {_key(item): json.loads(item.value_json) for item in record.config.update}
        elif kind == "summary":
            run.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact":
            run.artifacts.append(record.artifact.type)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
