"""The base model: an off-the-shelf text-to-image diffusion pipeline, in parts."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lamp_lightning.errors import UserError

_PARTS = ("tokenizer", "text_encoder", "vae", "unet")
_LIBRARIES = ("diffusers", "transformers")


@dataclass
class BaseModel:
    """The parts of a text-to-image latent diffusion model, in evaluation mode and frozen.

    Attributes:
        name: what it was loaded from.
        vae: autoencoder; pixels are in [-1, 1].
        unet: a `UNet2DConditionModel`; `MotionUNet.from_unet(base.unet)` makes it a MotionUNet in place.
        scheduler: a `DDIMScheduler` with the model's own noise schedule and prediction type.
    """

    name: str
    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @cached_property
    def identity(self) -> dict[str, str]:
        """SHA-256 of weights and configuration of `vae` and `text_encoder` (with its tokenizer)."""
        return {
            "vae": _hash_model(self.vae, json.dumps(_plain(self.vae.config))),
            "text_encoder": _hash_model(self.text_encoder, _tokenizer_identity(self.tokenizer)),
        }

    def to(self, *args: Any, **kwargs: Any) -> BaseModel:
        """Move or cast all parts, as `nn.Module.to`."""
        for part in (self.vae, self.unet, self.text_encoder):
            part.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Text embeddings `n l d`. Longer prompts are cut at the text encoder's length, as in diffusers."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self.device)
        return self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> Tensor:
        """The autoencoder's posterior for images: mean and log variance, unscaled.

        Args:
            pixels: `n 3 h w` in [-1, 1].

        Returns:
            `n 2c h' w'`.
        """
        return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters

    def sample_latents(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the posterior and scale for the UNet: `n 2c h w -> n c h w`."""
        return self.scale(DiagonalGaussianDistribution(moments).sample(generator))

    def latents_from_pixels(self, pixels: Tensor) -> Tensor:
        """The most likely latents of images, scaled for the UNet: `n 3 h w` in [-1, 1] to `n c h' w'`."""
        return self.scale(DiagonalGaussianDistribution(self.encode_moments(pixels)).mode())

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents `n c h w` to pixels `n 3 h' w'` in [-1, 1]."""
        unscaled = self.unscale(latents).to(self.vae.device, self.vae.dtype)
        return self.vae.decode(unscaled, return_dict=False)[0].clamp(-1, 1)

    def scale(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents to the UNet's."""
        return (latents - _shift(self.vae)) * self.vae.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """The UNet's latents to the autoencoder's."""
        return latents / self.vae.config.scaling_factor + _shift(self.vae)


def load_base_model(
    path_or_id: str | Path, *, torch_dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> BaseModel:
    """Load a Stable Diffusion pipeline's parts.

    Args:
        path_or_id: a diffusers pipeline folder, a hub id, or "tiny", the model that comes with this package.
        torch_dtype: of all weights.
        device: of all weights.

    Raises:
        UserError: no such folder, a part that is missing or damaged, or a hub that cannot be reached.
    """
    name = str(path_or_id)
    source = _source(name)
    index = _read_index(source)
    for part in _PARTS:
        if part not in index:
            raise UserError(
                f"{source}: its model_index.json names no {part}. A Stable Diffusion pipeline with one text "
                f"encoder is needed ({', '.join(_PARTS)}, scheduler)."
            )
    with _quiet() if os.path.isdir(source) else nullcontext():  # a download does show its progress
        parts = {part: _load_part(source, part, *index[part]) for part in _PARTS}
    for part in _PARTS[1:]:
        _check_finite(parts[part], f"{source}/{part}")
        for tensor in (*parts[part].parameters(), *parts[part].buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch_dtype)
        parts[part].to(device).eval().requires_grad_(False)
    scheduler = _load(DDIMScheduler, source, "scheduler")
    return BaseModel(name=name, scheduler=scheduler, **parts)


def _source(name: str) -> str:
    """The folder or hub id behind a name."""
    if name == "tiny":
        from lamp_lightning.toyworld import tiny_model_path

        return str(tiny_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise UserError(f"{path} is a file: give a diffusers pipeline folder or a hub id.")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UserError(
            f"{path} does not exist: give a diffusers pipeline folder or a hub id like owner/model."
        )
    return name


def _read_index(source: str) -> dict[str, Any]:
    """The pipeline's `model_index.json`."""
    path = Path(source) / "model_index.json"
    if Path(source).is_dir() and not path.is_file():
        raise UserError(f"{source} holds no model_index.json: it is not a diffusers pipeline folder.")
    if not path.is_file():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source, "model_index.json"))
        except Exception as error:
            raise _not_from_hub(source, error) from error
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch the model again.") from error


def _load_part(source: str, part: str, library: str, class_name: str) -> Any:
    if library not in _LIBRARIES:
        raise UserError(f"{source}: its {part} is a {library}.{class_name}; only {_LIBRARIES} are known.")
    cls = getattr(importlib.import_module(library), class_name, None)
    if cls is None:
        raise UserError(
            f"{source}: its {part} is a {class_name}, which the installed {library} does not have."
        )
    return _load(cls, source, part)


def _load(cls: Any, source: str, part: str) -> Any:
    local = os.path.isdir(source)
    if local and not (Path(source) / part).is_dir():
        raise UserError(f"{source} lacks the folder {part}: fetch the model again.")
    try:
        return cls.from_pretrained(source, subfolder=part)
    except Exception as error:  # whatever the libraries meet in a damaged folder
        if not local:
            raise _not_from_hub(f"{source} ({part})", error) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{source}/{part} cannot be loaded: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, which announce the loading of every small file."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _not_from_hub(what: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{what} cannot be fetched from the hub: {reason} Check the id and the network, or download the "
        "model elsewhere and give its folder."
    )


def _check_finite(model: nn.Module, where: str) -> None:
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{where}: the tensor {name} holds NaN or infinite values. Fetch the model again."
            )


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def _hash_model(model: nn.Module, settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in _sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(raw)
    return digest.hexdigest()


def _sorted(items: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return sorted(items, key=lambda item: item[0])


def _tokenizer_identity(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    return f"{type(tokenizer).__name__} {tokenizer.model_max_length} {tokenizer.special_tokens_map} {words}"


def _plain(config: Any) -> dict[str, Any]:
    """A model's configuration without what says where it came from."""
    return {key: value for key, value in sorted(config.items()) if not key.startswith("_")}
