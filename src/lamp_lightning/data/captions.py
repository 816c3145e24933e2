"""The prompt of each clip: the motion's name, or what a caption file says; and files of prompts."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import check_text, parse_json, read_text

# Cameras and phones number their pictures: such a name is no prompt.
NUMBERED = re.compile(
    r"(img|dsc[nf]?|pxl|mvimg|gopr|dji|photo|image|picture|screenshot|scan|frame|untitled|p|[\W\d_])*",
    re.IGNORECASE,
)


def motion_prompt(motion: str) -> str:
    """The motion's name as a prompt: `birds_fly` -> "birds fly"."""
    return " ".join(re.split(r"[_\s]+", motion.strip()))


def prompt_of(file: Path) -> str | None:
    """What a picture is called, as the authors' `a_red_horse_runs.png`; None for numbers like `IMG_1.jpg`."""
    words = " ".join(file.stem.replace("_", " ").split())
    return None if NUMBERED.fullmatch(words) else words


def read_captions(clips: list[Path], motion: str, captions: str | Path | bool | None = None) -> list[str]:
    """One prompt per clip, the first where a clip has several; see `read_captions_of_each`."""
    return [each[0] for each in read_captions_of_each(clips, motion, captions)]


def read_captions_of_each(
    clips: list[Path], motion: str, captions: str | Path | bool | None = None
) -> list[tuple[str, ...]]:
    """The prompts of each clip, one or several.

    Looks for `captions` (a file), else captions.json or captions.txt beside the clips, else <clip>.txt beside
    each clip, else takes the motion's name; False takes the motion's name in any case. `listed_texts` says
    what a file may hold. Several captions of a clip are a list in JSON, or several lines `name: text`. Raises
    UserError for one that cannot be read or does not match the clips.
    """
    default, folder = motion_prompt(motion), clips[0].parent
    if captions is False:
        return [(default,)] * len(clips)
    if captions is not None and captions is not True:
        file = Path(captions).expanduser()
        if not file.exists():
            raise UserError(
                f"{file}: this caption file does not exist. Correct the path, or leave captions out."
            )
        return _listed_captions(file, clips, default)
    found = [file for name in ("captions.json", "captions.txt") if (file := folder / name).exists()]
    if len(found) > 1:
        raise UserError(f"{folder}: found both captions.json and captions.txt. Keep one of them.")
    if found:
        return _listed_captions(found[0], clips, default)
    beside = [clip.with_suffix(".txt") for clip in clips]
    return [(own_text(file, kind="caption") if file.exists() else default,) for file in beside]


def _listed_captions(file: Path, clips: list[Path], default: str) -> list[tuple[str, ...]]:
    found = _listed(file, [(clip.name, clip.stem) for clip in clips], "caption", only_these=True)
    without = [clip.name for clip, captions in zip(clips, found, strict=True) if captions is None]
    if without:
        warnings.warn(
            f"{file}: no caption for {len(without)} of {len(clips)} clips ({without[0]}, ...): "
            f"using {default!r}.",
            stacklevel=2,
        )
    return [(default,) if captions is None else captions for captions in found]


def own_text(file: Path, *, kind: str) -> str:
    """The caption or prompt in a file that holds nothing else. Raises UserError where there is none."""
    return _one_text(file, _read(file, kind), kind)


def listed_texts(
    file: Path, names: Sequence[tuple[str, str]], *, kind: str, only_these: bool = False
) -> list[str | None]:
    """The text of each of several videos from one file; None where the file names others but not this one.

    A text file has one text for all, one on each line in the videos' order, or lines `name: text`; JSON a
    text, a list, or an object by name; CSV two columns, name and text.

    Args:
        file: the path.
        names: of each video, with and without its ending; the file may use either.
        kind: what a text is, for messages: "caption" or "prompt".
        only_these: the file may name no other videos.

    Raises:
        UserError: the file cannot be read, or does not fit the videos.
    """
    found = _listed(file, names, kind, only_these=only_these, several=False)
    return [None if each is None else each[0] for each in found]


