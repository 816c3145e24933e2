"""Many videos in one picture: rows of frames with their labels, or a wall on which all of them move."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (25, 25, 30), (125, 125, 135), (255, 255, 255)
FONT_SIZE, LINE, GAP, MARGIN, LABEL_WIDTH = 15, 19, 4, 10, 200
WALL_WIDTH = 1600
SHORTEST_LABELLED = 96  # pixels of width below which a label says nothing
WIDE_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


def even_choice(count: int, columns: int) -> list[int]:
    """At most `columns` of `count` frame numbers, evenly spread, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, columns)).round().astype(int)).tolist()


def draw_sheet(rows: Sequence[tuple[str, np.ndarray]], columns: int, cell: int, title: str) -> Image.Image:
    """A picture with one row for each `(label, frames)`, frames uint8 `(f, h, w, 3)`.

    Each row shows up to `columns` frames, and its label at the left. Frames fit into `cell` x `cell` pixels:
    small ones enlarged by a whole factor with sharp pixels, unless that leaves a quarter of the cell free;
    others smoothly. Frame numbers stand above where all rows are as long.
    """
    chosen = [even_choice(len(frames), columns) for _, frames in rows]
    pictures = [
        [_fit(frames[i], cell) for i in picks] for (_, frames), picks in zip(rows, chosen, strict=True)
    ]
    cell_width = max(p.width for row in pictures for p in row)
    heights = [max(p.height for p in row) for row in pictures]
    numbered = len({len(frames) for _, frames in rows}) == 1
    left = MARGIN + (LABEL_WIDTH if any(label for label, _ in rows) else 0)
    count = max(map(len, chosen))
    width = left + count * (cell_width + GAP) - GAP + MARGIN
    title_lines = wrap(title, _font(title), width - 2 * MARGIN, 2) if title else []
    top = MARGIN + len(title_lines) * LINE + (LINE if numbered else 0)
    sheet = Image.new("RGB", (width, top + sum(heights) + GAP * (len(rows) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN - 2), title_lines, INK)
    if numbered:
        for column, index in enumerate(chosen[0]):
            _write(draw, (left + column * (cell_width + GAP), top - LINE), [f"{index}"], FAINT)
    y = top
    for (label, _), row, height in zip(rows, pictures, heights, strict=True):
        lines = wrap(label, _font(label), LABEL_WIDTH - 12, max(1, height // LINE))
        _write(draw, (MARGIN, y + max(0, (height - len(lines) * LINE) // 2)), lines, INK)
        for column, picture in enumerate(row):
            sheet.paste(picture, (left + column * (cell_width + GAP), y))
        y += height + GAP
    return sheet


def wall_cell(count: int) -> int:
    """The longest side, in pixels, of each of `count` videos on a wall."""
    return max(32, min(256, WALL_WIDTH // math.ceil(math.sqrt(count)) - GAP))


def draw_wall(videos: Sequence[tuple[str, np.ndarray]], cell: int) -> np.ndarray:
    """All videos side by side, about 4:3, as one video: uint8 `(f, h, w, 3)` of the longest one's frames.

    Frames fit into `cell` x `cell` pixels as in `draw_sheet`; a label of one line stands under each where
    there is room. Shorter videos stay at their last frame.
    """
    stills = [_fit(frames[0], cell) for _, frames in videos]
    width, height = max(p.width for p in stills), max(p.height for p in stills)
    labelled = width >= SHORTEST_LABELLED and any(label for label, _ in videos)
    step_x, step_y = width + GAP, height + GAP + (LINE if labelled else 0)
    columns = max(1, min(len(videos), round(math.sqrt(len(videos) * step_y / step_x * 4 / 3))))
    rows = math.ceil(len(videos) / columns)
    wall = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(wall)
    corners = [(GAP + i % columns * step_x, GAP + i // columns * step_y) for i in range(len(videos))]
    if labelled:
        for (label, _), (x, y) in zip(videos, corners, strict=True):
            _write(draw, (x, y + height), wrap(label, _font(label), width, 1), INK)
    frames = []
    for number in range(max(len(video) for _, video in videos)):
        for (_, video), (x, y) in zip(videos, corners, strict=True):
            picture = _fit(video[min(number, len(video) - 1)], cell)
            wall.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        frames.append(np.array(wall))
    return np.stack(frames)


def wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """`text` broken into at most `lines` lines of at most `width` pixels; what does not fit ends in "…"."""
    done: list[str] = []
    rest = " ".join(text.split())
    while rest and len(done) < lines:
        length = _fitting(rest, font, width)
        if length < len(rest) and len(done) == lines - 1:
            short = rest[: _fitting(rest, font, width - font.getlength("…"))].rstrip()
            return [*done, short + "…"]
        if length < len(rest) and rest[length] != " " and " " in rest[:length]:
            length = rest[:length].rindex(" ")
        done.append(rest[:length].rstrip())
        rest = rest[length:].lstrip()
    return done


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> int:
    """How many of the first characters of `text`, at least one, fit into `width` pixels."""
    low, high = 1, min(len(text), 1000)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _fit(frame: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(frame)
    longest = max(image.size)
    factor = cell // longest
    if factor * longest >= 0.75 * cell:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * cell / longest)), max(1, round(image.height * cell / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)


def shrunk(frames: np.ndarray, cell: int) -> np.ndarray:
    """Frames `(f, h, w, 3)` that fit into `cell` x `cell` pixels; smaller ones as they are."""
    if max(frames.shape[1:3]) <= cell:
        return frames
    return np.stack([np.asarray(_fit(frame, cell)) for frame in frames])


def _font(text: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font for Latin text, else the first installed font that knows more scripts."""
    if text.isascii():
        return ImageFont.load_default(FONT_SIZE)
    for name in WIDE_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, FONT_SIZE - 1)
    return ImageFont.load_default(FONT_SIZE)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: list[str], ink: tuple[int, int, int]
) -> None:
    font = _font("".join(lines).replace("…", ""))
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + i * LINE), line, fill=ink, font=font)
