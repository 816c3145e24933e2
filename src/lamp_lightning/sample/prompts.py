"""What a pipeline call is told: prompts or their embeddings, for each of its videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions, size_conditions
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.devices import on_device
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.parts import MotionPipeline

MOST_READ = 64  # texts of so many calls are remembered where encoding them takes long


@dataclass(frozen=True)
class Prompts:
    """Prompts of a call, or their embeddings, and what guidance leads away from.

    Attributes:
        texts: one for each prompt, or None.
        negative: one text for all, one for each prompt, or None.
        embeds: embeddings in place of `texts`, a row for each prompt.
        negative_embeds: embeddings in place of `negative`.
        clip_skip: how many of the text encoder's last layers are left out.
        videos: of each prompt.

    Raises:
        UserError: arguments that contradict each other, or are missing.
    """

    texts: Sequence[str] | None
    negative: str | Sequence[str] | None = None
    embeds: Conditions | None = None
    negative_embeds: Conditions | None = None
    clip_skip: int | None = None
    videos: int = 1

    def __post_init__(self) -> None:
        if (self.texts is None) == (self.embeds is None):
            raise UserError("Give prompt or prompt_embeds, one of the two.")
        if not self.count:
            raise UserError("prompt is an empty list: give at least one.")
        if self.negative is not None and self.negative_embeds is not None:
            raise UserError("Give negative_prompt or negative_prompt_embeds, not both.")
        negatives = 1 if self.negative is None or isinstance(self.negative, str) else len(self.negative)
        if not isinstance(self.negative, str | None) and negatives != self.count:
            raise UserError(f"{negatives} negative prompts do not go with {self.count} prompts.")
        if self.negative_embeds is not None and self.embeds is not None:
            ours, theirs = tuple(self.embeds.text.shape), tuple(self.negative_embeds.text.shape)
            if ours != theirs:
                raise UserError(
                    f"negative_prompt_embeds must have the shape of prompt_embeds, {ours}, not {theirs}."
                )
        if self.videos < 1:
            raise UserError(f"num_videos_per_prompt must be a whole number from 1, not {self.videos}.")

    @property
    def count(self) -> int:
        """The number of prompts."""
        return len(self.texts if self.texts is not None else self.embeds)  # type: ignore[arg-type]

    def encoded(self, base: BaseModel, *, guidance: bool) -> Conditions:
        """Embeddings for each video: `2b` rows with guidance, unconditional first, else `b` rows."""
        return self._encoded(base, guidance=guidance).repeated(self.videos)

    def _encoded(self, base: BaseModel, *, guidance: bool) -> Conditions:
        zeros = self.negative is None and base.zeros_for_no_prompt
        at_once = self.embeds is None and self.negative_embeds is None and guidance and not zeros
        if at_once and not base.is_transformer:  # those are told apart, as their own pipelines do
            return base.encode_prompts([*self._negatives(), *(self.texts or ())], self.clip_skip)  # at once
        words = self.embeds or base.encode_prompts(self.texts or (), self.clip_skip)
        if not guidance:
            return words
        negative = self.negative_embeds
        if negative is None:
            negative = words.zeros() if zeros else self._encoded_negatives(base)
        return negative.to(words.text.device, words.text.dtype).followed_by(words)

    def _encoded_negatives(self, base: BaseModel) -> Conditions:
        return base.encode_prompts(self._negatives(), self.clip_skip, negative=True)

    def _negatives(self) -> list[str]:
        if self.negative is None or isinstance(self.negative, str):
            return [self.negative or ""] * self.count
        return list(self.negative)


def embeddings(text: Tensor | None, pooled: Tensor | None, pools: bool, names: str) -> Conditions | None:
    """Embeddings that a call was given, `b l d`, with the pooled ones `b p` where the model has such.

    Raises:
        UserError: one of the two is missing, or `text` has another shape.
    """
    if text is None and pooled is None:
        return None
    pooled_name = names.replace("prompt_embeds", "pooled_prompt_embeds")
    if text is None or (pooled is None and pools):
        raise UserError(f"This model needs {names} and {pooled_name}: give both.")
    if text.ndim != 3:
        raise UserError(f"{names} must be (prompts, tokens, channels), not {tuple(text.shape)}.")
    return Conditions(text, pooled if pools else None)


def as_list(prompt: str | Sequence[str] | None) -> list[str] | None:
    """Prompts as a list. UserError for what is no text, such as a picture in the prompt's place."""
    if not isinstance(prompt, str | Sequence | None):
        raise UserError(
            f"prompt must be a text or a list of texts, not {type(prompt).__name__}. Give a picture by name: "
            "pipe(prompt, image=picture)."
        )
    return None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)


