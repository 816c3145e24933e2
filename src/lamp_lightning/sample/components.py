"""The components of a diffusers pipeline with a video backbone: how they are loaded, saved and shared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderTiny,
    ConsistencyDecoderVAE,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, StableDiffusionMixin
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    Gemma2Model,
    GemmaTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from lamp_lightning.diffusion.flow import keep_levels
from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.base.folder import index_class, not_from_hub, pipeline_class
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.registry import MotionUNet, inflated
from lamp_lightning.models.transformer.motion_ltx import MotionLTX
from lamp_lightning.models.transformer.motion_transformer import MotionSana, MotionSD3
from lamp_lightning.models.unet.animatediff import AnimateDiffUNet
from lamp_lightning.models.unet.inflate import Norm
from lamp_lightning.models.unet.shared import image_unet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.sample.frames import either
from lamp_lightning.sample.loaders import Loaders

Dtype = torch.dtype | Mapping[str, torch.dtype] | None
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
_NO_MATTER = {"low_cpu_mem_usage", "requires_safety_checker", "trust_remote_code", "use_safetensors"}
_CODE = "pipeline.py"
_LOADER = '''"""`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` finds the class here."""

from lamp_lightning import LAMPPipeline  # pip install lamp-lightning

__all__ = ["LAMPPipeline"]
'''


class PipelineComponents(Loaders, StableDiffusionMixin, DiffusionPipeline):
    """A pipeline of a base model's components and a video backbone.

    What a diffusers pipeline does (`to`, `save_pretrained`, `from_pipe`, `enable_model_cpu_offload`,
    `enable_attention_slicing`, `enable_freeu`, another `scheduler`) it does, too.

    Args:
        vae: the autoencoder; `AutoencoderTiny` is a quick one.
        text_encoder, tokenizer: of the prompt; None where calls give `prompt_embeds`.
        unet: a video backbone. An image model's UNet is inflated in a copy that shares its weights: the
            pipeline that it comes from generates as before, and its shared weights are frozen.
        scheduler: any of diffusers that suits the model.
        text_encoder_2, tokenizer_2: the second pair of SDXL and Stable Diffusion 3.
        text_encoder_3, tokenizer_3: T5 of Stable Diffusion 3, or None.
        feature_extractor, image_encoder: of an IP-Adapter.
        safety_checker: kept for pipelines that are made of this one; it does not look at videos.
        force_zeros_for_empty_prompt: whether "no prompt" is zeros (SDXL) or an empty text.
        sampler: what calls do by default, see `diffusion.sampler.Sampler`.
        requires_safety_checker: kept for pipelines that are made of this one.
    """

    _optional_components: ClassVar[list[str]] = [
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
        "feature_extractor",
        "image_encoder",
        "safety_checker",
    ]
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["safety_checker"]
    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->image_encoder->unet->vae"

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    text_encoder_2: Any
    tokenizer_2: Any
    text_encoder_3: Any
    tokenizer_3: Any

    def __init__(
        self,
        vae: AutoencoderKL
        | AutoencoderTiny
        | AsymmetricAutoencoderKL
        | ConsistencyDecoderVAE
        | AutoencoderDC
        | AutoencoderKLLTXVideo,
        text_encoder: CLIPTextModel | CLIPTextModelWithProjection | Gemma2Model | T5EncoderModel,
        tokenizer: CLIPTokenizer | GemmaTokenizer | T5Tokenizer,
        unet: MotionUNet | AnimateDiffUNet | MotionSana | MotionSD3 | MotionLTX | UNet2DConditionModel,
        scheduler: DDIMScheduler | FlowMatchEulerDiscreteScheduler,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        safety_checker: Any = None,
        force_zeros_for_empty_prompt: bool = False,
        sampler: dict[str, Any] | None = None,
        requires_safety_checker: bool = False,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: T5Tokenizer | None = None,
    ) -> None:
        super().__init__()
        if unet is not None and not isinstance(unet, VideoBackbone):
            unet = MotionUNet.from_unet(image_unet(unet))
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            safety_checker=safety_checker,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        if isinstance(unet, MotionLTX) and scheduler is not None:
            keep_levels(scheduler, unet.config.patch_size, of_clips=True)
        if unet is not None:
            self.register_to_config(unet=("lamp_lightning", type(unet).__name__))  # a name that stays
        self.register_to_config(
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            sampler=dict(sampler or {}),
            requires_safety_checker=requires_safety_checker,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_id: str | Path,
        *,
        norm: Norm | None = None,
        config: str | Path | None = None,
        variant: str | None = None,
        dtype: Dtype = None,
        torch_dtype: Dtype = None,
        **kwargs: Any,
    ) -> Self:
        """Load a saved LAMPPipeline, or a base model whose UNet is then inflated.

        Args:
            path_or_id: a folder that `save_pretrained` wrote; or a base model: "tiny" or "tiny_dit", a
                diffusers folder, a hub id, a single-file checkpoint (see `models.load_base_model`).
            norm: of the inflated UNet, "joint" (default) or "per_frame"; `load_motion` sets its adapter's.
            config: of a single-file checkpoint.
            variant: of the weight files, such as "fp16".
            dtype: of the weights, or one for each component, as `{"unet": torch.float16, "default":
                torch.float32}`; None: as saved, and float32 for a base model.
            torch_dtype: diffusers' former name of `dtype`.
            kwargs: what diffusers' `from_pretrained` takes. For a base model: components that are to take the
                place of its own (`scheduler=`, `vae=`, `safety_checker=None`), and of the hub `revision`,
                `local_files_only`, `cache_dir`, `token`, `force_download` and `proxies`.

        Raises:
            UserError: nothing there that can be loaded, or an argument that nothing here takes.
        """
        precision = {"torch_dtype": torch_dtype} if dtype is None else {"dtype": dtype}  # as it was given
        dtype = either("dtype", dtype, "torch_dtype", torch_dtype)
        hub = {name: kwargs[name] for name in _HUB if kwargs.get(name)}
        if pipeline_class(path_or_id, **_of_download(hub)) == cls.__name__:
            return super().from_pretrained(str(path_or_id), variant=variant, **precision, **kwargs)
        known, _ = cls._get_signature_keys(cls)
        components = {name: kwargs.pop(name) for name in known if name in kwargs}
        if unknown := sorted(kwargs.keys() - {*_HUB, *_NO_MATTER}):
            raise UserError(
                f"{unknown} cannot be given for the base model {path_or_id}: give components "
                f"({', '.join(known)}), {', '.join(_HUB)}, dtype, variant, norm or config."
            )
        if hub and not Path(path_or_id).expanduser().exists() and str(path_or_id) not in TOY_MODELS:
            path_or_id = _downloaded(str(path_or_id), variant, hub, components)
        of_all = dtype.get("default", torch.float32) if isinstance(dtype, Mapping) else dtype
        base = load_base_model(
            path_or_id, config=config, variant=variant, torch_dtype=of_all or torch.float32
        )
        pipeline = cls.from_base(base, inflated(base.unet, norm))
        if components:
            zeros = base.zeros_for_no_prompt
            pipeline = cls(**{**pipeline.components, **components}, force_zeros_for_empty_prompt=zeros)
        for name, wanted in (dtype if isinstance(dtype, Mapping) else {}).items():
            if name == "default":
                continue
            if not isinstance(model := pipeline.components.get(name), torch.nn.Module):
                raise UserError(f"dtype names {name!r}, which is no model of this pipeline.")
            model.to(wanted)
        return pipeline

    @classmethod
    def from_base(cls, base: BaseModel, unet: VideoBackbone | None = None) -> Self:
        """A pipeline of a base model's parts.

        Args:
            base: from `load_base_model`.
            unet: a video backbone of that base; None: `base.unet`, inflated in place (if it is not yet).
        """
        if unet is None:
            unet = base.unet if isinstance(base.unet, VideoBackbone) else inflated(base.unet, None)
        return cls(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            unet,
            base.scheduler,
            base.text_encoder_2,
            base.tokenizer_2,
            force_zeros_for_empty_prompt=base.zeros_for_no_prompt,
            text_encoder_3=base.text_encoder_3,
            tokenizer_3=base.tokenizer_3,
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast all components, as diffusers does.

        The text encoders of transformers are cast, and stay where they are: they come to the device while
        they encode, as they would fill it otherwise (see `BaseModel.beside_denoiser`).
        """
        parts = self.base.text_encoders if self.unet is not None and self.base.is_transformer else []
        aside = {name: part for name, part in self.components.items() if any(part is each for each in parts)}
        self.__dict__.update(dict.fromkeys(aside))
        try:
            super().to(*args, **kwargs)
        finally:
            self.__dict__.update(aside)
        for dtype in (each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)):
            for part in aside.values():
                part.to(dtype=dtype)
        return self

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save all components as diffusers does, and the few lines by which diffusers finds this class.

        `LAMPPipeline.from_pretrained(folder)` loads it, and runs no code of the folder;
        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` does, too.
        """
        super().save_pretrained(str(save_directory), *args, **kwargs)

    def save_config(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write `model_index.json`, and `pipeline.py` beside it."""
        super().save_config(save_directory, *args, **kwargs)
        (Path(save_directory) / _CODE).write_text(_LOADER)

    def to_json_string(self) -> str:
        """The text of `model_index.json`: the class is named with the module that imports it."""
        name = f'"_class_name": "{type(self).__name__}"'
        return super().to_json_string().replace(name, f'"_class_name": ["pipeline", "{type(self).__name__}"]')

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> dict[str, Any]:
        """The index, whose class is this one: the module beside it is not looked at."""
        index = super()._dict_from_json_file(json_file)
        return {**index, "_class_name": index_class(index)}

    @property
    def base(self) -> BaseModel:
        """The pipeline's parts as a BaseModel, for encoding and decoding."""
        return BaseModel(
            type(self).__name__,
            self.vae,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.scheduler,
            self.text_encoder_2,
            self.tokenizer_2,
            self.config.force_zeros_for_empty_prompt,
            self.text_encoder_3,
            self.tokenizer_3,
        )

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        return self.base.vae_scale_factor

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


def _of_download(hub: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the hub's options that the download of one file takes."""
    return {name: value for name, value in hub.items() if name != "proxies"}


def _downloaded(name: str, variant: str | None, hub: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """The folder of a model of the hub that is fetched as a whole, or already here."""
    try:
        return str(DiffusionPipeline.download(name, variant=variant, **hub, **components))
    except Exception as error:
        raise not_from_hub(name, error) from error
