"""Attention of a clip: every frame looks at the first frame, the text, and its own pixel over time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lamp_lightning.models.unet.fixed import FixedAttention
from lamp_lightning.models.unet.layers import ClipShape
from lamp_lightning.runtime.hardware import plain_attention

MAX_HEADS = 65535  # CUDA's attention kernels take no more at once


class ClipAttention:
    """Attention processor for `attn1` and `attn2` of an inflated block.

    Without text: queries from every frame, keys and values from frame 0 alone (paper, section 3.3), or as
    the `Variant` says. Where other frames are given, they come from those before and after. With text: every
    frame attends to its clip's prompt. Keys and values of the text and of frame 0 are projected once per
    clip, and the frames of a clip form one long query.

    Shapes: `(b f) n c` (and text `b l d`) -> `(b f) n c`.
    """

    def __init__(self, clip: ClipShape | None = None) -> None:
        self.clip = clip or ClipShape()  # None: of the layer that takes it, as diffusers makes another

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        frames = self.clip.frames
        looks_at: str = self.clip.variant.self_attention if self.clip.motion else "own"
        if looks_at == "first_frame" and self.clip.knows_others:
            looks_at = "known"
        if encoder_hidden_states is not None:
            context = encoder_hidden_states
        elif looks_at == "first_frame":
            context = hidden_states[::frames]
        else:
            frames, context = 1, hidden_states  # each image attends to itself
        query = attn.to_q(hidden_states)
        query = query.reshape(-1, frames * query.shape[1], query.shape[2])
        key, value = attn.to_k(context), attn.to_v(context)
        if encoder_hidden_states is None and looks_at == "first_and_former":
            key, value = (first_and_former(x, self.clip.frames) for x in (key, value))
        if encoder_hidden_states is None and looks_at == "known":
            key, value = (torch.cat(self.clip.of_known(x), dim=1) for x in (key, value))
        query, key, value = (_split_heads(x, attn.heads) for x in (query, key, value))
        at_once = self.clip.heads_at_once(attn.heads)
        if at_once is None:
            mixed = attend(query, key, value)
        else:
            mixed = attend_in_slices(query, key, value, frames=frames, heads=at_once)
        mixed = mixed.transpose(1, 2).reshape(hidden_states.shape[0], hidden_states.shape[1], -1)
        return attn.to_out[1](attn.to_out[0](mixed))


class FrameAttention:
    """Attention processor for `attn_temp`: each position attends to itself in all frames of its clip.

    Shapes: `(b f) n c -> (b f) n c`. Positions and heads share one axis, so nothing is copied to bring the
    frames next to the channels.
    """

    def __init__(self, clip: ClipShape) -> None:
        self.clip = clip

    def __call__(self, attn: Attention, hidden_states: Tensor, **_: Any) -> Tensor:
        folded, positions, _channels = hidden_states.shape
        frames = self.clip.frames
        clips = folded // frames
        query, key, value = (
            project(hidden_states).view(clips, frames, positions * attn.heads, -1).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        at_once, heads = MAX_HEADS, self.clip.heads_at_once(attn.heads)
        if heads is not None:  # no more scores at once than a slice of the attention to the first frame has
            at_once = min(at_once, max(1, heads * positions**2 // (clips * frames**2)))
        mixed = _by_heads(partial(attend, sliced=heads is not None), query, key, value, at_once)
        mixed = mixed.transpose(1, 2).reshape(folded, positions, -1)
        return attn.to_out[1](attn.to_out[0](mixed))


class TemporalBlock(nn.Module):
    """What turns a transformer block into one with temporal self-attention at its end."""

    clip: ClipShape
    attn_temp: Attention
    norm_temp: nn.LayerNorm
    mixture: list[Any]  # weight and layer of each motion, as in `MotionLayer`
    MIXED: ClassVar[tuple[str, ...]] = ("attn_temp",)

    def add_temporal(self, temporal: Attention, clip: ClipShape, like: Tensor) -> None:
        """Add `attn_temp`, a new attention, and its `norm_temp`, on the device and in the dtype of `like`.

        The output projection starts at zero, so that an untuned block is the image model's.
        """
        where: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        for parameter in temporal.to_out[0].parameters():
            nn.init.zeros_(parameter)
        FixedAttention.fix(temporal, FrameAttention(clip))
        self.attn_temp = temporal.to(**where)
        self.norm_temp = nn.LayerNorm(temporal.query_dim, **where)
        self.clip = clip
        self.mixture = []

    def over_time(self, hidden_states: Tensor) -> Tensor:
        """Features `(b f) n c` with what each position finds in the other frames of its clip."""
        if not self.clip.motion or not self.clip.variant.temporal_attention:
            return hidden_states
        normed = self.norm_temp(hidden_states)
        if not self.mixture:
            return hidden_states + self.attn_temp(normed)
        return hidden_states + sum(weight * attention(normed) for weight, attention in self.mixture)


class MotionTransformerBlock(TemporalBlock, BasicTransformerBlock):
    """A diffusers transformer block with temporal self-attention after its feed-forward.

    Not constructed: `MotionTransformerBlock.inflate(block, clip)` turns an image model's block into one.
    """

    @staticmethod
    def inflate(block: BasicTransformerBlock, clip: ClipShape) -> None:
        """Swap the block's attention processors and add `norm_temp` and `attn_temp`."""
        temporal = Attention(
            query_dim=block.dim,
            heads=block.num_attention_heads,
            dim_head=block.attention_head_dim,
            dropout=block.dropout,
            bias=block.attention_bias,
            upcast_attention=block.attn1.upcast_attention,
        )
        for attention in (block.attn1, block.attn2):
            if attention is not None:
                FixedAttention.fix(attention, ClipAttention(clip))
        block.__class__ = MotionTransformerBlock
        cast(MotionTransformerBlock, block).add_temporal(temporal, clip, block.attn1.to_q.weight)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.over_time(super().forward(hidden_states, *args, **kwargs))


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, sliced: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention, `b heads n d`; a mask `b heads 1 m` is added to the scores.

    torch's fused kernel, except where plain products are faster (`plain_attention`). A slice is never worth
    their memory.
    """
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    plain = torch.is_grad_enabled() and plain_attention(query.device.type, scores)
    if sliced or not plain:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores_of_keys = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores_of_keys if mask is None else scores_of_keys + mask
    return weights.softmax(dim=-1).to(value.dtype) @ value


def attend_in_slices(query: Tensor, key: Tensor, value: Tensor, *, frames: int, heads: int) -> Tensor:
    """`attend`, so many heads of a frame at a time: query `b heads (f n) d`, key and value `b heads m d`."""

    def by_frames(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.cat([attend(frame, key, value, sliced=True) for frame in query.chunk(frames, 2)], dim=2)

    clips = zip(query.split(1), key.split(1), value.split(1), strict=True)
    return torch.cat([_by_heads(by_frames, *clip, heads) for clip in clips])


def first_and_former(x: Tensor, frames: int) -> Tensor:
    """The tokens of frame 0 and of the frame before each frame, `(b f) n c -> (b f) 2n c`.

    Tune-A-Video's sparse-causal attention (Wu et al. 2023, section 3.2); frame 0 has itself twice.
    """
    clips = x.unflatten(0, (-1, frames))
    first = clips[:, :1].expand_as(clips)
    former = torch.cat([clips[:, :1], clips[:, :-1]], dim=1)
    return torch.cat([first, former], dim=2).flatten(0, 1)


def _by_heads(
    attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, at_once: int
) -> Tensor:
    """`attention` on so many heads at once, `b heads n d`; without a copy where that is all of them."""
    parts = zip(*(x.split(at_once, dim=1) for x in (query, key, value)), strict=True)
    mixed = [attention(*part) for part in parts]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """`b n (heads d) -> b heads n d`."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)