@contextmanager
def lora_scaled(pipeline: Any, scale: float | None) -> Iterator[None]:
    """In this context LoRA layers of the text encoders count so much."""
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
    scaled = [each for each in encoders if scale is not None and getattr(each, "peft_config", None)]
    for encoder in scaled:
        scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        for encoder in scaled:
            unscale_lora_layers(encoder, scale)


class PromptedPipeline(MotionPipeline):
    """A pipeline that encodes prompts, as diffusers' pipelines do."""

    _cross_attention_kwargs: Mapping[str, Any] | None = None  # of the call that runs
    _fps: float = 8.0  # of the video of the call that runs, which models of clips are told
    _read: dict[str, Conditions] | None = None  # embeddings of texts that were read, where that takes long

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Text embeddings of prompts, as a call takes them.

        Args:
            prompt, negative_prompt, clip_skip: as of a call.
            device: of the embeddings; None: where the pipeline computes.
            num_images_per_prompt: videos of each prompt; diffusers' pipelines call it so.
            do_classifier_free_guidance: whether the negative ones are needed.
            prompt_embeds, negative_prompt_embeds: taken in place of texts.
            lora_scale: of LoRA layers in the text encoder.

        Returns:
            `prompt_embeds` and `negative_prompt_embeds`, `b l d`; for SDXL also `pooled_prompt_embeds` and
            `negative_pooled_prompt_embeds`, `b p`. The negative ones are None without guidance.
        """
        prompts = Prompts(
            as_list(prompt),
            negative_prompt,
            embeddings(prompt_embeds, None, False, "prompt_embeds"),
            embeddings(negative_prompt_embeds, None, False, "negative_prompt_embeds"),
            clip_skip,
            num_images_per_prompt,
        )
        if isinstance(self.unet, SanaTransformer2DModel) or self.base.takes_clips:
            raise UserError(
                "Embeddings of this model's prompts go with a mask, which a call does not take: give texts."
            )
        with lora_scaled(self, lora_scale):
            told = self._encoded(prompts, guidance=do_classifier_free_guidance)
        told = told.to(torch.device(device or self._execution_device))
        half = len(told) // 2 if do_classifier_free_guidance else 0
        prompt_embeds, pooled_prompt_embeds = told[half:].text, told[half:].pooled
        negative = told[:half] if half else None
        negative_prompt_embeds = None if negative is None else negative.text
        negative_pooled_prompt_embeds = None if negative is None else negative.pooled
        if told.pooled is None:
            return prompt_embeds, negative_prompt_embeds
        return prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds

    def _encoded(self, prompts: Prompts, *, guidance: bool) -> Conditions:
        """`Prompts.encoded`, for which large text encoders come to the device.

        They need not where these texts were read before.
        """
        base = self.base
        if not base.is_transformer:
            return prompts.encoded(base, guidance=guidance)
        if self._read is None:
            self._read = {}
        texts = (prompts.texts, prompts.negative, prompts.clip_skip, prompts.videos, guidance)
        asked = repr((texts, [id(encoder) for encoder in base.text_encoders]))
        given = prompts.embeds is not None or prompts.negative_embeds is not None
        if not given and asked in self._read:
            return self._read[asked]
        offloaded = any(hasattr(encoder, "_hf_hook") for encoder in base.text_encoders)
        device = self._execution_device
        there = on_device([] if offloaded else base.text_encoders, device)
        with there, torch.autocast(device.type, enabled=False):  # as the clips' texts were read
            told = prompts.encoded(base, guidance=guidance).to("cpu")
        if not given:
            if len(self._read) >= MOST_READ:
                del self._read[next(iter(self._read))]
            self._read[asked] = told
        return told

    def conditions(
        self,
        prompts: list[str],
        negative: str | list[str] | None,
        guidance_scale: float,
        size: tuple[int, int],
    ) -> Conditions:
        """What the UNet is told, `2b` rows, unconditional first; `b` without guidance."""
        self._cross_attention_kwargs = None
        return self._conditions(Prompts(prompts, negative), guidance_scale, size)

    def _conditions(self, prompts: Prompts, guidance_scale: float, size: tuple[int, int]) -> Conditions:
        with lora_scaled(self, (self._cross_attention_kwargs or {}).get("scale")):
            told = self._encoded(prompts, guidance=guidance_scale not in (0, 1))
        told = told.to(self._execution_device, self.unet.dtype).of_size(size_conditions(None, size))
        return told.spaced(self.base.spacing(self._fps))
