"""MotionTuner: what Lightning trains, the tuned parameters of a motion UNet on the first-frame loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import LightningModule
from packaging.version import Version
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.loss import all_frames_loss, first_frame_loss
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.precision import check_precision, fast_float32
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import TunerSettings

if TYPE_CHECKING:
    from lamp_lightning.models.backbone import VideoBackbone

BITSANDBYTES = "0.50"  # the first that computes on CPUs, too
NOISE_STREAM = 1  # sets the noise of item i apart from whatever else is drawn for (seed, i)


def item_generator(seed: int, index: int) -> torch.Generator:
    """The CPU generator of training item `index`: its noise and timestep depend on nothing else.

    So a resumed run draws what an uninterrupted one would have drawn, on any device and number of GPUs.
    """
    state = np.random.SeedSequence([seed, NOISE_STREAM, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def adamw8bit() -> Any:
    """bitsandbytes' AdamW8bit, a quarter of AdamW's memory. UserError where it is missing or too old."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports missing kernels of other layers
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"tuner.optimizer=adamw8bit needs bitsandbytes ({error}): pip install lamp-lightning[8bit], or "
            "take tuner.optimizer=adamw."
        ) from error
    found = bitsandbytes.__version__
    if Version(found) < Version(BITSANDBYTES):
        raise UserError(
            f"tuner.optimizer=adamw8bit needs bitsandbytes {BITSANDBYTES} or newer, not {found}: "
            "pip install --upgrade lamp-lightning[8bit], or take tuner.optimizer=adamw."
        )
    return bitsandbytes.optim.AdamW8bit


