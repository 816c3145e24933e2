"""What tuning, motion adapters and sampling ask of a model that denoises clips."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamp_lightning.models.adapter import (
    Adapter,
    check_alike,
    header_of,
    read_adapter,
    same_weights,
    write_adapter,
)
from lamp_lightning.models.denoiser import ClipDenoiser
from lamp_lightning.models.header_schema import Header
from lamp_lightning.models.lora import own_name, without_lora
from lamp_lightning.models.stored import added, differences, in_precision, tuned_below
from lamp_lightning.models.variant import USUAL, Variant, query_names
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hub import motion_file
from lamp_lightning.runtime.settings import Norm


class VideoBackbone(ClipDenoiser):
    """A model of clips, made from an image model, whose motion is tuned, saved, loaded and mixed.

    Tuning, sampling, editing and the commands know a backbone by this class alone. It keeps the parameters of
    motions; a backbone inherits from it and from a model of diffusers, and adds what is its own
    (`ClipDenoiser`):

    - `from_unet(unet, norm, variant)` makes it from an image model.
    - `forward`: the prediction for every frame of noisy clips.
    - `norm` and `set_norm`, `variant` and `set_variant`: `set_variant` ends in `require_gradients()`.
    - `image_model`: a context in which it is the image model, and `knows_image_model`.
    - `queries_and_keys` where attention injection is possible, and `mix` where several motions at once are.

    Its kind stands in `runtime.settings.Kind`, the names of what can be tuned in `models.variant.SETS`, and
    its class in the registry `models.registry.BACKBONES`.

    Example:
        >>> from lamp_lightning import MotionUNet
        >>> issubclass(MotionUNet, VideoBackbone)
        True
    """

    register_to_config: Any  # these two are diffusers'
    enable_gradient_checkpointing: Any
    _before_motions: tuple[Norm, Variant, dict[str, Tensor | None]] | None = None

    # -- what is tuned ---------------------------------------------------------------------------------------

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The backbone's parameters by name, as if no LoRA and no IP-Adapter were loaded into it."""
        named = ((own_name(name), parameter) for name, parameter in self.named_parameters())
        return {name: parameter for name, parameter in named if name is not None}

    def names_of(self, sets: Iterable[str]) -> list[str]:
        """Names of the parameters in these sets (`Variant.sets`), sorted."""
        patterns = "|".join(re.escape(name) for name in sets)
        found = re.compile(rf"(^|\.)({patterns})\." if patterns else "$^")
        return sorted(name for name in self.own_parameters() if found.search(name))

    def base_queries(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Parameters by name as they are in the image model, which a motion changes.

        Raises:
            UserError: only tuned ones are known.
        """
        parameters, untuned = self.own_parameters(), self.untuned()
        found = {}
        for name in names:
            before = untuned.get(name, parameters[name].detach())
            found[name] = torch.zeros_like(parameters[name]) if before is None else before
        return found

    def trainable_names(self) -> list[str]:
        """Names of the parameters that are tuned, sorted; LAMP's are those of the authors' checkpoints.

        Of low rank, a weight's factors `down` and `up` are tuned in its place.
        """
        names = self.names_of(self.variant.sets)
        frozen = {f"{name.removesuffix('down')}weight" for name in names if name.endswith(".down")}
        return [name for name in names if name not in frozen]

    def tuned_parameters(self) -> list[nn.Parameter]:
        """The parameters that are tuned, in the order of `trainable_names()`."""
        parameters = self.own_parameters()
        return [parameters[name] for name in self.trainable_names()]

    def require_gradients(self) -> None:
        """Freeze everything but the tuned parameters."""
        self.requires_grad_(False)
        for parameter in self.tuned_parameters():
            parameter.requires_grad_(True)

    # -- motions ---------------------------------------------------------------------------------------------

    @without_lora
    def save_motion(
        self,
        file: str | Path,
        *,
        inverted_clip: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        **metadata: Any,
    ) -> None:
        """Write the tuned parameters as a motion adapter.

        Queries are written as differences to those of the image model, where that is known.

        Args:
            file: path of the `.safetensors` file; written whole or not at all, always with the same bytes.
            inverted_clip: noise that a tuned clip was inverted to, `1 c f h w`, where sampling begins there.
            dtype: the file's precision. In float32 `load_motion` gives the same weights to the bit. Half
                precision, `torch.float16` or `torch.bfloat16`, makes half of the size.
            metadata: facts for the file's header (`models.header_schema.Header`), such as `base_model` and
                `motion`. Norm, variant, versions and a sample of the frozen weights, by which the base model
                is known again, are added.

        Raises:
            UserError: several motions are mixed, the file cannot be written, a parameter is not finite, or a
                fact does not fit the header.
        """
        if self.is_mixed:
            raise UserError(f"{file} is not written: several motions are mixed. Load one of them.")
        own: dict[str, Any] = {
            "rank": self.rank,
            "motion_modules": None if self.modules_structure is None else self.modules_structure.model_dump(),
            "norm": self.norm,
            "variant": self.variant.settings(),
            "base_fingerprint": self.fingerprint(),
        }
        tuned = zip(self.trainable_names(), self.tuned_parameters(), strict=True)
        tensors = {name: parameter.detach().cpu() for name, parameter in tuned}
        if query_names(self.names_of(self.variant.sets)) and self.knows_image_model:
            tensors = differences(tensors, self.base_queries(query_names(tensors)))
            own["queries"] = "difference"  # as factors always are
        if dtype != torch.float32:
            tensors = in_precision(tensors, dtype)
        write_adapter(Path(file), tensors, metadata | own, inverted_clip)

    @without_lora
    def load_motion(self, file: str | Path, *, check_base: bool = True) -> dict[str, str]:
        """Take a motion adapter's parameters, variant and norm; what it did not tune is as before tuning.

        Args:
            file: an adapter of this base model, or `owner/name` of one on the hub.
            check_base: False also takes an adapter that was tuned on other weights of the same architecture,
                such as this model before its fine-tuning. What it changed of the queries is added to those
                of this model.

        Returns:
            The adapter's metadata.

        Raises:
            UserError: not an adapter, another base model, motion layers of another kind, or missing, extra,
                mis-shaped or non-finite tensors. The model is then unchanged.
        """
        self.set_rank(None)
        adapter = self._read(motion_file(file), check_base)
        self.add_layers(adapter.header.variant)
        self.remember_untuned(adapter.header.variant)
        self.mix([])
        self.set_variant(adapter.header.variant)
        self.put_tuned(adapter.tensors)
        self.set_norm(adapter.header.norm)
        return adapter.metadata

    @without_lora
    def begin_with(self, file: str | Path) -> None:
        """Take a motion's parameters to tune on from, such as those of a motion prior.

        Unlike after `load_motion`, nothing is remembered that `unload_motion` would put back. Which frames
        were given in its tuning (`known`) makes no difference: the layers are the same.

        Args:
            file: an adapter of this base model, or `owner/name` of one on the hub.

        Raises:
            UserError: as `load_motion`, other layers or norm, or factors of low rank are tuned.
        """
        file = motion_file(file)
        header, fault = header_of(file), None
        theirs = header.variant.model_copy(update={"known": self.variant.known})
        if self.rank is not None:
            fault = f"a run of tuner.rank={self.rank} tunes factors from the start. Give tuner.rank=null."
        elif header.norm != self.norm:
            fault = f"it was tuned with model.norm={header.norm}, not {self.norm}."
        elif different := theirs.differences(self.variant):
            fault = f"it has other motion layers than this run. They differ in {different}."
        if fault:
            raise UserError(f"Tuning cannot begin with {file}: {fault}")
        tensors, parameters = self._read(file, check_base=True).tensors, self.own_parameters()
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)

    @without_lora
    def set_motions(
        self, motions: Mapping[str | Path, float], *, check_base: bool = True
    ) -> list[dict[str, str]]:
        """Move as a weighted sum of motions (see `unet.mixture`), in place of any that were loaded.

        Args:
            motions: adapters with their weights; 1 is the motion as tuned, 0 none of it, more exaggerates.
            check_base: as for `load_motion`.

        Returns:
            The adapters' metadata.

        Raises:
            UserError: as `load_motion`, no motions, a weight that is no number, adapters of different norms
                or variants, or a model that cannot mix them. The model is then unchanged.
        """
        if not motions:
            raise UserError("No motions are given: give adapters with their weights.")
        for file, weight in motions.items():
            if not math.isfinite(weight):
                raise UserError(f"{file}: its weight is {weight}; give a number.")
        if list(motions.values()) == [1]:
            return [self.load_motion(next(iter(motions)), check_base=check_base)]
        self.check_mixing()
        self.set_rank(None)
        adapters = [self._read(motion_file(file), check_base) for file in motions]
        check_alike({adapter.file: adapter.header for adapter in adapters}, same_base=False)
        header = adapters[0].header
        self.add_layers(header.variant)
        self.remember_untuned(header.variant)
        self.set_variant(header.variant)
        self.put_tuned({})
        untuned = {name: tensor for name, tensor in self.own_parameters().items() if name in self.untuned()}
        weighted = zip(motions.values(), adapters, strict=True)
        self.mix([(float(weight), {**untuned, **adapter.tensors}) for weight, adapter in weighted])
        self.set_norm(header.norm)
        return [adapter.metadata for adapter in adapters]

    @without_lora
    def unload_motion(self) -> None:
        """Be what it was before the first `load_motion` or `set_motions`, to the bit."""
        if self._before_motions is None:
            return
        norm, variant, _ = self._before_motions
        self.mix([])
        self.add_layers(variant)
        self.put_tuned({})
        self.set_variant(variant)
        self.set_norm(norm)

    def remember_untuned(self, variant: Variant) -> None:
        """Keep what a motion of `variant` changes as it is before the first such motion, on the CPU."""
        norm, own, kept = self._before_motions or (self.norm, self.variant, {})
        parameters = self.own_parameters()
        for name in self.names_of((*Variant(kind=own.kind).sets, *variant.sets)):
            if name not in kept:
                p = parameters[name].detach()
                kept[name] = p.to("cpu", copy=True) if p.any() else None  # None: all zeros
        self._before_motions = norm, own, kept

    def untuned(self) -> dict[str, Tensor | None]:
        """The parameters that were remembered, as they were; None where all are zeros."""
        return {} if self._before_motions is None else self._before_motions[2]

    def put_tuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a motion's parameters, and for those that it did not tune the untuned ones, as remembered."""
        parameters = self.own_parameters()
        with torch.no_grad():
            for name, before in self.untuned().items():
                if name not in parameters:  # of layers that this variant does not have
                    continue
                tensor = tensors.get(name, before)
                parameters[name].zero_() if tensor is None else parameters[name].copy_(tensor)

    @without_lora
    def fingerprint(self, variant: Variant | None = None, tensors: int = 32) -> list[float]:
        """Two weights of each of some frozen tensors, by which the base model is known in any precision.

        They are chosen among those that neither LAMP's layers nor `variant` (None: the model's own) tunes. A
        LoRA is none of them.
        """
        tuned = set(self.names_of((*USUAL, "lora", *(variant or self.variant).sets)))
        untuned = self.untuned()  # what a motion that is loaded now has changed, as it was before
        frozen = [(n, p) for n, p in sorted(self.own_parameters().items()) if n not in tuned and p.ndim >= 2]
        values: list[float] = []
        for name, parameter in frozen[:: max(1, len(frozen) // tensors)]:
            before = untuned.get(name)
            flat = (parameter.detach() if before is None else before).flatten()
            positions = torch.linspace(0, flat.numel() - 1, 4).long()[1:-1]
            values += flat[positions.to(flat.device)].float().cpu().tolist()
        return values

    def _read(self, file: Path, check_base: bool) -> Adapter:
        """An adapter that fits this model."""
        header = header_of(file)
        if header.variant.kind != self.variant.kind:
            raise UserError(
                f"{file} has motion layers of the kind {header.variant.kind!r}, and this UNet those of "
                f"{self.variant.kind!r}. LAMPPipeline.from_motion({str(file)!r}) loads the right one."
            )
        shapes = self.shapes_of(header)
        adapter = read_adapter(file, shapes, channels=int(self.config["in_channels"]))
        same = same_weights(self.fingerprint(header.variant), header.base_fingerprint)
        if check_base and not same:
            raise UserError(
                f"{file} was tuned on other weights than this UNet's: its base model is "
                f"{header.base_model or 'unknown'!r}. Load that one. check_base=False (check_base=false on a "
                "command line) adds the motion to this one, if both have the same architecture."
            )
        queries = query_names(shapes)
        if not queries or (same and header.queries == "whole"):
            return adapter
        tensors: dict[str, Tensor] = adapter.tensors
        if header.queries == "whole":
            tensors = differences(tensors, tuned_below(type(self), header, file, queries))
        return replace(adapter, tensors=added(tensors, self.base_queries(queries)))

    def shapes_of(self, header: Header) -> dict[str, tuple[int, ...]]:
        """The shapes of the whole weights that an adapter with this header tunes, by name."""
        self.add_layers(header.variant)
        parameters = self.own_parameters()
        shapes = {name: tuple(parameters[name].shape) for name in self.names_of(header.variant.sets)}
        self.drop_layers()
        return shapes
