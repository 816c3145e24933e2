"""The base model: an off-the-shelf diffusion pipeline, in parts: text-to-image, or LTX-Video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.models.base.prompts import (
    encode_for_ltx,
    encode_for_sana,
    encode_with_one,
    encode_with_three,
    encode_with_two,
)
from lamp_lightning.runtime.errors import UserError


@dataclass
class BaseModel:
    """The parts of a text-to-image latent diffusion model, in evaluation mode and frozen.

    Attributes:
        name: what it was loaded from.
        vae: autoencoder; pixels are in [-1, 1].
        unet: what denoises, a `UNet2DConditionModel` or the transformer of Sana, Stable Diffusion 3 or
            LTX-Video; `models.registry.inflated(base.unet)` makes it a model of clips in place.
        text_encoder, tokenizer: of the prompt.
        scheduler: a `DDIMScheduler` with the model's own noise schedule and prediction type, or a
            `FlowMatchEulerDiscreteScheduler` with its levels of flow matching.
        text_encoder_2, tokenizer_2: the second pair of SDXL and Stable Diffusion 3, or None.
        zeros_for_no_prompt: whether the model knows "no prompt" as zeros (SDXL) or as an empty text.
        text_encoder_3, tokenizer_3: T5 of Stable Diffusion 3, which does without, too; or None.

    Example:
        >>> from lamp_lightning.models import load_base_model
        >>> base = load_base_model("tiny")
        >>> base.vae_scale_factor, type(base.scheduler).__name__
        (4, 'DDIMScheduler')
    """

    name: str
    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    zeros_for_no_prompt: bool = False
    text_encoder_3: Any = None
    tokenizer_3: Any = None

    @property
    def encoders(self) -> list[nn.Module]:
        """What training needs once, before the first step: autoencoder and text encoders."""
        return [part for part in (self.vae, *self.text_encoders) if part is not None]

    @property
    def text_encoders(self) -> list[nn.Module]:
        """Those of the prompt, as many as there are."""
        encoders = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        return [encoder for encoder in encoders if encoder is not None]

    @property
    def beside_denoiser(self) -> list[nn.Module]:
        """What is on the device while the denoiser works: not the text encoders of transformers.

        Those are larger than the transformer itself (Gemma, T5), and come there while they encode.
        """
        return [self.vae] if self.is_transformer else self.encoders

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works, which offloading may make another place than where it lies."""
        hook = getattr(self.vae, "_hf_hook", None)
        return torch.device(getattr(hook, "execution_device", None) or self.vae.device)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        if self.takes_clips:
            return self.vae.spatial_compression_ratio
        config = self.vae.config  # an AutoencoderDC has channels for each side
        levels = config.get("encoder_block_out_channels") or config.get("block_out_channels")
        return 2 ** (len(levels) - 1)

    @property
    def is_transformer(self) -> bool:
        """Whether a transformer of flow matching denoises, as in Sana and Stable Diffusion 3."""
        kinds = SanaTransformer2DModel | SD3Transformer2DModel | LTXVideoTransformer3DModel
        return isinstance(self.unet, kinds)

    @property
    def takes_clips(self) -> bool:
        """Whether the autoencoder encodes clips as a whole, as LTX-Video's, and not frame by frame."""
        return isinstance(self.vae, AutoencoderKLLTXVideo)

    @property
    def frames_per_latent(self) -> int:
        """Frames that a latent is of. Where several, the first latent of a clip is of the first alone."""
        return self.vae.temporal_compression_ratio if self.takes_clips else 1

    def latent_frames(self, frames: int, name: str = "num_frames") -> int:
        """How many latents, one after the other, a clip of so many frames has.

        Raises:
            UserError: the autoencoder takes no clips of so many frames; `name` is what the setting is called.
        """
        each = self.frames_per_latent
        whole, rest = divmod(frames - 1, each)
        if rest:
            near = 1 + each * whole
            raise UserError(
                f"{name}={frames} cannot be used: this model has a latent for the first frame and one for "
                f"every {each} after it. Give {f'{near} or ' if whole else ''}{near + each}."
            )
        return whole + 1

    @cached_property
    def identity(self) -> dict[str, str]:
        """SHA-256 of weights and configuration of `vae` and of the text encoders with their tokenizers."""
        text = _hash_model(self.text_encoder, _tokenizer_identity(self.tokenizer))
        for encoder, tokenizer in (
            (self.text_encoder_2, self.tokenizer_2),
            (self.text_encoder_3, self.tokenizer_3),
        ):
            if encoder is not None:
                text += _hash_model(encoder, _tokenizer_identity(tokenizer))
        config = {key: value for key, value in sorted(self.vae.config.items()) if not key.startswith("_")}
        return {"vae": _hash_model(self.vae, json.dumps(config)), "text_encoder": text}

    def to(self, *args: Any, **kwargs: Any) -> BaseModel:
        """Move or cast all parts, as `nn.Module.to`."""
        for part in (*self.encoders, self.unet):
            part.to(*args, **kwargs)
        return self

    def encode_prompts(
        self, prompts: Sequence[str], clip_skip: int | None = None, *, negative: bool = False
    ) -> Conditions:
        """Text embeddings `n l d`, for SDXL and Stable Diffusion 3 with the pooled ones `n p`.

        Longer prompts are cut at the text encoder's length, as in diffusers.

        Args:
            prompts: the texts.
            clip_skip: how many of CLIP's last layers are left out.
            negative: guidance leads away from them; Sana reads those without its instruction.

        Raises:
            UserError: there is no text encoder, or it has not so many layers.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise UserError(
                "There is no text encoder for prompts: give prompt_embeds and negative_prompt_embeds."
            )
        if clip_skip is not None and isinstance(
            self.unet, SanaTransformer2DModel | LTXVideoTransformer3DModel
        ):
            raise UserError(
                "clip_skip is about CLIP's layers, and this model reads prompts otherwise: leave it."
            )
        if isinstance(self.unet, LTXVideoTransformer3DModel):
            return encode_for_ltx(self.text_encoder, self.tokenizer, prompts)
        if isinstance(self.unet, SanaTransformer2DModel):
            return encode_for_sana(self.text_encoder, self.tokenizer, prompts, instruct=not negative)
        layers = self.text_encoder.config.num_hidden_layers
        if clip_skip is not None and not 0 <= clip_skip < layers:
            raise UserError(f"clip_skip must be a whole number from 0 to {layers - 1}, not {clip_skip}.")
        if self.text_encoder_2 is None:
            return encode_with_one(self.text_encoder, self.tokenizer, prompts, clip_skip)
        pairs = [(self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2)]
        if isinstance(self.unet, SD3Transformer2DModel):
            third = (self.text_encoder_3, self.tokenizer_3)
            width = self.unet.config.joint_attention_dim
            return encode_with_three(pairs, third, prompts, width, clip_skip)
        return encode_with_two(pairs, prompts, clip_skip)

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> Tensor:
        """The autoencoder's mean and log variance, unscaled: `n 3 h w` in [-1, 1] to `n 2c h' w'`.

        Pictures, or with an autoencoder that takes clips, clips of one frame.
        """
        if self.takes_clips:
            return self.encode_clips(pixels.unsqueeze(2)).squeeze(2)
        with self._autoencoding():
            encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.parameters
        # Neither AutoencoderTiny nor AutoencoderDC draw: a variance of next to nothing.
        latents = getattr(encoded, "latents", None)
        latents = encoded.latent if latents is None else latents
        return torch.cat([latents, torch.full_like(latents, -30)], dim=1)

    @torch.no_grad()
    def encode_clips(self, pixels: Tensor) -> Tensor:
        """Mean and log variance of whole clips, unscaled: `b 3 f h w` in [-1, 1] to `b 2c f' h' w'`."""
        with self._autoencoding():
            return self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.parameters

    def sample_latents(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the posterior and scale for the UNet: `n 2c h w -> n c h w`."""
        return self.scale(DiagonalGaussianDistribution(moments).sample(generator))

    def latents_from_pixels(self, pixels: Tensor) -> Tensor:
        """The most likely latents of images, scaled for the UNet: `n 3 h w` in [-1, 1] to `n c h' w'`."""
        return self.scale(DiagonalGaussianDistribution(self.encode_moments(pixels)).mode())

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents `n c h w` to pixels `n 3 h' w'` in [-1, 1]."""
        if self.takes_clips:
            return self.decode_clips(latents.unsqueeze(2)).squeeze(2)
        unscaled = self.unscale(latents).to(self.device, self.vae.dtype)
        with self._autoencoding():
            return self.vae.decode(unscaled, return_dict=False)[0].clamp(-1, 1)

    @torch.no_grad()
    def decode_clips(self, latents: Tensor) -> Tensor:
        """Scaled latents of whole clips, `b c f h w`, to pixels `b 3 f' h' w'` in [-1, 1]."""
        unscaled = self.unscale(latents).to(self.device, self.vae.dtype)
        clean = unscaled.new_zeros(len(unscaled)) if self.vae.config.timestep_conditioning else None
        with self._autoencoding():
            return self.vae.decode(unscaled, clean, return_dict=False)[0].clamp(-1, 1)

    def spacing(self, fps: float) -> Tensor | None:
        """Seconds, pixels and pixels from one latent to the next, `(3,)`; None where models are not told."""
        if not self.takes_clips:
            return None
        side = self.vae_scale_factor
        return torch.tensor([self.frames_per_latent / fps, side, side], dtype=torch.float32)

    def statistics(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel of latents, where the autoencoder takes clips: `1 c 1 ...`.

        Args:
            ndim: of the latents that they are for.
        """
        shape = (1, -1, *[1] * (ndim - 2))
        spread = self.vae.latents_std / self.vae.config.scaling_factor
        return self.vae.latents_mean.reshape(shape), spread.reshape(shape)

    def scale(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents to the UNet's."""
        if self.takes_clips:
            mean, spread = self.statistics(latents.ndim)
            return (latents - mean.to(latents)) / spread.to(latents)
        return (latents - _shift(self.vae)) * self.vae.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """The UNet's latents to the autoencoder's."""
        if self.takes_clips:
            mean, spread = self.statistics(latents.ndim)
            return latents * spread.to(latents) + mean.to(latents)
        return latents / self.vae.config.scaling_factor + _shift(self.vae)

    @property
    def overflows_in_float16(self) -> bool:
        """Whether the autoencoder needs more than float16: SDXL's and Sana's activations pass 65504.

        LTX-Video's was trained in bfloat16, and is not known to bear it.
        """
        if self.is_transformer:
            return isinstance(self.vae, AutoencoderDC | AutoencoderKLLTXVideo)
        return self.text_encoder_2 is not None and bool(self.vae.config.force_upcast)

    def _autoencoding(self) -> Any:
        """Without float16 autocast where the autoencoder does not bear it."""
        kind = self.device.type
        if self.overflows_in_float16 and torch.is_autocast_enabled(kind):
            return torch.autocast(kind, enabled=torch.get_autocast_dtype(kind) != torch.float16)
        return nullcontext()


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def _hash_model(model: nn.Module, settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(model.state_dict().items(), key=itemgetter(0)):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(raw)
    return digest.hexdigest()


def _tokenizer_identity(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    return f"{type(tokenizer).__name__} {tokenizer.model_max_length} {tokenizer.special_tokens_map} {words}"
