"""Given images as first frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lamp_lightning.data.fit import fit_frame
from lamp_lightning.errors import UserError


def pixels_from_image(image: Any, size: tuple[int, int]) -> Tensor:
    """An image as the models' pixels, fitted to the size as the clips of a motion set are.

    Args:
        image: a path, a PIL image, an array `h w 3` (uint8, or float in 0..1) or a tensor `3 h w` (the same).
        size: height and width in pixels.

    Returns:
        `3 height width` float32 in [-1, 1].

    Raises:
        UserError: a file that is missing or no image, or an array of another shape or range.
    """
    pixels = _unit_range(_planes(image))
    if tuple(pixels.shape[1:]) != size:
        frame = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
        pixels = torch.tensor(fit_frame(frame, size)).permute(2, 0, 1).float() / 255
    return pixels * 2 - 1


def _planes(image: Any) -> Tensor:
    """`3 h w` in the image's own range and type."""
    if isinstance(image, (str, Path)):
        image = _open(Path(image))
    if isinstance(image, Image.Image):
        image = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3:
            raise _not_rgb(image.shape)
        image = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise UserError(f"first_frame is a {type(image).__name__}: give a path, PIL image, array or tensor.")
    if image.ndim != 3 or image.shape[0] != 3:
        raise _not_rgb(image.shape)
    return image.detach().cpu()


def _not_rgb(shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"first_frame has shape {tuple(shape)}: give RGB, arrays as (h, w, 3) and tensors as (3, h, w)."
    )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give an image as the first frame.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): give a PNG or JPEG.") from error


def _unit_range(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    pixels = pixels.float()
    low, high = pixels.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"first_frame has values from {low:.3g} to {high:.3g}: floats must lie in 0..1.")
    return pixels
