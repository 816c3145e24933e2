"""MotionTransformer: a text-to-image transformer of flow matching that denoises clips."""

from __future__ import annotations

import inspect
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lamp_lightning.models.denoiser import as_output, check_clips
from lamp_lightning.models.inflated import InflatedModel
from lamp_lightning.models.lora import as_saved_by_diffusers
from lamp_lightning.models.transformer.blocks import MotionJointBlock, MotionSanaBlock
from lamp_lightning.models.unet.attention import TemporalBlock
from lamp_lightning.models.unet.layers import ClipShape
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.settings import Norm

# diffusers looks for ModelMixin here when it loads a saved pipeline.
__all__ = ["ModelMixin", "MotionSD3", "MotionSana", "MotionTransformer"]

# An object keeps its layout when its class changes only if diffusers' class is its first base with one: the
# transformers' own part comes before that class, and what all inflated models share after it.
if TYPE_CHECKING:
    _Beside = InflatedModel
else:
    _Beside = object

_QUERIES = "image_queries.safetensors"
LIVE = 20  # numbers that a transformer keeps alive per token and channel, about, while it samples


class MotionTransformer(_Beside):
    """A text-to-image transformer of diffusers, inflated to clips in place: `MotionSana` or `MotionSD3`.

    It runs diffusers' own forward pass on folded frames, each with a timestep of its own: frame 0 is clean
    and has timestep 0, so that it computes what the image model computes of a clean picture. Every block has
    a motion layer, attention to frame 0 and attention over time, see `transformer.blocks`.

    A clip of one frame is a picture, and has the timestep that it is given.

    Example:
        >>> import torch
        >>> from diffusers import SanaTransformer2DModel
        >>> image = SanaTransformer2DModel(
        ...     sample_size=8, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        ...     attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8,
        ...     cross_attention_dim=16, caption_channels=12,
        ... )
        >>> model = MotionTransformer.from_unet(image)
        >>> model(torch.randn(1, 4, 3, 8, 8), 500, torch.randn(1, 5, 12)).shape
        torch.Size([1, 4, 3, 8, 8])
        >>> model.times_of_frames(500, clips=1, device="cpu").tolist()
        [0, 500, 500]
    """

    queries: ClassVar[tuple[str, ...]]  # the query projections of attention among the tokens of a picture
    text_queries: ClassVar[tuple[str, ...]] = ()  # and of attention to the text alone
    image_class: ClassVar[Any]  # the model of diffusers below
    block_class: ClassVar[Any]  # what its blocks become
    transformer_blocks: Any  # diffusers'

    @staticmethod
    def from_unet(model: Any, norm: Norm = "per_frame", variant: Variant | None = None) -> MotionTransformer:
        """Inflate an image transformer **in place**: the same object, with its weights.

        Until it is tuned, it generates images as before. All but the tuned parameters are frozen.

        Args:
            model: a `SanaTransformer2DModel` or `SD3Transformer2DModel`.
            norm: "per_frame": transformers have no statistics that a clip could share.
            variant: what of LAMP it is to have and to tune; None: all.

        Raises:
            UserError: a model of another kind, one that is inflated already, another norm.
        """
        if isinstance(model, MotionTransformer):
            raise UserError("This transformer is inflated already: inflate an image model's, once.")
        cls = next((each for each in (MotionSana, MotionSD3) if isinstance(model, each.image_class)), None)
        if cls is None:
            raise UserError(
                f"A {type(model).__name__} cannot be inflated: give a SanaTransformer2DModel or an "
                "SD3Transformer2DModel."
            )
        _check(norm, variant)
        if getattr(model, "peft_config", None):
            raise UserError(
                "The transformer has LoRA layers and cannot be inflated with them: unload them first."
            )
        pattern = _pattern(cls.queries)
        queries = {k: v.detach().clone() for k, v in model.named_parameters() if pattern.search(k)}
        inflated = cast(MotionTransformer, model)
        inflated.__class__ = cls
        inflated._inflate(Variant())
        inflated.register_to_config(motion_variant=None)
        inflated._image_queries = queries
        if variant is not None:
            inflated.set_variant(variant)
        return inflated

    def _inflate(self, variant: Variant) -> None:
        self.check_variant(variant)
        self._clip = ClipShape(variant=variant, joint=False)
        self._image_queries = None
        for block in self.transformer_blocks:
            self.block_class.inflate(block, self._clip)
        self.add_layers(variant)
        self.require_gradients()

    @abstractmethod
    def _of_frames(self, frames: Tensor, times: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        """The image model's forward pass: frames `n c h w`, timesteps `n`, text `n l d` -> `n c h w`."""

    def forward(
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
            sample, encoder_hidden_states, known, return_dict: see there.
            timestep: one for all clips, one per clip `(b,)`, or one per frame `(b, f)`. Of one per clip,
                frame 0, or the known frames, have 0 instead, where the variant has a clean first frame.
            added_cond_kwargs: `text_embeds` `b p`, the pooled text of Stable Diffusion 3;
                `encoder_attention_mask` `b l`, 1 for each token of Sana's text that counts. Others are not
                looked at.
            cross_attention_kwargs: refused, as there are no LoRA layers that it could scale.
        """
        if cross_attention_kwargs:
            raise UserError(
                f"cross_attention_kwargs={cross_attention_kwargs} is about layers that UNets have."
            )
        check_clips(sample, encoder_hidden_states)
        clips, _channels, frames, rows, columns = sample.shape
        patch = self.config.patch_size
        if rows % patch or columns % patch:
            raise ValueError(
                f"Latents must have multiples of {patch} rows and columns, not {rows}x{columns}."
            )
        self.see(frames, known)
        self._clip.grid = rows // patch, columns // patch
        added = {k: v.repeat_interleave(frames, dim=0) for k, v in (added_cond_kwargs or {}).items()}
        folded = self._of_frames(
            sample.transpose(1, 2).flatten(0, 1),
            self.times_of_frames(timestep, clips, sample.device),
            encoder_hidden_states.repeat_interleave(frames, dim=0),
            added,
        )
        return as_output(folded.unflatten(0, (clips, frames)).transpose(1, 2), return_dict)

    @property
    def tells_known(self) -> bool:
        return True

    @property
    def norm(self) -> Norm:
        return "per_frame"

    @property
    def latent_multiple(self) -> int:
        return self.config.patch_size

    @property
    def even_multiple(self) -> int:
        return self.config.patch_size

    def live_numbers(self, rows: int, columns: int) -> int:
        tokens = (rows // self.config.patch_size) * (columns // self.config.patch_size)
        return tokens * self.config.num_attention_heads * self.config.attention_head_dim * LIVE

    def set_norm(self, norm: Norm) -> None:
        _check(norm, None)

    def check_variant(self, variant: Variant) -> None:
        _check("per_frame", variant)
        if "attn2.to_q" in variant.sets and not self.text_queries:
            raise UserError(
                f"tuner.tuned has 'attn2.to_q', the queries of attention to the text alone, which a "
                f"{self.image_class.__name__} does not have."
            )

    def names_of(self, sets: Iterable[str]) -> list[str]:
        """Names of the parameters in these sets, sorted; sets are called as those of UNets are."""
        own = {"attn1.to_q": self.queries, "attn2.to_q": self.text_queries}
        names = [name for each in sets for name in own.get(each, (each,))]
        return super().names_of(names)

    def queries_and_keys(self) -> Iterator[nn.Module]:
        for block in self.modules():
            if isinstance(block, TemporalBlock):
                for name in (*self.queries, "attn_temp.to_q"):
                    attention = getattr(block, name.split(".")[0])
                    if attention is not None:
                        yield from (attention.to_q, attention.to_k)

    def load_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: its layers would be looked for under the names of the image model."""
        raise UserError(
            "A LoRA cannot be loaded into an inflated transformer: load it into the image model, fuse it "
            "there (fuse_lora, unload_lora_weights), save that, and give its folder as model.path."
        )

    @as_saved_by_diffusers
    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with the image model's queries.

        Raises:
            UserError: several motions are mixed.
        """
        if self.is_mixed:
            raise UserError("Several motions are mixed: load one, or unload them, and save then.")
        self.refuse_factors()
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if self._image_queries is not None:
            queries = {name: tensor.cpu().contiguous() for name, tensor in self._image_queries.items()}
            save_file(queries, Path(save_directory) / _QUERIES)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, **kwargs: Any) -> Self:
        """Load a transformer that `save_pretrained` wrote; `kwargs` as of diffusers' `from_pretrained`."""
        model = super().from_pretrained(path_or_id, **kwargs)  # type: ignore[misc]
        queries = Path(path_or_id, kwargs.get("subfolder") or "", _QUERIES)
        if model._image_queries is None and queries.is_file():
            model._image_queries = load_file(queries)
        return model


class MotionSana(MotionTransformer, SanaTransformer2DModel, InflatedModel):
    """Sana (Xie et al. 2024, arXiv 2410.10629), inflated; see `MotionTransformer`.

    Args:
        motion_variant: `Variant.settings()` of a model that is not LAMP as it is.
        kwargs: the arguments of `SanaTransformer2DModel`.
    """

    queries = ("attn1.to_q",)
    text_queries = ("attn2.to_q",)
    image_class, block_class = SanaTransformer2DModel, MotionSanaBlock
    _repeated_blocks: ClassVar[list[str]] = ["MotionSanaBlock"]  # for `compile_repeated_blocks`

    @register_to_config
    def __init__(self, motion_variant: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._inflate(Variant.from_settings(motion_variant))

    def _of_frames(self, frames: Tensor, times: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        return SanaTransformer2DModel.forward(
            self,
            frames,
            text,
            times * self.config.timestep_scale,
            encoder_attention_mask=added.get("encoder_attention_mask"),
            return_dict=False,
        )[0]


class MotionSD3(MotionTransformer, SD3Transformer2DModel, InflatedModel):
    """Stable Diffusion 3 or 3.5 (Esser et al. 2024, arXiv 2403.03206), inflated; see `MotionTransformer`.

    Args:
        motion_variant: `Variant.settings()` of a model that is not LAMP as it is.
        kwargs: the arguments of `SD3Transformer2DModel`.
    """

    queries = ("attn.to_q", "attn2.to_q")  # the latter of 3.5 is among the tokens of a picture, too
    image_class, block_class = SD3Transformer2DModel, MotionJointBlock
    _repeated_blocks: ClassVar[list[str]] = ["MotionJointBlock"]

    @register_to_config
    def __init__(self, motion_variant: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._inflate(Variant.from_settings(motion_variant))

    def _of_frames(self, frames: Tensor, times: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        return SD3Transformer2DModel.forward(
            self, frames, text, added.get("text_embeds"), times, return_dict=False
        )[0]


def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(^|\.)({'|'.join(map(re.escape, names))})\.")


def _check(norm: str, variant: Variant | None) -> None:
    if norm != "per_frame":
        raise UserError("Transformers normalise token by token: give model.norm=per_frame.")
    if variant is not None and variant.kind != "lamp":
        raise UserError(
            f"A transformer cannot take motion modules of the kind {variant.kind!r}, which are made for "
            "UNets: give model.layers.kind=lamp."
        )


for _cls in (MotionSana, MotionSD3):  # diffusers reads configuration keys from the constructor's signature
    _own, _image = (inspect.signature(c.__init__).parameters for c in (_cls, _cls.image_class))
    _cls.__init__.__signature__ = inspect.Signature([*_image.values(), _own["motion_variant"]])  # type: ignore
