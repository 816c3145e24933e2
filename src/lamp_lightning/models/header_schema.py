"""The header of a motion adapter: what is said beside the tensors, as one schema for writing and reading.

A safetensors header knows texts only. Numbers, lists and objects stand in it as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Json

from lamp_lightning.diffusion.sampler import Memory, Sampler
from lamp_lightning.models.modules import MotionModules
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.names import Name, Text, Weight, is_unicode
from lamp_lightning.runtime.reading import Schema, checked
from lamp_lightning.runtime.settings import Dtype, Frames, Norm, Rank

FORMAT = "lamp-lightning motion adapter"
FORMAT_VERSION = "2"  # an adapter that version 0.1 would read wrongly; others have "1"
LARGEST_HEADER = 16 * 2**20  # bytes; SDXL's adapters have 0.2 million


class Header(Schema):
    """What an adapter's header says. Keys that are not known, such as other tools add, are kept as texts.

    norm, variant: of the motion layers. Without a variant they are LAMP's as in the paper.
    base_model, base_config, base_variant, base_dtype: the text-to-image model below, as in `load_base_model`.
    base_lora, base_lora_scale: a style LoRA that is fused into that model, and its strength.
    base_fingerprint: some of its weights, by which it is known again.
    painter, painter_config, painter_variant: another model that generates the first frames.
    clip: the CLIP model that videos are measured with; empty: they are not.
    memory: what saves memory in sampling.
    method, motion, prompt, steps: the tuning: its method, the motion's name and prompt, and optimizer steps.
    num_frames, sampler: how the motion is sampled.
    official_config: the text of `config.json` of a checkpoint of the authors that it was converted from.
    rank: of the factors that stand in the place of weights (`models.lowrank`); None: all weights are whole.
    motion_modules: their structure, of the kind "animatediff", where it is not that of version 1.
    queries: whether those of the tensors that the image model has are whole, or differences to its own.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    format: Literal["lamp-lightning motion adapter"]
    format_version: Literal["1", "2"]
    norm: Norm
    variant: Json[Variant] = Variant()
    base_fingerprint: Json[Annotated[list[Weight], Field(max_length=1000)]] = Field(default_factory=list)
    base_model: Name | None = None
    base_config: Name | None = None
    base_variant: Name | None = None
    base_dtype: Dtype = "float32"
    base_lora: Name | None = None
    base_lora_scale: Json[Weight] = 1.0
    painter: Name | None = None
    painter_config: Name | None = None
    painter_variant: Name | None = None
    clip: Name | None = None
    memory: Json[Memory] = Memory()
    method: Name | None = None
    motion: Name | None = None
    prompt: Text | None = None
    steps: Json[Annotated[int, Field(ge=0, le=10**12)]] | None = None
    num_frames: Json[Frames] | None = None
    sampler: Json[Sampler] = Sampler()
    official_config: Text | None = None
    motion_modules: Json[MotionModules] | None = None
    rank: Json[Rank] | None = None
    queries: Literal["whole", "difference"] = "whole"


def as_texts(facts: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Facts as a header holds them: texts as they are, other values as JSON; None is left out.

    Raises:
        UserError: they make no header that could be read again.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in facts.items()
        if value is not None
    }
    for key, text in texts.items():
        if not is_unicode(key + text):
            raise UserError(
                f"{file} is not written: {key!r} of its header would be {text!r}, which is no UTF-8 text. "
                "Rename the file or folder, or give another text."
            )
    read_header(texts, file)
    return texts


def read_header(texts: Mapping[str, str], file: Path) -> Header:
    """The header that the metadata of a safetensors file makes.

    Raises:
        UserError: it is of no motion adapter, of another version, or a part of it cannot be used.
    """
    if texts.get("format") != FORMAT:
        raise UserError(f"{file} is a safetensors file, but not a motion adapter.")
    if texts.get("format_version") not in ("1", FORMAT_VERSION):
        raise UserError(
            f"{file} has adapter format {texts.get('format_version')!r:.40}, this version of lamp-lightning "
            f"reads {FORMAT_VERSION}: update lamp-lightning."
        )
    advice = "Copy or convert it again."
    try:
        return checked(Header, dict(texts), file=file, what="a motion adapter", advice=advice)
    except UserError as error:
        if isinstance(error.__cause__, Exception):
            raise
        raise UserError(f"{file} cannot be used as a motion adapter: {error} {advice}") from error