def _listed(
    file: Path,
    names: Sequence[tuple[str, str]],
    kind: str,
    *,
    only_these: bool,
    several: bool = True,
) -> list[tuple[str, ...] | None]:
    """As `listed_texts`, with all texts of each video; with `several` it may have more than one."""
    text, known = _read(file, kind), {name for each in names for name in each}
    given: Any
    if file.suffix.lower() == ".json":
        given = _parse_json(file, text, kind, several)
    elif file.suffix.lower() == ".csv":
        given = _parse_csv(file, text, kind)
    else:
        given = _parse_lines(file, text, known, several)
    if isinstance(given, str):
        given = [given]
    if isinstance(given, dict):
        unknown = sorted(set(given) - known)
        if unknown and only_these:
            raise UserError(f"{file}: names {unknown[0]!r}, which is no clip. Correct or remove it.")
        found = [given.get(name, given.get(short)) for name, short in names]
    elif len(given) == 1:
        found = [*given] * len(names)
    elif len(given) == len(names):
        found = [*given]
    else:
        raise UserError(
            f"{file}: found {len(given)} {kind}s for {len(names)} videos. Give one for each in the order of "
            f"their names, one for all, or lines like {names[0][0]}: a {kind}."
        )
    listed = [[each] if isinstance(each, str) else each for each in found]
    return [None if each is None else tuple(_one_text(file, text, kind) for text in each) for each in listed]


def _parse_json(file: Path, text: str, kind: str, several: bool) -> Any:
    """A text, or a list or an object of texts; with `several` also of lists of them."""
    given = parse_json(text, file=file, what=f"{kind}s", deepest=3 if several else 2)
    values = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]

    def is_usable(value: Any) -> bool:
        if several and isinstance(value, list):
            return bool(value) and all(isinstance(each, str) for each in value)
        return isinstance(value, str)

    if not all(map(is_usable, values)):
        lists = ", and a list for a clip with several captions" if several else ""
        raise UserError(
            f"{file}: {kind}s must be texts: write a text, a list of texts, or an object such as "
            f'{{"1.mp4": "a {kind}"}}{lists}.'
        )
    return given


def _parse_csv(file: Path, text: str, kind: str) -> dict[str, str]:
    try:
        rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{file} cannot be read as CSV ({error}).") from error
    if any(len(row) < 2 for row in rows):
        raise UserError(f"{file}: each row needs two columns, a video's name and its {kind}.")
    return {row[0].strip(): row[1].strip() for row in rows}


def _parse_lines(
    file: Path, text: str, names: Collection[str], several: bool
) -> list[str] | dict[str, str] | dict[str, list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [[part.strip() for part in re.split(r"[:\t]", line, maxsplit=1)] for line in lines]
    other = [
        line
        for line, (name, *rest) in zip(lines, pairs, strict=True)
        if not rest or not (name in names or re.search(r"\.\w{3,4}$", name))
    ]
    if not other and several:
        named: dict[str, list[str]] = {}
        for name, line in pairs:
            named.setdefault(name, []).append(line)
        return named
    if not other:
        return dict(pairs)
    if any(rest and name in names for name, *rest in pairs):
        raise UserError(
            f"{file}: some lines begin with a video's name, but not {other[0]!r}. Write name: text in each "
            "line, or only texts."
        )
    return lines


def _one_text(file: Path, text: str, kind: str) -> str:
    text = check_text(text, file=file, what=f"a {kind}")
    if not text:
        raise UserError(f"{file}: found an empty {kind}. Write one, or leave the file out.")
    return text


def _read(file: Path, kind: str) -> str:
    text = read_text(file, what=f"{kind}s")
    if not text.strip():
        raise UserError(f"{file}: this {kind} file is empty. Fill it, or leave it out.")
    return text
