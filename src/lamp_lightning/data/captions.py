"""The prompt of each clip: the motion's name, or what a caption file says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

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


def read_captions(clips: list[Path], motion: str, captions: str | Path | bool | None = None) -> list[str]:
    """One prompt per clip.

    Looks for `captions` (a file), else captions.json or captions.txt beside the clips, else <clip>.txt beside
    each clip, else takes the motion's name; False takes the motion's name in any case. captions.txt has one
    line for all clips, or one line per clip in order, or lines `clip.mp4: caption`; captions.json one text, a
    list, or an object by clip name. Raises UserError for a file that cannot be read or does not match the
    clips.
    """
    default = motion_prompt(motion)
    if captions is False:
        return [default] * len(clips)
    if captions is not None and captions is not True:
        file = Path(captions).expanduser()
        if not file.exists():
            raise UserError(
                f"{file}: this caption file does not exist. Correct the path, or leave captions out."
            )
        return _from_file(file, clips, default)
    folder = clips[0].parent
    found = [file for name in ("captions.json", "captions.txt") if (file := folder / name).exists()]
    if len(found) > 1:
        raise UserError(f"{folder}: found both captions.json and captions.txt. Keep one of them.")
    if found:
        return _from_file(found[0], clips, default)
    return [_beside(clip, default) for clip in clips]


def _beside(clip: Path, default: str) -> str:
    file = clip.with_suffix(".txt")
    if not file.exists():
        return default
    return _one_text(file, _read(file))


def _from_file(file: Path, clips: list[Path], default: str) -> list[str]:
    text = _read(file)
    given = _parse_json(file, text) if file.suffix.lower() == ".json" else _parse_lines(text, clips)
    if isinstance(given, str):
        return [_one_text(file, given)] * len(clips)
    if isinstance(given, list):
        if len(given) != len(clips):
            raise UserError(
                f"{file}: found {len(given)} captions for {len(clips)} clips. Give one for each clip in "
                f"order, one for all, or name the clips ({clips[0].name}: a caption)."
            )
        return [_one_text(file, caption) for caption in given]
    return _by_name(file, given, clips, default)


def _by_name(file: Path, given: dict[str, str], clips: list[Path], default: str) -> list[str]:
    names = {clip.name for clip in clips} | {clip.stem for clip in clips}
    unknown = sorted(set(given) - names)
    if unknown:
        raise UserError(
            f"{file}: names {unknown[0]!r}, which is no clip of {clips[0].parent}. Correct or remove it."
        )
    found = [given.get(clip.name, given.get(clip.stem)) for clip in clips]
    without = [clip.name for clip, caption in zip(clips, found, strict=True) if caption is None]
    if without:
        warnings.warn(
            f"{file}: no caption for {len(without)} of {len(clips)} clips ({without[0]}, ...): "
            f"using {default!r}.",
            stacklevel=2,
        )
    return [default if caption is None else _one_text(file, caption) for caption in found]


def _parse_json(file: Path, text: str) -> str | list[str] | dict[str, str]:
    given = parse_json(text, file=file, what="captions", deepest=2)
    values = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]
    if not all(isinstance(value, str) for value in values):
        raise UserError(
            f"{file}: captions must be texts. Write one text, a list of texts in the clips' order, or an "
            'object such as {"clip_0.mp4": "a caption"}.'
        )
    return given


def _parse_lines(text: str, clips: list[Path]) -> str | list[str] | dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [re.match(r"([^\s:\t][^:\t]*?\.\w{3,4})\s*[:\t]\s*(.*)", line) for line in lines]
    if lines and all(named):
        return {match[1]: match[2] for match in named if match}
    return lines[0] if len(lines) == 1 else lines


def _one_text(file: Path, caption: str) -> str:
    caption = check_text(caption, file=file, what="a caption")
    if not caption:
        raise UserError(
            f"{file}: found an empty caption. Write one, or remove the file to use the motion's name."
        )
    return caption


def _read(file: Path) -> str:
    text = read_text(file, what="captions")
    if not text.strip():
        raise UserError(
            f"{file}: this caption file is empty. Fill it, or remove it to use the motion's name."
        )
    return text


def prompt_of(file: Path) -> str | None:
    """What a picture is called, as the authors' `a_red_horse_runs.png`; None for numbers like `IMG_1.jpg`."""
    words = " ".join(file.stem.replace("_", " ").split())
    return None if NUMBERED.fullmatch(words) else words
