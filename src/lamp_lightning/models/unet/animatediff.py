"""AnimateDiff's motion modules (Guo et al. 2024, arXiv 2307.04725) in the place of LAMP's motion layers.

The modules and the UNet are diffusers'; they are tuned, loaded and sampled as LAMP's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from lamp_lightning.models.backbone import VideoBackbone, as_output
from lamp_lightning.models.lora import LoraLayers, refuse_loaded
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm

__all__ = ["AnimateDiffUNet", "ModelMixin"]  # diffusers looks for ModelMixin here when it loads a pipeline

MOST_FRAMES = 32  # that the published modules count


class MotionModule(AnimateDiffTransformer3D):
    """A motion module that can be left out. Not constructed: diffusers' modules become these, in place."""

    motion = True

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(hidden_states, *args, **kwargs) if self.motion else hidden_states


class AnimateDiffUNet(LoraLayers, UNetMotionModel, VideoBackbone):
    """diffusers' `UNetMotionModel` as a backbone, of which the motion modules are tuned; see `from_unet`."""

    _repeated_blocks: ClassVar[list[str]] = ["BasicTransformerBlock"]  # for `compile_repeated_blocks`

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, norm: Norm = "per_frame", variant: Variant | None = None
    ) -> AnimateDiffUNet:
        """Put new motion modules, whose output begins at zero, between the layers of an image UNet.

        Args:
            unet: a `UNet2DConditionModel` of Stable Diffusion's kind; its weights are copied.
            norm: "per_frame", as AnimateDiff's are.
            variant: of the kind "animatediff"; None: as published, without a first frame.

        Raises:
            UserError: another norm, or a UNet that diffusers' motion UNet cannot be made from.
        """
        _check_norm(norm)
        refuse_loaded(unet, "inflated")
        config = unet.config
        try:
            adapter = MotionAdapter(
                block_out_channels=config.block_out_channels,
                motion_layers_per_block=config.layers_per_block,
                motion_norm_num_groups=config.norm_num_groups,
                motion_max_seq_length=MOST_FRAMES,
                motion_num_attention_heads=8,
                use_motion_mid_block=False,  # as published, but for version 2
            )
            inflated = cast(AnimateDiffUNet, cls.from_unet2d(unet, adapter))
            if getattr(unet, "add_embedding", None) is not None:  # of SDXL; diffusers does not copy it
                cast(Any, inflated).add_embedding.load_state_dict(unet.add_embedding.state_dict())
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(f"diffusers cannot put motion modules into this UNet: {error}") from error
        for module in inflated._motion_modules():
            for parameter in module.proj_out.parameters():
                nn.init.zeros_(parameter)
        inflated.set_variant(variant or Variant(kind="animatediff", first_frame=False))
        return inflated

    def _motion_modules(self) -> list[MotionModule]:
        """The motion modules, each made one that can be left out."""
        modules = [module for module in self.modules() if isinstance(module, AnimateDiffTransformer3D)]
        for module in modules:
            module.__class__ = MotionModule
        return cast(list[MotionModule], modules)

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any] | None = None,
        *,
        return_dict: bool | None = None,
        **kwargs: Any,  # what `UNetMotionModel` takes further, such as a ControlNet's residuals
    ) -> Any:
        frames = sample.shape[2]
        if frames > self.config.motion_max_seq_length:
            raise UserError(
                f"AnimateDiff's motion modules count to {self.config.motion_max_seq_length}, and {frames} "
                "frames are asked for: longer videos go on in windows, "
                f"sampler.window={self.config.motion_max_seq_length}."
            )
        prediction = UNetMotionModel.forward(
            self,
            sample,
            torch.as_tensor(timestep, device=sample.device),
            encoder_hidden_states.repeat_interleave(frames, dim=0),
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
            **kwargs,
        )[0]
        return as_output(prediction, return_dict)

    @property
    def norm(self) -> Norm:
        return "per_frame"

    def set_norm(self, norm: Norm) -> None:
        _check_norm(norm)

    @property
    def variant(self) -> Variant:
        return Variant.from_settings(self.config._motion_variant)

    def set_variant(self, variant: Variant) -> None:
        if variant.kind != "animatediff":
            raise UserError(
                "This UNet has AnimateDiff's motion modules and cannot take LAMP's layers, which need "
                "another: LAMPPipeline.from_motion(<adapter>) loads the right one."
            )
        self.register_to_config(_motion_variant=variant.settings())
        self.require_gradients()

    @contextmanager
    def image_model(self) -> Iterator[AnimateDiffUNet]:
        modules = self._motion_modules()
        try:
            for module in modules:
                module.motion = False
            with torch.no_grad():
                yield self
        finally:
            for module in modules:
                module.motion = True


def _check_norm(norm: Norm) -> None:
    if norm != "per_frame":
        raise UserError("AnimateDiff normalises frame by frame: model.norm=per_frame.")
