"""Videos to files: mp4, gif, webp, PNG frames, contact sheets, and file names made from prompts.

A video is uint8 `(f, h, w, 3)` RGB everywhere here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from lamp_lightning.data.pictures import MOST_OF_FRAMES, frames_of, opened_picture
from lamp_lightning.data.sheet import draw_sheet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import explained, part_of, replacing
from lamp_lightning.runtime.reading import open_file

FORMATS = ("mp4", "gif", "webp", "png")
SHOWN_SIZE = 256  # small videos are enlarged to this many pixels, or a browser shows a stamp
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_ADVICE = "Choose an output folder that you may write to."
_REPAINT = "Remove it to paint it again."
SMPTE170M = 6  # the H.264 code of SD colour: what players assume for small untagged videos


def as_frames(video: Any, *, min_frames: int = 1) -> np.ndarray:
    """uint8 `(f, h, w, 3)` RGB of one video.

    From arrays or tensors of that shape or `(f, 3, h, w)`, or a list of frames `(h, w, 3)` or PIL images.
    Floats in [0, 1] are rounded. Raises UserError with fewer than `min_frames` frames, ValueError for another
    shape or range.
    """
    if isinstance(video, list | tuple):
        video = np.stack([_array(frame) for frame in video])
    frames = _array(video)
    if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            "a video is (frames, height, width, 3) or (frames, 3, height, width); got an array of shape "
            f"{frames.shape}"
        )
    if frames.shape[0] < min_frames:
        raise UserError(f"this needs a video of at least {min_frames} frames; it has {frames.shape[0]}")
    if frames.dtype != np.uint8:
        low, high = float(frames.min()), float(frames.max())
        if not np.issubdtype(frames.dtype, np.floating) or not (low >= 0 and high <= 1):
            raise ValueError(
                f"frames are uint8, or floats in [0, 1]; got {frames.dtype} from {low:g} to {high:g}"
            )
        frames = np.round(frames * 255).astype(np.uint8)
    return np.ascontiguousarray(frames)


def as_videos(videos: Any, *, min_frames: int = 1) -> list[np.ndarray]:
    """Each video of a batch as uint8 `(f, h, w, 3)`; a single video is a batch of one.

    A batch is an array or tensor `(b, f, h, w, 3)` or `(b, f, 3, h, w)`, such as the pipeline's `frames`, or
    a list of whatever `as_frames` takes, of any lengths and sizes. Raises as `as_frames`.

    Example:
        >>> import torch
        >>> [video.shape for video in as_videos(torch.rand(2, 4, 3, 8, 16))]
        [(4, 8, 16, 3), (4, 8, 16, 3)]
    """
    if isinstance(videos, list | tuple):
        one = not videos or (not isinstance(videos[0], list | tuple) and getattr(videos[0], "ndim", 3) == 3)
    else:
        one = getattr(videos, "ndim", 4) != 5
    return [as_frames(video, min_frames=min_frames) for video in ([videos] if one else videos)]


def _array(value: Any) -> np.ndarray:
    """A picture or pictures, from PIL, an array, or a tensor on any device."""
    if isinstance(value, Image.Image):
        value = value.convert("RGB")
    elif hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()  # NumPy has none
    return np.asarray(value)


def write_mp4(path: str | Path, video: Any, fps: float = 8, *, min_size: int = 0, crf: int = 14) -> Path:
    """Write H.264 yuv420p that every browser plays.

    `min_size`: enlarge by the smallest whole factor (nearest neighbour) that gives the shorter side at least
    this many pixels. Odd sizes repeat their last row or column: yuv420p needs even ones. `crf`: libx264's
    quality, lower is better. Raises UserError where the file cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from lamp_lightning.data import write_mp4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_mp4(f"{folder}/grey.mp4", np.full((4, 32, 32, 3), 128, np.uint8), fps=8)
        ...     print(file.name)
        grey.mp4
    """
    frames = _pad_to_even(_enlarge(as_frames(video), min_size))
    rate = _rate(fps)
    with (
        _atomic(path) as part,
        av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as out,
    ):
        stream: Any = out.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1  # several threads do not always make the same file
        codec.colorspace = codec.color_primaries = codec.color_trc = SMPTE170M
        codec.color_range = int(ColorRange.MPEG)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            yuv = picture.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
            )
            out.mux(stream.encode(yuv))
        out.mux(stream.encode(None))
    return Path(path)


def write_gif(path: str | Path, video: Any, fps: float = 8, *, min_size: int = 0) -> Path:
    """Write a gif that loops for ever, all frames on one palette of 256 colours so that nothing flickers.

    `min_size` as in `write_mp4`. Gifs count time in hundredths of a second and browsers slow down those above
    50 frames per second: faster videos are written at 50. Raises UserError where the file cannot be written.
    """
    frames = as_frames(video)
    palette = _shared_palette(frames)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in _enlarge(frames, min_size)
    ]
    duration = max(20, round(1000 / float(_rate(fps)) / 10) * 10)
    return _write_animation(path, images, "GIF", duration, optimize=False)


def write_webp(path: str | Path, video: Any, fps: float = 8, *, min_size: int = 0, quality: int = 92) -> Path:
    """Write an animated webp that loops for ever, in all colours.

    `min_size` as in `write_mp4`; `quality` 0 to 100. Raises UserError where the file cannot be written.
    """
    images = [Image.fromarray(frame) for frame in _enlarge(as_frames(video), min_size)]
    duration = max(1, round(1000 / float(_rate(fps))))
    return _write_animation(path, images, "WEBP", duration, quality=quality)


def _write_animation(path: str | Path, images: list[Any], kind: str, duration: int, **options: Any) -> Path:
    """Write pictures as an animation that loops for ever; `duration` of each in milliseconds."""
    with _atomic(path) as part:
        images[0].save(
            part, format=kind, save_all=True, append_images=images[1:], duration=duration, loop=0, **options
        )
    return Path(path)


def write_frames(folder: str | Path, video: Any) -> Path:
    """Write each frame without loss to `folder`: 0000.png, 0001.png and so on, and none but these."""
    folder = Path(folder)
    frames = as_frames(video)
    for number, frame in enumerate(frames):
        with _atomic(folder / f"{number:04d}.png") as part:
            Image.fromarray(frame).save(part, format="PNG")
    number = len(frames)
    while (old := folder / f"{number:04d}.png").is_file():
        old.unlink()
        number += 1
    return folder


def place(kind: str, folder: Path, name: str) -> Path:
    """Where a video of that name lies in one of the `FORMATS`."""
    return folder / (f"{name}_frames" if kind == "png" else f"{name}.{kind}")


def write_as(kind: str, folder: Path, name: str, frames: np.ndarray, fps: float) -> Path:
    """Write a video in one of the `FORMATS`; small ones are enlarged, but not as PNG frames."""
    file = place(kind, folder, name)
    if kind == "png":
        return write_frames(file, frames)
    write: Any = {"mp4": write_mp4, "gif": write_gif, "webp": write_webp}[kind]
    return write(file, frames, fps, min_size=SHOWN_SIZE)


def read_video(path: str | Path) -> np.ndarray:
    """A video that was written here, from any of its forms, or a picture: uint8 `(f, h, w, 3)`.

    Raises UserError where it is not there or cannot be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from lamp_lightning.data import read_video, write_mp4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_video(write_mp4(f"{folder}/grey.mp4", np.full((4, 32, 32, 3), 128, np.uint8))).shape
        (4, 32, 32, 3)
    """
    path = Path(path)
    if path.is_dir():
        parts = [read_video(file) for file in sorted(path.glob("[0-9]*.png"))]
        if len({part.shape[1:] for part in parts}) != 1:
            raise _not_read(path, "its pictures differ in size" if parts else "it has no numbered pictures")
        return np.concatenate(parts)
    if path.suffix == ".mp4":
        return _read_mp4(path)
    with opened_picture(path, what="a video", advice=_REPAINT) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in frames_of(image, path)]
    return np.stack(frames)


def _read_mp4(path: Path) -> np.ndarray:
    """By its own container format only, from the opened file: a file cannot send the decoder elsewhere."""
    frames, size = [], 0
    with open_file(path, what="a video", limit=MOST_OF_FRAMES) as file:
        try:
            with av.open(file, "r", format="mp4") as container:
                for frame in container.decode(video=0):
                    size += 3 * frame.width * frame.height
                    if size > MOST_OF_FRAMES:
                        raise _not_read(path, f"its frames have more than {MOST_OF_FRAMES >> 30} GiB")
                    frames.append(frame.to_ndarray(format="rgb24"))
        except (OSError, ValueError, IndexError, MemoryError, av.error.FFmpegError) as error:
            raise _not_read(path, str(error)) from error
    if len({frame.shape for frame in frames}) != 1:
        raise _not_read(path, "its frames differ in size" if frames else "it has no frames")
    return np.stack(frames)


def _not_read(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read as a video ({reason}). {_REPAINT}")


def contact_sheet(
    rows: Sequence[tuple[str, Any]], path: str | Path, columns: int = 8, *, cell: int = 128, title: str = ""
) -> Path:
    """Write a PNG with one labelled row of frames for each `(label, video)`.

    `columns`: frames shown of each video, evenly chosen with the first and last; `cell`: the largest side of
    a frame in pixels. Long labels are wrapped, then shortened. Raises UserError where it cannot be written.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    sheet = draw_sheet([(label, as_frames(video)) for label, video in rows], columns, cell=cell, title=title)
    with _atomic(path) as part:
        sheet.save(part, format="PNG")
    return Path(path)


