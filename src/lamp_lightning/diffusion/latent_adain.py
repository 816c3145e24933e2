"""AdaIN of latents: frames take the statistics of an earlier frame, as the authors' inference does."""

from __future__ import annotations

import torch
from torch import Tensor


def adain(content: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """Give `content` the per-channel mean and standard deviation of `style`.

    Both are `b c ...`, for a frame `b c h w`; statistics are over all axes after the channels, in float32.
    `eps` is added to both variances, so that a constant channel stays finite.

    Example:
        >>> import torch
        >>> content, style = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[10.0, 14.0]]])
        >>> adain(content, style).flatten().tolist()
        [10.0, 14.0]
    """

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        x, axes = x.float(), tuple(range(2, x.ndim))
        return x.mean(axes, keepdim=True), (x.var(axes, keepdim=True) + eps).sqrt()

    (content_mean, content_std), (style_mean, style_std) = moments(content), moments(style)
    return ((content - content_mean) / content_std * style_std + style_mean).to(content.dtype)


def adain_towards_first(latents: Tensor, *, late: bool, last: bool) -> Tensor:
    """The authors' AdaIN after one denoising step, `b c f h w -> b c f h w`; frame 0 is not touched.

    In late steps frame 1 takes the statistics of frame 0; then, always, frames 2.. take those of frame 1;
    after the last step frames 1.. take those of frame 0.

    Example:
        >>> import torch
        >>> latents = torch.randn(1, 4, 3, 8, 8)
        >>> moved = adain_towards_first(latents, late=True, last=False)
        >>> torch.equal(moved[:, :, 0], latents[:, :, 0]), torch.equal(moved[:, :, 1], latents[:, :, 1])
        (True, False)
    """
    frames = list(latents.unbind(2))
    if late and len(frames) > 1:
        frames[1] = adain(frames[1], frames[0])
    frames[2:] = [adain(frame, frames[1]) for frame in frames[2:]]
    if last:
        frames[1:] = [adain(frame, frames[0]) for frame in frames[1:]]
    return torch.stack(frames, dim=2)
