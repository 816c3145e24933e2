"""An anti-aliased canvas in unit coordinates: (0, 0) is the top left corner, (1, 1) the bottom right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

RGB = tuple[float, float, float]
Point = tuple[float, float]

INK: RGB = (0.08, 0.08, 0.12)
_SHIFT = 6  # OpenCV draws at 1/64 of a supersampled pixel


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Colour `a` with `share` (0..1) of colour `b` in it."""
    red, green, blue = (x + (y - x) * share for x, y in zip(a, b, strict=True))
    return (red, green, blue)


def lighter(colour: RGB, share: float = 0.5) -> RGB:
    return mix(colour, (1.0, 1.0, 1.0), share)


def darker(colour: RGB, share: float = 0.45) -> RGB:
    return mix(colour, (0.0, 0.0, 0.0), share)


@dataclass(frozen=True)
class Outline:
    """What is drawn around a shape: a colour and a width as share of the picture."""

    colour: RGB
    width: float


class Canvas:
    """A square picture of `size` pixels, drawn `supersample` times larger and averaged down."""

    def __init__(self, size: int, supersample: int = 4) -> None:
        self.size = size
        self.side = size * supersample
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)

    def copy(self) -> Canvas:
        twin = Canvas.__new__(Canvas)
        twin.size, twin.side, twin.pixels = self.size, self.side, self.pixels.copy()
        return twin

    def _points(self, points: Sequence[Point]) -> np.ndarray:
        return np.round(np.asarray(points, np.float64) * self.side * (1 << _SHIFT)).astype(np.int32)

    def _width(self, width: float) -> int:
        return max(1, round(width * self.side))

    @staticmethod
    def _colour(colour: RGB) -> tuple[int, int, int]:
        r, g, b = (round(255 * min(max(c, 0.0), 1.0)) for c in colour)
        return (r, g, b)

    def gradient(self, top: RGB, bottom: RGB, y0: float = 0.0, y1: float = 1.0) -> None:
        """Fill the rows between `y0` and `y1` with a vertical blend."""
        a, b = round(y0 * self.side), round(y1 * self.side)
        if b <= a:
            return
        share = np.linspace(0, 1, b - a)[:, None]
        rows = (1 - share) * np.asarray(top) + share * np.asarray(bottom)
        self.pixels[max(a, 0) : b] = np.round(255 * np.clip(rows, 0, 1)).astype(np.uint8)[max(-a, 0) :, None]

    def polygon(self, points: Sequence[Point], colour: RGB, outline: Outline | None = None) -> None:
        p = self._points(points)
        cv2.fillPoly(self.pixels, [p], self._colour(colour), cv2.LINE_AA, _SHIFT)
        if outline:
            c, w = self._colour(outline.colour), self._width(outline.width)
            cv2.polylines(self.pixels, [p], True, c, w, cv2.LINE_AA, _SHIFT)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        colour: RGB,
        outline: Outline | None = None,
    ) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, outline)

    def line(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        """A line with round ends and joints through `points`, `width` as share of the picture."""
        p, w, c = self._points(points), self._width(width), self._colour(colour)
        cv2.polylines(self.pixels, [p], False, c, w, cv2.LINE_AA, _SHIFT)
        radius = round(w / 2 * (1 << _SHIFT))
        for x, y in p:
            cv2.circle(self.pixels, (int(x), int(y)), radius, c, -1, cv2.LINE_AA, _SHIFT)

    def ellipse(
        self, centre: Point, radii: Point, colour: RGB, angle: float = 0.0, outline: Outline | None = None
    ) -> None:
        """A filled ellipse turned by `angle` degrees (clockwise on the screen)."""
        turn = np.deg2rad(angle)
        a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x, y = radii[0] * np.cos(a), radii[1] * np.sin(a)
        columns = centre[0] + x * np.cos(turn) - y * np.sin(turn)
        rows = centre[1] + x * np.sin(turn) + y * np.cos(turn)
        self.polygon(list(zip(columns, rows, strict=True)), colour, outline)

    def darken(self, share: float, tint: RGB = (0.0, 0.0, 0.0)) -> None:
        """Blend the whole picture towards `tint` by `share`."""
        blended = self.pixels * (1 - share) + 255 * share * np.asarray(tint)
        self.pixels = np.round(blended).astype(np.uint8)

    def image(self) -> np.ndarray:
        """The finished picture, uint8 `(size, size, 3)`."""
        return cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
