"""What a model is told of each clip besides its noisy latents: the text, and what some have with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# The conditions besides the text, by the names that diffusers has for them.
_ADDED = {
    "pooled": "text_embeds",
    "sizes": "time_ids",
    "mask": "encoder_attention_mask",
    "spacing": "latent_spacing",  # our own
}


@dataclass(frozen=True)
class Conditions:
    """The conditions of clips, a row for each: `text` `n l d`, and what some models have besides.

    That is `pooled` `n p`, one vector for the whole prompt (SDXL, Stable Diffusion 3), `sizes` `n 6`, see
    `size_conditions` (SDXL), `mask` `n l`, 1 for each token of the text that counts (Sana, LTX-Video), and
    `spacing` `n 3`, seconds, pixels and pixels from one latent to the next (LTX-Video).

    Example:
        >>> prompts = Conditions(torch.ones(1, 77, 32))
        >>> both = prompts.zeros().followed_by(prompts)
        >>> len(both), both[1:].text.mean().item()
        (2, 1.0)
    """

    text: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    mask: Tensor | None = None
    spacing: Tensor | None = None

    @classmethod
    def of(cls, text: Tensor | Conditions, added: Mapping[str, Tensor] | None = None) -> Conditions:
        """Conditions from what diffusers takes: `encoder_hidden_states` and `added_cond_kwargs`."""
        if isinstance(text, Conditions):
            return text
        given = added or {}
        return cls(text, **{name: given[key] for name, key in _ADDED.items() if key in given})

    @property
    def added(self) -> dict[str, Tensor] | None:
        """diffusers' `added_cond_kwargs`; None for models that have none."""
        found = {key: getattr(self, name) for name, key in _ADDED.items()}
        return {key: tensor for key, tensor in found.items() if tensor is not None} or None

    @property
    def extra(self) -> dict[str, Any]:
        """What a model is called with besides the text: `model(sample, timestep, text, **extra)`."""
        return {} if self.added is None else {"added_cond_kwargs": self.added}

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice | Tensor) -> Conditions:
        return self._each(lambda tensor: tensor[rows])

    def to(self, *args: Any) -> Conditions:
        """On a device, in a dtype; the arguments are those of `Tensor.to`. Spacing keeps its precision."""
        moved = self._each(lambda tensor: tensor.to(*args))
        if self.spacing is None:
            return moved
        return replace(moved, spacing=self.spacing.to(moved.text.device))

    def zeros(self) -> Conditions:
        """No prompt at all, as SDXL was trained to understand it."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, text=torch.zeros_like(self.text), pooled=pooled)

    def followed_by(self, others: Conditions) -> Conditions:
        """The rows of both."""

        def joined(name: str) -> Tensor | None:
            a, b = getattr(self, name), getattr(others, name)
            return None if a is None or b is None else torch.cat([a, b])

        text = torch.cat([self.text, others.text])
        return Conditions(text, **{name: joined(name) for name in _ADDED})

    def repeated(self, times: int) -> Conditions:
        """Each row so many times, one after the other."""
        return self if times == 1 else self._each(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def of_size(self, sizes: Tensor) -> Conditions:
        """With size conditions `(6,)` for all rows, or `n 6`, where the model takes any."""
        if self.pooled is None:
            return self
        return replace(self, sizes=sizes.to(self.pooled).expand(len(self), 6))

    def spaced(self, spacing: Tensor | None) -> Conditions:
        """With a spacing of latents `(3,)` for all rows; None: of a model that is not told any."""
        return self if spacing is None else replace(self, spacing=spacing.expand(len(self), 3))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        others = {name: getattr(self, name) for name in _ADDED}
        changed = {name: None if each is None else change(each) for name, each in others.items()}
        return Conditions(change(self.text), **changed)


def size_conditions(source: tuple[int, int] | None, size: tuple[int, int]) -> Tensor:
    """SDXL's size and crop conditions (Podell et al. 2023, section 2.2) of a picture cropped at its centre.

    Args:
        source: height and width of the picture before it was cropped and scaled; None: it was neither.
        size: height and width that the model sees.

    Returns:
        `(6,)`: original height and width, top and left of the crop in the scaled picture, height and width.
    """
    height, width = source or size
    scale = max(size[0] / height, size[1] / width)
    top, left = (round((side * scale - seen) / 2) for side, seen in zip((height, width), size, strict=True))
    return torch.tensor([height, width, top, left, *size], dtype=torch.float32)
