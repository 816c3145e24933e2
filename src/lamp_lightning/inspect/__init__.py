"""A first look at a folder of clips, before anything is tuned on it.

Importing this package is instant; each name is loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamp_lightning.inspect.inspection import Inspection, inspect_clips
    from lamp_lightning.inspect.look import ClipFacts

_EXPORTS = {"ClipFacts": "look", "Inspection": "inspection", "inspect_clips": "inspection"}

__all__ = ["ClipFacts", "Inspection", "inspect_clips"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
