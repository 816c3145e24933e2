"""From clips to latents and text embeddings, computed once and cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from lamp_lightning.data.cache import Cache
from lamp_lightning.data.clip import Clip, MotionSet
from lamp_lightning.data.windows import Windows
from lamp_lightning.diffusion.conditions import Conditions, size_conditions
from lamp_lightning.runtime.errors import UserError

_PIXELS_AT_ONCE = 1 << 20


@dataclass
class LatentClips:
    """A motion set as the model sees it.

    `moments`: per clip, mean and log variance of each frame's latent, (2c, F, h, w); `flipped`: the same for
    the mirrored clip, or None where direction matters; `text`: prompt embeddings (n, l, d), a row for each
    clip; `added`, of some models: pooled prompts `text_embeds` (n, p) and size conditions `time_ids` (n, 6);
    `rows`: where clips have several captions, the rows of `text` and `added` that are each clip's; `masks`:
    where clips have masks, the weight of each latent in the loss, (F, h, w), None for a clip without;
    `window`: where clips were encoded in windows (`data.windows`), the number of latents of each, which
    `moments` and `masks` have one after the other. `scale` and `shift` may then be (c, 1, 1, 1).

    Example:
        >>> import torch
        >>> from lamp_lightning.data import LatentClips
        >>> clips = LatentClips([torch.zeros(8, 6, 2, 2)], None, text=torch.zeros(1, 7, 16), scale=0.5)
        >>> clips.sample(clips.moments[0]).shape
        torch.Size([4, 6, 2, 2])
    """

    moments: list[torch.Tensor]
    flipped: list[torch.Tensor] | None
    text: torch.Tensor
    scale: float | torch.Tensor = 1.0
    shift: float | torch.Tensor = 0.0
    added: dict[str, torch.Tensor] | None = None
    rows: list[list[int]] | None = None
    masks: list[torch.Tensor | None] | None = None
    window: int | None = None

    def __len__(self) -> int:
        return len(self.moments)

    def sample(self, moments: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw scaled latents (c, f, h, w) from posterior moments (2c, f, h, w), as the authors do."""
        mean, log_variance = moments.chunk(2, dim=0)
        deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return (mean + deviation * noise - self.shift) * self.scale


def encode_motion_set(
    motion_set: MotionSet,
    base: Any,
    *,
    flip: bool = False,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    mask_black: float = 0.0,
    windows: Windows | None = None,
) -> LatentClips:
    """Encode all clips (and their mirror images, with `flip`) and prompts with `base`, a BaseModel.

    What was encoded before from the same pixels or prompts with the same weights is read from the cache.
    `progress(done, total)` is called after each clip. `mask_black` is what black counts in the loss where a
    clip has a mask; white counts 1. `windows` are those of a `base` that takes clips. Raises UserError where
    the autoencoder gives NaN.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lamp_lightning.data import Clip, MotionSet, encode_motion_set
        >>> from lamp_lightning.models import load_base_model
        >>> clip = Clip(Path("rain.mp4"), np.zeros((2, 64, 64, 3), np.uint8), 8, (64, 64), "red rain falls")
        >>> with tempfile.TemporaryDirectory() as cache:
        ...     found = encode_motion_set(MotionSet("rain", [clip]), load_base_model("tiny"), cache_dir=cache)
        >>> found.moments[0].shape
        torch.Size([16, 2, 16, 16])
    """
    cache = Cache(cache_dir)
    jobs = list(product([False, True] if flip else [False], motion_set.clips))
    moments = []
    for done, (mirrored, clip) in enumerate(jobs, start=1):
        moments.append(_clip_moments(clip, mirrored, base, cache, windows))
        if progress is not None:
            progress(done, len(jobs))
    count = len(motion_set.clips)
    prompts = [prompt for clip in motion_set.clips for prompt in clip.prompts]
    sizes = [
        size_conditions(clip.source_size, clip.frames.shape[1:3])
        for clip in motion_set.clips
        for _ in clip.prompts
    ]
    conditions = _text(prompts, base, cache).of_size(torch.stack(sizes))
    masks = [_weights(clip, moments[i], mask_black, windows) for i, clip in enumerate(motion_set.clips)]
    scale, shift = _statistics(base)
    if windows is not None:
        conditions = conditions.spaced(base.spacing(motion_set.fps / windows.stride))
    return LatentClips(
        moments=moments[:count],
        flipped=moments[count:] if flip else None,
        text=conditions.text,
        scale=scale,
        shift=shift,
        added=conditions.added,
        rows=_rows(motion_set) if len(prompts) > count else None,
        masks=masks if any(mask is not None for mask in masks) else None,
        window=None if windows is None else windows.latents,
    )


