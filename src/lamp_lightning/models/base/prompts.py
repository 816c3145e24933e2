"""Prompts to conditions: the text encoders of Stable Diffusion 1.x, 2.x, XL and 3, of Sana and LTX-Video."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

from lamp_lightning.diffusion.conditions import Conditions

SANA_TOKENS = 300  # these two as in diffusers' pipelines
T5_TOKENS = 256
LTX_TOKENS = 128


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


@torch.no_grad()
def encode_with_three(
    pairs: Sequence[tuple[Any, Any]],
    third: tuple[Any, Any],
    prompts: Sequence[str],
    width: int,
    clip_skip: int | None = None,
) -> Conditions:
    """Stable Diffusion 3: two CLIPs side by side, then T5 (Esser et al. 2024, section 4).

    The tokens of CLIP are filled up to the width of T5 with zeros; without T5 its tokens are zeros. The
    pooled vector is both of CLIP's.

    Args:
        pairs: text encoder and tokenizer of each CLIP.
        third: of T5; None and None: without.
        prompts: the texts.
        width: of T5's embeddings.
        clip_skip: how many of CLIP's last layers are left out.
    """
    states, pooled = [], []
    length = pairs[0][1].model_max_length
    for text_encoder, tokenizer in pairs:
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        output = text_encoder(tokens.input_ids.to(text_encoder.device), output_hidden_states=True)
        states.append(output.hidden_states[-2 - (clip_skip or 0)])
        pooled.append(output.text_embeds)
    clip = torch.cat(states, dim=-1)
    clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    t5_encoder, t5_tokenizer = third
    if t5_encoder is None:
        t5 = clip.new_zeros(len(prompts), T5_TOKENS, width)
    else:
        tokens = t5_tokenizer(
            list(prompts), padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
        )
        t5 = t5_encoder(tokens.input_ids.to(t5_encoder.device))[0]
    return Conditions(torch.cat([clip, t5.to(clip)], dim=-2), torch.cat(pooled, dim=-1))


@torch.no_grad()
def encode_for_sana(
    text_encoder: Any, tokenizer: Any, prompts: Sequence[str], *, instruct: bool = True
) -> Conditions:
    """Sana: the last hidden state of a language model, with a mask of the tokens that count.

    Gemma reads prompts after an instruction, whose tokens are then left out but for the first (Xie et al.
    2024, section 2.3). CLIP's text model, as in the toy world, has none.

    Args:
        text_encoder, tokenizer: Gemma, or CLIP's.
        prompts: the texts.
        instruct: whether the instruction comes before them; not before what guidance leads away from.
    """
    positions = getattr(text_encoder.config, "max_position_embeddings", SANA_TOKENS)
    tokens = min(SANA_TOKENS, positions)
    texts, length = [prompt.lower().strip() for prompt in prompts], tokens
    if instruct and text_encoder.config.model_type.startswith("gemma"):
        instruction = _sana_instruction()
        texts = [instruction + text for text in texts]
        length += len(tokenizer.encode(instruction)) - 2
    tokenizer.padding_side = "right"
    found = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    mask = found.attention_mask.to(text_encoder.device)
    states = text_encoder(found.input_ids.to(text_encoder.device), attention_mask=mask)[0]
    kept = [0, *range(-tokens + 1, 0)]
    return Conditions(states[:, kept], mask=mask[:, kept])


@torch.no_grad()
def encode_for_ltx(text_encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> Conditions:
    """LTX-Video: the last hidden state of T5, with a mask of the tokens that count."""
    found = tokenizer(
        list(prompts), padding="max_length", max_length=LTX_TOKENS, truncation=True, return_tensors="pt"
    )
    states = text_encoder(found.input_ids.to(text_encoder.device))[0]
    return Conditions(states, mask=found.attention_mask.to(text_encoder.device))


@cache
def _sana_instruction() -> str:
    """What diffusers' pipeline says to Gemma before a prompt."""
    from diffusers import SanaPipeline  # takes seconds to import

    return "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
