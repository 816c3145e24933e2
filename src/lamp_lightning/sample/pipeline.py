"""LAMPPipeline: from a prompt, a first frame, or both, to a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from lamp_lightning.diffusion import KnownFrames, invert, with_guidance
from lamp_lightning.diffusion.denoise import Generators, denoise_clips
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.windows import check_sampler, count_steps, sample_clips
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.frames import (
    FirstFrame,
    Progress,
    StepEnd,
    after_step,
    as_type,
    changed,
    check_hook,
    decode,
    find_generators,
    first_latents,
    for_image,
    tuned_clip_noise,
)
from lamp_lightning.sample.parts import MotionPipeline

OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class LAMPOutput(BaseOutput):
    """Videos of a pipeline call.

    frames: "np": float32 `b f h w 3` in 0..1; "pt": `b f 3 h w` in 0..1; "pil": lists of images;
        "latent": `b c f h w`.
    """

    frames: Any


class LAMPPipeline(MotionPipeline):
    """Animate first frames with a tuned motion (LAMP, Wu et al. 2024).

    `MotionPipeline` has what loads it and its motions: `load_motion("adapter.safetensors")` brings one.

    Example:
        >>> pipe = LAMPPipeline.from_pretrained("tiny")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> few = {"num_frames": 3, "num_inference_steps": 2, "paint_steps": 2}
        >>> pipe("a red waterfall in the forest", seed=0, **few).frames[0].shape
        (3, 64, 64, 3)
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        first_frame: FirstFrame | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        seed: int | None = None,
        negative_prompt: str | list[str] | None = None,
        noise: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        progress: Progress | None = None,
        sampler: Sampler | None = None,
        **settings: Any,
    ) -> LAMPOutput | tuple[Any]:
        """Generate one video per prompt.

        Args:
            prompt: what is to be seen, one text or a list; the motion is in the tuned weights.
            first_frame: a path, PIL image, array `h w 3` (uint8, or float in 0..1) or tensor `3 h w`, or a
                list or batch of them, one per prompt, fitted to height and width. None: `paint` makes it. A
                model tuned without first frame, and `start="warp"`, then make all frames from the prompt; a
                given frame enters their steps with noise (`KnownFrames.noised`).
            height, width: pixels, multiples of the autoencoder's factor; by default the motion's, else the
                UNet's `sample_size`.
            generator: where the noise comes from: one generator, or one per prompt.
            seed: instead of a generator: prompt i gets its own, seeded with `seed + i`.
            negative_prompt: what guidance leads away from.
            noise: instead of drawn noise, `b c f h w`, such as `invert` gives; shared among frames only where
                `shared_noise` is given.
            output_type: "np", "pt", "pil" or "latent", see `LAMPOutput`.
            return_dict: False returns a tuple.
            callback_on_step_end: diffusers' hook, called as `callback(pipe, step, timestep, tensors)`;
                "latents" in what it returns take the place of the latents.
            callback_on_step_end_tensor_inputs: the tensors that it gets; ["latents"] is all there is.
            progress: called as `progress(stage, done, total)`: "painting" and "denoising" steps, "decoding"
                frames.
            sampler: all settings at once, but for the scheduler, which is `self.scheduler`; None: those of
                the loaded motion, else the authors'.
            settings: what differs from it, by the names of `Sampler`: num_frames, num_inference_steps,
                guidance_scale, shared_noise and so on; None changes nothing.

        Raises:
            TypeError: a setting that `Sampler` does not have.
            UserError: arguments that contradict each other, or a first frame that cannot be read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is unknown: use one of {', '.join(OUTPUT_TYPES)}.")
        if noise is not None and sampler is None and settings.get("shared_noise") is None:
            settings["shared_noise"] = 0.0
        sampler = changed(sampler or self.sampler, settings)
        frames = sampler.num_frames if noise is None else noise.shape[2]
        size = self._size(sampler, height, width)
        check_sampler(sampler, self.scheduler, frames)
        if sampler.start == "inversion" and noise is None and frames > 1:
            noise = tuned_clip_noise(
                self.inverted_clip, len(prompts), frames, size, self.base.vae_scale_factor
            )
        check_hook(callback_on_step_end_tensor_inputs)
        generators = find_generators(generator, seed, len(prompts))
        negative = negative_prompt if negative_prompt is not None else sampler.negative_prompt
        painting = for_image(sampler)
        from_text = first_frame is None and frames > 1 and self._needs_no_first_frame(sampler)
        if from_text:  # all frames are made as an image is
            sampler = sampler.changed({"guidance_scale": painting.guidance_scale})
        predict = self._predict(self.unet, prompts, negative, sampler, size)
        latents, known = None, KnownFrames.none()
        if first_frame is not None:
            latents = first_latents(self.base, first_frame, len(prompts), size)
            latents = latents.to(self._execution_device, self._latent_dtype)
        elif not from_text:
            latents = self._painted(prompts, negative, size, generators, painting, progress)
        if latents is not None:
            noised = sampler.start == "warp" or not self.unet.variant.first_frame
            known = KnownFrames.first(latents, noised=noised)
        if latents is None or frames > 1:
            if noise is None:
                noise = self._noise(len(prompts), frames, size, generators)
            noise = noise.to(self._execution_device, self._latent_dtype if latents is None else latents.dtype)
            with self.progress_bar(total=count_steps(sampler, frames)) as bar:
                report = after_step(self, bar, "denoising", progress, callback_on_step_end)
                latents = sample_clips(
                    predict, self.scheduler, noise, known, sampler, generator=generators, callback=report
                )
        output: Any = latents
        if output_type != "latent":
            output = as_type(decode(self.base, latents, sampler.histogram_matching, progress), output_type)
        self.maybe_free_model_hooks()
        return LAMPOutput(frames=output) if return_dict else (output,)

    @torch.no_grad()
    def paint(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: Generators = None,
        seed: int | None = None,
        negative_prompt: str | list[str] | None = None,
    ) -> list[Image.Image]:
        """First frames from prompts, by the untuned image model; the arguments are those of a call.

        Raises:
            UserError: the image model's weights are not known (the UNet came from an official checkpoint).
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        size = self._size(self.sampler, height, width)
        generators = find_generators(generator, seed, len(prompts))
        settings = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        sampler = for_image(Sampler().changed(settings))
        latents = self._painted(prompts, negative_prompt, size, generators, sampler)
        painted = decode(self.base, latents, False)
        self.maybe_free_model_hooks()
        return [images[0] for images in as_type(painted, "pil")]

    def _painted(
        self,
        prompts: list[str],
        negative: str | list[str] | None,
        size: tuple[int, int],
        generators: Generators,
        sampler: Sampler,
        progress: Progress | None = None,
    ) -> Tensor:
        """Latents `b c 1 h w` of images that the image model makes."""
        with (
            self.unet.image_model() as image_model,
            self.progress_bar(total=sampler.num_inference_steps) as bar,
        ):
            return denoise_clips(
                self._predict(image_model, prompts, negative, sampler, size),
                self.scheduler,
                self._noise(len(prompts), 1, size, generators),
                KnownFrames.none(),
                sampler,
                generator=generators,
                callback=after_step(self, bar, "painting", progress),
            )

    def _predict(
        self,
        model: Any,
        prompts: list[str],
        negative: str | list[str] | None,
        sampler: Sampler,
        size: tuple[int, int],
    ) -> Predict:
        """A model under the conditions of these prompts and the sampler's guidance."""
        scale = sampler.guidance_scale
        conditions = self.conditions(prompts, negative, scale, size)
        return with_guidance(model, conditions, scale=scale, rescale=sampler.guidance_rescale)

    @property
    def _latent_dtype(self) -> torch.dtype:
        """Of the tuned weights: float32 where only the frozen ones are in half precision."""
        tuned = self.unet.tuned_parameters()
        return tuned[0].dtype if tuned else self.unet.dtype

    def invert_clip(self, latents: Tensor, sampler: Sampler) -> None:
        """Find and keep the noise of a tuned clip, which `start="inversion"` begins at.

        As Tune-A-Video does it (Wu et al. 2023, section 3.3): DDIM inversion, without a prompt.

        Args:
            latents: of the clip, unscaled, `f c h w`.
            sampler: with the steps that sampling will take.

        Raises:
            UserError: the sampler's scheduler is no DDIMScheduler.
        """
        scheduler = sampler.make_scheduler(self.own_scheduler.config)
        if not isinstance(scheduler, DDIMScheduler):
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
            prediction_type=scheduler.config.prediction_type,
            keep_first=self.unet.variant.first_frame,
        )

    def _needs_no_first_frame(self, sampler: Sampler) -> bool:
        """Whether frame 0, where none is given, is made with the others instead of before them."""
        if sampler.start == "still":
            return False
        return sampler.start == "warp" or not self.unet.variant.first_frame

    def _size(self, sampler: Sampler, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels."""
        factor = self.base.vae_scale_factor
        default = sampler.size or self.default_size
        size = height or default[0], width or default[1]
        if any(side < factor or side % factor for side in size):
            raise UserError(f"height and width must be multiples of {factor}, not {size[0]} and {size[1]}.")
        return size

    def _noise(self, clips: int, frames: int, size: tuple[int, int], generators: Generators) -> Tensor:
        """Independent Gaussian noise, `b c f h w`."""
        factor = self.base.vae_scale_factor
        shape = (clips, self.unet.config.in_channels, frames, size[0] // factor, size[1] // factor)
        return randn_tensor(shape, generator=generators, device=self._execution_device, dtype=self.unet.dtype)