def _statistics(base: Any) -> tuple[Any, Any]:
    """What latents are multiplied by, and what is taken from them before."""
    if getattr(base, "takes_clips", False):
        mean, spread = (each[0].float().cpu() for each in base.statistics(5))
        return 1 / spread, mean
    config = base.vae.config
    return float(config.scaling_factor), float(getattr(config, "shift_factor", None) or 0.0)


def _rows(motion_set: MotionSet) -> list[list[int]]:
    """The numbers of each clip's captions, in the order of all."""
    ends = list(accumulate(len(clip.prompts) for clip in motion_set.clips))
    return [list(range(start, end)) for start, end in pairwise([0, *ends])]


def _weights(clip: Clip, moments: torch.Tensor, black: float, windows: Windows | None) -> torch.Tensor | None:
    """The weight of each latent of a clip in the loss, float32 `(F, h, w)`; None where all count alike."""
    if clip.mask is None:
        return None
    pixels = torch.from_numpy(np.array(clip.mask)).float()[:, None] / 255
    white = torch.nn.functional.adaptive_avg_pool2d(pixels, (moments.shape[-2], moments.shape[-1]))[:, 0]
    weights = black + (1 - black) * white
    if bool((weights == 1).all()):
        return None
    if windows is not None:
        return windows.weights(weights, len(clip.frames))
    return weights.expand(moments.shape[1], -1, -1)


def _clip_moments(
    clip: Clip, mirrored: bool, base: Any, cache: Cache, windows: Windows | None
) -> torch.Tensor:
    fields = {"frames": clip.digest, "shape": list(clip.frames.shape), "mirrored": mirrored}
    if windows is not None:
        fields["windows"] = windows.facts()
    if getattr(base.vae, "use_tiling", False):
        fields["tiled"] = True
    entry = cache.path("latents", {**fields, "model": _identity(base, "vae")}, ".safetensors")

    def make() -> dict[str, torch.Tensor]:
        if windows is None:
            moments = _encode(clip.frames, mirrored, base)
        else:
            moments = windows.moments(clip.frames, mirrored, base)
        if not moments.isfinite().all():
            raise UserError(
                f"{clip.path}: the autoencoder of {base.name} gives numbers that are not finite for this "
                "clip. Load the model in float32."
            )
        return {"moments": moments}

    return cache.tensors(entry, make)["moments"]


def _encode(frames: np.ndarray, mirrored: bool, base: Any) -> torch.Tensor:
    """uint8 frames (f, h, w, 3) -> float32 posterior moments (2c, f, h', w')."""
    step = max(1, min(16, _PIXELS_AT_ONCE // (frames.shape[1] * frames.shape[2])))
    parts = []
    for start in range(0, len(frames), step):
        part = torch.from_numpy(np.array(frames[start : start + step]))
        pixels = rearrange(part, "f h w c -> f c h w").float() / 127.5 - 1
        if mirrored:
            pixels = pixels.flip(-1)
        with torch.no_grad():
            parts.append(base.encode_moments(pixels).float().cpu().clone())
    return rearrange(torch.cat(parts), "f c h w -> c f h w").contiguous()


def _text(prompts: list[str], base: Any, cache: Cache) -> Conditions:
    """Embeddings of n prompts, each distinct one encoded once."""
    distinct = sorted(set(prompts))
    fields = {"prompts": distinct, "model": _identity(base, "text_encoder")}
    entry = cache.path("text", fields, ".safetensors")

    def make() -> dict[str, torch.Tensor]:
        encoded = base.encode_prompts(distinct)
        found = {"text": encoded.text, "pooled": encoded.pooled, "mask": encoded.mask}
        there = {name: tensor for name, tensor in found.items() if tensor is not None}
        return {name: tensor.float().cpu().clone() for name, tensor in there.items()}

    found = cache.tensors(entry, make)
    rows = [distinct.index(prompt) for prompt in prompts]
    return Conditions(**{name: tensor[rows] for name, tensor in found.items()})


def _identity(base: Any, part: str) -> str:
    """The hash that tells this model part's weights, configuration and precision from any other."""
    dtype = getattr(getattr(base, part), "dtype", None)
    return f"{base.identity[part]} {dtype}"
