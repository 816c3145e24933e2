"""Prompts to conditions: the text encoders of Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

from lamp_lightning.diffusion.conditions import Conditions


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Token ids and attention mask, `n l`; prompts are cut at the encoder's length, as in diffusers.

    A word of a textual inversion (Gal et al. 2022) that has several vectors stands for all of them.
    """
    return tokenizer(
        TextualInversionLoaderMixin().maybe_convert_prompt(list(prompts), tokenizer),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


@torch.no_grad()
def encode_with_one(
    text_encoder: Any, tokenizer: Any, prompts: Sequence[str], clip_skip: int | None = None
) -> Conditions:
    """Stable Diffusion 1.x and 2.x: the last hidden state of one text encoder, or of a layer before."""
    tokens = tokenize(tokenizer, prompts)
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(text_encoder.device)
    ids = tokens.input_ids.to(text_encoder.device)
    if clip_skip is None:
        return Conditions(text_encoder(ids, attention_mask=mask)[0])
    states = text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    final = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    return Conditions(final(states[-1 - clip_skip]))


@torch.no_grad()
def encode_with_two(
    pairs: Sequence[tuple[Any, Any]], prompts: Sequence[str], clip_skip: int | None = None
) -> Conditions:
    """SDXL: the last hidden state but one of both (text encoder, tokenizer) pairs, side by side.

    Or that of so many layers before. The pooled vector is the second encoder's projection (Podell et al.
    2023, section 2.1).
    """
    states, pooled = [], None
    for text_encoder, tokenizer in pairs:
        ids = tokenize(tokenizer, prompts).input_ids.to(text_encoder.device)
        output = text_encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2 - (clip_skip or 0)])
        pooled = getattr(output, "text_embeds", None)
    return Conditions(torch.cat(states, dim=-1), pooled)
