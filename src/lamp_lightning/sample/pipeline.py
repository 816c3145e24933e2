"""LAMPPipeline: from a prompt, a first frame, or both, to a video."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.diffusion import KnownFrames, histogram_match, invert, with_guidance
from lamp_lightning.diffusion.conditions import Conditions, size_conditions
from lamp_lightning.diffusion.denoise import Generators, StepCallback, denoise_clips
from lamp_lightning.diffusion.guidance import Predict
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.windows import check_sampler, count_steps, sample_clips
from lamp_lightning.models.adapter import header_of, inverted_clip
from lamp_lightning.models.backbone import VideoBackbone
from lamp_lightning.models.base.folder import pipeline_class
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.families import MotionUNet, inflated
from lamp_lightning.models.unet.inflate import Norm
from lamp_lightning.runtime.errors import UserError

FirstFrame = Any  # path, PIL image, array, tensor, or a list of them
Progress = Callable[[str, int, int], None]  # stage, done, total
StepEnd = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
OUTPUT_TYPES = ("np", "pt", "pil", "latent")
DECODED_AT_ONCE = 8  # frames: bounds the decoder's memory


@dataclass
class LAMPOutput(BaseOutput):
    """Videos of a pipeline call.

    frames: "np": float32 `b f h w 3` in 0..1; "pt": `b f 3 h w` in 0..1; "pil": lists of images;
        "latent": `b c f h w`.
    """

    frames: Any


class LAMPPipeline(DiffusionPipeline):
    """Animate first frames with a tuned motion (LAMP, Wu et al. 2024).

        pipe = LAMPPipeline.from_pretrained("tiny")
        pipe.load_motion("adapter.safetensors")
        video = pipe("a red waterfall in the forest", seed=0).frames[0]

    What a diffusers pipeline does (`to`, `save_pretrained`, `enable_model_cpu_offload`,
    `enable_attention_slicing`, `enable_vae_slicing`, another `scheduler`) it does, too.
    """

    _own_scheduler: Any = None  # the base model's, where a motion has brought another
    inverted_clip: Tensor | None = None  # noise `1 c f h w` of the tuned clip, for start="inversion"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]
    _optional_components: ClassVar[list[str]] = ["text_encoder_2", "tokenizer_2"]
    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    text_encoder_2: Any
    tokenizer_2: Any

    def __init__(
        self,
        vae: Any,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: VideoBackbone,
        scheduler: DDIMScheduler,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = False,
        sampler: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(unet=("lamp_lightning", type(unet).__name__))  # a name that stays
        self.register_to_config(
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, sampler=dict(sampler or {})
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_id: str | Path,
        *,
        norm: Norm | None = None,
        config: str | Path | None = None,
        variant: str | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> LAMPPipeline:
        """Load a saved LAMPPipeline, or a base model whose UNet is then inflated.

        Args:
            path_or_id: a folder that `save_pretrained` wrote; or a base model: "tiny", a diffusers folder, a
                hub id, a single-file checkpoint (see `weights.load_base_model`).
            norm: of the inflated UNet, "joint" (default) or "per_frame"; `load_motion` sets its adapter's.
            config: of a single-file checkpoint.
            variant: of the weight files, such as "fp16".
            torch_dtype: of the weights; None: as saved, and float32 for a base model.
            kwargs: for a saved LAMPPipeline, what diffusers' `from_pretrained` takes.

        Raises:
            UserError: nothing there that can be loaded.
        """
        if pipeline_class(path_or_id) == cls.__name__:
            return super().from_pretrained(
                str(path_or_id), variant=variant, torch_dtype=torch_dtype, **kwargs
            )
        if kwargs:
            raise UserError(f"{sorted(kwargs)} cannot be given for the base model {path_or_id}.")
        base = load_base_model(
            path_or_id, config=config, variant=variant, torch_dtype=torch_dtype or torch.float32
        )
        return cls.from_base(base, MotionUNet.from_unet(base.unet, norm or "joint"))

    @classmethod
    def from_base(cls, base: BaseModel, unet: VideoBackbone | None = None) -> LAMPPipeline:
        """A pipeline of a base model's parts.

        Args:
            base: from `load_base_model`.
            unet: a video backbone of that base; None: `base.unet`, inflated in place (if it is not yet).
        """
        if unet is None:
            unet = base.unet if isinstance(base.unet, MotionUNet) else MotionUNet.from_unet(base.unet)
        return cls(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            unet,
            base.scheduler,
            base.text_encoder_2,
            base.tokenizer_2,
            base.zeros_for_no_prompt,
        )

    @classmethod
    def from_motion(
        cls,
        file: str | Path,
        base: str | Path | None = None,
        *,
        config: str | Path | None = None,
        variant: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> LAMPPipeline:
        """The pipeline of a motion adapter of any kind (`Variant`), with its base model and UNet.

        Args:
            file: the adapter.
            base: the base model; None, as for what follows: the one that the adapter names.
            config: of a single-file checkpoint.
            variant: of the weight files.
            torch_dtype: of the frozen weights; tuned ones are float32.
            kwargs: what `load_motion` takes.

        Raises:
            UserError: no adapter, or none that says what its base model is.
        """
        header = header_of(file)
        if base is None:
            config, variant, base = header.base_config, header.base_variant, header.base_model
        if base is None:
            raise UserError(f"{file} does not say which base model it belongs to: name it with base=<model>.")
        model = load_base_model(base, config=config, variant=variant, torch_dtype=torch_dtype)
        unet = inflated(model.unet, header.norm, header.variant)
        for parameter in unet.tuned_parameters():
            parameter.data = parameter.data.float()
        pipeline = cls.from_base(model, unet)
        pipeline.load_motion(file, **kwargs)
        return pipeline

    @property
    def base(self) -> BaseModel:
        """The pipeline's parts as a BaseModel, for encoding and decoding."""
        return BaseModel(
            type(self).__name__,
            self.vae,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.scheduler,
            self.text_encoder_2,
            self.tokenizer_2,
            self.config.force_zeros_for_empty_prompt,
        )

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: a motion cannot be loaded into weights that are offloaded one by one."""
        raise UserError("Use enable_model_cpu_offload(): a motion's layers cannot be offloaded one by one.")

    def enable_vae_slicing(self) -> None:
        """Decode one frame at a time: less memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode some frames at a time."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode large frames in tiles: less memory, and slight differences where tiles meet."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode frames as a whole."""
        self.vae.disable_tiling()

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter and return its metadata (see `VideoBackbone.load_motion`).

        How the motion is painted (scheduler, steps, guidance, frames, ...) becomes what calls do by default.
        """
        metadata = self.unet.load_motion(file, **kwargs)
        self._paint_as(metadata, file)
        return metadata

    def set_motions(self, motions: Mapping[str | Path, float], **kwargs: Any) -> list[dict[str, str]]:
        """Load several motion adapters, each with a weight, in place of any other; returns their metadata.

        See `VideoBackbone.set_motions`. They are painted as the one of the largest weight asks for.
        """
        found = self.unet.set_motions(motions, **kwargs)
        weights = list(motions.values())
        self._paint_as(found[weights.index(max(weights))], next(iter(motions)) if len(motions) == 1 else None)
        return found

    def unload_motion(self) -> None:
        """Back to the base model, to the bit."""
        self.unet.unload_motion()
        self.inverted_clip = None
        self.register_to_config(sampler={})
        self.scheduler = self.own_scheduler

    def _paint_as(self, metadata: dict[str, str], file: str | Path | None) -> None:
        self.inverted_clip = None if file is None else inverted_clip(file)
        settings = json.loads(metadata.get("sampler", "{}"))
        self.register_to_config(sampler=settings)
        self._own_scheduler = self.own_scheduler
        if "scheduler" in settings:
            self.scheduler = self.sampler.make_scheduler(self.own_scheduler.config)

    @property
    def own_scheduler(self) -> Any:
        """The base model's scheduler, without what a motion asks for."""
        return self._own_scheduler or self.scheduler

    @property
    def sampler(self) -> Sampler:
        """What calls do by default: the settings of the loaded motion, else the authors'."""
        return Sampler().changed(self.config.sampler)

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
                list or batch of them, one per prompt. Cropped to the aspect of height and width, and scaled.
                None: the image model that the UNet was inflated from makes it, as `paint` does. A model that
                was tuned without first frame, and `start="warp"`, then make all frames from the prompt
                instead; a given frame enters their steps with noise (`KnownFrames.noised`).
            height, width: pixels, multiples of the autoencoder's factor; by default the motion's, else the
                UNet's `sample_size`.
            generator: where the noise comes from: one generator, or one per prompt.
            seed: instead of a generator: prompt i gets its own, seeded with `seed + i`.
            negative_prompt: what guidance leads away from.
            noise: latents to start from instead of drawn noise, `b c f h w`, such as `invert` gives; they are
                not shared among frames unless `shared_noise` is given.
            output_type: "np", "pt", "pil" or "latent", see `LAMPOutput`.
            return_dict: False returns a tuple.
            callback_on_step_end: diffusers' hook, called as `callback(pipe, step, timestep, tensors)` after
                each step of the video; "latents" in what it returns take the place of the latents.
            callback_on_step_end_tensor_inputs: the tensors that it gets; ["latents"] is all there is.
            progress: called as `progress(stage, done, total)`: "painting" and "denoising" steps, "decoding"
                frames.
            sampler: all settings at once; None: those of the loaded motion, else the authors'. Its scheduler
                is not looked at: `self.scheduler` is the one that is used.
            settings: what is to differ from it, by the names of `Sampler`: num_frames,
                num_inference_steps, guidance_scale, shared_noise, adain and so on; None changes nothing.

        Raises:
            TypeError: a setting that `Sampler` does not have.
            UserError: arguments that contradict each other, or a first frame that cannot be read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is unknown: use one of {', '.join(OUTPUT_TYPES)}.")
        if noise is not None and sampler is None and settings.get("shared_noise") is None:
            settings["shared_noise"] = 0.0
        sampler = _changed(sampler or self.sampler, settings)
        frames = sampler.num_frames if noise is None else noise.shape[2]
        size = self._size(sampler, height, width)
        check_sampler(sampler, self.scheduler, frames)
        if sampler.start == "inversion" and noise is None and frames > 1:
            noise = self._inverted(len(prompts), frames, size)
        _check_hook(callback_on_step_end_tensor_inputs)
        generators = _generators(generator, seed, len(prompts))
        negative = negative_prompt if negative_prompt is not None else sampler.negative_prompt
        painting = _for_image(sampler)
        from_text = first_frame is None and frames > 1 and self._needs_no_first_frame(sampler)
        if from_text:  # all frames are made as an image is
            sampler = sampler.changed({"guidance_scale": painting.guidance_scale})
        predict = self._predict(self.unet, prompts, negative, sampler, size)
        latents, known = None, KnownFrames.none()
        if first_frame is not None:
            latents = self._given(first_frame, len(prompts), size)
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
                after_step = self._after_step(bar, "denoising", progress, callback_on_step_end)
                latents = sample_clips(
                    predict, self.scheduler, noise, known, sampler, generator=generators, callback=after_step
                )
        output: Any = latents
        if output_type != "latent":
            output = _as_type(self._decoded(latents, sampler.histogram_matching, progress), output_type)
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
        """First frames from prompts, by the image model that the UNet was inflated from, untouched by tuning.

        The arguments are those of a call. To paint with another model, run its own pipeline and pass its
        image as `first_frame`.

        Raises:
            UserError: the image model's weights are not known (the UNet came from an official checkpoint).
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        size = self._size(self.sampler, height, width)
        generators = _generators(generator, seed, len(prompts))
        settings = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        sampler = _for_image(Sampler().changed(settings))
        latents = self._painted(prompts, negative_prompt, size, generators, sampler)
        painted = self._decoded(latents, False)
        self.maybe_free_model_hooks()
        return [images[0] for images in _as_type(painted, "pil")]

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
                callback=self._after_step(bar, "painting", progress, None),
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

    def _given(self, first_frame: FirstFrame, clips: int, size: tuple[int, int]) -> Tensor:
        """Latents `b c 1 h w` of given images."""
        batch = isinstance(first_frame, (np.ndarray, Tensor)) and first_frame.ndim == 4
        images = list(first_frame) if batch or isinstance(first_frame, (list, tuple)) else [first_frame]
        if len(images) not in (1, clips):
            raise UserError(f"{len(images)} first frames do not go with {clips} prompts: give 1 or {clips}.")
        pixels = torch.stack([pixels_from_image(image, size) for image in images])
        latents = self.base.latents_from_pixels(pixels)
        latents = latents.to(self._execution_device, self._latent_dtype).unsqueeze(2)
        return latents.expand(clips, -1, -1, -1, -1)

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
        """Whether frame 0 is made with the others where none is given, and not painted before."""
        if sampler.start == "still":
            return False
        return sampler.start == "warp" or not self.unet.variant.first_frame

    def _inverted(self, clips: int, num_frames: int, size: tuple[int, int]) -> Tensor:
        """The noise that the tuned clip was inverted to, for each of some clips, `b c f h w`."""
        if self.inverted_clip is None:
            raise UserError(
                "start=inversion begins at the noise of the clip that was tuned on, and none is loaded: load "
                "the motion adapter of a run with method=tune_a_video, or take start=noise."
            )
        factor = self.base.vae_scale_factor
        found = tuple(self.inverted_clip.shape[2:])
        if found != (num_frames, size[0] // factor, size[1] // factor):
            raise UserError(
                f"start=inversion begins at a clip of {found[0]} frames of {found[2] * factor}x"
                f"{found[1] * factor}, not {num_frames} of {size[1]}x{size[0]}: take start=noise."
            )
        return self.inverted_clip.expand(clips, -1, -1, -1, -1)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels of the motion's clips, else those that the UNet was made for."""
        if self.sampler.size is not None:
            return self.sampler.size
        own, factor = self.unet.config.sample_size, self.base.vae_scale_factor
        rows, columns = own if isinstance(own, (list, tuple)) else (own, own)
        return rows * factor, columns * factor

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

    def conditions(
        self,
        prompts: list[str],
        negative: str | list[str] | None,
        guidance_scale: float,
        size: tuple[int, int],
    ) -> Conditions:
        """What the UNet is told, `2b` rows, unconditional first; `b` without guidance."""
        if not prompts:
            raise UserError("prompt is an empty list: give at least one.")
        negatives = list(negative) if isinstance(negative, (list, tuple)) else [negative or ""] * len(prompts)
        if len(negatives) != len(prompts):
            raise UserError(f"{len(negatives)} negative prompts do not go with {len(prompts)} prompts.")
        base = self.base
        if guidance_scale == 1:
            words = base.encode_prompts(prompts)
        elif negative is None and base.zeros_for_no_prompt:
            conditional = base.encode_prompts(prompts)
            words = conditional.zeros().followed_by(conditional)
        else:
            words = base.encode_prompts(negatives + prompts)
        words = words.to(self._execution_device, self.unet.dtype)
        return words.of_size(size_conditions(None, size))

    def _decoded(
        self, latents: Tensor, histogram_matching: bool, progress: Progress | None = None
    ) -> np.ndarray:
        """Videos `b f h w 3` in 0..1, float32."""
        videos, done, total = [], 0, latents.shape[0] * latents.shape[2]
        for clip in latents.transpose(1, 2):  # f c h w
            parts = []
            for part in clip.split(DECODED_AT_ONCE):
                parts.append(self.base.decode_latents(part))
                done += len(part)
                if progress is not None:
                    progress("decoding", done, total)
            frames = (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
            if histogram_matching:
                frames = np.stack([frames[0], *(histogram_match(frame, frames[0]) for frame in frames[1:])])
            videos.append(frames)
        return np.stack(videos)

    def _after_step(
        self, bar: Any, stage: str, progress: Progress | None, callback: StepEnd | None
    ) -> StepCallback:
        """What `denoise` calls: advances the bar, reports, and lets the user's hook change the latents."""

        def report(step: int, steps: int, latents: Tensor) -> Tensor | None:
            bar.update()
            if progress is not None:
                progress(stage, step, steps)
            if callback is None:
                return None
            timestep = self.scheduler.timesteps[step - 1]
            changed = callback(self, step - 1, timestep, {"latents": latents}) or {}
            return changed.get("latents")

        return report


def _changed(sampler: Sampler, settings: Mapping[str, Any]) -> Sampler:
    """The sampler with other settings, all of which it must know."""
    known = sampler.settings()
    if unknown := sorted(settings.keys() - known.keys()):
        raise TypeError(f"The pipeline takes no {', '.join(unknown)}; its settings are {', '.join(known)}.")
    return sampler.changed(settings)


def _for_image(sampler: Sampler) -> Sampler:
    """The sampler for first frames: an image by itself, with the settings for painting."""
    return sampler.changed(
        {
            "guidance_scale": sampler.paint_guidance_scale,
            "num_inference_steps": sampler.paint_steps,
            "guidance_rescale": 0.0,
        }
    )


def _check_hook(inputs: list[str] | None) -> None:
    unknown = set(inputs or ()) - {"latents"}
    if unknown:
        raise UserError(
            f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; there is 'latents' and no other."
        )


def _generators(generator: Generators, seed: int | None, clips: int) -> Generators:
    if seed is not None:
        if generator is not None:
            raise UserError("Give a generator or a seed, not both.")
        return [torch.Generator().manual_seed(seed + i) for i in range(clips)]
    if isinstance(generator, list) and len(generator) != clips:
        raise UserError(f"{len(generator)} generators do not go with {clips} prompts: give 1 or {clips}.")
    return generator


def _as_type(videos: np.ndarray, output_type: str) -> Any:
    """`b f h w 3` float32 in 0..1 to what was asked for."""
    if output_type == "np":
        return videos
    if output_type == "pt":
        return torch.from_numpy(videos).permute(0, 1, 4, 2, 3)
    return [[Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in video] for video in videos]
