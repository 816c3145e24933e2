"""The motion UNet: a text-to-image UNet inflated in place to paint clips."""

from __future__ import annotations

from lamp_lightning.unet.motion_unet import MotionUNet

__all__ = ["MotionUNet"]
