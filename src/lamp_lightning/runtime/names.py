"""Texts and names in files, as types that `Schema` checks."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

TOY_MODELS = ("tiny", "tiny_dit")  # of the package: a UNet and a transformer of the toy world


def is_unicode(text: str) -> bool:
    """Whether a text can be written: it has no halves of characters, Python's way to hold bytes of names."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _written(text: str) -> str:
    if not is_unicode(text):
        raise ValueError("it is no UTF-8 text")
    return text


def _plain(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a name has no control characters")
    return text


Text = Annotated[str, Field(max_length=100_000), AfterValidator(_written)]
Name = Annotated[str, Field(max_length=4096), AfterValidator(_written), AfterValidator(_plain)]  # or a path
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