class MotionTuner(LightningModule):
    """First-frame-conditioned video diffusion loss (paper, section 3.2) on the tuned parameters alone.

    Args:
        unet: the inflated UNet, or another backbone. Everything but its tuned parameters is frozen here.
        scheduler: the base model's diffusers scheduler, for its noise levels and prediction type.
        optimizer: `adamw` as the authors use, or `adamw8bit`, which needs less memory.
        learning_rate: of AdamW; the authors use 3e-5.
        weight_decay: of AdamW; the authors use 1e-2.
        schedule: `constant` as the authors use, or `cosine`, which ends at zero at the trainer's `max_steps`.
        warmup_steps: steps in which the rate rises linearly from zero.
        first_frame: whether frame 0 is given clean, as in the paper, or noised and learned as the others are
            (`all_frames_loss`). None: as `unet.variant` says.
        tuned: which parameter sets are tuned (`Variant`). None: as `unet.variant` says.
        seed: of noise and timesteps.
        gradient_checkpointing: less memory for more time.

    A batch is a dictionary of scaled `latents` `b c f h w`, `text` `b l d` and the item numbers `index` `b`,
    with SDXL also of `added_cond_kwargs`: `text_embeds` `b p` and `time_ids` `b 6`. Checkpoints hold the
    tuned parameters, the optimiser and the loop, not the frozen weights.

    Raises:
        UserError: a value that cannot be used, or bitsandbytes is missing.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler, UNet2DConditionModel
        >>> from lamp_lightning import MotionTuner, MotionUNet
        >>> image_unet = UNet2DConditionModel(
        ...     sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        ...     up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        ...     attention_head_dim=2,
        ... )
        >>> tuner = MotionTuner(MotionUNet.from_unet(image_unet), DDIMScheduler(), learning_rate=1e-3)
        >>> latents, text = torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 5, 16)
        >>> noise, timesteps = tuner.draw(latents, torch.tensor([0]))  # item 0 always has these
        >>> noise.shape, timesteps.shape
        (torch.Size([1, 4, 3, 8, 8]), torch.Size([1]))
        >>> batch = {"latents": latents, "text": text, "index": torch.tensor([0])}
        >>> tuner.training_step(batch, 0).shape
        torch.Size([])
    """

    def __init__(
        self,
        unet: VideoBackbone,
        scheduler: Any,
        *,
        optimizer: str = "adamw",
        learning_rate: float = 3e-5,
        weight_decay: float = 1e-2,
        schedule: str = "constant",
        warmup_steps: int = 0,
        first_frame: bool | None = None,
        tuned: Sequence[str] | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        settings = {
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
        }
        usable(TunerSettings, "tuner", settings)
        if optimizer == "adamw8bit":
            adamw8bit()  # where it is missing is said now, not when all clips are encoded
        self.unet = unet
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.seed = seed
        self.strict_loading = False  # a checkpoint has tuned parameters only; on_load_checkpoint is strict
        given = {"first_frame": first_frame, "tuned": tuned}
        given = {name: value for name, value in given.items() if value is not None}
        unet.set_variant(Variant.from_settings(unet.variant.model_dump() | given))
        unet.require_gradients()
        for parameter in unet.tuned_parameters():
            # Steps of 3e-5 vanish in half precision: tuned weights are float32 whatever the frozen ones are.
            parameter.data = parameter.data.float()
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device.type
        frozen = {p.dtype for p in self.unet.parameters() if not p.requires_grad} - {torch.float32}
        dtype = str(next(iter(frozen), torch.float32)).removeprefix("torch.")
        check_precision(str(self.trainer.precision), dtype, device)
        fast_float32(device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of a batch, a scalar; logged as `train/loss`."""
        latents = batch["latents"]
        noise, timesteps = self.draw(latents, batch["index"])
        conditions = Conditions.of(batch["text"], batch.get("added_cond_kwargs"))
        loss_of = first_frame_loss if self.unet.variant.first_frame else all_frames_loss
        loss = loss_of(self.unet, self.scheduler, latents, noise, timesteps, conditions)
        self.log("train/loss", loss.detach(), sync_dist=True, batch_size=len(latents))
        return loss

    def draw(self, latents: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like `latents` (b, c, f, h, w) and timesteps (b,) of the items `index` (b,)."""
        noise, timesteps = [], []
        for item in index.tolist():
            generator = item_generator(self.seed, item)
            levels = self.scheduler.config.num_train_timesteps
            timesteps.append(torch.randint(levels, (1,), generator=generator))
            noise.append(torch.randn(latents.shape[1:], generator=generator))
        return torch.stack(noise).to(latents), torch.cat(timesteps).to(latents.device)

    def configure_optimizers(self) -> Any:
        tuned = list(self.unet.tuned_parameters())
        settings: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "adamw8bit":
            optimizer = adamw8bit()(tuned, **settings)
        else:
            fused = all(parameter.device.type in ("cpu", "cuda") for parameter in tuned)
            optimizer = torch.optim.AdamW(tuned, fused=fused, **settings)
            # A fused optimiser offers to unscale gradients itself, and then nobody could clip them: decline.
            optimizer._step_supports_amp_scaling = False
        if self.schedule == "constant" and self.warmup_steps == 0:
            return optimizer
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Gradients go right after the step: Lightning would keep them until the next loss is known."""
        super().optimizer_step(*args, **kwargs)
        for parameter in self.unet.tuned_parameters():
            parameter.grad = None

    def rate_share(self, step: int) -> float:
        """The learning rate of optimiser step `step` (from 0) as a share of the full rate."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        length = max(1, self.trainer.max_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup_steps) / length)))

    def tuned_names(self) -> list[str]:
        """Names of the tuned parameters in this module's state dict."""
        return [f"unet.{name}" for name in self.unet.trainable_names()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self.tuned_names()}
        checkpoint["optimizer"] = self.optimizer
        checkpoint["variant"] = self.unet.variant.settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        optimizer = checkpoint.get("optimizer", "adamw")  # older checkpoints do not say
        if optimizer != self.optimizer:
            raise UserError(
                f"The checkpoint holds the state of tuner.optimizer={optimizer}, which {self.optimizer} "
                f"cannot go on from. Resume with tuner.optimizer={optimizer}."
            )
        variant = Variant.from_settings(checkpoint.get("variant"))
        if different := variant.differences(self.unet.variant):
            raise UserError(
                f"The checkpoint is of another variant of the model: it differs in {different}. Resume with "
                "the settings that the run began with."
            )
        saved, wanted = set(checkpoint["state_dict"]), set(self.tuned_names())
        odd = sorted(saved ^ wanted)
        if odd:
            where = "lacks" if odd[0] in wanted else "has the unknown"
            raise UserError(
                f"The checkpoint does not fit this model: it {where} parameter {odd[0]} "
                f"({len(odd)} names differ). "
                "Resume with the model that the run began with."
            )
