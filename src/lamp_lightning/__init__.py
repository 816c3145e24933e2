"""LAMP on Lightning: learn a motion from 8-16 clips, then paint videos that move that way."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from functools import partial
from typing import TYPE_CHECKING, Any

# Where it is installed, diffusers imports it, and it reports kernels that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# diffusers' loaders ask transformers for classes that need torchvision; it gives others, and need not say so.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m lamp_lightning.<command>`
    from lamp_lightning.runtime.stopping import quiet_interrupts

    quiet_interrupts()

__version__ = "0.1.0"

# Name -> module, imported at first use: `import lamp_lightning` stays instant.
_EXPORTS = {
    "LAMPPipeline": "lamp_lightning.sample.pipeline",
    "MotionUNet": "lamp_lightning.models.registry",
    "MotionTuner": "lamp_lightning.train.tuner",
    "MotionSetDataModule": "lamp_lightning.data.datamodule",
    "ClipDataModule": "lamp_lightning.data.datamodule",
    "AnimateDiffUNet": "lamp_lightning.models.unet.animatediff",
    "MotionTransformer": "lamp_lightning.models.transformer.motion_transformer",
    "MotionSana": "lamp_lightning.models.transformer.motion_transformer",
    "MotionSD3": "lamp_lightning.models.transformer.motion_transformer",
    "MotionLTX": "lamp_lightning.models.transformer.motion_ltx",
    "ModelMixin": "diffusers",  # diffusers looks for it beside the class of a saved UNet
    "UserError": "lamp_lightning.runtime.errors",
    "wandb_logger": "lamp_lightning.runtime.loggers",
    "csv_logger": "lamp_lightning.runtime.loggers",
    "tensorboard_logger": "lamp_lightning.runtime.loggers",
    "no_logger": "lamp_lightning.runtime.loggers",
}

__all__ = ["LAMPPipeline", "MotionSetDataModule", "MotionTuner", "MotionUNet", "UserError", "__version__"]

if TYPE_CHECKING:
    from lamp_lightning.data.datamodule import MotionSetDataModule
    from lamp_lightning.models.registry import MotionUNet
    from lamp_lightning.runtime.errors import UserError
    from lamp_lightning.sample.pipeline import LAMPPipeline
    from lamp_lightning.train.tuner import MotionTuner


def _attribute_of(module: str, name: str) -> Any:
    if name.startswith("__"):  # `inspect` looks at all modules for such names, and is not to import this one
        raise AttributeError(name)
    return getattr(importlib.import_module(module), name)


# Modules of version 0.1 that programs import or saved pipelines name: each gives what its successor has.
_FORMER = {
    "lamp_lightning.sampling": "lamp_lightning.diffusion",
    "lamp_lightning.unet.motion_unet": "lamp_lightning.models.unet.motion_unet",
    "lamp_lightning.unet.animatediff": "lamp_lightning.models.unet.animatediff",
}
for _former, _now in _FORMER.items():
    sys.modules[_former] = types.ModuleType(_former, f"The former name of `{_now}`.")
    vars(sys.modules[_former])["__getattr__"] = partial(_attribute_of, _now)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'lamp_lightning' has no attribute {name!r}")
