"""MotionUNet: a diffusers text-to-image UNet that denoises clips."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lamp_lightning.models.base.single_file import load_single_unet
from lamp_lightning.models.denoiser import as_output, check_clips
from lamp_lightning.models.inflated import InflatedModel
from lamp_lightning.models.lora import LoraLayers, as_saved_by_diffusers, refuse_loaded
from lamp_lightning.models.official import (
    official_image_unet,
    read_official_weights,
    save_official,
    unet_folder,
)
from lamp_lightning.models.unet.attention import MotionTransformerBlock
from lamp_lightning.models.unet.fixed import FixedUNet
from lamp_lightning.models.unet.inflate import inflate, is_joint
from lamp_lightning.models.unet.layers import ClipShape, SliceSize
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError, first_line
from lamp_lightning.runtime.settings import Norm

__all__ = ["ModelMixin", "MotionUNet"]  # diffusers looks for ModelMixin here when it loads a saved pipeline

_IMAGE_QUERY = re.compile(r"(^|\.)attn1\.to_q\.")


class MotionUNet(LoraLayers, FixedUNet, UNet2DConditionModel, InflatedModel):
    """A `UNet2DConditionModel` inflated to clips: motion layers, first-frame attention, temporal attention.

    Make one with `from_unet`, `from_pretrained` or `from_official`. It runs diffusers' own forward pass on
    folded frames, so what works on a `UNet2DConditionModel` (SDPA, gradient checkpointing, `torch.compile`,
    offloading, FreeU) works here. What would replace the attention is refused.

    Args:
        motion_norm: "joint" pools the statistics of the ResNet blocks' GroupNorms over all frames of a clip
            (what the authors' checkpoints expect), "per_frame" leaves them as in the image model.
        motion_variant: `Variant.settings()` of a model that is not LAMP as it is.
        kwargs: the arguments of `UNet2DConditionModel`.

    Example:
        >>> from lamp_lightning.models import load_base_model
        >>> unet = MotionUNet.from_unet(load_base_model("tiny").unet, norm="per_frame")
        >>> unet.trainable_names()[0]
        'conv_in.conv1d.bias'
    """

    _repeated_blocks: ClassVar[list[str]] = ["MotionTransformerBlock"]  # for `compile_repeated_blocks`

    @register_to_config
    def __init__(
        self, motion_norm: Norm = "joint", motion_variant: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._inflate(motion_norm, Variant.from_settings(motion_variant))

    def _inflate(self, norm: Norm, variant: Variant) -> None:
        self.check_variant(variant)
        self._clip = ClipShape(variant=variant)
        self._image_queries = None
        inflate(self, norm, self._clip)
        self.add_layers(variant)
        self.require_gradients()

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, norm: Norm = "joint", variant: Variant | None = None
    ) -> MotionUNet:
        """Inflate an image UNet **in place**: the same object, with its weights, becomes the MotionUNet.

        Until it is tuned, it generates images as before. All but the tuned parameters are frozen.

        Args:
            unet: any `UNet2DConditionModel` whose attention lies in spatial transformers (Stable Diffusion).
            norm: "joint" or "per_frame" (see the class).
            variant: what of LAMP it is to have and to tune; None: all.

        Raises:
            UserError: the UNet cannot be inflated, is inflated already or has LoRA layers, or `norm` is
                unknown.
        """
        if isinstance(unet, MotionUNet):
            raise UserError("This UNet is a MotionUNet already: inflate an image model's UNet, once.")
        if not isinstance(unet, UNet2DConditionModel):
            raise UserError(
                f"A {type(unet).__name__} is no UNet2DConditionModel: a MotionUNet is made of one."
            )
        refuse_loaded(unet, "inflated")
        queries = {k: v.detach().clone() for k, v in unet.named_parameters() if _IMAGE_QUERY.search(k)}
        inflated = cast(MotionUNet, unet)
        inflated.__class__ = cls
        try:
            inflated._inflate(norm, Variant())
        except UserError:
            unet.__class__ = UNet2DConditionModel
            raise
        inflated.register_to_config(motion_norm=norm, motion_variant=None)
        inflated._image_queries = queries
        if variant is not None:
            inflated.set_variant(variant)
        return inflated

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path_or_id: str | Path, norm: Norm | None = None, **kwargs: Any
    ) -> MotionUNet:
        """Load a UNet from a diffusers folder or hub id, and inflate it if it is an image model's.

        Args:
            path_or_id: a UNet's folder, a pipeline's folder (its `unet` is used), or either on the hub
                (`subfolder="unet"` is tried there).
            norm: for an image model "joint" (default) or "per_frame"; a saved MotionUNet knows its own.
            kwargs: what diffusers' `from_pretrained` takes (`torch_dtype`, `revision`, `variant`, ...).

        Raises:
            UserError: nothing loadable there, or `norm` contradicts a saved MotionUNet.
        """
        where = str(path_or_id)
        if "subfolder" not in kwargs and not (Path(where) / "config.json").is_file():
            kwargs["subfolder"] = "unet"
        of_config = ("subfolder", "revision", "cache_dir", "token")
        try:
            config: Any = cls.load_config(where, **{key: kwargs[key] for key in of_config if key in kwargs})
        except (OSError, ValueError) as error:
            raise UserError(
                f"{where} holds no UNet that can be loaded ({first_line(error)}). Give a diffusers folder "
                "with a unet/config.json, or the id of one on the hub."
            ) from error
        if config.get("_class_name") == "MotionUNet":
            if norm is not None and norm != config["motion_norm"]:
                raise UserError(f"{where} was made with norm={config['motion_norm']!r}, not {norm!r}.")
            unet = super().from_pretrained(where, **kwargs)
            folder = Path(where, kwargs.get("subfolder") or "")
            for queries in (_queries_file(kwargs.get("variant")), _queries_file(None)):  # 0.1: the latter
                if unet._image_queries is None and (folder / queries).is_file():
                    unet._image_queries = load_file(folder / queries)
            return unet
        return cls.from_unet(UNet2DConditionModel.from_pretrained(where, **kwargs), norm or "joint")

    @classmethod
    def from_single_file(cls, path: str | Path, *, norm: Norm = "joint", **kwargs: Any) -> MotionUNet:
        """The UNet of a checkpoint in one file, inflated; `kwargs` as of diffusers' `from_single_file`."""
        return cls.from_unet(load_single_unet(path, **kwargs), norm)

    @classmethod
    def from_official(cls, folder: str | Path, norm: Norm = "joint") -> MotionUNet:
        """Read a UNet folder that the authors' code saved, in the precision of its tensors.

        Args:
            folder: the folder with `config.json` and the weights, or a pipeline folder with such a `unet`.
                `.safetensors` is preferred; a `.bin` is read as plain tensors, code in it is never run.
            norm: "joint" as their checkpoints expect, or "per_frame" to compare.

        Raises:
            UserError: not such a folder, a damaged or unsafe file, missing, extra, mis-shaped or non-finite
                tensors.
        """
        folder = unet_folder(folder)
        image = official_image_unet(folder)
        with torch.device("meta"):
            unet = cls.from_unet(image, norm)
        unet._image_queries = None  # their folder holds the tuned queries only
        unet.load_state_dict(read_official_weights(folder, unet), assign=True)
        unet.require_gradients()
        return unet.eval()

    def save_official(self, folder: str | Path) -> None:
        """Write a UNet folder that the authors' code reads (see `models.official`), without LoRA layers."""
        refuse_loaded(self, "saved")
        save_official(self, folder)

    @as_saved_by_diffusers
    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with the image model's queries.

        Raises:
            UserError: several motions are mixed, or there are LoRA layers or an IP-Adapter.
        """
        if self.is_mixed:
            raise UserError("Several motions are mixed: load one, or unload them, and save then.")
        self.refuse_factors()
        super().save_pretrained(save_directory, *args, **kwargs)
        if self._image_queries is not None:
            queries = {name: tensor.cpu().contiguous() for name, tensor in self._image_queries.items()}
            save_file(queries, Path(save_directory) / _queries_file(kwargs.get("variant")))

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any] | None = None,
        *,
        known: Sequence[int] | None = None,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: tuple[Tensor, ...] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Denoise clips, `b c f h w -> b c f h w` (see `VideoBackbone.forward`).

        Args:
            sample, timestep, encoder_hidden_states, added_cond_kwargs, known, return_dict: see there.
            timestep_cond: one row for each clip, where the model takes a guidance embedding.
            cross_attention_kwargs: {"scale": s} scales LoRA layers, as in diffusers.
            down_block_additional_residuals, mid_block_additional_residual: what a ControlNet gives for the
                frames, `(b f) c h w`, to be added to the image model's features.
            down_intrablock_additional_residuals: likewise, of a T2I-Adapter.
        """
        check_clips(sample, encoder_hidden_states)
        clips, _channels, frames, _height, _width = sample.shape
        self.see(frames, known)
        if timestep_cond is not None:
            timestep_cond = timestep_cond.repeat_interleave(frames, dim=0)
        if added_cond_kwargs is not None:
            added_cond_kwargs = {
                name: value if name == "image_embeds" else value.repeat_interleave(frames, dim=0)
                for name, value in added_cond_kwargs.items()
            }
        folded = UNet2DConditionModel.forward(
            self,
            sample.transpose(1, 2).flatten(0, 1),
            self.times_of_frames(timestep, clips, sample.device),
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            cross_attention_kwargs=cross_attention_kwargs,
            added_cond_kwargs=added_cond_kwargs,
            down_block_additional_residuals=down_block_additional_residuals,
            mid_block_additional_residual=mid_block_additional_residual,
            down_intrablock_additional_residuals=down_intrablock_additional_residuals,
            return_dict=False,
        )[0]
        return as_output(folded.unflatten(0, (clips, frames)).transpose(1, 2), return_dict)

    @property
    def norm(self) -> Norm:
        return self.config["motion_norm"]

    def set_norm(self, norm: Norm) -> None:
        self._clip.joint = is_joint(norm)
        self.register_to_config(motion_norm=norm)

    def check_variant(self, variant: Variant) -> None:
        if variant.kind != "lamp":
            raise UserError(
                f"A MotionUNet cannot take motion modules of the kind {variant.kind!r}: they need another "
                "UNet, which LAMPPipeline.from_motion(<adapter>) loads."
            )

    def set_attention_slice(self, slice_size: SliceSize = "auto") -> None:  # type: ignore[override]
        """Compute attention a few heads of a frame at a time; a pipeline's `enable_attention_slicing`.

        It saves memory only where torch has no fused attention for the device.

        Args:
            slice_size: "auto" for half of the heads at a time, "max" for one, a number of heads, or None for
                everything at once. UserError for another value.
        """
        heads = min(module.heads for module in self.modules() if isinstance(module, Attention))
        if slice_size and slice_size not in ("auto", "max", *range(1, heads + 1)):
            raise UserError(
                f"slice_size={slice_size!r} cannot be used: give 'auto' (half of the heads at a time), 'max' "
                f"(one head at a time), a number of heads from 1 to {heads}, or None (all at once)."
            )
        self._clip.slice_size = slice_size or None

    def queries_and_keys(self) -> Iterator[nn.Module]:
        for block in self.modules():
            if isinstance(block, MotionTransformerBlock):
                own = [] if block.only_cross_attention else [block.attn1]
                for attention in (*own, block.attn_temp):
                    yield from (attention.to_q, attention.to_k)


def _queries_file(variant: str | None) -> str:
    return f"image_queries.{variant}.safetensors" if variant else "image_queries.safetensors"


# diffusers reads a model's configuration keys from its constructor's signature.
_own, _unet = (inspect.signature(cls.__init__).parameters for cls in (MotionUNet, UNet2DConditionModel))
MotionUNet.__init__.__signature__ = inspect.Signature(
    [*_unet.values(), _own["motion_norm"], _own["motion_variant"]]
)
