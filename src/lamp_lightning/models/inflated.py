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
from lamp_lightning.models.unet import factors, mixture
from lamp_lightning.models.unet.layers import ClipShape
from lamp_lightning.models.variant import Variant, query_names
from lamp_lightning.runtime.errors import UserError


class InflatedModel(VideoBackbone):
    """A backbone with LAMP's layers, which are switched off for it to be the image model.

    What a motion changes of the image model are query projections. They are kept as they were.
    """

    _rank: int | None = None
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

    def see(self, frames: int, known: Sequence[int] | None) -> None:
        """Be given clips of so many frames, of which some are known; None: frame 0.

        Raises:
            ValueError: others than frame 0 for a model that was not tuned with them, or frames that the
                clips do not have.
        """
        numbers = (0,) if known is None else tuple(sorted(known))
        if numbers != (0,) and self.variant.known != "any":
            raise ValueError(
                f"This model was tuned with frame 0 as the only known one, not {list(numbers)}: "
                "model.layers.known=any tunes one with others."
            )
        if not numbers or numbers[0] < 0 or numbers[-1] >= frames:
            raise ValueError(f"known={list(numbers)} must be frames of a clip of {frames}.")
        self._clip.frames, self._clip.known = frames, numbers

    def times_of_frames(self, timestep: Tensor | float, clips: int, device: Any) -> Tensor:
        """The timestep of each frame, `(b f)`: given ones are clean, and where they say so have 0."""
        times, frames = torch.as_tensor(timestep, device=device), self._clip.frames
        if times.ndim == 2:
            return times.expand(clips, frames).flatten()
        times = times.reshape(-1, 1).expand(clips, frames)
        if self.tells_known and self._clip.motion and self.variant.first_frame and frames > 1:
            times = times.clone()
            times[:, list(self._clip.known)] = 0
        return times.flatten()

    @property
    def tells_known(self) -> bool:
        """Whether a given frame has a timestep of its own, 0; the authors' has that of the others."""
        return self.variant.known == "any"

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

    def set_rank(self, rank: int | None) -> None:
        if self.rank is not None:
            factors.merge(self)
        if rank is not None:
            queries = query_names(self.names_of(self.variant.sets))
            factors.factor(self, rank, self._clip, queries)
            self.require_gradients()
        self._rank = rank

    @property
    def rank(self) -> int | None:
        return self._rank

    def refuse_factors(self) -> None:
        """Raises UserError where factors are tuned, which a model's folder does not hold."""
        if self.rank is not None:
            raise UserError("A model that is tuned at low rank is not saved: save its motion, and load that.")

    def check_mixing(self) -> None:
        self.image_queries()  # a mixture begins with them

    def mix(self, motions: Sequence[tuple[float, Mapping[str, Tensor]]]) -> None:
        mixture.mix(self, motions, self.image_queries() if motions else {})

    @property
    def is_mixed(self) -> bool:
        return bool(mixture.parts(self))

    @contextmanager
    def image_layers(self) -> Iterator[None]:
        try:
            self._clip.motion = False
            yield
        finally:
            self._clip.motion = True

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
