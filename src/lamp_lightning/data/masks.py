"""Masks beside clips: what of a clip counts in the loss. White counts, black does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from lamp_lightning.data.fit import fit_frame
from lamp_lightning.data.pictures import opened_picture
from lamp_lightning.runtime.errors import UserError

MARK = "_mask"  # at the end of a mask's name, before its suffix
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
LEVELS = 8  # of 255: as far from black and white as videos keep them
ASPECT = 0.02  # by which the aspects of a mask and its clip may differ


def is_mask_of(file: Path, stems: set[str]) -> bool:
    """Whether a file is called like the mask of one of the clips with these stems."""
    return file.stem.endswith(MARK) and file.stem.removesuffix(MARK) in stems


def find_mask(clip: Path, videos: tuple[str, ...]) -> Path | None:
    """The mask of a clip: `<clip>_mask` with the suffix of a picture or a video, beside it; None without.

    Raises UserError where there are several.
    """
    found = [
        file
        for suffix in dict.fromkeys((*PICTURES, *videos))
        if (file := clip.with_name(f"{clip.stem}{MARK}{suffix}")).is_file()
    ]
    if len(found) > 1:
        raise UserError(f"{clip}: found {found[0].name} and {found[1].name}. Keep one mask of a clip.")
    return found[0] if found else None


def check_mask(clip: Path, videos: tuple[str, ...]) -> None:
    """UserError where the mask of a clip is there twice, or is a picture that cannot be read."""
    file = find_mask(clip, videos)
    if file is not None and file.suffix.lower() in PICTURES:
        with opened_picture(file, what="a mask", advice="Give a PNG, or take it away.") as image:
            image.load()


def read_mask(
    file: Path,
    shape: tuple[int, int, int],
    source_size: tuple[int, int],
    decode: Callable[[Path], tuple[np.ndarray, tuple[int, int] | None]],
) -> np.ndarray | None:
    """A mask, fitted as its clip is.

    Args:
        file: the mask.
        shape: frames, height and width of the clip as the model sees it.
        source_size: height and width of the clip in its file.
        decode: gives the fitted frames `(f, h, w, 3)` of a video, and their height and width in the file.

    Returns:
        uint8 `(f, h, w)`, or `(1, h, w)` of a picture; 255 counts, 0 does not. None where all is white, which
        is as if there were no mask.

    Raises:
        UserError: it cannot be read, has another shape or number of frames, or is all black.
    """
    advice = f"Make it of the clip's shape, {source_size[1]}x{source_size[0]}, or take it away."
    if file.suffix.lower() in PICTURES:
        with opened_picture(file, what="a mask", advice="Give a PNG, or take it away.") as image:
            picture = np.asarray(image.convert("RGB"))
        own: tuple[int, int] = (picture.shape[0], picture.shape[1])
        frames = fit_frame(picture, shape[1:])[None]
    else:
        frames, size = decode(file)
        own = size or source_size
        if len(frames) != shape[0]:
            raise UserError(
                f"{file}: this mask has {len(frames)} frames and its clip {shape[0]}. Give one for each "
                "frame, or a picture for all of them."
            )
    if abs(own[1] / own[0] / (source_size[1] / source_size[0]) - 1) > ASPECT:
        raise UserError(
            f"{file}: this mask has {own[1]}x{own[0]} pixels, another shape than its clip. {advice}"
        )
    grey = np.stack([np.asarray(Image.fromarray(np.asarray(frame)).convert("L")) for frame in frames])
    mask = np.where(grey <= LEVELS, 0, np.where(grey >= 255 - LEVELS, 255, grey)).astype(np.uint8)
    if not mask.any():
        raise UserError(
            f"{file}: this mask is all black, so that nothing of its clip counts. Paint what counts white."
        )
    return None if (mask == 255).all() else mask
