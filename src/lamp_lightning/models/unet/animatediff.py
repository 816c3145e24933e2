"""AnimateDiff's motion modules (Guo et al. 2024, arXiv 2307.04725) in the place of LAMP's motion layers.

The modules and the UNet are diffusers' (`MotionAdapter`, `UNetMotionModel`); here they are tuned, loaded and
sampled by what tunes, loads and samples LAMP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from lamp_lightning.models.unet.inflate import Norm
from lamp_lightning.models.unet.motion_unet import names_of
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError

__all__ = ["AnimateDiffUNet", "ModelMixin"]  # diffusers looks for ModelMixin here when it loads a pipeline

MOST_FRAMES = 32  # that the published modules count


class MotionModule(AnimateDiffTransformer3D):
    """A motion module that can be left out. Not constructed: diffusers' modules become these, in place."""

    motion = True

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(hidden_states, *args, **kwargs) if self.motion else hidden_states


class AnimateDiffUNet(UNetMotionModel):
    """diffusers' `UNetMotionModel` with what a `MotionUNet` offers for tuning, loading and sampling.

    Make one with `from_unet`. Only the motion modules are tuned; the image model stays as it is.
    """

    _before_motions: dict[str, Tensor | None] | None = None

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
        if norm != "per_frame":
            raise UserError("AnimateDiff normalises frame by frame: model.norm=per_frame.")
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
                inflated.add_embedding.load_state_dict(unet.add_embedding.state_dict())
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
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Denoise clips, `b c f h w -> b c f h w`; arguments as of `MotionUNet.forward`.

        Raises:
            UserError: more frames than the modules count.
        """
        frames = sample.shape[2]
        if frames > self.config.motion_max_seq_length:
            raise UserError(
                f"AnimateDiff's motion modules count to {self.config.motion_max_seq_length}, and {frames} "
                "frames are asked for: longer videos go on in windows, "
                f"sampler.window={self.config.motion_max_seq_length}."
            )
        return super().forward(
            sample,
            torch.as_tensor(timestep, device=sample.device),
            encoder_hidden_states.repeat_interleave(frames, dim=0),
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )[0]

    # -- as a MotionUNet -------------------------------------------------------------------------------------

    @property
    def norm(self) -> Norm:
        """Always "per_frame"."""
        return "per_frame"

    def set_norm(self, norm: Norm) -> None:
        """Raises UserError for any other than "per_frame"."""
        if norm != self.norm:
            raise UserError("AnimateDiff normalises frame by frame: model.norm=per_frame.")

    @property
    def variant(self) -> Variant:
        """Whether frame 0 is given, and what is tuned."""
        return Variant.from_settings(self.config._motion_variant)

    def set_variant(self, variant: Variant) -> None:
        """Be another variant from now on. Raises UserError for one with other motion layers."""
        if variant.kind != "animatediff":
            raise UserError(
                "This UNet has AnimateDiff's motion modules and cannot take LAMP's layers, which need "
                "another: LAMPPipeline.from_motion(<adapter>) loads the right one."
            )
        self.register_to_config(_motion_variant=variant.settings())
        self.requires_grad_(False)
        for parameter in self.tuned_parameters():
            parameter.requires_grad_(True)

    def names_of(self, sets: Iterable[str]) -> list[str]:
        """Names of the parameters in these sets (`Variant.sets`), sorted."""
        return names_of(self, sets)

    def trainable_names(self) -> list[str]:
        """Names of the parameters that are tuned, sorted; they are those of diffusers' `MotionAdapter`."""
        return self.names_of(self.variant.sets)

    def tuned_parameters(self) -> list[nn.Parameter]:
        """The parameters that are tuned, in the order of `trainable_names()`."""
        parameters = dict(self.named_parameters())
        return [parameters[name] for name in self.trainable_names()]

    def save_motion(self, file: str | Path, **metadata: Any) -> None:
        """Save the motion modules as a motion adapter (`weights.adapter.save_motion`)."""
        from lamp_lightning.models.adapter import save_motion

        save_motion(self, file, **metadata)

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter and return its metadata (`weights.adapter.load_motion`)."""
        from lamp_lightning.models.adapter import load_motion

        return load_motion(self, file, **kwargs)

    def set_motions(self, motions: Mapping[str | Path, float], **kwargs: Any) -> list[dict[str, str]]:
        """Load one adapter. Raises UserError for several: motion modules are not mixed."""
        if list(motions.values()) != [1]:
            raise UserError("AnimateDiff's motion modules cannot be weighted or mixed: give one motion.")
        return [self.load_motion(next(iter(motions)), **kwargs)]

    def unload_motion(self) -> None:
        """Be what it was before the first `load_motion`."""
        self.put_tuned({})

    def remember_untuned(self, variant: Variant) -> None:
        """Keep the modules as they are before the first motion, on the CPU."""
        if self._before_motions is None:
            named = zip(self.trainable_names(), self.tuned_parameters(), strict=True)
            self._before_motions = {name: p.detach().to("cpu", copy=True) for name, p in named}

    def untuned(self) -> dict[str, Tensor | None]:
        """The parameters that were remembered, as they were."""
        return self._before_motions or {}

    def put_tuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a motion's parameters, and for those that it lacks the remembered ones."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, before in self.untuned().items():
                parameters[name].copy_(cast(Tensor, tensors.get(name, before)))

    @property
    def knows_image_model(self) -> bool:
        """Always: the image model is never tuned."""
        return True

    @contextmanager
    def image_model(self) -> Iterator[AnimateDiffUNet]:
        """In this context the UNet is the image model, frame by frame. Without gradients."""
        modules = self._motion_modules()
        try:
            for module in modules:
                module.motion = False
            with torch.no_grad():
                yield self
        finally:
            for module in modules:
                module.motion = True
