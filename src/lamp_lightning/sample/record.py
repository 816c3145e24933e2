"""The record beside each video, `<name>.json`: what is needed to make it again, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from pydantic import ValidationError

from lamp_lightning.data.video import FORMATS, place
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import array_sha256, file_sha256
from lamp_lightning.runtime.hub import motion_file
from lamp_lightning.runtime.reading import describe, literal, parse_json, read_text
from lamp_lightning.sample.known import Picture
from lamp_lightning.sample.motions import Adapter
from lamp_lightning.sample.record_schema import VideoRecord
from lamp_lightning.sample.videos import Video

FORMAT, FORMER = "lamp-lightning video 2", "lamp-lightning video 1"
Record = dict[str, Any]
_BASE = ("model", "config", "variant", "dtype", "lora", "lora_scale")  # what decides of a base model


def motions_of(adapter: Adapter) -> list[Record]:
    """The motions that are generated with: the file of each, its hash, and its weight."""
    return [
        {
            "file": each.origin or str(each.file.absolute()),
            "sha256": file_sha256(each.file),
            "motion": each.motion,
            "weight": each.weight,
        }
        for each in adapter.all
    ]


def settings_of(
    video: Video, adapter: Adapter, motions: list[Record], precision: str, cfg: DictConfig
) -> Record:
    """What decides how a video looks, as far as it is known before the model is loaded."""
    named = ("base", "base_config", "lora", "painter", "painter_config")
    given = {name: _absolute(cfg[name]) for name in named}
    given |= {name: cfg[name] for name in ("lora_scale", "check_base")}
    first_frame = None
    if video.picture is not None:
        first_frame = {**_given(video.picture), "fit": video.fit}
    known: Record = {}
    if video.known:
        known["known"] = [{"place": place, **_given(picture)} for place, picture in video.known]
    if video.loop:
        known["loop"] = True
    return {
        "prompt": video.prompt,
        "negative_prompt": video.sampler.negative_prompt,
        "seed": video.seed,
        "first_frame": first_frame,
        **known,
        "sampler": video.sampler.settings(),
        "precision": precision,
        "motions": motions,
        "base": {
            "model": _absolute(adapter.base),
            "config": _absolute(adapter.base_config),
            "variant": adapter.base_variant,
            "dtype": "float32" if precision == "32-true" else adapter.dtype,
            **lora_of(adapter),
        },
        "painter": _absolute(adapter.painter),
        "words": {"run": [_word(each) for each in adapter.all], **given},
    }


def _given(picture: Picture) -> Record:
    """A picture, or a frame of a clip, and its hash."""
    frame = {} if picture.frame is None else {"frame": picture.frame}
    return {"file": str(picture.file.absolute()), "sha256": picture.sha256, **frame}


def _where(given: Record) -> str:
    """A picture as `known=` names it."""
    return given["file"] if given.get("frame") is None else f"{given['file']}@{given['frame']}"


def _content(given: Record) -> str:
    """What a picture shows: its file's hash, and which frame of a clip it is."""
    return given["sha256"] if given.get("frame") is None else f"{given['sha256']}@{given['frame']}"


def lora_of(adapter: Adapter) -> dict[str, Any]:
    """The LoRA below a motion, and its strength; nothing where there is none."""
    if adapter.lora is None:
        return {}
    return {"lora": _absolute(adapter.lora), "lora_scale": adapter.lora_scale}


def _word(adapter: Adapter) -> str:
    """A motion in the word `run=`: its run folder, which says more than the file in it, and its weight.

    Of a motion of the hub its name and commit there, which every machine can fetch.
    """
    if adapter.origin is not None:
        return f"{adapter.origin}:{adapter.weight}"
    where = adapter.file if adapter.run is None else adapter.run.path
    return f"{where.absolute()}:{adapter.weight}"


def _absolute(path: Any) -> str | None:
    """A path that is there, as an absolute one; a name or hub id as it is."""
    if path is None:
        return None
    found = Path(str(path)).expanduser()
    return str(found.absolute()) if found.exists() else str(path)


def differences(wanted: Record, found: Record) -> list[str]:
    """How a video that is there differs from one that is wanted; paths alone make no difference."""
    ours, theirs = _decisive(wanted), _decisive(found)
    return [
        f"{key} {_short(theirs.get(key))} then, {_short(ours[key])} now"
        for key in ours
        if ours[key] != theirs.get(key)
    ]


def _decisive(record: Record) -> dict[str, Any]:
    picture = record.get("first_frame") or {}
    sampler = Sampler().changed(record.get("sampler") or {}).settings()
    base, motions = record.get("base") or {}, record.get("motions") or []
    return {
        "prompt": record.get("prompt"),
        "seed": record.get("seed"),
        "first_frame": _content(picture) if picture else None,
        "known": {each["place"]: _content(each) for each in record.get("known") or ()},
        "loop": bool(record.get("loop")),
        "fit": picture.get("fit"),
        "motion": " + ".join(f"{each['weight']} {each['motion']}" for each in motions),
        "adapter": " + ".join(each["sha256"] for each in motions),
        **{f"base {key}": base.get(key) for key in _BASE},
        "painter": record.get("painter"),
        "precision": record.get("precision"),
        **{
            key if key in ("num_frames", "size") else f"sampler.{key}": value
            for key, value in sampler.items()
        },
    }


def _short(value: Any) -> str:
    text = "none" if value is None else "".join(c if c.isprintable() else "?" for c in str(value))
    return text if len(text) <= 40 else text[:37] + "..."


