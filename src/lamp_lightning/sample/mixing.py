"""Which motions the sample command paints with: `run=waterfall:0.7,rain:0.5` to weighted adapters."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.motions import Adapter, find_adapter

RUNS = Path("runs")  # where training puts them: runs/<motion>/<time>
HOW = "run=<motion>:<weight>,<motion>:<weight>"


def find_motions(where: Any) -> Adapter:
    """The motion that `where` names, or several that are added.

    The heaviest one, of equals the first, says how they are painted: prompt, frames, size, sampler, base
    model, painter, and what saves memory. The others only move.

    Args:
        where: a run folder, an adapter file, or the name of a motion (its newest run in `runs`); or several,
            as a list or with commas between. Each may have a weight behind a colon, else it is 1.

    Raises:
        UserError: one that is missing or named twice, a weight that is no number, or motions of different
            base models or norms.
    """
    found = [_weighted(text) for text in _texts(where)]
    found.sort(key=lambda adapter: -adapter.weight)
    files = [adapter.file.resolve() for adapter in found]
    for adapter, file in zip(found, files, strict=True):
        if files.count(file) > 1:
            raise UserError(f"{adapter.file} is named twice in run={_shown(where)}: give it once, by {HOW}.")
    first, *others = found
    for other in others:
        _check_pair(first, other)
    return replace(first, others=tuple(others))


def _texts(where: Any) -> list[str]:
    """Each motion of the word `run=`; a path with commas in it is one."""
    if OmegaConf.is_list(where):
        texts = [str(text).strip() for text in where]
    else:
        text = "" if where is None else str(where).strip()
        whole = any(_located(part) for part in (text, _cut(text)[0]))
        texts = [text] if whole else [part.strip() for part in text.split(",")]
    if not all(texts):
        raise UserError(f"run={_shown(where)} lacks a motion: give one, or several by {HOW}.")
    return texts


def _weighted(text: str) -> Adapter:
    path, weight = _located(text), "1"
    if path is None:
        name, weight = _cut(text)
        path = _located(name) or Path(name).expanduser()
    adapter = find_adapter(path)
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"run={text}: the weight of a motion must be a number, like 0.7, not {weight!r}.")
    return replace(adapter, weight=number)


def _cut(text: str) -> tuple[str, str]:
    """What stands before the last colon, and the weight behind it, 1 where there is none."""
    found = re.fullmatch(r"(.+):([^:/\\,]*)", text, re.DOTALL)
    return (found[1].strip(), found[2].strip()) if found else (text, "1")


def _located(text: str) -> Path | None:
    """The run folder or file that a text names, or None: a path, or a motion's name for its newest run."""
    path = Path(text).expanduser()
    if path.is_dir() and not RunFolder(path).config_file.exists():
        return _newest_run(path) or path
    if path.exists():
        return path
    return _newest_run(RUNS / text) if len(path.parts) == 1 else None


def _newest_run(folder: Path) -> Path | None:
    """Of the runs in a folder, the one whose adapter was written last."""
    found = map(RunFolder, folder.glob("*"))
    runs = [run for run in found if run.config_file.exists() and run.adapter.is_file()]
    return max(runs, key=lambda run: run.adapter.stat().st_mtime).path if runs else None


def _check_pair(first: Adapter, other: Adapter) -> None:
    from lamp_lightning.models.adapter import header_of, of_same_base

    told = [header_of(adapter.file) for adapter in (first, other)]
    if told[0].variant == told[1].variant and not of_same_base(*told):
        bases = [header.base_model or "an unknown one" for header in told]
        raise UserError(
            f"{first.file} and {other.file} were tuned on different base models ({bases[0]} and {bases[1]}) "
            "and cannot be mixed."
        )
    if first.norm != other.norm:
        raise UserError(
            f"{first.file} and {other.file} were tuned with different norms ({first.norm} and {other.norm}) "
            "and cannot be mixed."
        )


def _shown(where: Any) -> str:
    if OmegaConf.is_list(where):
        return f"[{','.join(map(str, where))}]"
    return "null" if where is None else str(where)
