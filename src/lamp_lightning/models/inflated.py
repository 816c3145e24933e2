"""What UNets and transformers that are inflated in place have in common: the image model below."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor

from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.lora import unfused, without_lora
from lamp_lightning.models.unet import mixture
from lamp_lightning.models.unet.layers import ClipShape
from lamp_lightning.models.variant import Variant, query_names
from lamp_lightning.runtime.errors import UserError


class InflatedModel(VideoBackbone):
    """A backbone with LAMP's layers, which are switched off for it to be the image model.

    What a motion changes of the image model are query projections. They are kept as they were.
    """

    _clip: ClipShape
    _image_queries: dict[str, Tensor] | None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for layer in mixture.parts(self):  # they are in no state dict, but go where the model goes
            layer._apply(fn)
        return self

    @abstractmethod
    def check_variant(self, variant: Variant) -> None:
        """Raises UserError for a variant that this model cannot be."""

    @property
    def variant(self) -> Variant:
        return self._clip.variant

    @without_lora
    def set_variant(self, variant: Variant) -> None:
        if variant == self.variant:
            return
        self.check_variant(variant)
        self.add_layers(variant)
        if self._image_queries is not None:
            wanted = query_names(self.names_of(variant.sets))
            for name in set(wanted) - self._image_queries.keys():  # tuned from now on: keep the image model's
                self._image_queries[name] = self.own_parameters()[name].detach().clone()
        self._clip.variant = variant
        self.drop_layers()
        self.register_to_config(motion_variant=None if variant == Variant() else variant.settings())
        self.require_gradients()

    @property
    def knows_image_model(self) -> bool:
        return self._image_queries is not None

    def know_image_queries(self, queries: Mapping[str, Tensor]) -> None:
        """Learn the image model's queries, by name, where only tuned ones were loaded."""
        self._image_queries = dict(queries)

    def image_queries(self) -> dict[str, Tensor]:
        """The query projections of the image model, by name; UserError where only tuned ones are known."""
        if self._image_queries is None:
            raise UserError(
                "The image model's own weights are not known, only tuned ones were loaded: give a first "
                "frame, or load the image model and then the motion adapter."
            )
        return self._image_queries

    def base_queries(self, names: Iterable[str]) -> dict[str, Tensor]:
        known = self.image_queries()
        names = list(names)
        others = super().base_queries(name for name in names if name not in known)
        return {name: others[name] if name in others else known[name] for name in names}

    def check_mixing(self) -> None:
        self.image_queries()  # a mixture begins with them

    def mix(self, motions: Sequence[tuple[float, Mapping[str, Tensor]]]) -> None:
        mixture.mix(self, motions, self.image_queries() if motions else {})

    @property
    def is_mixed(self) -> bool:
        return bool(mixture.parts(self))

    @contextmanager
    def image_model(self) -> Iterator[Self]:
        queries = self.image_queries()
        parameters = self.own_parameters()
        if any(parameters[name].is_meta for name in queries):
            raise UserError(
                "The model's weights are offloaded layer by layer and cannot be exchanged for the image "
                "model's: give a first frame, or use enable_model_cpu_offload()."
            )
        with unfused(self):
            tuned = {name: parameters[name].data for name in queries}
            for name, image in queries.items():
                parameters[name].data = image.to(tuned[name], copy=True)  # a LoRA is fused into it
        try:
            self._clip.motion = False
            torch.clear_autocast_cache()  # its copies in low precision are of the other queries
            with torch.no_grad():
                yield self
        finally:
            self._clip.motion = True
            with unfused(self):
                for name, data in tuned.items():
                    parameters[name].data = data.to(parameters[name].device)  # offloading may have moved it
            torch.clear_autocast_cache()
