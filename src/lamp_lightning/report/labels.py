"""Where the names of dots may stand, so that they cover nothing and nobody takes them for another's.

Of libraries for it adjustText was tried: on plots with twenty names it let many overlap. All lengths are
points of the page; boxes are given by their lower left corner and size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LINE = 13.0  # from one line of text to the next
DOT = 6.0  # from the middle of a dot, kept free
BESIDE = 9.5  # from the middle of a dot to a name that needs no line to it


def places(
    at: np.ndarray, k: int, size: np.ndarray, edges: np.ndarray, bars: np.ndarray, ours: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Lower left corners where the name of a dot could stand, clear of edges and dots, and how bad each is.

    Only the line to ours, which is drawn above the others and in its own colour, may cross dots.
    """
    w, h = size
    tried = [(9, -h / 2, 0.0), (-9 - w, -h / 2, 0.1)]  # beside, then above and below, then all around
    tried += [(x, y, 0.4) for y in (7, -7 - h) for x in (-w / 2, -4, 4 - w)]
    tried += [(x, y, 1) for x in np.arange(-w - 100, 101, 10) for y in np.arange(-100 - h, 101, h / 2)]
    offsets = np.array(tried)
    corners, cost = at[k] + offsets[:, :2], offsets[:, 2]
    near, far = nearest(at[k], corners, size)
    leads = far > BESIDE
    others = np.delete(at, k, axis=0)
    rival = nearest(others, corners[:, None], size)[1].min(axis=1)
    crossed = leads & _lines_touch(_discs(others, DOT if ours else 1.25 * DOT), at[k], near)
    wrong = (corners < edges[0] + 3).any(axis=1) | (corners + size > edges[1] - 1).any(axis=1)
    wrong |= (far <= DOT) | (leads & (far <= LINE))  # so short a line would hardly be seen
    wrong |= (rival <= DOT) | (~leads & (rival < 1.3 * far)) | (crossed & (not ours))
    cost = cost + far / LINE + 1.5 * leads + 3 * (~leads & (rival < 2 * far)) + 20 * crossed
    cost += _boxes_touch(_discs(bars, 1), corners, size)
    return corners[~wrong], cost[~wrong]


def choose(
    at: np.ndarray,
    sizes: dict[int, np.ndarray],
    options: dict[int, tuple[np.ndarray, np.ndarray]],
    worth: dict[int, float],
) -> dict[int, np.ndarray]:
    """Of the places and their costs those where names and leaders are clear of each other.

    One name after the other takes its best place; those that find none come first in the next round. Of some
    rounds the one is taken that costs least, with what the names are worth that have no place in it.
    """
    order = list(sizes)
    rounds: list[tuple[float, int, dict[int, np.ndarray]]] = []
    for _ in range(8):
        found: dict[int, np.ndarray] = {}
        taken: dict[int, np.ndarray] = {}
        paid = dict(worth)
        for k in 2 * order:  # the second time there may be a better place
            corners, size = options[k][0], sizes[k]
            discs = np.concatenate([np.empty((0, 3)), *(those for j, those in taken.items() if j != k)])
            near, far = nearest(at[k], corners, size)
            touch = _boxes_touch(discs, corners, size) | ((far > BESIDE) & _lines_touch(discs, at[k], near))
            cost = np.where(touch, np.inf, options[k][1])
            if np.isfinite(cost).any():
                best = int(cost.argmin())
                found[k], paid[k] = corners[best], float(cost[best])
                taken[k] = _covered(at[k], corners[best], size)
        rounds.append((sum(paid.values()), len(rounds), found))
        if len(found) == len(order):
            break
        order.sort(key=lambda k: k in found)
    return min(rounds)[-1]


def nearest(points: np.ndarray, corner: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, Any]:
    """Of boxes `(..., 2)` the places that are nearest to points, and how far these are."""
    near = np.clip(points, corner, corner + size)
    return near, np.linalg.norm(near - points, axis=-1)


def _discs(points: np.ndarray, radius: float) -> np.ndarray:
    """`(n, 3)`: x, y and radius of what is kept free."""
    return np.column_stack([points, np.full(len(points), radius)])


def _covered(point: np.ndarray, corner: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A name, and its leader if it has one, as discs."""
    half = size[1] / 2
    along = np.linspace(half / 2, size[0] - half / 2, 2 + int(size[0] / 8))
    name = _discs(corner + np.column_stack([along, np.full(len(along), half)]), half)
    near, far = nearest(point, corner, size)
    lead = np.linspace(near, point, 2 + int(far / 3)) if far > BESIDE else np.empty((0, 2))
    return np.concatenate([name, _discs(lead, 2.5)])


def _boxes_touch(discs: np.ndarray, corners: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which boxes touch any of the discs."""
    return np.asarray((nearest(discs[:, :2], corners[:, None], size)[1] < discs[:, 2]).any(axis=1))


def _lines_touch(discs: np.ndarray, start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which lines from the edge of a dot touch any of the discs."""
    along = ends - start
    length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), DOT)
    share = along @ (discs[:, :2] - start).T / length**2
    near = start + np.clip(share, DOT / length, 1)[..., None] * along[:, None]
    return np.asarray((np.linalg.norm(near - discs[:, :2], axis=-1) < discs[:, 2]).any(axis=1))
