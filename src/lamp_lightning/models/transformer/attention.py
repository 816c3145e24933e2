"""Attention of a clip in a transformer: every frame looks at the first frame and at the text.

The queries of a frame are its own. Keys and values of the picture come from frame 0 (paper, section 3.3), or
as the `Variant` says. They are projected once for each clip.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from lamp_lightning.diffusion.known import nearest_known
from lamp_lightning.models.unet.attention import attend, first_and_former
from lamp_lightning.models.unet.layers import ClipShape


class _OfClip:
    """A processor that knows its clip's shape."""

    def __init__(self, clip: ClipShape) -> None:
        self.clip = clip

    @property
    def looks_at(self) -> str:
        """Which frames give keys and values now; of a single picture its own."""
        alone = not self.clip.motion or self.clip.frames == 1
        looks_at = "own" if alone else self.clip.variant.self_attention
        return "known" if looks_at == "first_frame" and self.clip.knows_others else looks_at


class LinearClipAttention(_OfClip):
    """Sana's linear attention (Xie et al. 2024, arXiv 2410.10629, section 2.2), to the first frame.

    Linear attention gathers keys and values in one small state for each head, `relu(K) V`, which every query
    then reads. Here the state is that of frame 0, gathered once for a clip, and read by the queries of all
    frames. Frame 0 itself computes what it does as a picture. All of it is in float32, as Sana's is, whatever
    the autocast.

    Shapes: `(b f) n c -> (b f) n c`.
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        dtype, looks_at, frames = hidden_states.dtype, self.looks_at, self.clip.frames
        context = hidden_states[::frames] if looks_at == "first_frame" else hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        if looks_at == "first_and_former":
            key, value = (first_and_former(x, frames) for x in (key, value))
        elif looks_at == "known":
            key, value = (torch.cat(self.clip.of_known(x), dim=1) for x in (key, value))
        with torch.autocast(hidden_states.device.type, enabled=False):
            query, key, value = (
                x.transpose(1, 2).unflatten(1, (attn.heads, -1)).float() for x in (query, key, value)
            )
            query, key = F.relu(query), F.relu(key).transpose(2, 3)
            state = F.pad(value, (0, 0, 0, 1), value=1.0) @ key
            if looks_at == "first_frame":
                state = state.repeat_interleave(frames, dim=0)
            read = state @ query
            mixed = read[:, :, :-1] / (read[:, :, -1:] + 1e-15)
        mixed = attn.to_out[1](attn.to_out[0](mixed.flatten(1, 2).transpose(1, 2).to(dtype)))
        return mixed.clip(-65504, 65504) if dtype == torch.float16 else mixed


class ClipTextAttention(_OfClip):
    """Sana's attention to the text, which is projected once for each clip: its frames form one long query.

    Shapes: `(b f) n c`, text and mask given for every frame, `(b f) l d` and `(b f) 1 l` -> `(b f) n c`.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        frames = self.clip.frames
        text = encoder_hidden_states[::frames]
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        query = query.reshape(-1, frames * query.shape[1], query.shape[2])
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = None
        if attention_mask is not None:
            mask = attention_mask[::frames, None].to(query.dtype).expand(-1, attn.heads, -1, -1)
        mixed = attend(query, key, value, mask=mask)
        mixed = mixed.transpose(1, 2).reshape(*hidden_states.shape[:2], -1).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


class JointClipAttention(_OfClip):
    """The joint attention of Stable Diffusion 3 (Esser et al. 2024, section 4), to the first frame.

    Picture and text of a frame look at the picture of frame 0 and at their own frame's text. Without text it
    is the attention among the tokens of a picture that Stable Diffusion 3.5 has besides.

    Shapes: `(b f) n c`, text `(b f) l c` -> the same.
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Any:
        looks_at, frames, tokens, mask = self.looks_at, self.clip.frames, hidden_states.shape[1], None
        context = hidden_states[::frames] if looks_at == "first_frame" else hidden_states
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        key, value = _heads(attn, attn.to_k(context), attn.norm_k), _heads(attn, attn.to_v(context))
        if looks_at == "first_frame":
            key, value = (x.repeat_interleave(frames, dim=0) for x in (key, value))
        elif looks_at == "first_and_former":
            key, value = (
                first_and_former(x.transpose(1, 2).flatten(2), frames)
                .unflatten(-1, (attn.heads, -1))
                .transpose(1, 2)
                for x in (key, value)
            )
        elif looks_at == "known":
            key, value = (torch.cat(self.clip.of_known(x), dim=2) for x in (key, value))
            mask = self._once(key)
        if encoder_hidden_states is not None:
            query = torch.cat(
                [query, _heads(attn, attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)], 2
            )
            key = torch.cat([key, _heads(attn, attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)], 2)
            value = torch.cat([value, _heads(attn, attn.add_v_proj(encoder_hidden_states))], 2)
        if mask is not None:
            mask = F.pad(mask, (0, key.shape[2] - mask.shape[3]))
        mixed = attend(query, key, value, mask=mask).transpose(1, 2).flatten(2).to(query.dtype)
        picture = attn.to_out[1](attn.to_out[0](mixed[:, :tokens]))
        if encoder_hidden_states is None:
            return picture
        text = mixed[:, tokens:]
        return picture, text if attn.context_pre_only else attn.to_add_out(text)

    def _once(self, key: Tensor) -> Tensor:
        """What keeps a picture that is on both sides of a frame from weighing twice beside the text.

        Keys `(b f) heads 2n d` -> a mask `(b f) 1 1 2n`.
        """
        before, after, _ = nearest_known(self.clip.known, self.clip.frames)
        twice = torch.tensor([a == b for a, b in zip(before, after, strict=True)], device=key.device)
        mask = key.new_zeros(self.clip.frames, 1, 1, key.shape[2])
        mask[twice, ..., key.shape[2] // 2 :] = float("-inf")
        return mask.repeat(len(key) // self.clip.frames, 1, 1, 1)


def _heads(attn: Attention, x: Tensor, norm: Any = None) -> Tensor:
    """`b n (heads d) -> b heads n d`, normalised."""
    x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return x if norm is None else norm(x)
