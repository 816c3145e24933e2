"""LAMPPipeline: from a prompt, a first frame, or both, to a video."""

from __future__ import annotations

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

from lamp_lightning.errors import UserError
from lamp_lightning.sampling import denoise, histogram_match, pixels_from_image
from lamp_lightning.sampling.denoise import Progress
from lamp_lightning.sampling.tricks import NoiseSharing
from lamp_lightning.unet import MotionUNet
from lamp_lightning.weights.base import BaseModel
from lamp_lightning.weights.text import added_conditions, size_conditions

FirstFrame = Any  # path, PIL image, array, tensor, or a list of them
Generators = torch.Generator | list[torch.Generator] | None
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

    Make one with `LAMPPipeline.from_base(load_base_model(...))`, give it a motion with `load_motion(file)`.
    """

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
        unet: MotionUNet,
        scheduler: DDIMScheduler,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = False,
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
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)

    @classmethod
    def from_base(cls, base: BaseModel, unet: MotionUNet | None = None) -> LAMPPipeline:
        """A pipeline of a base model's parts.

        Args:
            base: from `load_base_model`.
            unet: a MotionUNet of that base; when None, `base.unet` is inflated in place (if it is not yet).
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

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter and return its metadata (see `weights.adapter.load_motion`)."""
        return self.unet.load_motion(file, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        first_frame: FirstFrame | None = None,
        num_frames: int = 16,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 12.5,
        generator: Generators = None,
        seed: int | None = None,
        negative_prompt: str | list[str] | None = None,
        shared_noise: float = 0.2,
        adain: bool = True,
        histogram_matching: bool = True,
        output_type: str = "np",
        callback: Progress | None = None,
        return_dict: bool = True,
        paint_guidance_scale: float | None = None,
        paint_steps: int | None = None,
        guidance_rescale: float = 0.0,
        noise_sharing: NoiseSharing = "authors",
    ) -> LAMPOutput | tuple[Any]:
        """Paint one video per prompt.

        Args:
            prompt: what is to be seen, one text or a list; the motion is in the tuned weights.
            first_frame: a path, PIL image, array `h w 3` (uint8, or float in 0..1) or tensor `3 h w`, or a
                list of them, one per prompt. Cropped to the aspect of height and width, and scaled. None: the
                image model that the UNet was inflated from paints it from the prompt, as `paint` does.
            num_frames: frames of the video, the first one included.
            height, width: pixels, multiples of the autoencoder's factor; by default the UNet's `sample_size`.
            num_inference_steps: of `self.scheduler`.
            guidance_scale: 1 means no guidance, and half the work.
            generator: where the noise comes from: one generator, or one per prompt.
            seed: instead of a generator: prompt i gets its own, seeded with `seed + i`.
            negative_prompt: what guidance leads away from.
            shared_noise: the share of frame 0's noise in every frame's (paper: 0.2); 0 switches it off.
            adain: the authors' AdaIN of latents towards the first frame.
            histogram_matching: the authors' matching of decoded frames' colours to the first frame's.
            output_type: "np", "pt", "pil" or "latent", see `LAMPOutput`.
            callback: called as `callback(step, steps, latents)` after every step of the video.
            return_dict: False returns a tuple.
            paint_guidance_scale: guidance of the painted first frame; None: `guidance_scale`.
            paint_steps: its denoising steps; None: `num_inference_steps`.
            guidance_rescale: share in which guided predictions keep the unguided ones' standard deviation.
            noise_sharing: "authors" or "variance_preserving", see `sampling.shared_noise`.

        Raises:
            UserError: arguments that contradict each other, or a first frame that cannot be read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is unknown: use one of {', '.join(OUTPUT_TYPES)}.")
        if num_frames < 1:
            raise UserError(f"num_frames must be at least 1, not {num_frames}.")
        size = self._size(height, width)
        generators = _generators(generator, seed, len(prompts))
        conditions = self._conditions(prompts, negative_prompt, guidance_scale, size)
        steps: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        if first_frame is None:
            scale = guidance_scale if paint_guidance_scale is None else paint_guidance_scale
            words = self._conditions(prompts, negative_prompt, scale, size)
            painting = {"guidance_scale": scale, "num_inference_steps": paint_steps or num_inference_steps}
            first = self._painted(words, size, generators, painting)
        else:
            first = self._given(first_frame, len(prompts), size)
        latents = first
        if num_frames > 1:
            noise = self._noise(len(prompts), num_frames, size, generators)
            with self.progress_bar(total=num_inference_steps) as bar:
                latents = denoise(
                    self.unet,
                    self.scheduler,
                    noise,
                    first,
                    **conditions,
                    shared_noise=shared_noise,
                    noise_sharing=noise_sharing,
                    guidance_rescale=guidance_rescale,
                    adain=adain,
                    generator=generators,
                    callback=_progress(bar, callback),
                    **steps,
                )
        frames = latents
        if output_type != "latent":
            frames = _as_type(self._decoded(latents, histogram_matching), output_type)
        return LAMPOutput(frames=frames) if return_dict else (frames,)

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
        size = self._size(height, width)
        generators = _generators(generator, seed, len(prompts))
        words = self._conditions(prompts, negative_prompt, guidance_scale, size)
        steps: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        painted = self._decoded(self._painted(words, size, generators, steps), False)
        return [images[0] for images in _as_type(painted, "pil")]

    def _painted(
        self, words: dict[str, Any], size: tuple[int, int], generators: Generators, steps: dict[str, Any]
    ) -> Tensor:
        """Latents `b c 1 h w` of images that the image model paints."""
        rows = len(words["text_embeddings"])
        clips = rows if steps["guidance_scale"] == 1 else rows // 2
        noise = self._noise(clips, 1, size, generators)
        with (
            self.unet.image_model() as image_model,
            self.progress_bar(total=steps["num_inference_steps"]) as bar,
        ):
            return denoise(
                image_model,
                self.scheduler,
                noise,
                None,
                **words,
                generator=generators,
                callback=_progress(bar, None),
                **steps,
            )

    def _given(self, first_frame: FirstFrame, clips: int, size: tuple[int, int]) -> Tensor:
        """Latents `b c 1 h w` of given images."""
        images = first_frame if isinstance(first_frame, list) else [first_frame]
        if len(images) not in (1, clips):
            raise UserError(f"{len(images)} first frames do not go with {clips} prompts: give 1 or {clips}.")
        pixels = torch.stack([pixels_from_image(image, size) for image in images])
        latents = self.base.latents_from_pixels(pixels).to(self.unet.dtype).unsqueeze(2)
        return latents.expand(clips, -1, -1, -1, -1)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels."""
        factor = self.base.vae_scale_factor
        default = self.unet.config.sample_size
        rows, columns = default if isinstance(default, (list, tuple)) else (default, default)
        size = height or rows * factor, width or columns * factor
        if any(side < factor or side % factor for side in size):
            raise UserError(f"height and width must be multiples of {factor}, not {size[0]} and {size[1]}.")
        return size

    def _noise(self, clips: int, frames: int, size: tuple[int, int], generators: Generators) -> Tensor:
        """Independent Gaussian noise, `b c f h w`."""
        factor = self.base.vae_scale_factor
        shape = (clips, self.unet.config.in_channels, frames, size[0] // factor, size[1] // factor)
        return randn_tensor(shape, generator=generators, device=self.unet.device, dtype=self.unet.dtype)

    def _conditions(
        self,
        prompts: list[str],
        negative: str | list[str] | None,
        guidance_scale: float,
        size: tuple[int, int],
    ) -> dict[str, Any]:
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
        words = words.to(self.unet.device, self.unet.dtype)
        added = added_conditions(words.pooled, size_conditions(None, size))
        return {"text_embeddings": words.text} | ({} if added is None else {"added_cond_kwargs": added})

    def _decoded(self, latents: Tensor, histogram_matching: bool) -> np.ndarray:
        """Videos `b f h w 3` in 0..1, float32."""
        videos = []
        for clip in latents.transpose(1, 2):  # f c h w
            pixels = torch.cat([self.base.decode_latents(part) for part in clip.split(DECODED_AT_ONCE)])
            frames = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
            if histogram_matching:
                frames = np.stack([frames[0], *(histogram_match(frame, frames[0]) for frame in frames[1:])])
            videos.append(frames)
        return np.stack(videos)


def _generators(generator: Generators, seed: int | None, clips: int) -> Generators:
    if seed is not None:
        if generator is not None:
            raise UserError("Give a generator or a seed, not both.")
        return [torch.Generator().manual_seed(seed + i) for i in range(clips)]
    if isinstance(generator, list) and len(generator) != clips:
        raise UserError(f"{len(generator)} generators do not go with {clips} prompts: give 1 or {clips}.")
    return generator


def _progress(bar: Any, callback: Progress | None) -> Progress:
    def report(step: int, steps: int, latents: Tensor) -> None:
        bar.update()
        if callback is not None:
            callback(step, steps, latents)

    return report


def _as_type(videos: np.ndarray, output_type: str) -> Any:
    """`b f h w 3` float32 in 0..1 to what was asked for."""
    if output_type == "np":
        return videos
    if output_type == "pt":
        return torch.from_numpy(videos).permute(0, 1, 4, 2, 3)
    return [[Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in video] for video in videos]
