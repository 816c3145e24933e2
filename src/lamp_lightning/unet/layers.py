"""Layers that know how many frames of a clip lie folded in their batch axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class ClipShape:
    """How the batch axis is to be read; one object, shared by all layers of a UNet and set by its forward.

    frames: frames per clip, so that a batch of `n` images is `n / frames` clips.
    motion: False turns every layer back into what it was in the image model.
    joint: whether GroupNorms pool their statistics over all frames of a clip.
    """

    frames: int = 1
    motion: bool = True
    joint: bool = True


Part = TypeVar("Part")


@dataclass
class Mixture(Generic[Part]):
    """The layers of several motions with their weights; empty where the layer's own parameters count.

    Not a module, so that these copies are in no state dict: they belong to the adapters that they came from.
    """

    parts: list[tuple[float, Part]] = field(default_factory=list)


class MotionConv(nn.Module):
    """The paper's temporal-spatial motion layer (section 3.3) around one 2D convolution.

    `y = conv2d(x)`, then `y + sigmoid(conv_gate(y)) * conv1d(y)`. `conv1d` runs over the frames and is padded
    on the past side only: frame f is computed from frames f-2, f-1 and f (the paper's video-prediction
    convolution). Gate and temporal convolution start at zero: an untuned layer is the 2D convolution.

    With several motions at once (`mixture`) each adds its own gated convolution, times its weight.

    Shapes: `(b f) c h w -> (b f) c' h' w'`.
    """

    def __init__(self, conv2d: nn.Conv2d, clip: ClipShape) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": conv2d.weight.device, "dtype": conv2d.weight.dtype}
        channels = conv2d.out_channels
        self.clip = clip
        self.conv2d = conv2d
        self.conv_gate = nn.Conv2d(channels, 1, kernel_size=3, padding=1, **like)
        self.conv1d = nn.Conv1d(channels, channels, kernel_size=3, **like)
        self.mixture: Mixture[tuple[nn.Conv2d, nn.Conv1d]] = Mixture()
        for parameter in (*self.conv_gate.parameters(), *self.conv1d.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2d(x)
        if not self.clip.motion:
            return y
        if not self.mixture.parts:
            return torch.addcmul(y, torch.sigmoid(self.conv_gate(y)), self.over_frames(y, self.conv1d))
        return y + sum(
            weight * torch.sigmoid(gate(y)) * self.over_frames(y, conv1d)
            for weight, (gate, conv1d) in self.mixture.parts
        )

    def over_frames(self, y: Tensor, conv1d: nn.Conv1d) -> Tensor:
        """The causal 1D convolution over frames, `(b f) c h w -> (b f) c h w`.

        Written as a (3, 1) convolution on `b c f (h w)`: of the equivalent forms the fastest on CPU, forward
        and backward, as frames need not become the innermost axis.
        """
        folded, channels, height, width = y.shape
        z = y.reshape(-1, self.clip.frames, channels, height * width)
        z = F.pad(z.transpose(1, 2), (0, 0, 2, 0))
        z = F.conv2d(z, conv1d.weight.unsqueeze(-1), conv1d.bias)
        return z.transpose(1, 2).reshape(folded, channels, height, width)


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics pool over all frames of a clip (`norm="joint"`), as the authors' do.

    With `norm="per_frame"` it is the image model's.

    Shapes: `(b f) c h w -> (b f) c h w`.
    """

    def __init__(self, norm: nn.GroupNorm, clip: ClipShape) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.weight, self.bias = norm.weight, norm.bias
        self.affine = norm.affine
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        frames = self.clip.frames
        if frames == 1 or not self.clip.motion or not self.clip.joint:
            return super().forward(x)
        folded, channels, height, width = x.shape
        clips = x.reshape(-1, frames, channels, height * width).transpose(1, 2)
        clips = super().forward(clips)  # b c f (h w)
        return clips.transpose(1, 2).reshape(folded, channels, height, width)
