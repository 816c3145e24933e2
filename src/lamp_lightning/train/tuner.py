"""MotionTuner: what Lightning trains, the tuned parameters of a motion UNet on the first-frame loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.denoise import denoise_clips
from lamp_lightning.diffusion.guidance import with_guidance
from lamp_lightning.diffusion.known import KnownFrames, random_known
from lamp_lightning.diffusion.loss import known_frames_loss
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.scheduled_sampling import own_noise
from lamp_lightning.models.registry import Variant, inflated
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.precision import check_precision, fast_float32
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import TunerSettings
from lamp_lightning.train.appearance import Appearance
from lamp_lightning.train.checkpoints import WEIGHTS, read_module
from lamp_lightning.train.draws import KNOWN_STREAM, draw, draw_held_out, draw_noisier, item_generator
from lamp_lightning.train.optimizers import adamw8bit, make_optimizer

if TYPE_CHECKING:
    from lamp_lightning.models.backbone import VideoBackbone


class MotionTuner(LightningModule):
    """First-frame-conditioned video diffusion loss (paper, section 3.2) on the tuned parameters alone.

    Args:
        unet: the inflated UNet, or another backbone. Everything but its tuned parameters is frozen here.
        scheduler: the base model's diffusers scheduler, for its noise levels and prediction type.
        optimizer: `adamw` as the authors use, `adamw8bit`, which needs less memory, or `muon`, which learns
            faster (`runtime.muon`).
        learning_rate: of the optimiser; the authors use 3e-5.
        weight_decay: of the optimiser; the authors use 1e-2.
        schedule: `constant` as the authors use, or `cosine`, which ends at zero at the trainer's `max_steps`.
        warmup_steps: steps in which the rate rises linearly from zero.
        first_frame: whether frame 0 is given clean, as in the paper, or noised and learned as the others are
            (`all_frames_loss`). None: as `unet.variant` says.
        tuned: which parameter sets are tuned (`Variant`). None: as `unet.variant` says.
        rank: of the factors that are tuned in place of weights (`models.lowrank`). None: whole weights.
        scheduled_sampling: share of the clips that are shown as the model's own prediction from a noisier
            timestep would have them (`diffusion.scheduled_sampling`). The authors have none.
        appearance_rank: of a LoRA that learns beside them what single frames look like, and is left out of
            the motion (`train.appearance`). None: no such LoRA.
        seed: of noise and timesteps.
        gradient_checkpointing: less memory for more time.
        base_model: name of the base model (a folder, hub id, single file, or "tiny"), which checkpoints keep,
            so that `load_from_checkpoint` finds it. None: what diffusers loaded the UNet from.
        base_config: see `load_base_model`.
        base_variant: of the base model's weight files.
        base_lora: see `load_base_model`.
        base_lora_scale: the strength of that LoRA.

    A batch is a dictionary of scaled `latents` `b c f h w`, `text` `b l d` and the item numbers `index` `b`,
    with SDXL also of `added_cond_kwargs`: `text_embeds` `b p` and `time_ids` `b 6`, and with masks of `mask`
    `b f h w`, the weight of each latent in the loss. Checkpoints hold the
    tuned parameters, the optimiser, the loop and the hyperparameters, not the frozen weights.
    `load_from_checkpoint` makes the whole module from one. `sampler` says how `predict_step` samples.

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
        rank: int | None = None,
        scheduled_sampling: float = 0.0,
        appearance_rank: int | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        base_model: str | None = None,
        base_config: str | None = None,
        base_variant: str | None = None,
        base_lora: str | None = None,
        base_lora_scale: float = 1.0,
    ) -> None:
        super().__init__()
        settings = {
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "rank": rank,
            "scheduled_sampling": scheduled_sampling,
            "appearance_rank": appearance_rank,
        }
        usable(TunerSettings, "tuner", settings)
        if optimizer == "adamw8bit":
            adamw8bit()  # where it is missing is said now, not when all clips are encoded
        base_model = base_model or unet.config.get("_name_or_path") or None
        self.save_hyperparameters(ignore=["unet", "scheduler", "first_frame", "tuned"])
        self.base_model = base_model
        self.unet = unet
        self.scheduler = scheduler
        self.sampler = Sampler(guidance_scale=1.0)  # batches have no text to guide away from
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.scheduled_sampling = scheduled_sampling
        self.seed = seed
        self.register_load_state_dict_pre_hook(_keep_frozen)
        given = {"first_frame": first_frame, "tuned": tuned}
        given = {name: value for name, value in given.items() if value is not None}
        unet.set_variant(Variant.from_settings(unet.variant.model_dump() | given))
        if rank is not None and rank != unet.rank:
            unet.set_rank(rank)
        unet.require_gradients()
        for parameter in unet.tuned_parameters():
            # Steps of 3e-5 vanish in half precision: tuned weights are float32 whatever the frozen ones are.
            parameter.data = parameter.data.float()
        self.appearance = None if appearance_rank is None else Appearance(unet, appearance_rank)
        if self.appearance is not None and (gradient_checkpointing or scheduled_sampling):
            other = "model.gradient_checkpointing" if gradient_checkpointing else "tuner.scheduled_sampling"
            raise UserError(f"tuner.appearance_rank does not go with {other}: leave one of them out.")
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device.type
        dtype = str(self.frozen_dtype).removeprefix("torch.")
        check_precision(str(self.trainer.precision), dtype, device)
        if self.appearance is not None and self.trainer.world_size > 1:
            raise UserError("tuner.appearance_rank tunes in one process: give trainer.devices=1.")
        fast_float32(device)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the UNet predicts, `b c f h w`; takes what the UNet takes."""
        return self.unet(*args, **kwargs)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of a batch, a scalar; logged as `train/loss`."""
        known, scale = self.draw_known(batch["latents"].shape[2], batch["index"]), None
        noise, timesteps = self.draw(batch["latents"], batch["index"])
        if self.scheduled_sampling:
            noise, scale = self.own_noise(batch, noise, timesteps, known)
        if self.appearance is None:
            loss = self.loss(batch, noise, timesteps, known, scale)
        else:
            loss = self.appearance.loss(self, batch, noise, timesteps, known)
        self._log_loss("train/loss", loss.detach(), batch)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The same loss at noise and timesteps that never change; logged as `val/loss`."""
        return self._held_out_loss(batch, "val/loss")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The same as in validation; logged as `test/loss`."""
        return self._held_out_loss(batch, "test/loss")

    def _held_out_loss(self, batch: dict[str, Any], name: str) -> Tensor:
        loss = self.loss(batch, *self.draw_held_out(batch["latents"], batch["index"]))
        self._log_loss(name, loss, batch)
        return loss

    @torch.compiler.disable  # as of Lightning 2.6 it cannot be compiled
    def _log_loss(self, name: str, loss: Tensor, batch: dict[str, Any]) -> None:
        """At each step in training, and the mean of all batches elsewhere."""
        self.log(name, loss, sync_dist=True, batch_size=len(batch["latents"]))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Clips that go on from the first frames of a batch, as scaled latents `b c f h w`.

        They are sampled as `self.sampler` says, without guidance, each from the noise of its item.
        """
        latents = batch["latents"]
        noise, _ = self.draw_held_out(latents, batch["index"])
        conditions = Conditions.of(batch["text"], batch.get("added_cond_kwargs"))
        known = KnownFrames.of(latents, self.known_frames())
        scheduler = self.sampler.make_scheduler(self.scheduler.config)
        predict = with_guidance(self.unet, conditions, scale=1.0)
        return denoise_clips(predict, scheduler, noise, known, self.sampler)

    def loss(
        self,
        batch: dict[str, Any],
        noise: Tensor,
        timesteps: Tensor,
        known: Sequence[int] | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            batch: see the class.
            noise: `b c f h w`.
            timesteps: `(b,)`.
            known: see `known_frames`.
            scale: of each clip, `(b,)`; see `diffusion.loss.predicted`.
        """
        conditions = Conditions.of(batch["text"], batch.get("added_cond_kwargs"))
        return known_frames_loss(
            self.unet, self.scheduler, batch["latents"], noise, timesteps, conditions,
            known=self.known_frames(known), weights=batch.get("mask"), scale=scale,
        )  # fmt: skip

    @torch.compiler.disable
    def own_noise(
        self, batch: dict[str, Any], noise: Tensor, timesteps: Tensor, known: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise `b c f h w` that for a share of the clips is of the model's own predictions, and their scale.

        Arguments are those of `loss`.
        """
        noisier = draw_noisier(self.scheduler, timesteps, batch["index"], self.seed, self.scheduled_sampling)
        conditions = Conditions.of(batch["text"], batch.get("added_cond_kwargs"))
        return own_noise(
            self.unet, self.scheduler, batch["latents"], noise, timesteps, noisier, conditions,
            known=self.known_frames(known),
        )  # fmt: skip

    @torch.compiler.disable
    def draw_known(self, frames: int, index: Tensor) -> tuple[int, ...] | None:
        """The given frames of a step, for all clips of its batch; None where they are always the same."""
        if self.unet.variant.known != "any":
            return None
        return random_known(frames, item_generator(self.seed, int(index[0]), KNOWN_STREAM))

    def known_frames(self, known: Sequence[int] | None = None) -> Sequence[int]:
        """The numbers of the frames that are given; None: frame 0, or none where the variant says so."""
        if known is not None:
            return known
        return (0,) if self.unet.variant.first_frame else ()

    @torch.compiler.disable
    def draw_held_out(self, latents: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """As `draw`, but the same at any seed, with timesteps that spread evenly over all levels."""
        return draw_held_out(self.scheduler, latents, index)

    @torch.compiler.disable  # generators are not compiled
    def draw(self, latents: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like `latents` (b, c, f, h, w) and timesteps (b,) of the items `index` (b,)."""
        return draw(self.scheduler, latents, index, self.seed)

    def learned(self) -> list[torch.nn.Parameter]:
        """What the optimiser changes: the tuned parameters, and the LoRA of appearance where there is one."""
        beside = {} if self.appearance is None else self.appearance.parameters()
        return [*self.unet.tuned_parameters(), *beside.values()]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.optimizer, self.learned(), self.learning_rate, self.weight_decay)
        if self.schedule == "constant" and self.warmup_steps == 0:
            return optimizer
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Gradients go right after the step: Lightning would keep them until the next loss is known."""
        super().optimizer_step(*args, **kwargs)
        for parameter in self.learned():
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
        """Names in this module's state dict of what is learned."""
        beside = {} if self.appearance is None else self.appearance.parameters()
        return [f"unet.{name}" for name in (*self.unet.trainable_names(), *beside)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for key in WEIGHTS:
            if (state := checkpoint.get(key)) is not None:
                checkpoint[key] = {name: state[name] for name in self.tuned_names()}
        checkpoint["optimizer"] = self.optimizer
        checkpoint["variant"] = self.unet.variant.settings()
        checkpoint["base"] = {
            "norm": self.unet.norm,
            "dtype": str(self.frozen_dtype).removeprefix("torch."),
            "fingerprint": self.unet.fingerprint(),
            "modules": None if (found := self.unet.modules_structure) is None else found.model_dump(),
        }

    @property
    def frozen_dtype(self) -> torch.dtype:
        """What the frozen weights are kept in."""
        frozen = {p.dtype for p in self.unet.parameters() if not p.requires_grad} - {torch.float32}
        return next(iter(frozen), torch.float32)

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
        wanted = set(self.tuned_names())
        odd = sorted({name for key in WEIGHTS for name in wanted ^ set(checkpoint.get(key, wanted))})
        if odd:
            where = "lacks" if odd[0] in wanted else "has the unknown"
            raise UserError(
                f"The checkpoint does not fit this model: it {where} parameter {odd[0]} "
                f"({len(odd)} names differ). "
                "Resume with the model that the run began with."
            )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, **hyperparameters: Any
    ) -> MotionTuner:
        """The module of a checkpoint, with the base model that it names.

        The file is data: nothing in it is run, whoever wrote it.

        Args:
            checkpoint_path: of a `Trainer` or a run (`checkpoints/last.ckpt`).
            map_location: the device; None: the CPU.
            hyperparameters: arguments of the class that differ from the saved ones. With `unet`, an inflated
                UNet, and `scheduler` no base model is loaded.

        Raises:
            UserError: a damaged file, one that names no base model, or another model than it was tuned on.

        Example:
            >>> import tempfile
            >>> from lightning import Trainer
            >>> from lamp_lightning import MotionTuner, MotionUNet
            >>> from lamp_lightning.models import load_base_model
            >>> base = load_base_model("tiny")
            >>> unet = MotionUNet.from_unet(base.unet)
            >>> tuner = MotionTuner(unet, base.scheduler, base_model="tiny", seed=7)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
            ...     trainer.strategy.connect(tuner)
            ...     trainer.save_checkpoint(f"{folder}/mine.ckpt")
            ...     MotionTuner.load_from_checkpoint(f"{folder}/mine.ckpt").seed
            7
        """
        saved = read_module(Path(checkpoint_path), hyperparameters)
        if not {"unet", "scheduler"} <= hyperparameters.keys():
            base = saved.base_model()
            unet = inflated(
                base.unet, saved.facts.norm, Variant.from_settings(saved.variant), saved.facts.modules
            )
            hyperparameters = {"unet": unet, "scheduler": base.scheduler, **hyperparameters}
        saved.check_unet(hyperparameters["unet"])
        place: Any = {"map_location": map_location or "cpu", "weights_only": True}
        return super().load_from_checkpoint(checkpoint_path, **place, **hyperparameters)


def _keep_frozen(module: MotionTuner, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state is loaded: frozen weights, which checkpoints leave out, stay as they are."""
    tuned = set(module.tuned_names())
    for name, tensor in module.state_dict().items():
        if name not in tuned:
            state_dict.setdefault(f"{prefix}{name}", tensor)
