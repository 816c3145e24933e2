"""What denoising begins at: a size, a number of latents, noise, the noise of a tuned clip."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lamp_lightning.diffusion import invert
from lamp_lightning.diffusion.denoise import Generators
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.schedule import prediction_type
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.steps import SteppingPipeline


class BeginningPipeline(SteppingPipeline):
    """A pipeline that knows what its calls begin at."""

    @property
    def _latent_dtype(self) -> torch.dtype:
        """Of the tuned weights: float32 where only the frozen ones are in half precision."""
        tuned = self.unet.tuned_parameters()
        dtype = tuned[0].dtype if tuned else self.unet.dtype
        return self.unet.dtype if dtype.itemsize == 1 else dtype  # float8 only stores

    def invert_clip(self, latents: Tensor, sampler: Sampler) -> None:
        """Find and keep the noise of a tuned clip, which `start="inversion"` begins at.

        As Tune-A-Video does it (Wu et al. 2023, section 3.3): DDIM inversion, without a prompt.

        Args:
            latents: of the clip, unscaled, `f c h w`.
            sampler: with the steps that sampling will take.

        Raises:
            UserError: the sampler's scheduler is no DDIMScheduler, or a model of several frames to a latent.
        """
        self.latent_frames(sampler.changed({"start": "inversion"}))
        scheduler = sampler.make_scheduler(self.own_scheduler.config)
        if not isinstance(scheduler, DDIMScheduler | FlowMatchEulerDiscreteScheduler):
            raise UserError(f"start=inversion needs scheduler DDIMScheduler, not {sampler.scheduler}.")
        factor = self.base.vae_scale_factor
        size = latents.shape[2] * factor, latents.shape[3] * factor
        clip = self.base.scale(latents.to(self._execution_device, self._latent_dtype)).transpose(0, 1)
        self.inverted_clip = invert(
            self.unet,
            scheduler,
            clip.unsqueeze(0),
            self.conditions([""], None, 1, size),
            num_inference_steps=sampler.num_inference_steps,
            prediction_type=prediction_type(scheduler),
            keep_first=self.unet.variant.first_frame,
        )

    def _needs_no_first_frame(self, sampler: Sampler) -> bool:
        """Whether frame 0, where none is given, is made with the others instead of before them."""
        if sampler.start == "still":
            return False
        return sampler.start == "warp" or not self.unet.variant.first_frame or self.unet.makes_first_frame

    def _model(self, from_text: bool) -> Any:
        """The backbone, told where it is to make the first frame, too."""
        return partial(self.unet, known=()) if from_text and self.unet.makes_first_frame else self.unet

    def latent_frames(self, sampler: Sampler, given: int | None = None) -> int:
        """How many latents, one after the other, make a video: of most models a latent for each frame.

        Args:
            sampler: of the call.
            given: how many latents of noise it has; None: as many as the sampler's frames need.

        Raises:
            UserError: settings that a model of several frames to a latent cannot follow.
        """
        base = self.base
        latents = given or base.latent_frames(sampler.num_frames)
        frames = 1 + (latents - 1) * base.frames_per_latent
        if not base.takes_clips or frames == 1:
            return latents
        if sampler.start in ("still", "warp", "inversion"):
            raise UserError(
                f"start={sampler.start} needs a latent for each frame, and here {base.frames_per_latent} "
                "frames make one: take start=noise."
            )
        if frames > sampler.window:
            raise UserError(
                f"This model generates its {frames} frames at once and goes on in no windows: give window="
                f"{frames} or more, or fewer num_frames."
            )
        return latents

    def _size(self, sampler: Sampler, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels."""
        factor = self.base.vae_scale_factor
        default = sampler.size or self.default_size
        size = height or default[0], width or default[1]
        unit = factor * self.unet.latent_multiple
        if any(side < unit or side % unit for side in size):
            raise UserError(f"height and width must be multiples of {unit}, not {size[0]} and {size[1]}.")
        return size

    def _noise(self, clips: int, frames: int, size: tuple[int, int], generators: Generators) -> Tensor:
        """Independent Gaussian noise, `b c f h w`."""
        factor = self.base.vae_scale_factor
        shape = (clips, self.unet.config.in_channels, frames, size[0] // factor, size[1] // factor)
        return randn_tensor(shape, generator=generators, device=self._execution_device, dtype=self.unet.dtype)
