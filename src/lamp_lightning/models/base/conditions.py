"""What a text-to-image model is told besides the noisy latents: text embeddings and, for SDXL, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEmbeddings:
    """Prompts as the UNet reads them.

    text: `n l d`, for the cross-attention.
    pooled: `n p`, one vector for the whole prompt (SDXL), or None.

    Example:
        >>> words = TextEmbeddings(torch.ones(1, 77, 32))
        >>> words.zeros().followed_by(words).text.shape
        torch.Size([2, 77, 32])
    """

    text: Tensor
    pooled: Tensor | None = None

    def to(self, *args: Any) -> TextEmbeddings:
        """On a device, in a dtype, as `Tensor.to`."""
        return TextEmbeddings(self.text.to(*args), None if self.pooled is None else self.pooled.to(*args))

    def zeros(self) -> TextEmbeddings:
        """No prompt at all, as SDXL was trained to understand it."""
        return TextEmbeddings(
            torch.zeros_like(self.text), None if self.pooled is None else torch.zeros_like(self.pooled)
        )

    def followed_by(self, others: TextEmbeddings) -> TextEmbeddings:
        """The rows of both."""
        pooled = None
        if self.pooled is not None and others.pooled is not None:
            pooled = torch.cat([self.pooled, others.pooled])
        return TextEmbeddings(torch.cat([self.text, others.text]), pooled)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Token ids and attention mask, `n l`; prompts are cut at the encoder's length, as in diffusers."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


@torch.no_grad()
def encode_with_one(text_encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> TextEmbeddings:
    """Stable Diffusion 1.x and 2.x: the last hidden state of one text encoder."""
    tokens = tokenize(tokenizer, prompts)
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(text_encoder.device)
    ids = tokens.input_ids.to(text_encoder.device)
    return TextEmbeddings(text_encoder(ids, attention_mask=mask)[0])


@torch.no_grad()
def encode_with_two(pairs: Sequence[tuple[Any, Any]], prompts: Sequence[str]) -> TextEmbeddings:
    """SDXL: the last hidden state but one of both (text encoder, tokenizer) pairs, side by side.

    The pooled vector is the second encoder's projection (Podell et al. 2023, section 2.1).
    """
    states, pooled = [], None
    for text_encoder, tokenizer in pairs:
        ids = tokenize(tokenizer, prompts).input_ids.to(text_encoder.device)
        output = text_encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = getattr(output, "text_embeds", None)
    return TextEmbeddings(torch.cat(states, dim=-1), pooled)


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


def added_conditions(pooled: Tensor | None, sizes: Tensor) -> dict[str, Tensor] | None:
    """diffusers' `added_cond_kwargs`: `text_embeds` `n p` and `time_ids` `n 6`; None for models without.

    Args:
        pooled: `n p`, or None.
        sizes: `(6,)` for all rows, or `n 6`.
    """
    if pooled is None:
        return None
    return {"text_embeds": pooled, "time_ids": sizes.to(pooled).expand(len(pooled), 6)}
