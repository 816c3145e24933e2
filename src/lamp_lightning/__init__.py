"""LAMP on Lightning: learn a motion from 8-16 clips, then paint videos that move that way."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

# Where it is installed, diffusers imports it, and it reports kernels that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m lamp_lightning.<command>`
    from lamp_lightning.stopping import quiet_interrupts

    quiet_interrupts()

__version__ = "0.1.0"

# Name -> module, imported at first use: `import lamp_lightning` stays instant.
_EXPORTS = {
    "MotionUNet": "lamp_lightning.unet",
    "LAMPPipeline": "lamp_lightning.pipeline",
    "MotionTuner": "lamp_lightning.module",
    "MotionSetDataModule": "lamp_lightning.datamodule",
    "UserError": "lamp_lightning.errors",
}

__all__ = ["LAMPPipeline", "MotionSetDataModule", "MotionTuner", "MotionUNet", "UserError", "__version__"]

if TYPE_CHECKING:
    from lamp_lightning.datamodule import MotionSetDataModule
    from lamp_lightning.errors import UserError
    from lamp_lightning.module import MotionTuner
    from lamp_lightning.pipeline import LAMPPipeline
    from lamp_lightning.unet import MotionUNet


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'lamp_lightning' has no attribute {name!r}")
