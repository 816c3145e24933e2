"""Painter: another text-to-image model that generates first frames, whatever model is being tuned.

The authors tune Stable Diffusion 1.4 and animate first frames of SDXL.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lamp_lightning.data.fit import fit_frame
from lamp_lightning.models.base.folder import find_model
from lamp_lightning.models.base.text_to_image import load_text_to_image, one_line
from lamp_lightning.runtime.errors import UserError

UNIT = 64  # pixels: sides are multiples of it where the model does not say of what


class Painter:
    """Generates first frames with any text-to-image pipeline of diffusers, at the size that it is good at.

    The model is loaded at the first image and stays until `close`, or the end of a `with` block. On an
    accelerator its parts take turns and rest in the computer's memory. Images are remembered, beyond `close`
    too, and depend on the request alone, not on autocast or the random state of whoever asks. A safety
    checker is left out: a video would start from the black image that it puts in place of another.

    Args:
        path_or_id, config, variant: as in `load_base_model`.
        dtype: of all weights.
        device: where the model computes.

    Raises:
        UserError: there is nothing at that path, or the device or dtype is unknown.
    """

    def __init__(
        self,
        path_or_id: str | Path,
        *,
        config: str | Path | None = None,
        variant: str | None = None,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = str(path_or_id)
        self.source = find_model(self.name, "The painter ")
        if config is not None and not Path(self.source).is_file():
            raise UserError(f"config={config} is for single-file checkpoints, and {self.name} is none.")
        self.config = None if config is None else str(config)
        self.variant = variant
        self.dtype = _dtype(dtype)
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}") from error
        self._pipeline: Any = None
        self._images: dict[tuple[Any, ...], Image.Image] = {}

    def paint(
        self,
        prompt: str,
        size: tuple[int, int],
        *,
        seed: int,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        negative_prompt: str | None = None,
    ) -> Image.Image:
        """A first frame of `size`, the same for the same request.

        Args:
            prompt: what is to be seen.
            size: height and width in pixels. The model generates that shape at its own area (SDXL: a
                megapixel), and the image is scaled and cropped.
            seed: of the noise.
            guidance_scale, num_inference_steps: None leaves them to the model's pipeline.
            negative_prompt: what guidance leads away from.

        Raises:
            UserError: the model cannot be loaded, is no text-to-image model, does not know a setting, does
                not fit into memory, or generated NaN.
        """
        settings = {
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
            "negative_prompt": negative_prompt,
        }
        size = (int(size[0]), int(size[1]))
        request = (prompt, size, seed, *settings.values())
        if request not in self._images:
            with self._undisturbed():
                if self._pipeline is None:
                    self._pipeline = self._load()
                painted = self._paint(prompt, native_size(self._pipeline, size), seed, settings)
            self._images[request] = Image.fromarray(fit_frame(painted, size))
        return self._images[request].copy()

    def close(self) -> None:
        """Free the model's memory. The images stay; a new one loads the model again."""
        self._pipeline = None
        gc.collect()  # the hooks that move its parts refer to each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _load(self) -> Any:
        """The pipeline on its device."""
        pipeline = load_text_to_image(self.source, config=self.config, variant=self.variant, dtype=self.dtype)
        pipeline.set_progress_bar_config(disable=True)
        if self.device.type != "cpu":
            try:
                pipeline.enable_model_cpu_offload(device=self.device)
            except ValueError:  # a pipeline that does not say in which order its parts are needed
                pipeline.to(self.device)
        return pipeline

    def _paint(
        self, prompt: str, size: tuple[int, int], seed: int, settings: Mapping[str, Any]
    ) -> np.ndarray:
        """Run the pipeline: uint8 `h w 3`, of `size` unless it knows one size only."""
        who = f"{self.name} ({type(self._pipeline).__name__})"
        takes = inspect.signature(self._pipeline.__call__).parameters
        given = {key: value for key, value in settings.items() if value is not None}
        if "negative_prompt" in given.keys() - takes.keys():
            warnings.warn(f"{who} takes no negative prompt and generates without.", stacklevel=3)
            del given["negative_prompt"]
        for key in given.keys() - takes.keys():
            raise UserError(f"The painter {who} takes no {key}: leave that to its pipeline (null).")
        given |= {key: value for key, value in zip(("height", "width"), size, strict=True) if key in takes}
        generator = torch.Generator().manual_seed(seed)
        torch.default_generator.manual_seed(seed)  # for schedulers that draw without asking
        try:
            output = self._pipeline(prompt=prompt, generator=generator, output_type="np", **given)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The painter {who} does not fit into the memory of {self.device} at {size[0]}x{size[1]} "
                "pixels: take a smaller model, half precision, or the CPU."
            ) from error
        except Exception as error:  # whatever a pipeline says to parts that it was not made for
            raise UserError(
                f"The painter {who} cannot generate an image from a text alone: {one_line(error)} Give a "
                "text-to-image model, not one for inpainting, editing, refining or upscaling."
            ) from error
        image = np.asarray(getattr(output, "images", [None])[0])
        if image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(f"The painter {who} gives no RGB images: give a text-to-image model.")
        if not np.isfinite(image).all():
            advice = "fetch the model again" if self.dtype == torch.float32 else "take another dtype"
            raise UserError(f"The painter {who} generated NaN in {self.dtype}: {advice}.")
        return (image * 255).round().astype(np.uint8)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Neither disturbed by the caller's precision and random state, nor disturbing them."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            torch.random.fork_rng(cuda),
        ):
            yield


def native_size(pipeline: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width to generate: the shape of `size` at the area that the model was made for, if known.

    The sides are multiples of what its layers need.
    """
    backbone = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config = {} if backbone is None else backbone.config
    takes = inspect.signature(pipeline.__call__).parameters
    side: Any = [getattr(takes.get(key), "default", None) for key in ("height", "width")]
    unit = UNIT
    encoded = any("vae" in part or part in ("movq", "vqgan") for part in pipeline.components)
    pixels = getattr(pipeline, "vae_scale_factor", None) or (None if encoded else 1)  # per latent
    if pixels is not None:
        latents = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        rows_and_columns = latents if isinstance(latents, (list, tuple)) else (latents, latents)
        side = side if latents is None else [pixels * length for length in rows_and_columns]
        if levels := config.get("down_block_types"):
            unit = pixels * 2 ** (len(levels) - 1)
        elif isinstance(patch := config.get("patch_size"), int):
            unit = pixels * max(patch, 2)  # some pipelines make patches of two themselves
    known = all(isinstance(length, int) for length in side)
    scale = (side[0] * side[1] / (size[0] * size[1])) ** 0.5 if known else 1
    height, width = (max(unit, round(length * scale / unit) * unit) for length in size)
    return height, width


def _dtype(name: str | torch.dtype) -> torch.dtype:
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"dtype={name} is unknown to the painter: use float32, bfloat16 or float16.")
    return dtype
