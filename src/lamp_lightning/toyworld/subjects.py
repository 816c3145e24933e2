"""The toy world's eight subjects and how each of them moves.

A motion is the same in all scenes up to position, size and phase, and what a first frame shows (position,
pose, radius) settles how it goes on, so every first frame has one true continuation. Only where single drops
and streaks of rain and waterfall enter the picture is random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lamp_lightning.toyworld.canvas import INK, RGB, Canvas, Outline, Point, darker, lighter, mix
from lamp_lightning.toyworld.scenes import COLOURS, Scene

CYCLE = 8.0  # frames in a wing beat, a stride, a strum
FALL = {"rain": (-0.018, 0.05), "waterfall": (0.0, 0.05)}  # shares of the picture per frame


@dataclass(frozen=True)
class Pen:
    """A subject's colours: its own, a dark one for parts behind, a light one for details, and the edge."""

    colour: RGB
    dark: RGB
    light: RGB
    edge: Outline

    @classmethod
    def of(cls, scene: Scene) -> Pen:
        colour = COLOURS[scene.colour]
        dark = darker(colour, 0.35)
        edge = {
            "flat": Outline(darker(colour, 0.6), 0.02),
            "ink": Outline(INK, 0.026),
            "neon": Outline(lighter(colour, 0.65), 0.022),
        }[scene.style]
        return cls(colour, dark, lighter(colour, 0.55), edge)


Subject = Callable[[Canvas, Pen, np.random.Generator, float], None]


def draw_subject(canvas: Canvas, scene: Scene, t: float) -> None:
    """Draw `scene`'s subject at time `t` (frames) on `canvas`."""
    rng = np.random.default_rng([scene.seed, 1])  # the same draws at every t: position, size, phase
    _SUBJECTS[scene.motion](canvas, Pen.of(scene), rng, t)


def _around(centre: Point, scale: float, *offsets: Point) -> list[Point]:
    """The points at such offsets from a centre, in a subject's own scale."""
    return [(centre[0] + dx * scale, centre[1] + dy * scale) for dx, dy in offsets]


def _edged_line(c: Canvas, pen: Pen, points: list[Point], colour: RGB, width: float) -> None:
    c.line(points, pen.edge.colour, width + pen.edge.width)
    c.line(points, colour, width)


def _bird(c: Canvas, pen: Pen, x: float, y: float, size: float, phase: float) -> None:
    edge = Outline(pen.edge.colour, 0.7 * pen.edge.width)  # thin, or it would hide the colour
    lift = np.sin(phase)
    lag = np.sin(phase - 1.1)  # the tips follow the elbows, so up and down strokes look different
    wings = []
    for side in (-1, 1):
        elbow = (x + side * 0.42 * size, y - 0.42 * size * lift - 0.04 * size)
        tip = (x + side * 0.95 * size, y - 0.62 * size * lag)
        wings.append([(x, y), elbow, tip])
    for wing in wings:
        (x0, y0), (x1, y1), (x2, y2) = wing
        w = 0.15 * size
        c.polygon([(x0, y0 - w), (x1, y1 - w), (x2, y2), (x1, y1 + w), (x0, y0 + w)], pen.colour, edge)
    c.ellipse((x, y), (0.22 * size, 0.26 * size), pen.colour, outline=edge)
    head = (x + 0.16 * size, y - 0.28 * size)
    c.polygon(_around(head, size, (0, -0.08), (0.36, 0.05), (0, 0.12)), (0.98, 0.72, 0.1))
    c.ellipse(head, (0.16 * size, 0.16 * size), pen.colour, outline=edge)


