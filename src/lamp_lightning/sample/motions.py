"""Tuned motions, from run folders or adapter files, with their weights, and how to sample with them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime.console import call, counted, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hub import HubMotion, fetch, is_id
from lamp_lightning.runtime.runs import RunFolder

if TYPE_CHECKING:
    from lamp_lightning.diffusion.sampler import Sampler

RUNS = Path("runs")  # where training puts them: runs/<motion>/<time>
HOW = "run=<motion>:<weight>,<motion>:<weight>"
MEMORY_SETTINGS = ("attention_slicing", "vae_slicing", "vae_tiling")
_STYLE = ("lora", "lora_scale")
_SAME_NAMES = ("painter", "painter_config", "painter_variant")  # in runs' configs, headers, `Adapter`


@dataclass(frozen=True)
class Adapter:
    """A tuned motion and how to sample with it; other motions may be added to it, each with its weight.

    Of a motion of the hub, `origin` is its repository and commit there, and `file` lies in the cache.
    """

    file: Path
    run: RunFolder | None
    base: str
    motion: str
    prompt: str
    sampler: Sampler
    clip: str | None
    base_config: str | None = None
    base_variant: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    check_base: bool = True
    dtype: str = "float32"
    painter: str | None = None
    painter_config: str | None = None
    painter_variant: str | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    others: tuple[Adapter, ...] = ()
    origin: str | None = None

    @property
    def where(self) -> str:
        """Where it comes from, for people."""
        return short(self.file) if self.origin is None else self.origin

    @property
    def all(self) -> tuple[Adapter, ...]:
        """This motion and those that are added to it."""
        return self, *self.others

    @property
    def title(self) -> str:
        """The motion's name, or all of them with their weights."""
        if self.weight == 1 and not self.others:
            return self.motion
        return " + ".join(f"{each.weight:g} {each.motion}" for each in self.all)


def find_motions(where: Any) -> Adapter:
    """The motion that `where` names, or several that are added.

    The heaviest one, of equals the first, says how they are sampled: prompt, frames, size, sampler, base
    model, painter, and what saves memory. The others only move.

    Args:
        where: a run folder, an adapter file, the name of a motion (its best run in `runs`: tuned,
            finished, the newest), or a motion of the hub (`owner/name`, `owner/name@revision`); or several,
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
    if len(found) > 1:
        from lamp_lightning.models.adapter import check_alike, header_of

        check_alike({adapter.file: header_of(adapter.file) for adapter in found}, same_base=True)
    return replace(found[0], others=tuple(found[1:]))


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
    path: str | Path | None = _located(text)
    weight = "1"
    if path is None:
        name, weight = _cut(text)
        path = _located(name) or name
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
    """The run folder or file that a text names, or None: a path, or a motion's name for its best run."""
    path = Path(text).expanduser()
    if path.is_dir() and not RunFolder(path).config_file.exists():
        return _best_run(path) or path
    if path.exists():
        return path
    return _best_run(RUNS / text) if len(path.parts) == 1 else None


def _best_run(folder: Path) -> Path | None:
    """Of the runs in a folder a tuned one, of these a finished one, and of these the newest."""
    runs = _runs_in(folder)
    return max(runs, key=_rank).path if runs else None


def _runs_in(folder: Path) -> list[RunFolder]:
    """The runs in a folder that have an adapter."""
    found = map(RunFolder, folder.glob("*"))
    return [run for run in found if run.config_file.exists() and run.adapter.is_file()]


def _rank(run: RunFolder) -> tuple[bool, bool, float]:
    return _steps(run.adapter) != 0, run.metrics.is_file(), run.adapter.stat().st_mtime


def _steps(adapter: Path) -> int | None:
    """The steps that an adapter was tuned for; None where it does not say, or cannot be read."""
    from lamp_lightning.models.adapter import header_of

    try:
        return header_of(adapter).steps
    except UserError:
        return None


def state_of(run: RunFolder) -> str:
    """What a run is, in words: its steps, whether it is finished, and which of several it is.

    Example:
        >>> state_of(RunFolder(Path("runs/rain/2026-11-24_10-00-00")))
        'not finished'
    """
    steps, among = _steps(run.adapter), len(_runs_in(run.path.parent))
    words = [] if steps is None else [f"{steps} steps" if steps else "untuned"]
    words.append("finished" if run.metrics.is_file() else "not finished")
    if among > 1:
        newest = "the newest finished one" if run.metrics.is_file() else "the newest one"
        which = newest if _best_run(run.path.parent) == run.path else "one"
        words.append(f"{which} of {among} runs; run=<folder> takes another")
    return ", ".join(words)


def runs_there_are() -> str:
    """A sentence that names the motions that have runs, or says how to tune one."""
    found = {folder.name: _runs_in(folder) for folder in sorted(RUNS.glob("*"))}
    named = [f"{name} ({counted(len(runs), 'run')})" for name, runs in found.items() if runs]
    if not named:
        return f"There is no run in {RUNS} yet: tune one by python -m lamp_lightning.train motion=waterfall"
    return f"{RUNS} has {', '.join(named)}."


