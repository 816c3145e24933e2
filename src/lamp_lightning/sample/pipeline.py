"""LAMPPipeline: from a prompt, a first frame, or both, to a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from lamp_lightning.diffusion import KnownFrames
from lamp_lightning.diffusion.denoise import Generators, denoise_clips
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.windows import check_sampler, count_steps, sample_clips
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.beginnings import BeginningPipeline
from lamp_lightning.sample.frames import (
    FirstFrame,
    Progress,
    StepEnd,
    as_type,
    changed,
    check_noise,
    decode,
    either,
    find_generators,
    first_latents,
    for_image,
    given_frames,
    looped,
    tuned_clip_noise,
)
from lamp_lightning.sample.known import check_known
from lamp_lightning.sample.prompts import Prompts, as_list, embeddings

OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class LAMPOutput(BaseOutput):
    """Videos of a pipeline call.

    frames: "np": float32 `b f h w 3` in 0..1; "pt": `b f 3 h w` in 0..1; "pil": lists of images;
        "latent": `b c f h w`.
    """

    frames: Any


class LAMPPipeline(BeginningPipeline):
    """Animate first frames with a tuned motion (LAMP, Wu et al. 2024).

    `PipelineComponents` has what loads it, and `MotionPipeline` its motions:
    `load_motion("adapter.safetensors")` brings one. A call takes what those of `StableDiffusionPipeline` and
    `AnimateDiffPipeline` take.

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
        prompt: str | list[str] | None = None,
        first_frame: FirstFrame | None = None,
        *,
        image: FirstFrame | None = None,
        known: Mapping[int, FirstFrame] | None = None,
        loop: bool = False,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        noise: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        progress: Progress | None = None,
        sampler: Sampler | None = None,
        **settings: Any,
    ) -> LAMPOutput | tuple[Any]:
        """Generate videos from prompts.

        Args:
            prompt: what is to be seen, one text or a list; the motion is in the tuned weights. None: what the
                loaded motion was tuned with.
            first_frame: a path, PIL image, array `h w 3` (uint8, or float in 0..1) or tensor `3 h w`, or a
                list or batch of them, one per prompt or per video. Cropped to the aspect of height and width,
                and scaled. Latents `c h w`, `b c h w` or `b c f h w` (of those the first frame), such as
                `output_type="latent"` gives, do as well. None: the image model that the UNet was inflated
                from makes it, as `paint` does. A model that was tuned without first frame, and
                `start="warp"`, then make all frames from the prompt instead; a given frame enters their steps
                with noise (`KnownFrames.noised`).
            image: diffusers' name of `first_frame`.
            known: further frames that are given, by their number, each as a first frame is; -1 is the last
                one. For motions that were tuned with any known frames (`model.layers.known=any`).
            loop: the frame after the last one would be the first. For the same motions.
            height, width: pixels, multiples of the autoencoder's factor; by default the motion's, else the
                UNet's `sample_size`.
            num_frames, num_inference_steps, timesteps, guidance_scale, eta: settings of `Sampler`. Timesteps
                are for schedulers that take any. Without guidance (1, or diffusers' 0) a step costs half.
            negative_prompt: what guidance leads away from.
            num_videos_per_prompt: so many videos of each prompt, one after the other.
            generator: where the noise comes from: one generator, or one per video.
            seed: instead of a generator: video i gets its own, seeded with `seed + i`.
            latents: noise to start from instead of drawn noise, `b c f h w`, such as `invert` gives; it is
                not shared among frames unless `shared_noise` is given. AnimateDiff's pipelines call it so.
            noise: another name of `latents`.
            prompt_embeds, negative_prompt_embeds: text embeddings `b l d` instead of texts, such as
                `encode_prompt` gives.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: SDXL's pooled embeddings `b p` with them.
            ip_adapter_image, ip_adapter_image_embeds: what the loaded IP-Adapters are to look at, a picture
                or its embeddings for each, as in diffusers.
            output_type: "np", "pt", "pil" or "latent", see `LAMPOutput`.
            return_dict: False returns a tuple.
            cross_attention_kwargs: what diffusers' attention takes, as `{"scale": 0.5}` of LoRA layers.
            clip_skip: how many of the text encoder's last layers are left out.
            callback_on_step_end: diffusers' hook, called as `callback(pipe, step, timestep, tensors)` after
                each step of the video, or one of `diffusers.callbacks`. Tensors in what it returns take the
                place of these; a given first frame stays. See `SteppingPipeline` for what else it can do.
            callback_on_step_end_tensor_inputs: the tensors that it gets, of `_callback_tensor_inputs`; None:
                the latents, or what a callback of diffusers asks for.
            decode_chunk_size: frames that are decoded at once; fewer take less memory. None: 8.
            progress: called as `progress(stage, done, total)` in "painting", "denoising" and "decoding".
            sampler: all settings at once; None: those of the loaded motion, else the authors'. Its scheduler
                is not looked at: `self.scheduler` is the one that is used.
            settings: what else is to differ from it, by the names of `Sampler`: shared_noise, adain and so
                on; None changes nothing.

        Raises:
            TypeError: a setting that `Sampler` does not have.
            UserError: arguments that contradict each other, or a first frame that cannot be read.
        """
        if prompt is None and prompt_embeds is None:
            prompt = self.motion_prompt
        first_frame = either("first_frame", first_frame, "image", image)
        noise = either("noise", noise, "latents", latents)
        settings |= {
            "num_frames": num_frames,
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "guidance_scale": guidance_scale,
            "eta": eta,
        }
        if noise is not None and sampler is None and settings.get("shared_noise") is None:
            settings["shared_noise"] = 0.0
        sampler = changed(sampler or self.sampler, settings)
        if negative_prompt is None and negative_prompt_embeds is None:
            negative_prompt = sampler.negative_prompt
        pools = self.text_encoder_2 is not None or self.unet.config.get("addition_embed_type") == "text_time"
        prompts = Prompts(
            as_list(prompt),
            negative_prompt,
            embeddings(prompt_embeds, pooled_prompt_embeds, pools, "prompt_embeds"),
            embeddings(
                negative_prompt_embeds, negative_pooled_prompt_embeds, pools, "negative_prompt_embeds"
            ),
            clip_skip,
            num_videos_per_prompt,
        )
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = getattr(callback_on_step_end, "tensor_inputs", ["latents"])
        self.check_inputs(
            prompt, height, width, negative_prompt, prompt_embeds, negative_prompt_embeds,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs, output_type=output_type,
        )  # fmt: skip
        if decode_chunk_size is not None and decode_chunk_size < 1:
            raise UserError(f"decode_chunk_size={decode_chunk_size} cannot be used: give 1 or more frames.")
        clips = prompts.count * prompts.videos
        made = None if noise is None else check_noise(noise, clips, self.unet.config.in_channels)
        frames = self.latent_frames(sampler, made)
        size = self._size(sampler, height, width)
        check_sampler(sampler, self.scheduler, frames)
        if sampler.start == "inversion" and noise is None and frames > 1:
            noise = tuned_clip_noise(self.inverted_clip, clips, frames, size, self.base.vae_scale_factor)
        generators = find_generators(generator, seed, clips)
        painting = for_image(sampler)
        places = check_known(self.unet.variant, known, loop, frames)
        if loop:
            frames, sampler, noise = looped(frames, sampler, noise)
        from_text = first_frame is None and frames > 1 and self._needs_no_first_frame(sampler)
        if from_text:  # all frames are made as an image is
            sampler = sampler.changed({"guidance_scale": painting.guidance_scale})
        self._guidance_scale, self._guidance_rescale = sampler.guidance_scale, sampler.guidance_rescale
        self._clip_skip, self._cross_attention_kwargs = clip_skip, cross_attention_kwargs
        self._interrupt, self._num_timesteps = False, count_steps(sampler, frames)
        self._pictures = self._picture_embeds(ip_adapter_image, ip_adapter_image_embeds, clips)
        self._fps = sampler.fps
        self._told = self._conditions(prompts, sampler.guidance_scale, size)
        video, given = None, KnownFrames.none()
        if first_frame is not None:
            video = first_latents(self.base, first_frame, prompts.count, clips, size)
            video = video.to(self._execution_device, self._latent_dtype)
        elif not from_text:
            video = self._painted(prompts, size, generators, painting, progress)
        if video is not None:
            noised = sampler.start == "warp" or not self.unet.variant.first_frame
            given = KnownFrames.first(video, noised=noised)
            if places or loop:
                last = frames - 1 if loop else None
                given = given_frames(self.base, video, places, prompts.count, last=last)
        if video is None or frames > 1:
            if noise is None:
                noise = self._noise(clips, frames, size, generators)
            noise = noise.to(self._execution_device, self._latent_dtype if video is None else video.dtype)
            with self.progress_bar(total=self._num_timesteps) as bar:
                report = self._report(bar, "denoising", progress)
                if callback_on_step_end is not None:
                    report = self._after_step(
                        report, callback_on_step_end, callback_on_step_end_tensor_inputs
                    )
                video = sample_clips(
                    self._predict(self._model(from_text), self._now), self.scheduler, noise, given, sampler,
                    clean=self.unet.variant.known == "any", generator=generators, callback=report,
                )  # fmt: skip
            if loop:
                video = video[:, :, :-1]
        output: Any = video
        if output_type != "latent":
            decoded = decode(
                self.base, video, sampler.histogram_matching and not places, progress, decode_chunk_size
            )
            output = as_type(decoded, output_type)
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
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
    ) -> list[Image.Image]:
        """First frames from prompts, by the untuned image model; the arguments are those of a call.

        Raises:
            UserError: the image model's weights are not known (the UNet came from an official checkpoint).
        """
        prompts = Prompts(as_list(prompt), negative_prompt)
        size = self._size(self.sampler, height, width)
        generators = find_generators(generator, seed, prompts.count)
        settings = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        self._interrupt, self._cross_attention_kwargs, self._guidance_scale = False, None, guidance_scale
        self._pictures = self._picture_embeds(ip_adapter_image, ip_adapter_image_embeds, prompts.count)
        painted = self._painted(prompts, size, generators, for_image(Sampler().changed(settings)))
        images = decode(self.base, painted, False)
        self.maybe_free_model_hooks()
        return [frames[0] for frames in as_type(images, "pil")]

    def _painted(
        self,
        prompts: Prompts,
        size: tuple[int, int],
        generators: Generators,
        sampler: Sampler,
        progress: Progress | None = None,
    ) -> Tensor:
        """Latents `b c 1 h w` of images that the image model makes."""
        scale, clips = sampler.guidance_scale, prompts.count * prompts.videos
        told = self._conditions(prompts, scale, size)
        with (
            self.unet.image_model() as image_model,
            self.progress_bar(total=sampler.num_inference_steps) as bar,
        ):
            return denoise_clips(
                self._predict(image_model, lambda clips: (told, scale, sampler.guidance_rescale)),
                self.scheduler,
                self._noise(clips, 1, size, generators),
                KnownFrames.none(),
                sampler,
                generator=generators,
                callback=self._report(bar, "painting", progress),
            )

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        *,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        output_type: str = "np",
    ) -> None:
        """Refuse arguments of a call that cannot be used, before anything is computed.

        Raises:
            UserError: names the argument, what it is, and what it may be.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is unknown: use one of {', '.join(OUTPUT_TYPES)}.")
        factor = self.base.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            if side is not None and (side < factor or side % factor):
                raise UserError(f"height and width must be multiples of {factor}: {name} is {side}.")
        if unknown := sorted(set(callback_on_step_end_tensor_inputs or ()) - {*self._callback_tensor_inputs}):
            raise UserError(
                f"callback_on_step_end_tensor_inputs has {unknown}; there are "
                f"{', '.join(self._callback_tensor_inputs)}."
            )
        Prompts(
            as_list(prompt),
            negative_prompt,
            embeddings(prompt_embeds, None, False, "prompt_embeds"),
            embeddings(negative_prompt_embeds, None, False, "negative_prompt_embeds"),
        )
