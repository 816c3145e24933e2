"""A diffusers pipeline with a video backbone: how it is loaded, and which motions are in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lamp_lightning.diffusion.conditions import Conditions, size_conditions
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.adapter import header_of, inverted_clip
from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.base.folder import pipeline_class
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.registry import MotionUNet, inflated
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm

_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2")  # beside the UNet


class MotionPipeline(DiffusionPipeline):
    """The parts of a base model with a video backbone, and the motions in it: what `LAMPPipeline` calls.

    It does what a diffusers pipeline does: `save_pretrained`, `enable_model_cpu_offload` and so on.
    """

    _own_scheduler: Any = None  # the base model's, where a motion has brought another
    inverted_clip: Tensor | None = None  # noise `1 c f h w` of the tuned clip, for start="inversion"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]
    _optional_components: ClassVar[list[str]] = ["text_encoder_2", "tokenizer_2"]
    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    text_encoder_2: Any
    tokenizer_2: Any

    def __init__(
        self,
        vae: Any,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: VideoBackbone,
        scheduler: DDIMScheduler,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = False,
        sampler: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(unet=("lamp_lightning", type(unet).__name__))  # a name that stays
        self.register_to_config(
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, sampler=dict(sampler or {})
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_id: str | Path,
        *,
        norm: Norm | None = None,
        config: str | Path | None = None,
        variant: str | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a saved LAMPPipeline, or a base model whose UNet is then inflated.

        Args:
            path_or_id: a folder that `save_pretrained` wrote, or a base model, as in `load_base_model`.
            norm: of the inflated UNet, "joint" (default) or "per_frame"; `load_motion` sets its adapter's.
            config, variant: as in `load_base_model`.
            torch_dtype: of the weights; None: as saved, and float32 for a base model.
            kwargs: for a saved LAMPPipeline, what diffusers' `from_pretrained` takes.

        Raises:
            UserError: nothing there that can be loaded.
        """
        if pipeline_class(path_or_id) == cls.__name__:
            return super().from_pretrained(
                str(path_or_id), variant=variant, torch_dtype=torch_dtype, **kwargs
            )
        if kwargs:
            raise UserError(f"{sorted(kwargs)} cannot be given for the base model {path_or_id}.")
        base = load_base_model(
            path_or_id, config=config, variant=variant, torch_dtype=torch_dtype or torch.float32
        )
        return cls.from_base(base, MotionUNet.from_unet(base.unet, norm or "joint"))

    @classmethod
    def from_base(cls, base: BaseModel, unet: VideoBackbone | None = None) -> Self:
        """A pipeline of a base model and a backbone of it; None: its UNet, inflated in place if need be."""
        if unet is None:
            unet = base.unet if isinstance(base.unet, MotionUNet) else MotionUNet.from_unet(base.unet)
        parts = {name: getattr(base, name) for name in _PARTS}
        return cls(unet=unet, force_zeros_for_empty_prompt=base.zeros_for_no_prompt, **parts)

    @classmethod
    def from_motion(
        cls,
        file: str | Path,
        base: str | Path | None = None,
        *,
        config: str | Path | None = None,
        variant: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> Self:
        """The pipeline of a motion adapter of any kind (`Variant`), with its base model and UNet.

        Args:
            file: the adapter.
            base: the base model; None: the one that the adapter names, with its `config` and `variant`.
            config, variant: as in `load_base_model`.
            torch_dtype: of the frozen weights; tuned ones are float32.
            kwargs: what `load_motion` takes.

        Raises:
            UserError: no adapter, or none that says what its base model is.
        """
        header = header_of(file)
        if base is None:
            config, variant, base = header.base_config, header.base_variant, header.base_model
        if base is None:
            raise UserError(f"{file} does not say which base model it belongs to: name it with base=<model>.")
        model = load_base_model(base, config=config, variant=variant, torch_dtype=torch_dtype)
        unet = inflated(model.unet, header.norm, header.variant)
        for parameter in unet.tuned_parameters():
            parameter.data = parameter.data.float()
        pipeline = cls.from_base(model, unet)
        pipeline.load_motion(file, **kwargs)
        return pipeline

    @property
    def base(self) -> BaseModel:
        """The pipeline's parts as a BaseModel, for encoding and decoding."""
        zeros = self.config.force_zeros_for_empty_prompt
        parts = {name: getattr(self, name) for name in _PARTS}
        return BaseModel(name=type(self).__name__, unet=self.unet, zeros_for_no_prompt=zeros, **parts)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: a motion cannot be loaded into weights that are offloaded one by one."""
        raise UserError("Use enable_model_cpu_offload(): a motion's layers cannot be offloaded one by one.")

    def enable_vae_slicing(self) -> None:
        """Decode one frame at a time: less memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode some frames at a time."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode large frames in tiles: less memory, and slight differences where tiles meet."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode frames as a whole."""
        self.vae.disable_tiling()

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter and return its metadata (see `VideoBackbone.load_motion`).

        Its sampler settings (scheduler, steps, guidance, frames, ...) become the defaults of calls.
        """
        metadata = self.unet.load_motion(file, **kwargs)
        self._sample_as(metadata, file)
        return metadata

    def set_motions(self, motions: Mapping[str | Path, float], **kwargs: Any) -> list[dict[str, str]]:
        """Load several motion adapters, each with a weight; returns their metadata.

        See `VideoBackbone.set_motions`. The sampler settings are those of the one of the largest weight.
        """
        found = self.unet.set_motions(motions, **kwargs)
        weights = list(motions.values())
        heaviest = found[weights.index(max(weights))]
        self._sample_as(heaviest, next(iter(motions)) if len(motions) == 1 else None)
        return found

    def unload_motion(self) -> None:
        """Back to the base model, to the bit."""
        self.unet.unload_motion()
        self.inverted_clip = None
        self.register_to_config(sampler={})
        self.scheduler = self.own_scheduler

    def _sample_as(self, metadata: dict[str, str], file: str | Path | None) -> None:
        self.inverted_clip = None if file is None else inverted_clip(file)
        settings = json.loads(metadata.get("sampler", "{}"))
        self.register_to_config(sampler=settings)
        self._own_scheduler = self.own_scheduler
        if "scheduler" in settings:
            self.scheduler = self.sampler.make_scheduler(self.own_scheduler.config)

    @property
    def own_scheduler(self) -> Any:
        """The base model's scheduler, without what a motion asks for."""
        return self._own_scheduler or self.scheduler

    @property
    def sampler(self) -> Sampler:
        """What calls do by default: the settings of the loaded motion, else the authors'."""
        return Sampler().changed(self.config.sampler)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels of the motion's clips, else those that the UNet was made for."""
        if self.sampler.size is not None:
            return self.sampler.size
        own, factor = self.unet.config.sample_size, self.base.vae_scale_factor
        rows, columns = own if isinstance(own, (list, tuple)) else (own, own)
        return rows * factor, columns * factor

    def conditions(
        self,
        prompts: list[str],
        negative: str | list[str] | None,
        guidance_scale: float,
        size: tuple[int, int],
    ) -> Conditions:
        """The UNet's conditions, `2b` rows, unconditional first; `b` without guidance."""
        if not prompts:
            raise UserError("prompt is an empty list: give at least one.")
        negatives = list(negative) if isinstance(negative, (list, tuple)) else [negative or ""] * len(prompts)
        if len(negatives) != len(prompts):
            raise UserError(f"{len(negatives)} negative prompts do not go with {len(prompts)} prompts.")
        base = self.base
        if guidance_scale == 1:
            conditions = base.encode_prompts(prompts)
        elif negative is None and base.zeros_for_no_prompt:
            conditional = base.encode_prompts(prompts)
            conditions = conditional.zeros().followed_by(conditional)
        else:
            conditions = base.encode_prompts(negatives + prompts)
        conditions = conditions.to(self._execution_device, self.unet.dtype)
        return conditions.of_size(size_conditions(None, size))
