"""The toy world's ten places, drawn behind the subject."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamp_lightning.toyworld.canvas import INK, RGB, Canvas, Outline

Draw = Callable[[Canvas, np.random.Generator, Outline | None], None]


def draw_place(canvas: Canvas, place: str, style: str, rng: np.random.Generator) -> None:
    """Fill `canvas` with a place. `rng` shifts its details a little."""
    outline = Outline(INK, 0.014) if style == "ink" else None
    _PLACES[place](canvas, rng, outline)
    if style == "ink":
        canvas.darken(0.22, (1.0, 1.0, 0.94))
    elif style == "neon":
        canvas.darken(0.62, (0.04, 0.0, 0.12))


def _hill(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(-0.05, 1.05), *points, (1.05, 1.05)]


def _waves(canvas: Canvas, rng: np.random.Generator, colour: RGB, y0: float, rows: int, gap: float) -> None:
    for row in range(rows):
        shift = float(rng.uniform(0, 0.3))
        for k in range(4):
            x = -0.1 + shift + 0.34 * k + 0.1 * (row % 2)
            y = y0 + gap * row
            canvas.line([(x, y), (x + 0.13, y)], colour, 0.022)


def _beach(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.45, 0.76, 0.96), (0.78, 0.92, 0.98), 0, 0.5)
    c.gradient((0.10, 0.55, 0.78), (0.25, 0.75, 0.82), 0.5, 0.75)
    c.ellipse((0.82 + rng.uniform(-0.06, 0.06), 0.15), (0.1, 0.1), (1.0, 0.93, 0.5), outline=o)
    c.polygon(_hill([(-0.05, 0.76), (0.3, 0.70), (0.7, 0.73), (1.05, 0.66)]), (0.95, 0.85, 0.58), o)


def _desert(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.98, 0.78, 0.50), (1.0, 0.92, 0.72), 0, 0.65)
    x = 0.2 + rng.uniform(-0.08, 0.08)
    c.polygon([(x - 0.22, 0.7), (x, 0.42), (x + 0.22, 0.7)], (0.80, 0.58, 0.30), o)
    c.polygon(_hill([(-0.05, 0.68), (0.4, 0.60), (0.75, 0.68), (1.05, 0.60)]), (0.88, 0.66, 0.34), o)
    c.polygon(_hill([(-0.05, 0.85), (0.3, 0.88), (0.7, 0.78), (1.05, 0.84)]), (0.78, 0.54, 0.26), o)


def _forest(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.62, 0.82, 0.78), (0.80, 0.92, 0.80), 0, 0.8)
    c.gradient((0.30, 0.42, 0.20), (0.20, 0.30, 0.14), 0.78, 1)
    shift = rng.uniform(-0.04, 0.04)
    for k, h in enumerate((0.30, 0.18, 0.34, 0.24, 0.16)):
        x = 0.06 + 0.22 * k + shift
        c.box(x - 0.025, 0.7, x + 0.025, 0.84, (0.36, 0.22, 0.12))
        c.polygon([(x - 0.13, 0.74), (x, h), (x + 0.13, 0.74)], (0.06, 0.34, 0.20), o)


def _city(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.66, 0.74, 0.84), (0.86, 0.88, 0.90), 0, 0.85)
    for k, h in enumerate((0.34, 0.16, 0.44, 0.24, 0.38)):
        x = 0.2 * k
        top = h + float(rng.uniform(-0.05, 0.05))
        grey = 0.40 + 0.09 * (k % 2)
        c.box(x, top, x + 0.2, 0.86, (grey, grey + 0.02, grey + 0.08), o)
        for y in np.arange(top + 0.08, 0.78, 0.15):
            c.box(x + 0.06, y, x + 0.14, y + 0.06, (0.96, 0.90, 0.60))
    c.gradient((0.28, 0.28, 0.30), (0.22, 0.22, 0.24), 0.85, 1)


def _mountains(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.42, 0.62, 0.90), (0.80, 0.88, 0.96), 0, 0.8)
    s = float(rng.uniform(-0.06, 0.06))
    for x, top, half in ((0.25 + s, 0.24, 0.38), (0.75 + s, 0.14, 0.44)):
        c.polygon([(x - half, 0.86), (x, top), (x + half, 0.86)], (0.46, 0.50, 0.60), o)
        d = 0.3
        y = top + d * (0.86 - top)
        c.polygon([(x - half * d, y), (x, top), (x + half * d, y), (x, y - 0.06)], (0.96, 0.98, 1.0))
    c.polygon(_hill([(-0.05, 0.82), (0.5, 0.78), (1.05, 0.84)]), (0.86, 0.91, 0.96), o)


def _sea(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.60, 0.80, 0.92), (0.86, 0.94, 0.96), 0, 0.45)
    c.gradient((0.02, 0.40, 0.56), (0.02, 0.22, 0.40), 0.45, 1)
    _waves(c, rng, (0.36, 0.70, 0.80), 0.54, 4, 0.12)


def _meadow(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.50, 0.80, 1.0), (0.84, 0.95, 1.0), 0, 0.6)
    x = float(rng.uniform(0.15, 0.3))
    for dx, r in ((-0.09, 0.06), (0.0, 0.08), (0.09, 0.06)):
        c.ellipse((x + dx, 0.16), (r * 1.2, r), (1.0, 1.0, 1.0))
    c.polygon(_hill([(-0.05, 0.62), (0.25, 0.55), (0.6, 0.64), (1.05, 0.54)]), (0.58, 0.82, 0.36), o)
    c.polygon(_hill([(-0.05, 0.82), (0.4, 0.88), (0.8, 0.76), (1.05, 0.80)]), (0.46, 0.74, 0.28), o)


def _night(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.02, 0.03, 0.16), (0.10, 0.12, 0.36), 0, 0.85)
    for k in range(7):
        x, y = 0.08 + 0.14 * k, 0.10 + 0.46 * ((k * 5) % 7) / 7
        c.ellipse((x + float(rng.uniform(-0.03, 0.03)), y), (0.016, 0.016), (1.0, 0.98, 0.85))
    c.ellipse((0.82, 0.17), (0.11, 0.11), (0.98, 0.96, 0.80))
    c.ellipse((0.78, 0.15), (0.09, 0.09), (0.03, 0.04, 0.19))
    c.polygon(_hill([(-0.05, 0.84), (0.3, 0.78), (0.7, 0.86), (1.05, 0.80)]), (0.02, 0.05, 0.10), o)


def _volcano(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.36, 0.16, 0.18), (0.80, 0.36, 0.22), 0, 0.8)
    x = 0.5 + float(rng.uniform(-0.12, 0.12))
    c.polygon([(x - 0.5, 0.9), (x - 0.12, 0.26), (x + 0.12, 0.26), (x + 0.5, 0.9)], (0.24, 0.14, 0.16), o)
    c.polygon(
        [(x - 0.12, 0.26), (x + 0.12, 0.26), (x + 0.10, 0.46), (x + 0.03, 0.36), (x - 0.04, 0.52)],
        (1.0, 0.46, 0.08),
    )
    c.gradient((0.16, 0.09, 0.10), (0.10, 0.05, 0.07), 0.86, 1)


def _moon(c: Canvas, rng: np.random.Generator, o: Outline | None) -> None:
    c.gradient((0.0, 0.0, 0.02), (0.05, 0.05, 0.09), 0, 0.7)
    x = 0.2 + float(rng.uniform(-0.06, 0.06))
    c.ellipse((x, 0.19), (0.12, 0.12), (0.16, 0.42, 0.86), outline=o)
    c.ellipse((x - 0.03, 0.17), (0.055, 0.045), (0.24, 0.66, 0.34))
    c.polygon(_hill([(-0.05, 0.66), (0.35, 0.60), (0.75, 0.66), (1.05, 0.61)]), (0.66, 0.66, 0.68), o)
    for cx, cy, r in ((0.2, 0.78, 0.09), (0.62, 0.88, 0.12), (0.84, 0.73, 0.07)):
        c.ellipse((cx, cy), (r, r * 0.45), (0.48, 0.48, 0.51), outline=o)


_DRAWERS = (_beach, _desert, _forest, _city, _mountains, _sea, _meadow, _night, _volcano, _moon)
_PLACES: dict[str, Draw] = {draw.__name__.lstrip("_"): draw for draw in _DRAWERS}
