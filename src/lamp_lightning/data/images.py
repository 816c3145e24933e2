"""Given images as first frames."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from lamp_lightning.data.fit import fit_frame
from lamp_lightning.data.pictures import opened_picture
from lamp_lightning.runtime.errors import UserError

PICTURES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"
}  # fmt: skip
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels_from_image(image: Any, size: tuple[int, int]) -> Tensor:
    """An image as the models' pixels, fitted to the size as the clips of a motion set are.

    Args:
        image: a path, a PIL image (of any kind, see `as_seen`), an array `h w 3` (uint8, or float in 0..1) or
            a tensor `3 h w` (the same).
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


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as people see it (`as_seen`), uint8 `h w 3`; of an animation, the first frame.

    Raises UserError where there is none that can be read, see `opened_picture`.
    """
    file = Path(path)
    if not file.exists():
        raise UserError(f"{path} does not exist: give an image as the first frame.")
    with opened_picture(file, what="an image", advice="Give a PNG or JPEG.") as opened:
        return np.array(as_seen(opened))


def as_seen(image: Image.Image) -> Image.Image:
    """An image of any kind as a viewer shows it: RGB of 8 bits, upright (EXIF), in the colours of sRGB.

    Transparent parts become white, and colour profiles (phones' Display P3, CMYK of printers) are converted.
    """
    image.load()  # TIFF files are turned by that, and say so only afterwards
    orientation = None
    with contextlib.suppress(Exception):  # a damaged note says nothing; Pillow has many errors for that
        orientation = image.getexif().get(EXIF_ORIENTATION)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = _in_srgb(image, profile).convert("RGB")
    return image if orientation not in UPRIGHT else image.transpose(UPRIGHT[orientation])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits, or of floats in 0..1 or 0..255; Pillow itself would cut off what is above 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode != "F":
        values /= 257
    elif values.max(initial=0) <= 1:
        values *= 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours converted by the profile inside a file; as they are where it has none or a damaged one."""
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImportError, OSError, ImageCms.PyCMSError):
        return image
    return converted or image


def _planes(image: Any) -> Tensor:
    """`3 h w` in the image's own range and type."""
    if isinstance(image, (str, Path)):
        image = read_image(image)
    if isinstance(image, Image.Image):
        image = np.array(as_seen(image))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3:
            raise _not_rgb(image.shape)
        image = torch.from_numpy(np.array(image)).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise UserError(f"first_frame is a {type(image).__name__}: give a path, PIL image, array or tensor.")
    if image.ndim != 3 or image.shape[0] != 3:
        raise _not_rgb(image.shape)
    return image.detach().cpu()


def _not_rgb(shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"first_frame has shape {tuple(shape)}: give RGB, arrays as (h, w, 3) and tensors as (3, h, w)."
    )


def _unit_range(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    pixels = pixels.float()
    low, high = pixels.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"first_frame has values from {low:.3g} to {high:.3g}: floats must lie in 0..1.")
    return pixels
