"""AnimateDiff's motion modules (Guo et al. 2024, arXiv 2307.04725) in the place of LAMP's motion layers.

The modules and the UNet are diffusers'; they are tuned, loaded and sampled as LAMP's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from safetensors import SafetensorError
from torch import Tensor, nn

from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.checks import check_folder
from lamp_lightning.models.denoiser import as_output, check_clips
from lamp_lightning.models.lora import LoraLayers, refuse_loaded
from lamp_lightning.models.modules import MotionModules
from lamp_lightning.models.tensors import check_finite
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError, first_line
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import Norm

__all__ = ["AnimateDiffUNet", "ModelMixin"]  # diffusers looks for ModelMixin here when it loads a pipeline


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
        cls,
        unet: UNet2DConditionModel,
        norm: Norm = "per_frame",
        variant: Variant | None = None,
        modules: MotionModules | MotionAdapter | None = None,
    ) -> AnimateDiffUNet:
        """Put motion modules between the layers of an image UNet: new ones, or published ones.

        Args:
            unet: a `UNet2DConditionModel` of Stable Diffusion's kind; its weights are copied.
            norm: "per_frame", as AnimateDiff's are.
            variant: of the kind "animatediff"; None: as published, without a first frame.
            modules: diffusers' `MotionAdapter` with its weights, or the structure of new ones, whose output
                begins at zero; None: as of version 1.

        Raises:
            UserError: another norm, or a UNet that diffusers' motion UNet cannot be made from.
        """
        _check_norm(norm)
        refuse_loaded(unet, "inflated")
        new = not isinstance(modules, MotionAdapter)
        try:
            adapter: Any = modules
            if new:
                adapter = MotionAdapter(**_of_unet(unet), **(modules or MotionModules()).model_dump())
            inflated = cast(AnimateDiffUNet, cls.from_unet2d(unet, adapter))
            if getattr(unet, "add_embedding", None) is not None:  # of SDXL; diffusers does not copy it
                cast(Any, inflated).add_embedding.load_state_dict(unet.add_embedding.state_dict())
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(f"diffusers cannot put motion modules into this UNet: {error}") from error
        for module in inflated._motion_modules() if new else ():
            for parameter in module.proj_out.parameters():
                nn.init.zeros_(parameter)
        inflated.set_variant(variant or Variant(kind="animatediff", first_frame=False))
        return inflated

    @property
    def modules_structure(self) -> MotionModules | None:
        found = MotionModules(**{name: self.config[name] for name in MotionModules.model_fields})
        return None if found == MotionModules() else found

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
        check_clips(sample, encoder_hidden_states)
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
    def image_layers(self) -> Iterator[None]:
        modules = self._motion_modules()
        try:
            for module in modules:
                module.motion = False
            yield
        finally:
            for module in modules:
                module.motion = True

    @contextmanager
    def image_model(self) -> Iterator[AnimateDiffUNet]:
        with self.image_layers(), torch.no_grad():
            yield self


def load_modules(source: str | Path, unet: UNet2DConditionModel) -> MotionAdapter:
    """Published motion modules, `MotionAdapter.from_pretrained`, after a look at what they are.

    Args:
        source: a folder or hub id with a diffusers `MotionAdapter`; its weights are safetensors.
        unet: the image UNet that they are for.

    Raises:
        UserError: nothing there, modules of another kind of model, or a damaged file.
    """
    where = f"model.motion_adapter={source}"
    folder = Path(source).expanduser()
    if folder.is_dir():
        check_folder(folder)
    try:
        config: Any = MotionAdapter.load_config(str(folder if folder.is_dir() else source))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{where} holds no motion modules that can be loaded ({first_line(error)}). Give a folder or hub "
            "id of a diffusers MotionAdapter, such as guoyww/animatediff-motion-adapter-v1-5-2."
        ) from error
    if config.get("_class_name") != "MotionAdapter":
        raise UserError(f"{where} is a {config.get('_class_name')}, not a diffusers MotionAdapter.")
    wanted = {**_of_unet(unet), **_PLAIN}
    for name, ours in wanted.items():
        theirs = config.get(name, ours)
        if _alike(theirs) != _alike(ours):
            raise UserError(
                f"{where} was made for another image model: {name} is {theirs}, and this model needs {ours}."
            )
    if config.get("conv_in_channels"):
        raise UserError(f"{where} also replaces the first convolution, as PIA does, which is not supported.")
    known = {name: config[name] for name in MotionModules.model_fields if name in config}
    usable(MotionModules, where, known)
    try:
        adapter, report = MotionAdapter.from_pretrained(
            str(folder if folder.is_dir() else source), use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{where} cannot be loaded: {first_line(error)}") from error
    if missing := report["missing_keys"]:
        raise UserError(f"{where} lacks tensors ({len(missing)}, first {min(missing)!r}): fetch it again.")
    check_finite(dict(adapter.named_parameters()), where, "Fetch it again.")
    return adapter


_PLAIN = {"motion_transformer_layers_per_block": 1, "motion_transformer_layers_per_mid_block": 1}


def _of_unet(unet: UNet2DConditionModel) -> dict[str, Any]:
    """What an image UNet says of its motion modules, by the words of `MotionAdapter`."""
    return {
        "block_out_channels": unet.config.block_out_channels,
        "motion_layers_per_block": unet.config.layers_per_block,
        "motion_norm_num_groups": unet.config.norm_num_groups,
    }


def _alike(value: Any) -> Any:
    """A list of equal numbers is that number, as in diffusers."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[0] if len(set(map(str, values))) == 1 else values


def _check_norm(norm: Norm) -> None:
    if norm != "per_frame":
        raise UserError("AnimateDiff normalises frame by frame: model.norm=per_frame.")