def _birds_fly(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    x, y = rng.uniform(0.16, 0.28), rng.uniform(0.32, 0.48)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * t / CYCLE
    x, y = x + 0.019 * t, y - 0.005 * t
    _bird(c, pen, x + 0.28, y + 0.32, 0.24, phase)
    _bird(c, pen, x, y, 0.30, phase)


def _firework(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    x, y = rng.uniform(0.36, 0.64), rng.uniform(0.34, 0.48)
    turn = rng.uniform(0, 2 * np.pi)
    age = t + 2.0
    reach = 0.47 * (1 - np.exp(-age / 9.0))
    tail = 0.47 * (1 - np.exp(-max(age - 5.0, 0.0) / 9.0))
    fall = 0.00042 * age**2
    width = 0.052 - 0.0008 * age
    angles = turn + 2 * np.pi * np.arange(10) / 10
    rays = [
        [(x + r * np.cos(a), y + r * np.sin(a) + fall * (0.5 if r == tail else 1.0)) for r in (tail, reach)]
        for a in angles
    ]
    for ray in rays:
        c.line(ray, pen.edge.colour, width + 0.016)
    for ray in rays:
        c.line(ray, pen.colour, width)
        c.ellipse(ray[1], (0.024, 0.024), pen.light)
    glow = 0.10 * np.exp(-age / 5.0)
    if glow > 0.012:
        c.ellipse((x, y), (glow, glow), (1.0, 1.0, 0.9))


def _helicopter(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    s = rng.uniform(0.9, 1.1)
    x, y = rng.uniform(0.56, 0.66) - 0.014 * t, rng.uniform(0.58, 0.68) - 0.010 * t
    rotor = rng.uniform(0, np.pi) + np.deg2rad(24.0) * t
    boom = _around((x, y), s, (0.08, -0.05), (0.34, -0.045), (0.34, 0), (0.08, 0.06))
    c.polygon(boom, pen.dark, pen.edge)
    fin = _around((x, y), s, (0.30, -0.02), (0.32, -0.13), (0.39, -0.13), (0.36, 0))
    c.polygon(fin, pen.colour, pen.edge)
    for dx in (-0.08, 0.08):
        c.line(_around((x, y), s, (dx, 0.1), (dx, 0.17)), pen.edge.colour, 0.025)
    _edged_line(c, pen, _around((x, y), s, (-0.17, 0.18), (0.16, 0.18)), pen.dark, 0.02)
    c.ellipse((x, y), (0.18 * s, 0.125 * s), pen.colour, outline=pen.edge)
    c.ellipse((x - 0.075 * s, y - 0.02 * s), (0.075 * s, 0.07 * s), (0.80, 0.94, 1.0), outline=pen.edge)
    c.line([(x, y - 0.11 * s), (x, y - 0.19 * s)], pen.edge.colour, 0.03)
    hub = (x, y - 0.19 * s)
    for blade in (0.0, np.pi / 2):
        dx, dy = 0.32 * s * np.cos(rotor + blade), 0.085 * s * np.sin(rotor + blade)
        _edged_line(c, pen, [(hub[0] - dx, hub[1] - dy), (hub[0] + dx, hub[1] + dy)], pen.light, 0.026)


def _horse_run(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    s = rng.uniform(0.92, 1.08)
    x, y = rng.uniform(0.29, 0.37) + 0.016 * t, rng.uniform(0.54, 0.60)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * t / CYCLE
    y -= 0.022 * np.sin(phase)

    def leg(hip_x: float, offset: float, colour: RGB) -> None:
        swing = 0.75 * np.sin(phase + offset)
        bend = 0.75 * max(0.0, np.cos(phase + offset))  # the knee folds while the leg swings forward
        hip = (x + hip_x * s, y + 0.05 * s)
        knee = (hip[0] + 0.14 * s * np.sin(swing), hip[1] + 0.14 * s * np.cos(swing))
        hoof = (knee[0] + 0.13 * s * np.sin(swing - bend), knee[1] + 0.13 * s * np.cos(swing - bend))
        _edged_line(c, pen, [hip, knee, hoof], colour, 0.045 * s)

    leg(-0.13, np.pi * 0.25, pen.dark)
    leg(0.13, np.pi * 1.25, pen.dark)
    tail = 0.05 * np.sin(phase - 0.6)
    root, (tip_x, tip_y) = _around((x, y), s, (-0.18, -0.05), (-0.30, -0.02))
    _edged_line(c, pen, [root, (tip_x, tip_y + tail)], pen.dark, 0.045 * s)
    leg(-0.13, 0.0, pen.colour)
    leg(0.13, np.pi, pen.colour)
    nod = 0.025 * np.cos(phase)

    def nodding(*offsets: Point) -> list[Point]:
        return [(u, v + nod) for u, v in _around((x, y), s, *offsets)]

    withers, mane, throat = _around((x, y), s, (0.08, -0.07), (0.09, -0.1), (0.2, 0.05))
    c.ellipse((x, y), (0.21 * s, 0.105 * s), pen.colour, outline=pen.edge)
    c.polygon([withers, *nodding((0.19, -0.25), (0.26, -0.20)), throat], pen.colour, pen.edge)
    c.ellipse((x + 0.27 * s, y - 0.22 * s + nod), (0.105 * s, 0.062 * s), pen.colour, 28, pen.edge)
    c.polygon(nodding((0.18, -0.27), (0.19, -0.36), (0.25, -0.28)), pen.colour, pen.edge)
    c.line([mane, *nodding((0.18, -0.26))], pen.dark, 0.035 * s)


def _play_the_guitar(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    s = rng.uniform(0.95, 1.1)
    x, y = rng.uniform(0.42, 0.56), rng.uniform(0.60, 0.66)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * t / CYCLE
    skin, wood = (0.93, 0.74, 0.58), (0.62, 0.34, 0.12)
    edge = pen.edge
    shoulders = _around((x, y), s, (-0.14, -0.16), (0.14, -0.16))
    c.polygon([*shoulders, (x + 0.2 * s, y + 0.5), (x - 0.2 * s, y + 0.5)], pen.colour, edge)
    nod = 0.016 * np.sin(phase)
    c.ellipse((x + 0.012 * np.cos(phase), y - 0.28 * s + nod), (0.105 * s, 0.12 * s), skin, outline=edge)
    c.ellipse((x + 0.012 * np.cos(phase), y - 0.36 * s + nod), (0.115 * s, 0.06 * s), pen.dark, outline=edge)
    # The guitar: body at the lower left, neck to the upper right, and the still hand on it.
    body, end = (x - 0.06 * s, y + 0.12 * s), (x + 0.36 * s, y - 0.06 * s)
    c.line([body, end], edge.colour, 0.055 * s)
    c.line([body, end], mix(wood, (0, 0, 0), 0.35), 0.035 * s)
    c.ellipse(body, (0.17 * s, 0.125 * s), wood, -22, edge)
    c.ellipse((body[0] + 0.02 * s, body[1] - 0.01 * s), (0.05 * s, 0.05 * s), mix(wood, (0, 0, 0), 0.75))
    _edged_line(c, pen, _around((x, y), s, (0.13, -0.12), (0.27, 0.06)), pen.colour, 0.06 * s)
    c.ellipse((x + 0.28 * s, y - 0.02 * s), (0.045 * s, 0.045 * s), skin, outline=edge)
    # The strumming arm: its hand runs along an upright ellipse, down near the strings and up away from them.
    hand = (x - 0.10 * s + 0.075 * s * np.cos(phase), y + 0.10 * s + 0.15 * s * np.sin(phase))
    elbow = (x - 0.31 * s, y + 0.10 * s + 0.07 * s * np.sin(phase))
    _edged_line(c, pen, [(x - 0.13 * s, y - 0.11 * s), elbow, hand], pen.colour, 0.075 * s)
    c.ellipse(hand, (0.058 * s, 0.058 * s), skin, outline=edge)


def _falling(
    rng: np.random.Generator, t: float, count: int, velocity: Point, box: tuple[float, float, float, float]
) -> list[Point]:
    """Heads of `count` streaks that fall through `box` (x0, y0, x1, y1) and enter again elsewhere."""
    x0, y0, x1, y1 = box
    lanes = rng.permutation(count)
    start = (rng.permutation(count) + rng.uniform(0.1, 0.9, count)) / count  # spread evenly over the fall
    heads = []
    for k in range(count):
        fallen = start[k] + velocity[1] * t / (y1 - y0)
        lap, share = int(fallen // 1), fallen % 1.0
        jitter = np.random.default_rng([int(start[k] * 1e6), lap]).uniform()  # a new lane each time
        lane = (lanes[k] + 0.15 + 0.7 * jitter + 3 * lap) % count
        x = x0 + (x1 - x0) * lane / count + velocity[0] / velocity[1] * (share - 0.5) * (y1 - y0)
        heads.append((x, y0 + (y1 - y0) * share))
    return heads


def _rain(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    cloud = (0.46, 0.48, 0.54)
    v = FALL["rain"]
    for x, y in _falling(rng, t, 15, v, (-0.05, 0.02, 1.1, 1.14)):
        tail = (x - v[0] / v[1] * 0.13, y - 0.13)
        _edged_line(c, pen, [tail, (x, y)], pen.colour, 0.034)
    drift = rng.uniform(-0.04, 0.04)
    for k, r in enumerate((0.10, 0.13, 0.11, 0.14, 0.10)):
        c.ellipse((0.06 + 0.22 * k + drift, 0.03), (r * 1.3, r), cloud, outline=pen.edge)
    c.box(-0.1, -0.1, 1.1, 0.07, cloud)


def _turn_to_smile(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    s = rng.uniform(0.92, 1.06)
    x, y = rng.uniform(0.44, 0.56), rng.uniform(0.50, 0.56)
    progress = float(np.clip((t + 1.0) / 17.0, 0, 1))
    turned = 1 - progress * progress * (3 - 2 * progress)  # 1: looking left, 0: at us
    smile = 1 - turned
    r = 0.34 * s
    for side in (-1, 1):
        ear = x + side * r * 0.98 + 0.5 * r * turned * (1 if side < 0 else -0.12)
        c.ellipse((ear, y), (0.07 * s, 0.09 * s), pen.dark, outline=pen.edge)
    c.ellipse((x, y), (r, r * 1.04), pen.colour, outline=pen.edge)
    shift = -0.48 * r * turned
    squeeze = 1 - 0.3 * turned
    for side in (-1, 1):
        eye = (x + shift + side * 0.40 * r * squeeze, y - 0.22 * r)
        c.ellipse(eye, (0.17 * r * squeeze, 0.22 * r), (1.0, 1.0, 1.0), outline=Outline(INK, 0.014))
        c.ellipse((eye[0] - 0.06 * r * turned, eye[1] + 0.02 * r), (0.10 * r * squeeze, 0.13 * r), INK)
    half, corner, middle = (0.26 + 0.26 * smile) * r, -0.20 * smile * r, 0.24 * smile * r
    mx, my = x + shift, y + 0.46 * r
    along = np.linspace(-1, 1, 13)
    across = mx + half * squeeze * along
    upper = list(zip(across, my + (corner + 0.03 * r) * along**2 - 0.02 * r, strict=True))
    lower = list(zip(across, my + corner * along**2 + (middle + 0.07 * r) * (1 - along**2), strict=True))
    c.polygon([*upper, *lower[::-1]], (0.30, 0.04, 0.08), Outline(INK, 0.02))
    if smile > 0.3:  # teeth
        teeth = [
            (u, v + min(0.11 * r, 0.5 * middle) * (1 - abs(2 * k / 12 - 1))) for k, (u, v) in enumerate(upper)
        ]
        c.polygon([*upper[2:-2], *teeth[2:-2][::-1]], (1.0, 1.0, 1.0))


def _waterfall(c: Canvas, pen: Pen, rng: np.random.Generator, t: float) -> None:
    x, half = rng.uniform(0.42, 0.58), rng.uniform(0.17, 0.20)
    top, bottom = rng.uniform(0.16, 0.22), 0.86
    rock = (0.40, 0.36, 0.34)
    left, right = x - half, x + half
    left_bank = [(left - 0.16, 1.02), (left - 0.12, top + 0.06), (left, top - 0.04)]
    right_bank = [(right, top - 0.04), (right + 0.12, top + 0.08), (right + 0.17, 1.02)]
    c.polygon([*left_bank, *right_bank], rock, pen.edge)
    c.box(left, top, right, bottom + 0.06, pen.colour, pen.edge)
    # White water: dark streaks show where the colour is light already.
    streak = pen.dark if min(pen.colour) > 0.9 else lighter(pen.colour, 0.7)
    box = (left + 0.02, top - 0.06, right - 0.02, bottom + 0.16)
    for sx, sy in _falling(rng, t, 7, FALL["waterfall"], box):
        a, b = max(sy - 0.16, top + 0.03), min(sy, bottom)
        if b > a:
            c.line([(sx, a), (sx, b)], streak, 0.036)
    foam = lighter(pen.colour, 0.75) if min(pen.colour) <= 0.9 else (0.86, 0.90, 0.94)
    for k in range(6):
        swell = 0.05 + 0.014 * np.sin(2 * np.pi * (t / CYCLE + k / 3))
        c.ellipse((left - 0.02 + (2 * half + 0.04) * k / 5, bottom + 0.06), (swell * 1.2, swell), foam)
    rim = [(left - 0.14, bottom + 0.08), (right + 0.14, bottom + 0.08)]
    c.polygon([*rim, (right + 0.2, 1.02), (left - 0.2, 1.02)], mix(pen.colour, foam, 0.25))


_DRAWERS = (
    _birds_fly, _firework, _helicopter, _horse_run, _play_the_guitar, _rain, _turn_to_smile, _waterfall
)  # fmt: skip
_SUBJECTS: dict[str, Subject] = {draw.__name__.lstrip("_"): draw for draw in _DRAWERS}
