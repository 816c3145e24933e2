"""Inflation: turn the blocks of a text-to-image transformer into blocks of clips, in place.

Every block gets the paper's three parts. The projection that ends its feed-forward becomes a motion layer,
with a causal temporal convolution on the features of the tokens, which lie on the grid of a frame.
Self-attention looks at frame 0. An attention over time follows the block. All of them start at nothing.
"""

from __future__ import annotations

from typing import Any, cast

from diffusers.models.attention import JointTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from torch import Tensor, nn

from lamp_lightning.models.transformer.attention import (
    ClipTextAttention,
    JointClipAttention,
    LinearClipAttention,
)
from lamp_lightning.models.unet.attention import TemporalBlock
from lamp_lightning.models.unet.fixed import FixedAttention
from lamp_lightning.models.unet.layers import ClipShape, MotionConv, MotionLayer


class MotionLinear(MotionLayer):
    """A motion layer around the projection of tokens, which lie on a grid of `clip.grid` rows and columns.

    Shapes: `(b f) (h w) c -> (b f) (h w) c'`.
    """

    def __init__(self, linear: nn.Linear, clip: ClipShape) -> None:
        super().__init__(linear.out_features, clip, device=linear.weight.device, dtype=linear.weight.dtype)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if not self.clip.motion:
            return y
        on_grid = y.transpose(1, 2).unflatten(2, self.clip.grid)
        return self.moved(on_grid).flatten(2).transpose(1, 2)


class MotionSanaBlock(TemporalBlock, SanaTransformerBlock):
    """A block of Sana with a motion layer, attention to the first frame and temporal attention.

    Not constructed: `inflate` turns an image model's block into one.
    """

    @staticmethod
    def inflate(block: SanaTransformerBlock, clip: ClipShape) -> None:
        attention = block.attn1
        block.ff.conv_point = MotionConv(block.ff.conv_point, clip)
        FixedAttention.fix(attention, LinearClipAttention(clip))
        if block.attn2 is not None:
            FixedAttention.fix(block.attn2, ClipTextAttention(clip))
        block.__class__ = MotionSanaBlock
        cast(MotionSanaBlock, block).add_temporal(_temporal(attention), clip, attention.to_q.weight)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.over_time(super().forward(hidden_states, *args, **kwargs))


class MotionJointBlock(TemporalBlock, JointTransformerBlock):
    """A block of Stable Diffusion 3 with the same parts; text takes no part in time.

    Not constructed: `inflate` turns an image model's block into one.
    """

    @staticmethod
    def inflate(block: JointTransformerBlock, clip: ClipShape) -> None:
        attention = block.attn
        block.ff.net[-1] = MotionLinear(block.ff.net[-1], clip)
        for each in (attention, block.attn2):
            if each is not None:
                FixedAttention.fix(each, JointClipAttention(clip))
        block.__class__ = MotionJointBlock
        cast(MotionJointBlock, block).add_temporal(_temporal(attention), clip, attention.to_q.weight)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        text, hidden_states = super().forward(hidden_states, *args, **kwargs)
        return text, self.over_time(hidden_states)


def _temporal(attention: Attention) -> Attention:
    """A new attention with the heads of another."""
    return Attention(
        query_dim=attention.query_dim, heads=attention.heads, dim_head=attention.inner_dim // attention.heads
    )
