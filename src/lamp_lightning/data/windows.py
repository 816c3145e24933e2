"""Windows of clips, for autoencoders that encode several frames as one latent (LTX-Video's).

There a latent depends on all frames before it, so that no crop of an encoded clip is an encoded crop. Some
windows of each clip, which begin at frames that are spread over it, are encoded each by itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange

from lamp_lightning.runtime.errors import UserError

PLACES = 4  # windows of a clip, at most


@dataclass(frozen=True)
class Windows:
    """Which windows of clips are encoded.

    Args:
        frames: of a window.
        stride: every so many-th frame of the clip is one.
        latents: how many latents, one after the other, a window becomes.

    Example:
        >>> windows = Windows(frames=9, stride=1, latents=2)
        >>> windows.starts(9), windows.starts(12), windows.starts(40)
        ([0], [0, 1, 2, 3], [0, 10, 20, 31])
    """

    frames: int
    stride: int
    latents: int

    def starts(self, length: int) -> list[int]:
        """The first frames of the windows of a clip of so many frames."""
        room = length - (self.frames - 1) * self.stride - 1
        if room < 0:
            raise UserError(
                f"A clip of {length} frames is too short for {self.frames} frames, {self.stride} apart."
            )
        return sorted({room * k // (PLACES - 1) for k in range(PLACES)})

    def cut(self, frames: np.ndarray, start: int) -> np.ndarray:
        """The frames `f ...` of the window that begins at a frame."""
        return frames[start : start + (self.frames - 1) * self.stride + 1 : self.stride]

    def facts(self) -> dict[str, Any]:
        """What the cache is to tell apart."""
        return {**asdict(self), "places": PLACES}

    def moments(self, frames: np.ndarray, mirrored: bool, base: Any) -> torch.Tensor:
        """Posterior moments of a clip's windows, one after the other, float32 `2c (w f') h' w'`.

        Args:
            frames: of the clip, uint8 `f h w 3`.
            mirrored: whether left and right are exchanged.
            base: a BaseModel.
        """
        parts = []
        for start in self.starts(len(frames)):
            window = torch.from_numpy(np.array(self.cut(frames, start)))
            pixels = rearrange(window, "f h w c -> 1 c f h w").float() / 127.5 - 1
            moments = base.encode_clips(pixels.flip(-1) if mirrored else pixels)
            if moments.shape[2] != self.latents:
                raise UserError(
                    f"{base.name}: its autoencoder makes {moments.shape[2]} latents of {self.frames} frames. "
                    f"By its configuration they would be {self.latents}: fetch the model again."
                )
            parts.append(moments[0].float().cpu().clone())
        return torch.cat(parts, dim=1).contiguous()

    def weights(self, mask: torch.Tensor, length: int) -> torch.Tensor:
        """What each latent of the windows counts, `(w f') h w`: the mean over the frames that it is of.

        Args:
            mask: what each frame counts, `f h w`, or `1 h w` for all.
            length: frames of the clip.
        """
        whole = mask.expand(length, -1, -1)
        parts = []
        for start in self.starts(length):
            first, *others = whole[start : start + (self.frames - 1) * self.stride + 1 : self.stride]
            groups = torch.stack(others).unflatten(0, (self.latents - 1, -1)).mean(1)
            parts.append(torch.cat([first[None], groups]))
        return torch.cat(parts)
