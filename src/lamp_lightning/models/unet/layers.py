"""Layers that know how many frames of a clip lie folded in their batch axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamp_lightning.diffusion.known import nearest_known
from lamp_lightning.models.variant import Variant

SliceSize = Literal["auto", "max"] | int | None


@dataclass
class ClipShape:
    """How the batch axis is to be read; one object, shared by all layers of a UNet and set by its forward.

    frames: frames per clip, so that a batch of `n` images is `n / frames` clips.
    grid: rows and columns of the tokens of a frame, in transformers.
    motion: False turns every layer back into what it was in the image model.
    known: numbers of the frames that are given, in order.
    variant: which parts of the motion layers there are.
    joint: whether GroupNorms pool their statistics over all frames of a clip.
    slice_size: how many heads of a frame attention computes at once: "auto" half of them, "max" one; None
        computes all heads of all frames at once.
    """

    frames: int = 1
    grid: tuple[int, int] = (1, 1)
    known: tuple[int, ...] = (0,)
    motion: bool = True
    variant: Variant = field(default_factory=Variant)
    joint: bool = True
    slice_size: SliceSize = None

    @property
    def knows_others(self) -> bool:
        """Whether other frames than frame 0 alone are given."""
        return self.known != (0,) and self.motion and self.frames > 1

    def of_known(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each frame the features of the given frames before and after it, both `(b f) ...`."""
        clips = x.unflatten(0, (-1, self.frames))
        before, after, _ = nearest_known(self.known, self.frames)
        return clips[:, list(before)].flatten(0, 1), clips[:, list(after)].flatten(0, 1)

    def heads_at_once(self, heads: int) -> int | None:
        """`slice_size` for a layer of so many heads, as a number."""
        if self.slice_size == "auto":
            return max(1, heads // 2)
        return 1 if self.slice_size == "max" else self.slice_size


class PastConv1d(nn.Conv1d):
    """A 1D convolution over frames, `b c f n -> b c f n`: frame f is computed from f-2, f-1 and f.

    Not `causal`, frame f is computed from f-1, f and f+1. Written as a (3, 1) convolution, which is the
    fastest form on CPU: frames need not become the innermost axis.
    """

    def __init__(self, channels: int, **like: Any) -> None:
        super().__init__(channels, channels, kernel_size=3, **like)

    def forward(self, x: Tensor, causal: bool = True) -> Tensor:
        ends = (2, 0) if causal else (1, 1)
        return F.conv2d(F.pad(x, (0, 0, *ends)), self.weight.unsqueeze(-1), self.bias)


class MotionLayer(nn.Module):
    """The motion part of the paper's temporal-spatial motion layer (section 3.3).

    Of features y it makes `y + sigmoid(conv_gate(y)) * conv1d(y)`, where `conv1d` runs over the frames and
    looks at the past only (the paper's video-prediction convolution). Gate and temporal convolution start at
    zero: an untuned layer changes nothing. Their parameters exist in variants without them, too, as a motion
    that has them may be loaded.

    Where the variant has `conv_first`, a 1x1 convolution of frame 0's features is added to every frame. The
    paper has no such part. It starts at zero, and exists only where the variant has it. Where other frames
    are given, too, it is of what lies on the straight line between the features of those before and after.

    In a mixture of motions each adds its own convolutions, times its weight.
    """

    MIXED: ClassVar[tuple[str, ...]] = ("conv_gate", "conv1d", "conv_first")  # of each motion in `mixture`
    conv_first: nn.Conv2d | None
    mixture: list[Any]  # weight and layers of each motion; not submodules, so that no state dict has them

    def __init__(self, channels: int, clip: ClipShape, **like: Any) -> None:
        super().__init__()
        self.clip = clip
        self.conv_gate = nn.Conv2d(channels, 1, kernel_size=3, padding=1, **like)
        self.conv1d = PastConv1d(channels, **like)
        self.conv_first = None
        self.mixture = []
        for parameter in (*self.conv_gate.parameters(), *self.conv1d.parameters()):
            nn.init.zeros_(parameter)

    def show_first(self, shown: bool) -> None:
        """Have `conv_first`, at zero where it was not there, or have it no longer."""
        if not shown:
            self.conv_first = None
        elif self.conv_first is None:
            channels, weight = self.conv_gate.in_channels, self.conv_gate.weight
            like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
            self.conv_first = nn.Conv2d(channels, channels, kernel_size=1, bias=False, **like)
            nn.init.zeros_(self.conv_first.weight)

    def moved(self, y: Tensor) -> Tensor:
        """Features with their motion, `(b f) c h w -> (b f) c h w`."""
        if not self.clip.motion:
            return y
        motions = self.mixture or [(1, self.conv_gate, self.conv1d, self.conv_first)]
        z = y
        for weight, gate, conv1d, first in motions:
            z = self._moved(z, y, weight, gate, conv1d, first)
        return z

    def _moved(self, z: Tensor, y: Tensor, weight: float, gate: Any, conv1d: Any, first: Any) -> Tensor:
        """`z` and what one motion adds to it, computed from the image layer's `y`; all `(b f) c h w`."""
        variant = self.clip.variant
        if variant.temporal_conv:
            change = self.over_frames(y, conv1d)
            if variant.gate:
                z = torch.addcmul(z, torch.sigmoid(gate(y)), change, value=weight)
            else:
                z = torch.add(z, change, alpha=weight)
        if variant.conv_first and first is not None:
            if self.clip.knows_others:
                return z + weight * first(self._between(y))
            shown = weight * first(y[:: self.clip.frames])
            z = (z.unflatten(0, (-1, self.clip.frames)) + shown[:, None]).flatten(0, 1)
        return z

    def _between(self, y: Tensor) -> Tensor:
        """Features of given frames and, for each other one, what lies between those of its neighbours."""
        before, after = self.clip.of_known(y)
        ways = nearest_known(self.clip.known, self.clip.frames)[2]
        way = y.new_tensor(ways).repeat(len(y) // self.clip.frames)
        return torch.lerp(before, after, way.reshape(-1, 1, 1, 1))

    def over_frames(self, y: Tensor, conv1d: PastConv1d) -> Tensor:
        """`conv1d` on folded frames, `(b f) c h w -> (b f) c h w`."""
        folded, channels, height, width = y.shape
        z = y.reshape(-1, self.clip.frames, channels, height * width).transpose(1, 2)
        return conv1d(z, self.clip.variant.causal).transpose(1, 2).reshape(folded, channels, height, width)


class MotionConv(MotionLayer):
    """The paper's motion layer around one 2D convolution: `moved(conv2d(x))`, see `MotionLayer`.

    Shapes: `(b f) c h w -> (b f) c' h' w'`.
    """

    def __init__(self, conv2d: nn.Conv2d, clip: ClipShape) -> None:
        super().__init__(conv2d.out_channels, clip, device=conv2d.weight.device, dtype=conv2d.weight.dtype)
        self.conv2d = conv2d

    def forward(self, x: Tensor) -> Tensor:
        return self.moved(self.conv2d(x))


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm, `(b f) c h w -> (b f) c h w`, that pools over all frames of a clip where that is `joint`."""

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
