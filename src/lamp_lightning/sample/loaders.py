"""What diffusers loads into a pipeline: LoRA, textual inversion, IP-Adapters, single files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from diffusers.loaders import (
    IPAdapterMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
    TextualInversionLoaderMixin,
)
from diffusers.utils import USE_PEFT_BACKEND
from torch import Tensor

from lamp_lightning.runtime.errors import UserError


class Loaders(
    StableDiffusionXLLoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    TextualInversionLoaderMixin,
    IPAdapterMixin,
):
    """diffusers' loaders, for Stable Diffusion 1.x, 2.x and XL alike.

    What they load changes the picture: a motion stays what it is, whichever is loaded first.
    """

    text_encoder_2: Any
    unet: Any
    _pictures: Sequence[Tensor] = ()  # of the call that runs, for IP-Adapters

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load a style, as diffusers' `load_lora_weights` of the model's kind.

        Raises:
            UserError: peft, which has the layers, is not installed.
        """
        if not USE_PEFT_BACKEND:
            raise UserError("LoRA layers come with peft: pip install 'peft>=0.17', and start again.")
        xl = self.text_encoder_2 is not None
        mixin: Any = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
        mixin.load_lora_weights(self, *args, **kwargs)

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path: str | Path, **kwargs: Any) -> Self:
        """A base model from one file (`.safetensors`, `.ckpt`), its UNet inflated.

        Args:
            pretrained_model_link_or_path: a file of this machine.
            kwargs: what `from_pretrained` takes, as `config`, the folder or hub id of the configuration.

        Raises:
            UserError: no file, or one that cannot be loaded.
        """
        if not Path(pretrained_model_link_or_path).expanduser().is_file():
            raise UserError(
                f"{pretrained_model_link_or_path} is no file of this machine: fetch it first "
                "(hf download <repository> <file>), and give its path."
            )
        return cls.from_pretrained(pretrained_model_link_or_path, **kwargs)  # type: ignore[attr-defined]

    def prepare_ip_adapter_image_embeds(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Embeddings of an IP-Adapter's pictures, as diffusers' pipelines make them."""
        from diffusers import StableDiffusionPipeline  # takes seconds to import

        prepare: Any = StableDiffusionPipeline.prepare_ip_adapter_image_embeds
        return prepare(self, *args, **kwargs)

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        """Features of pictures by the image encoder, as in diffusers' pipelines."""
        from diffusers import StableDiffusionPipeline

        encode: Any = StableDiffusionPipeline.encode_image
        return encode(self, *args, **kwargs)

    def _picture_embeds(self, picture: Any, embeds: list[Tensor] | None, clips: int) -> list[Tensor]:
        """What the IP-Adapters are told for each clip, `2b k d`, without pictures first; none: empty.

        Raises:
            UserError: an adapter without a picture, or a picture without an adapter.
        """
        loaded = hasattr(getattr(self.unet, "encoder_hid_proj", None), "image_projection_layers")
        if loaded != (picture is not None or embeds is not None):
            raise UserError(
                "An IP-Adapter is loaded and looks at nothing: give ip_adapter_image or "
                "ip_adapter_image_embeds, or call unload_ip_adapter()."
                if loaded
                else "No IP-Adapter is loaded that could look at a picture: call load_ip_adapter() first."
            )
        if not loaded:
            return []
        device: Any = self._execution_device  # type: ignore[attr-defined]
        guided = picture is not None or self.do_classifier_free_guidance  # type: ignore[attr-defined]
        found = self.prepare_ip_adapter_image_embeds(picture, embeds, device, clips, guided)
        both = [x if guided else torch.cat([torch.zeros_like(x), x]) for x in found]
        return [x.to(device, self.unet.dtype) for x in both]

    def _seeing(self, model: Any) -> Any:
        """A model that is shown the pictures of the call to its IP-Adapters."""
        if not self._pictures:
            return model

        def seeing(sample: Tensor, *args: Any, added_cond_kwargs: Any = None, **kwargs: Any) -> Any:
            shown = {"image_embeds": [x[-len(sample) :] for x in self._pictures]}
            return model(sample, *args, added_cond_kwargs={**(added_cond_kwargs or {}), **shown}, **kwargs)

        return seeing

    def enable_free_init(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a motion is tuned for noise that `shared_noise` ties together."""
        raise UserError(
            "FreeInit finds noise whose frames go together, by sampling several times, and LAMP begins with "
            "such noise: give the call a larger shared_noise instead, such as 0.3."
        )
