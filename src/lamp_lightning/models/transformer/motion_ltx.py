"""MotionLTX: LTX-Video, an image-to-video model, with a LoRA as its motion."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from einops import rearrange
from torch import Tensor

from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.denoiser import as_output, check_clips
from lamp_lightning.models.header_schema import Header
from lamp_lightning.models.lora import as_saved_by_diffusers
from lamp_lightning.models.transformer import lora_layers
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hub import motion_file
from lamp_lightning.runtime.settings import Norm

__all__ = ["ModelMixin", "MotionLTX"]  # diffusers looks for ModelMixin here when it loads a saved pipeline

RANK, MOST = 32, 4096
SPACING = (8 / 25, 32.0, 32.0)  # of latents in seconds and pixels, at the 25 frames per second of diffusers
LIVE = 20  # numbers that it keeps alive per token and channel, about, while it samples


class MotionLTX(LTXVideoTransformer3DModel, VideoBackbone):
    """The transformer of LTX-Video (HaCohen et al. 2024, arXiv 2501.00103) as a backbone; see `from_unet`.

    It was trained on clips, with or without a given first frame: its motion is a LoRA beside the projections
    of its attention. It runs diffusers' own forward pass on the latents of a clip, each of which but the
    first is of several frames. A given first latent is clean and has timestep 0, the others have the step's.

    Args:
        motion_variant: `Variant.settings()`; None: all of the kind "image_to_video".
        motion_rank: of the LoRA.
        kwargs: the arguments of `LTXVideoTransformer3DModel`.

    Example:
        >>> import torch
        >>> video_model = LTXVideoTransformer3DModel(
        ...     in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        ...     cross_attention_dim=16, num_layers=1, caption_channels=12,
        ... )
        >>> model = MotionLTX.from_unet(video_model)
        >>> model(torch.randn(1, 4, 3, 2, 2), 500, torch.randn(1, 5, 12)).shape
        torch.Size([1, 4, 3, 2, 2])
        >>> model.times_of_frames(500, clips=1, frames=3, known=(0,)).tolist()
        [[0.0, 500.0, 500.0]]
    """

    _repeated_blocks: ClassVar[list[str]] = ["LTXVideoTransformerBlock"]  # for `compile_repeated_blocks`
    _variant: Variant
    _rank: int
    _mixed: bool = False
    _before: tuple[Variant, int, dict[str, Tensor]] | None = None  # with rank and factors, before any motion

    @register_to_config
    def __init__(
        self, motion_variant: dict[str, Any] | None = None, motion_rank: int = RANK, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        variant = None if motion_variant is None else Variant.from_settings(motion_variant)
        self._begin(variant, motion_rank)

    @staticmethod
    def from_unet(
        model: Any, norm: Norm = "per_frame", variant: Variant | None = None, rank: int = RANK
    ) -> MotionLTX:
        """Make the transformer of LTX-Video a backbone **in place**: the same object, with its weights.

        Until it is tuned, it generates as before. All but the LoRA is frozen.

        Args:
            model: an `LTXVideoTransformer3DModel`.
            norm: "per_frame": transformers have no statistics that a clip could share.
            variant: of the kind "image_to_video"; None: with a first frame.
            rank: of the LoRA.

        Raises:
            UserError: a model of another kind, one that is a backbone already, another norm.
        """
        if isinstance(model, MotionLTX) or not isinstance(model, LTXVideoTransformer3DModel):
            raise UserError(
                f"A {type(model).__name__} cannot become an image-to-video backbone: give an "
                "LTXVideoTransformer3DModel, once."
            )
        if getattr(model, "peft_config", None):
            raise UserError("The transformer has LoRA layers already: fuse or unload them first.")
        _check(norm, variant)
        found = cast(MotionLTX, model)
        found.__class__ = MotionLTX
        found._begin(variant, rank)
        return found

    def _begin(self, variant: Variant | None, rank: int) -> None:
        if not 1 <= rank <= MOST:
            raise UserError(f"A LoRA of rank {rank} cannot be made: give 1 to {MOST}.")
        self._rank = rank
        lora_layers.add_to_attention(self, rank)
        self.set_variant(variant or Variant(kind="image_to_video"))

    # -- prediction ------------------------------------------------------------------------------------------

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any] | None = None,
        *,
        known: Sequence[int] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Predict the velocity of clips, `b c f h w -> b c f h w` (see `VideoBackbone.forward`).

        Args:
            sample, encoder_hidden_states, return_dict: see there.
            timestep: one for all clips, one per clip `(b,)`, or one per latent frame `(b, f)`.
            added_cond_kwargs: `encoder_attention_mask` `b l`, 1 for each token of the text that counts;
                `latent_spacing` `b 3`, seconds and pixels from one latent to the next; None: `SPACING`.
            known: `(0,)`: the first latent is given; `()`: none is; None: as the variant says.
            cross_attention_kwargs: refused, as no LoRA but the motion's can be loaded.
        """
        if cross_attention_kwargs:
            raise UserError(f"cross_attention_kwargs={cross_attention_kwargs} is not for LTX-Video.")
        check_clips(sample, encoder_hidden_states)
        clips, _channels, frames, rows, columns = sample.shape
        added = added_cond_kwargs or {}
        times = self.times_of_frames(timestep, clips, frames, self._known(known, frames), sample.device)
        prediction = LTXVideoTransformer3DModel.forward(
            self,
            rearrange(sample, "b c f h w -> b (f h w) c"),
            encoder_hidden_states,
            times.repeat_interleave(rows * columns, dim=1),
            added.get("encoder_attention_mask"),
            video_coords=_coordinates(sample, added.get("latent_spacing")),
            return_dict=False,
        )[0]
        sizes = {"f": frames, "h": rows, "w": columns}
        return as_output(rearrange(prediction, "b (f h w) c -> b c f h w", **sizes), return_dict)

    def _known(self, known: Sequence[int] | None, frames: int) -> tuple[int, ...]:
        if known is None:
            return (0,) if self.variant.first_frame and frames > 1 else ()
        if tuple(known) not in ((), (0,)):
            raise ValueError(f"LTX-Video goes on from the first frame alone, not from {list(known)}.")
        return tuple(known)

    def times_of_frames(
        self, timestep: Tensor | float, clips: int, frames: int, known: Sequence[int], device: Any = None
    ) -> Tensor:
        """The timestep of each latent frame, `b f`: a given one has 0."""
        times = torch.as_tensor(timestep, device=device, dtype=torch.float32)
        if times.ndim == 2:
            return times.expand(clips, frames)
        times = times.reshape(-1, 1).expand(clips, frames).clone()
        times[:, list(known)] = 0
        return times

    # -- what a backbone offers ------------------------------------------------------------------------------

    @property
    def norm(self) -> Norm:
        return "per_frame"

    def set_norm(self, norm: Norm) -> None:
        _check(norm, None)

    @property
    def variant(self) -> Variant:
        return self._variant

    def set_variant(self, variant: Variant) -> None:
        _check("per_frame", variant)
        self._variant = variant
        self.register_to_config(motion_variant=variant.settings(), motion_rank=self._rank)
        self.require_gradients()

    @contextmanager
    def image_model(self) -> Iterator[MotionLTX]:
        """The video model as it was published: of a clip of one frame it makes a picture."""
        with lora_layers.switched_off(self), torch.no_grad():
            yield self

    @property
    def makes_first_frame(self) -> bool:
        return True

    @property
    def even_multiple(self) -> int:
        return 1

    def live_numbers(self, rows: int, columns: int) -> int:
        return rows * columns * self.config.num_attention_heads * self.config.attention_head_dim * LIVE

    @property
    def rank(self) -> int:
        return self._rank

    def set_rank(self, rank: int | None) -> None:
        """Have a new LoRA of another rank; None leaves it as it is, as there are no whole weights here."""
        if rank is None or rank == self._rank:
            return
        if not lora_layers.is_zero(self):
            raise UserError(
                f"There is a motion in this model: a LoRA of rank {rank} begins at an untuned one."
            )
        self._take_rank(rank)

    def _take_rank(self, rank: int) -> None:
        if rank != self._rank:
            self._rank = rank
            lora_layers.add_to_attention(self, rank)
            self.set_variant(self.variant)

    def begin_with(self, file: str | Path) -> None:
        """Take a motion's LoRA to tune on from; see `VideoBackbone.begin_with`."""
        file = motion_file(file)
        adapter, fault = self._read(file, check_base=True), None
        if (rank := adapter.header.rank) != self._rank:
            fault = f"it is of rank {rank}, and this run of {self._rank}. Give tuner.rank={rank}."
        elif different := adapter.header.variant.differences(self.variant):
            fault = f"it was tuned otherwise than this run. They differ in {different}."
        if fault:
            raise UserError(f"Tuning cannot begin with {file}: {fault}")
        self.put_tuned(adapter.tensors)

    # -- motions ---------------------------------------------------------------------------------------------

    def load_motion(self, file: str | Path, *, check_base: bool = True) -> dict[str, str]:
        """Take a motion adapter's LoRA, of whatever rank; see `VideoBackbone.load_motion`."""
        adapter = self._read(motion_file(file), check_base)  # which refuses before anything changes
        self.remember_untuned(adapter.header.variant)
        self.set_variant(adapter.header.variant)
        self._put(adapter.header.rank or RANK, adapter.tensors)
        return adapter.metadata

    def unload_motion(self) -> None:
        """Be what it was before the first `load_motion` or `set_motions`, to the bit."""
        if self._before is not None:
            variant, rank, factors = self._before
            self.set_variant(variant)
            self._put(rank, factors)

    def remember_untuned(self, variant: Variant) -> None:
        if self._before is None:
            own = self.own_parameters()
            factors = {name: own[name].detach().to("cpu", copy=True) for name in self.names_of(("lora",))}
            self._before = self.variant, self._rank, factors

    def check_mixing(self) -> None:
        """Factors can always be weighted, and put side by side."""

    def mix(self, motions: Sequence[tuple[float, Mapping[str, Tensor]]]) -> None:
        if motions:
            rank, factors = lora_layers.side_by_side(motions)
            self._put(rank, factors)
            self._mixed = True

    @property
    def is_mixed(self) -> bool:
        return self._mixed

    def _put(self, rank: int, factors: Mapping[str, Tensor]) -> None:
        self._mixed = False
        self._take_rank(rank)
        self.put_tuned(factors)

    def put_tuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take factors; those that are not given change nothing."""
        parameters = self.own_parameters()
        with torch.no_grad():
            for name in self.names_of(("lora",)):
                tensor = tensors.get(name)
                parameters[name].zero_() if tensor is None else parameters[name].copy_(tensor)

    def shapes_of(self, header: Header) -> dict[str, tuple[int, ...]]:
        rank = header.rank or RANK
        shapes = super().shapes_of(header)
        return {name: lora_layers.of_rank(shape, rank, name) for name, shape in shapes.items()}

    def load_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the motion is a LoRA itself."""
        raise UserError(
            "A LoRA cannot be loaded into this transformer, whose motion is one: fuse it into LTX-Video "
            "(fuse_lora, unload_lora_weights), save that, and give its folder as model.path."
        )

    @as_saved_by_diffusers
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with the LoRA."""
        super().save_pretrained(*args, **kwargs)


def _coordinates(sample: Tensor, spacing: Tensor | None) -> Tensor:
    """Where each latent of clips `b c f h w` lies in seconds and pixels, float32 `b 3 (f h w)`."""
    clips = len(sample)
    steps = torch.tensor(SPACING).expand(clips, 3) if spacing is None else spacing
    numbers = [torch.arange(length, dtype=torch.float32, device=sample.device) for length in sample.shape[2:]]
    grid = torch.stack(torch.meshgrid(*numbers, indexing="ij")).flatten(1)
    return grid * steps.to(grid).unsqueeze(-1)


def _check(norm: str, variant: Variant | None) -> None:
    if norm != "per_frame":
        raise UserError("Transformers normalise token by token: give model.norm=per_frame.")
    if variant is not None and variant.kind != "image_to_video":
        raise UserError(
            "LTX-Video is a model of clips already, and takes no motion layers of the kind "
            f"{variant.kind!r}: give method=image_to_video."
        )


_own, _video = (inspect.signature(c.__init__).parameters for c in (MotionLTX, LTXVideoTransformer3DModel))
_added = [
    _own["motion_variant"],
    _own["motion_rank"],
]  # diffusers reads configuration keys from the signature
MotionLTX.__init__.__signature__ = inspect.Signature([*_video.values(), *_added])  # type: ignore[attr-defined]
