"""The steps of a pipeline call, as diffusers' callbacks read and change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.denoise import StepCallback
from lamp_lightning.diffusion.guidance import Predict, with_changing_guidance
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.frames import Progress, StepEnd
from lamp_lightning.sample.prompts import PromptedPipeline


class SteppingPipeline(PromptedPipeline):
    """A pipeline whose calls can be looked at and changed in each step, by diffusers' names.

    A callback may set `pipe._interrupt = True`: the steps that remain are left out, and the video is decoded
    as it is. What it sets `pipe._guidance_scale` to holds from the next step on.
    """

    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "add_text_embeds",
        "add_time_ids",
    ]
    _guidance_scale: float = 1.0
    _guidance_rescale: float = 0.0
    _interrupt: bool = False
    _num_timesteps: int = 0
    _clip_skip: int | None = None
    _told: Any = None  # Conditions of the video; `2b` rows with guidance

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs, or ran last."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """Of the call that runs, or ran last."""
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call that runs, or ran last, is guided."""
        return self._guidance_scale not in (0, 1)

    @property
    def clip_skip(self) -> int | None:
        """Of the call that runs, or ran last."""
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, Any] | None:
        """Of the call that runs, or ran last."""
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """The denoising steps of the video, through all its windows."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call that runs is to leave out the steps that remain."""
        return self._interrupt

    def _predict(self, model: Any, now: Callable[[int], tuple[Conditions, float, float]]) -> Predict:
        """A model under conditions, guidance and rescale as they are `now`; it can be interrupted."""
        if self._cross_attention_kwargs:
            model = partial(model, cross_attention_kwargs=dict(self._cross_attention_kwargs))
        return with_changing_guidance(
            self._seeing(model), lambda clips: None if self._interrupt else now(clips)
        )

    def _now(self, clips: int) -> tuple[Conditions, float, float]:
        """Conditions and guidance of the video as hooks leave them."""
        scale = self._guidance_scale if len(self._told) == 2 * clips else 1.0
        return self._told, scale, self._guidance_rescale

    def _report(self, bar: Any, stage: str, progress: Progress | None) -> StepCallback:
        """What `denoise` calls after each step: it advances the bar and reports."""

        def report(step: int, steps: int, latents: Tensor) -> None:
            bar.update()
            if progress is not None:
                progress(stage, step, steps)

        return report

    def _after_step(self, report: StepCallback, callback: StepEnd, inputs: Sequence[str]) -> StepCallback:
        """What `denoise` calls where a hook reads and changes latents, prompts and guidance."""

        def after(step: int, steps: int, latents: Tensor) -> Tensor | None:
            report(step, steps, latents)
            self._num_timesteps, guided = steps, self.do_classifier_free_guidance
            timesteps = self.scheduler.timesteps
            timestep = timesteps[(step - 1 - steps) % len(timesteps)]
            tensors = {"latents": latents, **self._tensors(clips=len(latents))}
            changed = callback(self, step - 1, timestep, {name: tensors[name] for name in inputs}) or {}
            if self.do_classifier_free_guidance and not guided:
                raise UserError(
                    f"A callback set the guidance to {self._guidance_scale:g} in a call without guidance: "
                    "begin the call with a guidance_scale other than 1."
                )
            self._told = self._changed(tensors, changed, clips=len(latents))
            return changed.get("latents")

        return after

    def _tensors(self, clips: int) -> dict[str, Tensor | None]:
        """What the UNet is told, by diffusers' names; rows without prompt come first."""
        told = self._told
        return {
            "prompt_embeds": told.text,
            "negative_prompt_embeds": told.text[:clips] if len(told) == 2 * clips else None,
            "add_text_embeds": told.pooled,
            "add_time_ids": told.sizes,
        }

    def _changed(
        self, given: Mapping[str, Tensor | None], found: Mapping[str, Tensor | None], clips: int
    ) -> Conditions:
        """What the UNet is told from now on.

        diffusers' callbacks that end the guidance leave the last row alone, as is right for one video: the
        rows with a prompt then stay for each.
        """

        def chosen(name: str) -> Any:
            before, now = given[name], found.get(name, given[name])
            return now if now is None or before is None or len(now) >= clips else before[-clips:]

        text, negative = chosen("prompt_embeds"), chosen("negative_prompt_embeds")
        if negative is not None and negative is not given["negative_prompt_embeds"] and len(text) > clips:
            text = torch.cat([negative.to(text), text[clips:]])
        mask = None if self._told.mask is None else self._told.mask[-len(text) :]
        spacing = None if self._told.spacing is None else self._told.spacing[-len(text) :]
        return Conditions(text, chosen("add_text_embeds"), chosen("add_time_ids"), mask, spacing)