def _meant(name: str) -> str:
    """A question where a motion that has runs is spelt almost so."""
    near = difflib.get_close_matches(
        name, [folder.name for folder in RUNS.glob("*") if _runs_in(folder)], n=1
    )
    return f" Did you mean {near[0]}?" if near else ""


def _shown(where: Any) -> str:
    if OmegaConf.is_list(where):
        return f"[{','.join(map(str, where))}]"
    return "null" if where is None else str(where)


def find_adapter(where: Any) -> Adapter:
    """The adapter of a run folder, with the run's settings, or an adapter file, with those in its header.

    What is no path here and looks like a name on the hub is fetched from there.
    """
    path = Path(str(where)).expanduser()
    if (hub := HubMotion.named(where)) is not None:
        try:
            found = fetch(hub, say=lambda text: print(text, flush=True))
        except UserError as error:
            raise UserError(f"run={where} is no path here. {error}{_meant(path.name)}") from error
        return replace(find_adapter(found.file), origin=found.name)
    if not path.exists():
        known = is_id(str(where)) and path.parts[0] != RUNS.name
        on_hub = f" If it is one of the hub, give run=hf://{where}." if known else ""
        raise UserError(
            f"run={path} does not exist. Give a run folder (runs/<motion>/<time>), an adapter file, the "
            f"name of a motion, or owner/name of the hub.{on_hub}{_meant(path.name)} {runs_there_are()}"
        )
    from lamp_lightning.data.motions import motion_prompt  # with torch: seconds
    from lamp_lightning.diffusion.sampler import Sampler
    from lamp_lightning.models.adapter import header_of

    if path.is_dir():
        run, cfg = RunFolder.open(path)
        sampler = Sampler.from_config(cfg)
        if not run.adapter.is_file():
            raise UserError(
                f"{path} has no adapter yet: the run has not come so far. Go on with it by "
                f"{call('train')} resume={path}"
            )
        model = cfg.model
        return Adapter(
            file=run.adapter,
            run=run,
            base=str(model.path),
            motion=str(cfg.motion.name),
            prompt=motion_prompt(cfg),
            sampler=sampler if cfg.sampler.fps is not None else sampler.changed({"fps": _rate(run.adapter)}),
            clip=model.clip,
            base_config=model.get("config"),
            base_variant=model.get("variant"),
            lora=model.get("lora"),
            lora_scale=model.get("lora_scale", 1.0),
            dtype=model.dtype,
            memory={name: model.get(name) for name in MEMORY_SETTINGS},
            **{name: model.get(name) for name in _SAME_NAMES},
        )
    header = header_of(path)
    motion = path.stem if header.motion is None else header.motion
    # Adapters of earlier versions do not name tiny's CLIP model.
    clip = "tiny" if header.clip is None and header.base_model == "tiny" else header.clip
    return Adapter(
        file=path,
        run=None,
        base=header.base_model or "",
        motion=motion,
        prompt=motion if header.prompt is None else header.prompt,
        sampler=header.sampler,
        clip=clip or None,
        base_config=header.base_config,
        base_variant=header.base_variant,
        lora=header.base_lora,
        lora_scale=header.base_lora_scale,
        dtype=header.base_dtype,
        memory=header.memory.model_dump(),
        **{name: getattr(header, name) for name in _SAME_NAMES},
    )


def _rate(adapter: Path) -> float:
    """The clips' frames per second, which the adapter of a run knows."""
    from lamp_lightning.models.adapter import header_of

    return header_of(adapter).sampler.fps


def with_changes(adapter: Adapter, cfg: DictConfig) -> Adapter:
    """The adapter with what the command line says otherwise: base model, painter, what saves memory."""
    memory = {name: cfg[name] for name in MEMORY_SETTINGS if cfg[name] is not None}
    changes: dict[str, Any] = {"memory": {**adapter.memory, **memory}}
    for name in ("base", "painter"):
        if cfg[name] is not None:
            changes |= {name: str(cfg[name]), f"{name}_config": None, f"{name}_variant": None}
        if cfg[f"{name}_config"] is not None:
            changes[f"{name}_config"] = str(cfg[f"{name}_config"])
    if cfg.lora is not None:
        changes |= {"lora": None if cfg.lora == "none" else str(cfg.lora), "lora_scale": 1.0}
    if cfg.lora_scale is not None:
        changes["lora_scale"] = cfg.lora_scale
    styled = any(name in changes and changes[name] != getattr(adapter, name) for name in _STYLE)
    changes["check_base"] = cfg.check_base and not styled  # other weights by what the user asks for
    adapter = replace(adapter, **changes)
    if not adapter.base:
        raise UserError(
            f"{adapter.file} does not say which base model it belongs to: name it with base=<model>."
        )
    return adapter
