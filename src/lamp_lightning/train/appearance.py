"""A LoRA beside the motion that learns what single frames look like, and is left out of it.

MotionDirector (Zhao et al. 2024, arXiv 2310.08465): what the clips look like goes into a LoRA of the image
model's self-attention and feed-forward layers, tuned on single frames without layers over time. It is there,
but not changed, while the layers over time are tuned on clips, so that those need not learn the look.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers.utils import USE_PEFT_BACKEND
from torch import Tensor, nn

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.loss import debiased, known_frames_loss, predicted, squared_error
from lamp_lightning.models.lora import LoraLayers, refuse_loaded
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.train.draws import FRAME_STREAM, item_generator

NAME = "appearance"
LAYERS = r".*\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"  # not the attention to the text


class Appearance:
    """The LoRA of a backbone that is being tuned; it is switched off but for the loss.

    Args:
        unet: a UNet of any kind of motion layers.
        rank: of the LoRA.

    Raises:
        UserError: peft is missing, a model that takes no LoRA, or one whose self-attention is tuned.
    """

    def __init__(self, unet: Any, rank: int) -> None:
        if not USE_PEFT_BACKEND:
            raise UserError("tuner.appearance_rank needs peft: pip install 'peft>=0.17', and start again.")
        from peft import LoraConfig

        if not isinstance(unet, LoraLayers):
            raise UserError("tuner.appearance_rank is for UNets: give tuner.appearance_rank=null.")
        self.unet = cast(Any, unet)
        if "attn1.to_q" in self.unet.variant.sets:
            raise UserError(
                "tuner.appearance_rank puts a LoRA beside attn1.to_q, which is tuned itself: leave it out of "
                "tuner.tuned."
            )
        refuse_loaded(unet, "tuned")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's, on models without a hub id
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS), NAME)
        self.unet.require_gradients()
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()
        self._leave()

    def parameters(self) -> dict[str, nn.Parameter]:
        """The LoRA's parameters by their names in the UNet."""
        return {name: p for name, p in self.unet.named_parameters() if f".{NAME}." in name}

    def loss(
        self,
        tuner: Any,
        batch: dict[str, Any],
        noise: Tensor,
        timesteps: Tensor,
        known: Sequence[int] | None,
    ) -> Tensor:
        """MotionDirector's losses (section 3.3), summed: of clips, of changes in clips, of single frames.

        Args:
            tuner: the `MotionTuner`: its tuned parameters learn the first two, the LoRA the last.
            batch, noise, timesteps, known: as of `MotionTuner.loss`.
        """
        latents, unet, weights = batch["latents"], self.unet, batch.get("mask")
        generator = item_generator(tuner.seed, int(batch["index"][0]), FRAME_STREAM)
        number = int(torch.randint(latents.shape[2], (1,), generator=generator))
        conditions = Conditions.of(batch["text"], batch.get("added_cond_kwargs"))
        with self._there(learns=False):
            found, true, counts = predicted(
                unet, tuner.scheduler, latents, noise, timesteps, conditions,
                known=tuner.known_frames(known), weights=weights,
            )  # fmt: skip
            anchor = min(number, found.shape[2] - 1)
            of_clips = squared_error(found, true, counts)
            of_changes = squared_error(debiased(found, anchor), debiased(true, anchor), counts)
        frame = slice(number, number + 1)
        with self._there(learns=True), unet.image_layers():
            of_frames = known_frames_loss(
                unet, tuner.scheduler, latents[:, :, frame], noise[:, :, frame], timesteps, conditions,
                known=(), weights=None if weights is None else weights[:, frame],
            )  # fmt: skip
        return of_clips + of_changes + of_frames

    @contextmanager
    def _there(self, *, learns: bool) -> Iterator[None]:
        """In this context the LoRA is part of the model."""
        self.unet.enable_adapters()
        for parameter in self.parameters().values():
            parameter.requires_grad_(learns)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Be no part of the model, and yet take gradients when they come: peft takes that away, too."""
        self.unet.disable_adapters()
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)
