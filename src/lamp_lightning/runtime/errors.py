"""Errors meant for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(RuntimeError):
    """Something the user gave cannot be used.

    The message names the file or setting, what was found there and what to do. Commands print it without
    a traceback and exit with status 1.

    Example:
        >>> from lamp_lightning import LAMPPipeline
        >>> LAMPPipeline.from_pretrained("no such folder")
        Traceback (most recent call last):
        ...
        lamp_lightning.runtime.errors.UserError: ...
    """


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it, the latest first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """What an error says in its first line, else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: CUDA's kind, Python's, or the processor's, which has no type of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "allocate memory", "enough memory", "alloc_failed")
    )