def safe_name(text: str, max_length: int = 80) -> str:
    """A file name, without extension, from any text: letters, digits, `-`, `_`, at most `max_length` bytes.

    Accents are dropped, letters of other scripts stay, all else becomes `_`. A shortened name ends in a hash
    of the whole text, so long prompts with one beginning keep apart; "untitled" where nothing is left.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = unicodedata.normalize("NFC", plain)
    name = re.sub(r"[^\w-]+|_+", "_", plain.encode(errors="ignore").decode()).strip("_-").lower()
    if len(name.encode()) > max_length:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = name.encode()[: max_length - 9].decode(errors="ignore").rstrip("_-") + "_" + digest
    if not name:
        return "untitled"
    return name + "_" if name in RESERVED_NAMES else name


def writable_folder(path: str | Path) -> Path:
    """Create the folder and prove that files can be written there. Raises UserError otherwise."""
    folder = Path(path)
    with explained(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        proof = part_of(folder / "proof")
        proof.touch()
        proof.unlink()
    return folder


def _atomic(path: str | Path) -> contextlib.AbstractContextManager[Path]:
    """A temporary path beside `path` that takes its place at the end: a killed run leaves no half files."""
    return replacing(Path(path), _ADVICE)


def _rate(fps: float) -> Fraction:
    if not 0 < fps < 1000:
        raise UserError(f"frames per second must lie between 0 and 1000; got {fps}")
    return Fraction(fps).limit_denominator(1001)


def _enlarge(frames: np.ndarray, min_size: int) -> np.ndarray:
    factor = max(1, -(-min_size // min(frames.shape[1:3])))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _pad_to_even(frames: np.ndarray) -> np.ndarray:
    _, h, w, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")


def _shared_palette(frames: np.ndarray, pixels: int = 1 << 18) -> Image.Image:
    """A palette image fitted to all frames: median cut over a mosaic of at most about `pixels` of them."""
    flat = frames.reshape(-1, 3)
    flat = flat[:: max(1, len(flat) // pixels)]
    width = min(512, len(flat))
    flat = flat[: len(flat) // width * width]
    mosaic = Image.fromarray(flat.reshape(-1, width, 3))
    return mosaic.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
