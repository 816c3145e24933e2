"""Captions for clips that have none, by an image-to-text model that the user names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.models.checks import library_reason
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import write_text
from lamp_lightning.runtime.reading import check_text
from lamp_lightning.runtime.stopping import check_stop

LISTS = ("captions.json", "captions.txt")  # beside clips, which hold the captions of all
MOST_TOKENS = 40  # of a caption: CLIP's text encoders read 77
EXAMPLE = "Salesforce/blip-image-captioning-base"


def load_captioner(name: str) -> Callable[[np.ndarray], str]:
    """What says in words what a picture, uint8 `(h, w, 3)`, shows: an image-to-text model of transformers.

    Args:
        name: a folder with a model such as BLIP and its processor, or a hub id. No code of theirs is run.

    Raises:
        UserError: nothing that can be loaded there.
    """
    folder = Path(name).expanduser()
    try:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if folder.is_absolute() and not folder.is_dir():
            raise UserError(f"there is no folder {folder}.")
        where = str(folder) if folder.is_dir() else name
        processor: Any = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        model: Any = AutoModelForImageTextToText.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # whatever the library meets in a damaged folder, or on the hub
        reason = str(error) if isinstance(error, UserError) else library_reason(error)
        raise UserError(
            f"The captioner {name!r} cannot be loaded: {reason} Give the hub id of an image-to-text model, "
            f"such as captioner={EXAMPLE}, or a folder that holds one with its processor; without one, write "
            "captions.txt by hand."
        ) from error
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def caption(picture: np.ndarray) -> str:
        inputs = processor(images=[np.ascontiguousarray(picture)], return_tensors="pt").to(model.device)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])

    return caption


def clips_without_captions(clips: list[Path]) -> list[Path]:
    """The clips that have no text file beside them. UserError where one file has the captions of all."""
    for name in LISTS:
        if (file := clips[0].parent / name).exists():
            raise UserError(
                f"{file} has the captions, and nothing that is there is changed. Take it away, and the "
                "captioner writes a file for each clip; or add what is missing by hand."
            )
    return [clip for clip in clips if not clip.with_suffix(".txt").exists()]


def write_captions(videos: dict[Path, np.ndarray], captioner: Callable[[np.ndarray], str]) -> dict[Path, str]:
    """Write `<clip>.txt` beside each clip, with what its middle frame shows; returns them.

    Args:
        videos: frames `(f, h, w, 3)` of clips that have no caption.
        captioner: as `load_captioner` gives it.

    Raises:
        UserError: a file cannot be written.
    """
    written = {}
    for clip, frames in videos.items():
        check_stop()
        file = clip.with_suffix(".txt")
        text = check_text(captioner(np.asarray(frames[len(frames) // 2])), file=file, what="a caption")
        if not text:
            warnings.warn(
                f"{clip}: the captioner says nothing of this clip. Write {file.name} by hand.", stacklevel=2
            )
        elif not file.exists():
            write_text(file, text + "\n")
            written[file] = text
    return written
