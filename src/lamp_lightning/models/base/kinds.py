"""The kinds of base models: of which parts, and of which classes, a pipeline of each kind consists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
_CLIP_TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection")


@dataclass(frozen=True)
class Kind:
    """A kind of text-to-image pipeline, or LTX-Video's, which generates clips.

    Args:
        title: its name, for messages.
        denoiser: the name of the part that denoises in a pipeline's folder: "unet" or "transformer".
        parts: which classes of diffusers or transformers each part may be of.
        droppable: parts that a pipeline may come without.
    """

    title: str
    denoiser: str
    parts: Mapping[str, tuple[str, ...]]
    droppable: tuple[str, ...] = field(default=())

    def attribute(self, part: str) -> str:
        """What a `BaseModel` calls a part: its denoiser is always `unet`."""
        return "unet" if part == self.denoiser else part


SD = Kind(
    "Stable Diffusion",
    "unet",
    {
        "tokenizer": _CLIP_TOKENIZER,
        "text_encoder": _CLIP_TEXT,
        "vae": ("AutoencoderKL",),
        "unet": ("UNet2DConditionModel",),
    },
)
SDXL = Kind(
    "Stable Diffusion XL",
    "unet",
    {
        **SD.parts,
        "tokenizer_2": _CLIP_TOKENIZER,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    },
)
SANA = Kind(
    "Sana",
    "transformer",
    {
        "tokenizer": ("GemmaTokenizer", "GemmaTokenizerFast", *_CLIP_TOKENIZER),
        "text_encoder": ("Gemma2Model", "CLIPTextModel"),  # the latter in the toy world
        "vae": ("AutoencoderDC", "AutoencoderKL"),
        "transformer": ("SanaTransformer2DModel",),
    },
)
SD3 = Kind(
    "Stable Diffusion 3",
    "transformer",
    {
        "tokenizer": _CLIP_TOKENIZER,
        "text_encoder": ("CLIPTextModelWithProjection",),
        "tokenizer_2": _CLIP_TOKENIZER,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
        "text_encoder_3": ("T5EncoderModel",),
        "vae": ("AutoencoderKL",),
        "transformer": ("SD3Transformer2DModel",),
    },
    droppable=("tokenizer_3", "text_encoder_3"),
)
LTX = Kind(
    "LTX-Video",
    "transformer",
    {
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
        "text_encoder": ("T5EncoderModel",),
        "vae": ("AutoencoderKLLTXVideo",),
        "transformer": ("LTXVideoTransformer3DModel",),
    },
)


def kind_of(index: Mapping[str, Any]) -> Kind:
    """The kind of model that a pipeline's index describes; Stable Diffusion where it is no other."""
    name = named(index.get("transformer"))[1]
    for kind in (SANA, SD3, LTX):
        if name in kind.parts["transformer"]:
            return kind
    return SDXL if any(named(index.get(part))[0] for part in ("tokenizer_2", "text_encoder_2")) else SD


def named(entry: Any) -> tuple[str, str]:
    """Library and class of a part as `model_index.json` names them; empty where it names none."""
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry):
        return entry[0], entry[1]
    return "", ""
