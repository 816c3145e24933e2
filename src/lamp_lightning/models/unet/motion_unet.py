"""MotionUNet: a diffusers text-to-image UNet that denoises clips."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lamp_lightning.models.unet import mixture
from lamp_lightning.models.unet.attention import MotionTransformerBlock
from lamp_lightning.models.unet.fixed import FixedUNet, refuse_lora
from lamp_lightning.models.unet.inflate import Norm, inflate, is_joint
from lamp_lightning.models.unet.layers import ClipShape, SliceSize
from lamp_lightning.models.variant import LAMP_SETS, Variant
from lamp_lightning.runtime.errors import UserError

__all__ = ["ModelMixin", "MotionUNet"]  # diffusers looks for ModelMixin here when it loads a saved pipeline

_IMAGE_QUERY = re.compile(r"(^|\.)attn1\.to_q\.")
_ANY_QUERY = re.compile(r"(^|\.)attn[12]\.to_q\.")
_QUERIES_FILE = "image_queries.safetensors"


class MotionUNet(FixedUNet, UNet2DConditionModel):
    """A `UNet2DConditionModel` inflated to clips: motion layers, first-frame attention, temporal attention.

    Make one with `from_unet`, `from_pretrained` or `from_official`. It runs diffusers' own forward pass on
    folded frames, so what works on a `UNet2DConditionModel` (SDPA, gradient checkpointing, `torch.compile`,
    `.to`, `save_pretrained`, offloading, FreeU) works here. What would replace the attention is refused.

    Only the tuned parameters require gradients: see `trainable_names()` and `tuned_parameters()`.

    Args:
        motion_norm: "joint" pools the statistics of the ResNet blocks' GroupNorms over all frames of a clip
            (what the authors' checkpoints expect), "per_frame" leaves them as in the image model.
        motion_variant: `Variant.settings()` of a model that is not LAMP as it is.
        kwargs: the arguments of `UNet2DConditionModel`.
    """

    @register_to_config
    def __init__(
        self, motion_norm: Norm = "joint", motion_variant: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._inflate(motion_norm, Variant.from_settings(motion_variant))

    def _inflate(self, norm: Norm, variant: Variant) -> None:
        _check_kind(variant)
        self._clip = ClipShape(variant=variant)
        self._image_queries: dict[str, Tensor] | None = None
        self._before_motions: tuple[Norm, Variant, dict[str, Tensor | None]] | None = None
        inflate(self, norm, self._clip)
        self._require_gradients()

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, norm: Norm = "joint", variant: Variant | None = None
    ) -> MotionUNet:
        """Inflate an image UNet **in place**: the same object, with its weights, becomes the MotionUNet.

        New layers start so that the result paints images as before. All but the tuned parameters are frozen.

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
        if getattr(unet, "peft_config", None):
            refuse_lora()
        queries = {k: v.detach().clone() for k, v in unet.named_parameters() if _IMAGE_QUERY.search(k)}
        inflated = _inflate_into(unet, cls, norm)
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
        try:
            config: Any = cls.load_config(
                where, **_only(kwargs, "subfolder", "revision", "cache_dir", "token")
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{where} holds no UNet that can be loaded ({_first_line(error)}). Give a diffusers folder "
                "with a unet/config.json, or the id of one on the hub."
            ) from error
        if config.get("_class_name") == "MotionUNet":
            if norm is not None and norm != config["motion_norm"]:
                raise UserError(f"{where} was made with norm={config['motion_norm']!r}, not {norm!r}.")
            unet = super().from_pretrained(where, **kwargs)
            unet._image_queries = _read_image_queries(Path(where) / (kwargs.get("subfolder") or ""))
            return unet
        return cls.from_unet(UNet2DConditionModel.from_pretrained(where, **kwargs), norm or "joint")

    @classmethod
    def from_official(cls, folder: str | Path, norm: Norm = "joint") -> MotionUNet:
        """Read the UNet of a LAMP checkpoint folder that the authors' code saved (see `weights.official`)."""
        from lamp_lightning.models.official import load_official

        return load_official(folder, norm)

    def save_official(self, folder: str | Path) -> None:
        """Write a UNet folder that the authors' code reads (see `weights.official`)."""
        from lamp_lightning.models.official import save_official

        save_official(self, folder)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with the image model's queries beside the weights, for `image_model()`.

        Raises:
            UserError: several motions are mixed, which one set of weights cannot say.
        """
        if mixture.parts(self):
            raise UserError("Several motions are mixed: load one, or unload them, and save then.")
        super().save_pretrained(save_directory, *args, **kwargs)
        if self._image_queries is not None:
            queries = {name: tensor.cpu().contiguous() for name, tensor in self._image_queries.items()}
            save_file(queries, Path(save_directory) / _QUERIES_FILE)

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter into this UNet and return its metadata (`weights.adapter.load_motion`)."""
        from lamp_lightning.models.adapter import load_motion

        return load_motion(self, file, **kwargs)

    def set_motions(self, motions: Mapping[str | Path, float], **kwargs: Any) -> list[dict[str, str]]:
        """Load several motion adapters at once, each with a weight (`weights.adapter.set_motions`)."""
        from lamp_lightning.models.adapter import set_motions

        return set_motions(self, motions, **kwargs)

    def unload_motion(self) -> None:
        """Be what it was before the first `load_motion` or `set_motions`, to the bit."""
        if self._before_motions is None:
            return
        norm, variant, _ = self._before_motions
        mixture.mix(self, [], {})
        self.put_tuned({})
        self.set_variant(variant)
        self.set_norm(norm)

    def remember_untuned(self, variant: Variant) -> None:
        """Keep what a motion of `variant` changes as it is before the first such motion, on the CPU."""
        norm, own, kept = self._before_motions or (self.norm, self.variant, {})
        parameters = dict(self.named_parameters())
        for name in self.names_of((*LAMP_SETS, *variant.sets)):
            if name not in kept:
                p = parameters[name].detach()
                kept[name] = p.to("cpu", copy=True) if p.any() else None  # None: all zeros
        self._before_motions = norm, own, kept

    def untuned(self) -> dict[str, Tensor | None]:
        """The parameters that were remembered, as they were; None where all are zeros."""
        return {} if self._before_motions is None else self._before_motions[2]

    def put_tuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a motion's parameters, and for those that it did not tune the untuned ones, as remembered."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, before in self.untuned().items():
                tensor = tensors.get(name, before)
                parameters[name].zero_() if tensor is None else parameters[name].copy_(tensor)

    def _apply(self, fn: Any, recurse: bool = True) -> MotionUNet:
        super()._apply(fn, recurse)
        for layer in mixture.parts(self):  # they are in no state dict, but go where the UNet goes
            layer._apply(fn)
        return self

    def save_motion(self, file: str | Path, **metadata: Any) -> None:
        """Save the tuned parameters as a motion adapter (see `weights.adapter.save_motion`)."""
        from lamp_lightning.models.adapter import save_motion

        save_motion(self, file, **metadata)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Denoise clips.

        Args:
            sample: `b c f h w`, frame 0 being the clean first frame.
            timestep: one for all clips, or one per clip `(b,)`.
            encoder_hidden_states: text embeddings, one prompt per clip, `b l d`.
            added_cond_kwargs: further conditions, one row per clip (`text_embeds`, `time_ids` of SDXL).

        Returns:
            The prediction for every frame, `b c f h w`. Loss and sampler do not look at frame 0's.
        """
        if sample.ndim != 5 or encoder_hidden_states.shape[0] != sample.shape[0]:
            raise ValueError(
                "sample must be (b, c, f, h, w) with one text per clip (b, l, d), not "
                f"{tuple(sample.shape)} with {tuple(encoder_hidden_states.shape)}."
            )
        clips, _channels, frames, _height, _width = sample.shape
        self._clip.frames = frames
        timestep = torch.as_tensor(timestep, device=sample.device).expand(clips).repeat_interleave(frames)
        if added_cond_kwargs is not None:
            added_cond_kwargs = {k: v.repeat_interleave(frames, dim=0) for k, v in added_cond_kwargs.items()}
        folded = super().forward(
            sample.transpose(1, 2).flatten(0, 1),
            timestep,
            encoder_hidden_states,
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )[0]
        return folded.unflatten(0, (clips, frames)).transpose(1, 2)

    @property
    def norm(self) -> Norm:
        """How ResNet blocks normalise: "joint" over a clip's frames, or "per_frame"."""
        return self.config["motion_norm"]

    def set_norm(self, norm: Norm) -> None:
        """Normalise "joint" or "per_frame" from now on; `load_motion` sets its adapter's."""
        self._clip.joint = is_joint(norm)
        self.register_to_config(motion_norm=norm)

    @property
    def variant(self) -> Variant:
        """What of LAMP this model has, and what of it is tuned."""
        return self._clip.variant

    def set_variant(self, variant: Variant) -> None:
        """Be another variant from now on; `load_motion` sets its adapter's. Weights stay as they are.

        Raises:
            UserError: a variant with other motion modules, which need another UNet (`inflated`).
        """
        if variant == self.variant:
            return
        _check_kind(variant)
        if self._image_queries is not None:
            wanted = [name for name in self.names_of(variant.sets) if _ANY_QUERY.search(name)]
            for name in set(wanted) - self._image_queries.keys():  # tuned from now on: keep the image model's
                self._image_queries[name] = self.get_parameter(name).detach().clone()
        self._clip.variant = variant
        self.register_to_config(motion_variant=None if variant == Variant() else variant.settings())
        self._require_gradients()

    def _require_gradients(self) -> None:
        self.requires_grad_(False)
        for parameter in self.tuned_parameters():
            parameter.requires_grad_(True)

    def set_attention_slice(self, slice_size: SliceSize = "auto") -> None:  # type: ignore[override]
        """Compute attention a few heads of a frame at a time, in less memory; a pipeline's
        `enable_attention_slicing` comes here.

        Worth its time only where torch has no fused attention for the device: that needs no such memory.

        Args:
            slice_size: "auto" for half the heads of a frame at a time, "max" for one, a number of heads, or
                None for everything at once.

        Raises:
            UserError: another word, or more heads than the smallest layer has.
        """
        heads = min(module.heads for module in self.modules() if isinstance(module, Attention))
        if slice_size and slice_size not in ("auto", "max", *range(1, heads + 1)):
            raise UserError(
                f"slice_size={slice_size!r} cannot be used: give 'auto' (half of the heads at a time), 'max' "
                f"(one head at a time), a number of heads from 1 to {heads}, or None (all at once)."
            )
        self._clip.slice_size = slice_size or None

    def queries_and_keys(self) -> Iterator[nn.Module]:
        """The layers that project queries and keys where frames attend to frames."""
        for block in self.modules():
            if isinstance(block, MotionTransformerBlock):
                own = [] if block.only_cross_attention else [block.attn1]
                for attention in (*own, block.attn_temp):
                    yield from (attention.to_q, attention.to_k)

    def trainable_names(self) -> list[str]:
        """Names of the parameters that are tuned, sorted; LAMP's are those of the authors' checkpoints."""
        return self.names_of(self.variant.sets)

    def names_of(self, sets: Iterable[str]) -> list[str]:
        """Names of the parameters in these sets (`Variant.sets`), sorted."""
        return names_of(self, sets)

    def tuned_parameters(self) -> list[nn.Parameter]:
        """The parameters that are tuned, in the order of `trainable_names()`."""
        parameters = dict(self.named_parameters())
        return [parameters[name] for name in self.trainable_names()]

    @property
    def knows_image_model(self) -> bool:
        """Whether `image_model()` can be used: the queries that the image model had are kept."""
        return self._image_queries is not None

    def image_queries(self) -> dict[str, Tensor]:
        """The query projections of the image model, by name.

        Raises:
            UserError: they are not known (official checkpoints hold tuned ones).
        """
        if self._image_queries is None:
            raise UserError(
                "The image model's own weights are not known, only tuned ones were loaded: give a first "
                "frame, or load the image model and then the motion adapter."
            )
        return self._image_queries

    @contextmanager
    def image_model(self) -> Iterator[MotionUNet]:
        """In this context the UNet is the image model that it was inflated from, whatever was tuned since.

        Frames are then independent images. Without gradients.

        Raises:
            UserError: the image model's own weights are not known (official checkpoints hold tuned ones), or
                the weights are offloaded layer by layer and cannot be exchanged.
        """
        queries = self.image_queries()
        parameters = dict(self.named_parameters())
        if any(parameters[name].is_meta for name in queries):
            raise UserError(
                "The UNet's weights are offloaded layer by layer and cannot be exchanged for the image "
                "model's: give a first frame, or use enable_model_cpu_offload()."
            )
        tuned = {name: parameters[name].data for name in queries}
        try:
            self._clip.motion = False
            for name, image in queries.items():
                parameters[name].data = image.to(tuned[name])
            torch.clear_autocast_cache()  # its copies in low precision are of the other queries
            with torch.no_grad():
                yield self
        finally:
            self._clip.motion = True
            for name, data in tuned.items():
                parameters[name].data = data.to(parameters[name].device)  # offloading may have moved it
            torch.clear_autocast_cache()


def names_of(unet: nn.Module, sets: Iterable[str]) -> list[str]:
    """Names of a UNet's parameters in these sets (`Variant.sets`), sorted."""
    patterns = "|".join(re.escape(name) for name in sets)
    if not patterns:
        return []
    found = re.compile(rf"(^|\.)({patterns})\.")
    return sorted(name for name, _ in unet.named_parameters() if found.search(name))


def _check_kind(variant: Variant) -> None:
    if variant.kind != "lamp":
        raise UserError(
            f"A MotionUNet cannot take motion modules of the kind {variant.kind!r}: they need another UNet, "
            "which LAMPPipeline.from_motion(<adapter>) loads."
        )


def _inflate_into(unet: Any, cls: type[MotionUNet], norm: Norm) -> MotionUNet:
    unet.__class__ = cls
    try:
        unet._inflate(norm, Variant())
    except UserError:
        unet.__class__ = UNet2DConditionModel
        raise
    unet.register_to_config(motion_norm=norm, motion_variant=None)
    return unet


def _read_image_queries(folder: Path) -> dict[str, Tensor] | None:
    file = folder / _QUERIES_FILE
    return load_file(file) if file.is_file() else None


def _only(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if name in kwargs}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _signature_with_unet_arguments() -> inspect.Signature:
    """diffusers reads a model's configuration keys from its constructor's signature."""
    own = inspect.signature(MotionUNet.__init__).parameters
    unet = inspect.signature(UNet2DConditionModel.__init__).parameters
    return inspect.Signature([*unet.values(), own["motion_norm"], own["motion_variant"]])


MotionUNet.__init__.__signature__ = _signature_with_unet_arguments()
