"""The picture of the README: first frames, and below them the videos that the tuned models made of them.

    python docs/_ext/first_frames.py

It cuts `docs/images/motions.gif`, which `make results` writes, into `docs/images/first_frames.gif`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).parents[1] / "images"
SHOWN = {  # column and row in the source
    "helicopter": (2, 0),
    "horse run": (3, 0),
    "play the guitar": (0, 1),
    "turn to smile": (2, 1),
    "waterfall": (3, 1),
}
CELL, PITCH, GAP, LEFT = 128, 136, 16, 118  # pixels: a video, from one video to the next in the source, ours
TITLE = 30
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def main() -> None:
    source = Image.open(IMAGES / "motions.gif")
    frames = []
    for index in range(source.n_frames):
        source.seek(index)
        frames.append(source.convert("RGB"))
    pages = [page(frames[0], frame) for frame in frames]
    palette = pages[len(pages) // 2].quantize(256, dither=Image.Dither.NONE)
    shown = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pages]
    duration = [900] + [source.info["duration"]] * (len(shown) - 2) + [900]
    options = {"append_images": shown[1:], "duration": duration, "loop": 0, "optimize": True}
    shown[0].save(IMAGES / "first_frames.gif", save_all=True, **options)


def page(first: Image.Image, now: Image.Image) -> Image.Image:
    """One moment: the still pictures above, the videos below."""
    width = LEFT + len(SHOWN) * (CELL + GAP)
    image = Image.new("RGB", (width, TITLE + 2 * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(str(FONT), 14)
    for row, (text, source) in enumerate((("one picture", first), ("the video\nmade of it", now))):
        top = TITLE + row * (CELL + GAP)
        draw.multiline_text((12, top + CELL // 2), text, "#222222", font, anchor="lm", spacing=4)
        for column, (name, (x, y)) in enumerate(SHOWN.items()):
            left = LEFT + column * (CELL + GAP)
            if row == 0:
                draw.text((left + CELL // 2, TITLE // 2), name, "#222222", font, anchor="mm")
            corner = (4 + x * PITCH, 4 + y * PITCH)
            image.paste(source.crop((*corner, corner[0] + CELL, corner[1] + CELL)), (left, top))
    return image


if __name__ == "__main__":
    main()