def read_record(file: Path) -> Record:
    """A record, checked as `VideoRecord` says. Raises UserError where there is none or it cannot be used."""
    what = "the record of a video"
    text = read_text(file, what=what)
    record = parse_json(text, file=file, what=what)
    found = record.get("format") if isinstance(record, dict) else None
    if found == FORMER:
        raise UserError(
            f"{file} is a record by an earlier version of lamp-lightning ({FORMER!r}, and this one reads "
            f"{FORMAT!r}): ask for the video as you did the first time."
        )
    if found != FORMAT:
        raise UserError(f"{file} is no record of a video, such as lie beside the videos as <name>.json.")
    try:
        VideoRecord.model_validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"{file} cannot be used as {what}: {describe(error)}. Ask for the video as you did the first "
            "time."
        ) from error
    return record


# -- places --------------------------------------------------------------------------------------------------


def find_places(
    videos: Sequence[Video],
    folder: Path,
    formats: Sequence[str],
    settings: Callable[[Video], Record],
    *,
    named: bool,
    overwrite: bool,
    say: Callable[[str], None] = print,
) -> list[Video]:
    """The videos under their final names, with their settings and, of finished ones, their records.

    A video is finished where it is there, whole, in all formats and made the same way. Where another video
    has its name, it takes the next free one (`<name>_2`), unless it may `overwrite`.

    Raises:
        UserError: the user gave the names (`named`), one is taken, and it may not be overwritten.
    """
    taken: set[str] = set()
    found = []
    for video in videos:
        wanted, in_the_way = settings(video), None
        for number in count(1):
            name = video.name if number == 1 else f"{video.name}_{number}"
            if name in taken:
                continue
            finished, obstacle = _look(folder, name, formats, wanted)
            if obstacle is None or overwrite:
                break
            if named:
                raise UserError(
                    f"{short(folder / name)} {obstacle}. Give overwrite=true, or another name with out=."
                )
            in_the_way = in_the_way or f"{short(folder / name)} {obstacle}"
        if in_the_way and finished is None:
            say(f"{in_the_way}. The new one is called {name}.")
        taken.add(name)
        found.append(replace(video, name=name, settings=wanted, record=finished))
    return found


def _look(
    folder: Path, name: str, formats: Sequence[str], wanted: Record
) -> tuple[Record | None, str | None]:
    """The record of the wanted video where it is finished there, and what else has that name."""
    file = folder / f"{name}.json"
    if not file.exists():
        foreign = [kind for kind in FORMATS if place(kind, folder, name).exists()]
        return None, f"(.{foreign[0]}) is there, and nothing says how it was made" if foreign else None
    try:
        record = read_record(file)
    except UserError as error:
        return None, f"is there, but {error}".rstrip(".")
    if different := differences(wanted, record):
        return None, f"was made otherwise ({'; '.join(different[:3])}{' ...' if different[3:] else ''})"
    there = all(kind in record.get("formats", ()) and place(kind, folder, name).exists() for kind in formats)
    return record if record.get("finished") and there else None, None


# -- writing and using ---------------------------------------------------------------------------------------


def begun(settings: Record) -> Record:
    """The record of a video whose files are about to be written: they belong to it, but may not be whole."""
    return {"format": FORMAT, "finished": False, **settings}


def complete(settings: Record, frames: np.ndarray, **facts: Any) -> Record:
    """The record of a video that lies there whole; `facts` say how it was made and what it measures."""
    return {"format": FORMAT, "finished": True, **settings, "frames_sha256": array_sha256(frames), **facts}


def say_again(cfg: DictConfig, file: Path, given: Sequence[str]) -> Record:
    """Put a record's settings into the config of the sample command, except what the user has `given`.

    Returns the record. Raises UserError where that is none of a finished video, or the adapter or the picture
    are not what they were.
    """
    record = read_record(file)
    if not record.get("finished"):
        raise UserError(f"{file} is of a video that was not finished: ask for it as you did the first time.")
    _check_unchanged(record, given)
    for key, value in _words(record).items():
        group, _, name = key.rpartition(".")
        node = cfg[group] if group else cfg
        if group in given and node[name] is not None:
            continue  # sampler=fast says so
        if key not in given and name in node.keys():  # noqa: SIM118  (`in node` is false for a missing value)
            node[name] = literal(value)
    return record


def _words(record: Record) -> dict[str, Any]:
    """The overrides of the sample command that ask for this one video."""
    made, picture = record["made"], record["first_frame"] or {}
    sampler = Sampler().changed(record["sampler"]).settings()
    known = {each["place"]: _where(each) for each in record.get("known") or ()}
    if picture and (known or picture.get("frame") is not None):
        known[0] = _where(picture)
    return {
        **record["words"],
        "prompt": record["prompt"],
        "first_frame": None if known else picture.get("file"),
        "known": known or None,
        "loop": bool(record.get("loop")),
        "fit": picture.get("fit", "crop"),
        "seed": record["seed"],
        "num_frames": sampler.pop("num_frames"),
        "size": sampler.pop("size"),
        "precision": record["precision"],
        "format": list(record["formats"]),
        "device": made["device"],
        "threads": made["threads"],
        **made["memory"],
        **{f"sampler.{name}": value for name, value in sampler.items()},
    }


def _check_unchanged(record: Record, given: Sequence[str]) -> None:
    """Refuse to make a video again from an adapter or a picture whose contents are others by now."""
    things = [("run", motion) for motion in record["motions"]] + [("first_frame", record["first_frame"])]
    things += [("known", each) for each in record.get("known") or ()]
    for key, what in things:
        if what is None or key in given:
            continue
        file = motion_file(what["file"]) if key == "run" else Path(what["file"])
        if not file.is_file():
            raise UserError(f"{file} is not there any more: say where it is with {key}=<file>.")
        if file_sha256(file) != what["sha256"]:
            raise UserError(
                f"{file} has changed since the video was made. To go on with it, give {key}={file}."
            )
