"""Files as data: read whole and within limits, checked against a schema before anything is done with them.

A file may come from somebody else. Nothing in it is executed, interpolated or used as a place to write to.
"""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lamp_lightning.runtime.errors import UserError

LARGEST_TEXT = 16 * 2**20  # bytes of a text file that is read: configs, records and captions are far smaller
LONGEST_PROMPT = 10_000  # characters of a prompt or caption; CLIP reads about the first 300
LARGEST_CONFIG = 1 << 18  # bytes of a YAML file; a run's has some 5,000
DEEPEST = 40  # levels of nesting; what we write has at most 8


class Schema(BaseModel):
    """What may stand in a file: types are exact, unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def read_bytes(file: Path, *, what: str, limit: int = LARGEST_TEXT) -> bytes:
    """The bytes of a regular file, which is to be `what` ("the record of a video"), of at most `limit` bytes.

    UserError where it is missing, no regular file, too large, or cannot be read.
    """
    try:
        with open_file(file, what=what, limit=limit) as opened:
            return opened.read(limit + 1)
    except OSError as error:
        raise _unreadable(file, what, error) from error


def open_file(file: Path, *, what: str, limit: int) -> BinaryIO:
    """A regular file of at most `limit` bytes, opened for reading; arguments and errors as `read_bytes`."""
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unreadable(file, what, error) from error
    about = os.fstat(handle)
    fault = None
    if not stat.S_ISREG(about.st_mode):
        fault = "it is no regular file. Give a file."
    elif about.st_size > limit:
        fault = f"it has {about.st_size:,} bytes, and {limit:,} is the most. Give the right file."
    if fault:
        os.close(handle)
        raise UserError(f"{file} cannot be read as {what}: {fault}")
    return open(handle, "rb")


def read_text(file: Path, *, what: str, limit: int = LARGEST_TEXT) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark; as `read_bytes`."""
    try:
        return read_bytes(file, what=what, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} cannot be read as {what}: byte {error.start} is no UTF-8. Save it as UTF-8."
        ) from error


def parse_json(text: str, *, file: Path, what: str, deepest: int = DEEPEST) -> Any:
    """A text, `what` of a file, as JSON of at most `deepest` levels. UserError where it is none."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(file, what, deepest) from None
    except ValueError as error:
        raise UserError(f"{file} cannot be read as {what}: it is not valid JSON ({error}).") from error
    check_depth(value, file=file, what=what, deepest=deepest)
    return value


def read_json(file: Path, *, what: str, limit: int = LARGEST_TEXT, deepest: int = DEEPEST) -> Any:
    """A JSON file, with the checks of `read_text` and `parse_json`; raises UserError as they do."""
    return parse_json(read_text(file, what=what, limit=limit), file=file, what=what, deepest=deepest)


def check_text(text: str, *, file: Path, what: str) -> str:
    """A prompt or caption, `what` of a file, in one line without spaces around it.

    Raises:
        UserError: it is too long, or has characters that no text has: control characters, which a terminal
            would obey, or halves of surrogate pairs.
    """
    line, most = " ".join(text.split()), LONGEST_PROMPT
    if len(line) > most:
        raise UserError(f"{file}: {what} has {len(line):,} characters, and {most:,} are the most. Cut it.")
    for character in line:
        if unicodedata.category(character) in ("Cc", "Cs"):
            found = f"the character U+{ord(character):04X}"
            raise UserError(f"{file}: {what} has {found}, which is no part of a text. Remove it.")
    return line


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values: no tags, no aliases (a few lines of them stand for billions of values)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "it has an alias (*), which no run has", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.value in keys:
                fault = f"it has {key.value!r} twice"
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# As OmegaConf reads numbers: 1e-3 is one.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+(?:_\d+)*\.?\d*(?:[eE][-+]?\d+)|\d+\.\d*|\.\d+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(file: Path, *, what: str) -> Any:
    """A YAML file, which is to be `what`, as plain data.

    UserError where it cannot be read, is too large or too deep, or has a tag, an alias or a key twice.
    """
    text = read_text(file, what=what, limit=LARGEST_CONFIG)
    try:
        value = yaml.load(text, Loader=_PlainLoader)
    except RecursionError:
        raise UserError(f"{file} cannot be read as {what}: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{file} cannot be read as {what}: {problem}{where}.") from error
    check_depth(value, file=file, what=what)
    return value


def literal(value: Any) -> Any:
    """Data whose texts OmegaConf takes as they are, whatever `${...}` is in them."""
    if isinstance(value, dict):
        return {key: literal(each) for key, each in value.items()}
    if isinstance(value, list):
        return [literal(each) for each in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value


def check_depth(value: Any, *, file: Path, what: str, deepest: int = DEEPEST) -> None:
    """Raise UserError where lists and mappings are nested more than `deepest` levels."""
    level, values = 0, [value]
    while values:
        if level > deepest:
            raise _too_deep(file, what, deepest)
        inside: list[Any] = []
        for each in values:
            if isinstance(each, dict):
                inside += each.values()
            elif isinstance(each, list):
                inside += each
        level, values = level + 1, inside


def checked(schema: type[S], value: Any, *, file: Path, what: str, advice: str) -> S:
    """What was read from a file, as the schema says.

    Args:
        schema: the types, ranges and keys that are allowed.
        value: what was read.
        file: where it stands.
        what: what the file is: "the record of a video".
        advice: what the user can do about it, a whole sentence.

    Raises:
        UserError: names the first part that does not fit, what was found there, and the advice.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{file} cannot be used as {what}: {describe(error)}. {advice}") from error
    except RecursionError:
        raise _too_deep(file, what, DEEPEST) from None


def describe(error: ValidationError) -> str:
    """The first fault that pydantic found, in words: which part, what is wrong, and what was found."""
    first = error.errors(include_url=False)[0]
    part = ".".join(str(key) for key in first["loc"])
    if first["type"] == "missing":
        return f"it lacks {part!r}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"it has {part!r}, which is not known"
    found = shortened(first["input"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{part!r} is {found}: {message[0].lower()}{message[1:]}" if part else f"it is {found}: {message}"


def shortened(value: Any) -> str:
    """A value as Python shows it, in at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _unreadable(file: Path, what: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{file} cannot be read as {what} ({reason}). Check the path.")


def _too_deep(file: Path, what: str, deepest: int) -> UserError:
    return UserError(f"{file} cannot be read as {what}: it is nested more than {deepest} levels deep.")
