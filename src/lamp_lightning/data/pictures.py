"""Pictures as data: opened only as the formats that are named here, from regular files, within limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageSequence

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import open_file

# Pillow knows forty more. Some start programs (EPS calls Ghostscript), and few of them are well tested.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM")
MOST_PIXELS = 150_000_000  # more than cameras make
MOST_OF_FRAMES = 2**31  # bytes of all frames of an animation
LARGEST_FILE = 2**30  # bytes


@contextmanager
def opened_picture(file: Path, *, what: str, advice: str) -> Iterator[Image.Image]:
    """A picture file, open and with its first frame decoded. Do inside only what calls on Pillow.

    Args:
        file: the path.
        what: what it is to be, for the message: "an image".
        advice: what the user can do about it, a whole sentence.

    Raises:
        UserError: it is missing, no regular file, of another format than `FORMATS`, damaged, or so large that
            it would fill the memory.
    """
    with open_file(file, what=what, limit=LARGEST_FILE) as raw:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
                with Image.open(raw, formats=_known_here()) as image:
                    width, height = image.size
                    if width * height > MOST_PIXELS:
                        raise UserError(
                            f"{file} cannot be read as {what}: it has {width:,}x{height:,} pixels, and "
                            f"{MOST_PIXELS:,} are the most. {advice}"
                        )
                    image.load()
                    if image.mode in ("P", "PA") and image.palette is None:
                        raise UserError(f"{file} cannot be read as {what}: it lacks its palette. {advice}")
                    yield image
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{file} cannot be read as {what}: it has more pixels than the {MOST_PIXELS:,} that are the "
                f"most. {advice}"
            ) from error
        except Exception as error:  # damaged files make Pillow raise errors of every kind
            raise UserError(f"{file} cannot be read as {what} ({_reason(error)}). {advice}") from error


def frames_of(image: Image.Image, file: Path) -> Iterator[Image.Image]:
    """The frames of an opened picture; raises UserError where they have more than `MOST_OF_FRAMES` bytes."""
    most = MOST_OF_FRAMES // (3 * image.width * image.height)
    for number, frame in enumerate(ImageSequence.Iterator(image)):
        if number >= most:
            raise UserError(
                f"{file} is too long: its frames have more than {MOST_OF_FRAMES >> 30} GiB. Cut it."
            )
        yield frame


def _known_here() -> list[str]:
    """Those of `FORMATS` that this Pillow has; AVIF and HEIF come with newer ones or with plugins."""
    if not all(kind in Image.OPEN for kind in FORMATS):
        Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _reason(error: Exception) -> str:
    """What Pillow said, without the address of the opened file."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("cannot identify image file"):
        return "it is of no picture format that is read here"
    return text.splitlines()[0].rstrip(".")[:200]
