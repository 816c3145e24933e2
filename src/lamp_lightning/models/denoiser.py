"""What a model that denoises clips adds of its own: what tuning, sampling and the commands ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from diffusers.models.unets.unet_motion_model import UNetMotionOutput
from torch import Tensor, nn

from lamp_lightning.models.modules import MotionModules
from lamp_lightning.models.unet.layers import MotionLayer
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm

LIVE = 28  # numbers that a UNet keeps alive per latent pixel and channel of its first level (SD 1.4: 26)


class ClipDenoiser(ABC, nn.Module):
    """The part of a `VideoBackbone` that differs from one kind of model to another."""

    config: Any  # diffusers'

    @abstractmethod
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any] | None = None,
        *,
        known: Sequence[int] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Denoise clips.

        Args:
            sample: `b c f h w`, frame 0 being the clean first frame where the variant has one.
            timestep: one for all clips, or one per clip `(b,)`.
            encoder_hidden_states: text embeddings, one prompt per clip, `b l d`.
            added_cond_kwargs: further conditions, one row per clip (`text_embeds` and `time_ids` of SDXL,
                `image_embeds` of an IP-Adapter).
            known: numbers of the frames that are clean, for a variant of `known="any"`; None: frame 0 alone.
                `()`, for backbones that `makes_first_frame`: none.
            return_dict: None: the prediction itself, a tensor, which is not diffusers' default. True:
                diffusers' output with `.sample`. False: a tuple of one.

        Returns:
            The prediction for every frame, `b c f h w`. Loss and sampler do not look at a given frame's.
        """

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """How ResNet blocks normalise: "joint" over a clip's frames, or "per_frame"."""

    @abstractmethod
    def set_norm(self, norm: Norm) -> None:
        """Normalise "joint" or "per_frame" from now on; `load_motion` sets its adapter's."""

    @property
    @abstractmethod
    def variant(self) -> Variant:
        """What of the method this model has, and what of it is tuned."""

    @abstractmethod
    def set_variant(self, variant: Variant) -> None:
        """Be another variant from now on; `load_motion` sets its adapter's. Weights stay as they are.

        A variant with other motion layers needs another backbone: UserError.
        """

    def add_layers(self, variant: Variant) -> None:
        """Have, at zero, the layers that a variant has and this model has not; `set_variant` does it."""
        if variant.conv_first:
            for module in self.modules():
                if isinstance(module, MotionLayer):
                    module.show_first(True)

    def drop_layers(self) -> None:
        """Have no other layers than the own variant's."""
        if not self.variant.conv_first:
            for module in self.modules():
                if isinstance(module, MotionLayer):
                    module.show_first(False)

    @abstractmethod
    def image_model(self) -> AbstractContextManager[Any]:
        """In this context the backbone is the image model that it was made from. Without gradients.

        Raises:
            UserError: the image model's own weights are not known or cannot be put back.
        """

    def image_layers(self) -> AbstractContextManager[None]:
        """In this context motion layers are left out. Other weights, and gradients, are as they are.

        Raises:
            UserError: a backbone that cannot do so.
        """
        raise UserError(f"Motion layers of the kind {self.variant.kind!r} cannot be left out while tuning.")

    @property
    def knows_image_model(self) -> bool:
        """Whether `image_model()` can be used."""
        return True

    @property
    def makes_first_frame(self) -> bool:
        """Whether all frames can be made from the prompt at once, the first with the others."""
        return False

    def queries_and_keys(self) -> Iterator[nn.Module]:
        """The layers that project queries and keys where frames attend to frames, for attention injection."""
        raise UserError(f"Attention cannot be injected into motion layers of the kind {self.variant.kind!r}.")

    def check_mixing(self) -> None:
        """Raises UserError where several motions, or one at another weight than 1, cannot be mixed."""
        raise UserError(
            f"Motions of the kind {self.variant.kind!r} cannot be weighted or mixed: give one motion."
        )

    def mix(self, motions: Sequence[tuple[float, Mapping[str, Tensor]]]) -> None:
        """Move as a weighted sum of motions: weight and tuned parameters of each. None ends the mixture."""

    def set_rank(self, rank: int | None) -> None:
        """Tune factors of this rank in place of weights (`models.lowrank`) from now on; None: whole weights.

        Raises:
            UserError: a backbone that has none, or one that has been tuned.
        """
        if rank is not None:
            raise UserError(f"Motion layers of the kind {self.variant.kind!r} have no low rank: rank=null.")

    @property
    def rank(self) -> int | None:
        """The rank that is tuned; None: weights are whole."""
        return None

    @property
    def modules_structure(self) -> MotionModules | None:
        """The structure of motion modules, where the backbone has some that are not as of version 1."""
        return None

    @property
    def is_mixed(self) -> bool:
        """Whether several motions are mixed now."""
        return False

    @property
    def latent_multiple(self) -> int:
        """What rows and columns of latents have to be multiples of."""
        return 1

    @property
    def even_multiple(self) -> int:
        """What they are best multiples of: every level of a UNet then halves evenly."""
        return 2 ** (len(self.config.down_block_types) - 1)

    def live_numbers(self, rows: int, columns: int) -> int:
        """How many numbers one frame of so many latents keeps in memory while it is denoised, about."""
        return rows * columns * self.config.block_out_channels[0] * LIVE


def check_clips(sample: Tensor, text: Tensor) -> None:
    """Raises ValueError for anything but clips `b c f h w` with a text each, `b l d`."""
    if sample.ndim != 5 or text.shape[0] != sample.shape[0]:
        raise ValueError(
            "sample must be (b, c, f, h, w) with one text per clip (b, l, d), not "
            f"{tuple(sample.shape)} with {tuple(text.shape)}."
        )


def as_output(prediction: Tensor, return_dict: bool | None) -> Any:
    """A prediction as `VideoBackbone.forward` is asked to return it."""
    if return_dict is None:
        return prediction
    return UNetMotionOutput(sample=prediction) if return_dict else (prediction,)
