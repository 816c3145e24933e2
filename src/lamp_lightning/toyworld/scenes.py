"""What there is in the toy world: scenes, their captions, and who may see which of them.

A scene is a subject (one for each of the paper's eight motions) in a colour, at a place, in a style.
Combinations of subject, place and colour are split three ways:

* `tuning`: the clips of the motion sets come from these (the tiny models see their stills, too);
* `pretraining`: stills only;
* `held_out`: neither stills nor clips. Measurements and samples use these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

# Subject with {colour}, then what it does: "red birds fly", "a person in red plays the guitar".
_PHRASES = {
    "birds_fly": ("{colour} birds", "fly"),
    "firework": ("a {colour} firework", "bursts"),
    "helicopter": ("a {colour} helicopter", "flies"),
    "horse_run": ("a {colour} horse", "runs"),
    "play_the_guitar": ("a person in {colour}", "plays the guitar"),
    "rain": ("{colour} rain", "falls"),
    "turn_to_smile": ("a {colour} face", "turns to smile"),
    "waterfall": ("a {colour} waterfall", "flows"),
}
MOTIONS = tuple(_PHRASES)
COLOURS = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.98, 0.88, 0.16),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.30, 0.90),
    "purple": (0.50, 0.14, 0.72),
    "pink": (0.98, 0.50, 0.74),
    "white": (0.97, 0.97, 0.97),
}
PLACES = {
    "beach": "at the beach",
    "desert": "in the desert",
    "forest": "in the forest",
    "city": "in the city",
    "mountains": "in the mountains",
    "sea": "over the sea",
    "meadow": "on the meadow",
    "night": "in the night",
    "volcano": "at the volcano",
    "moon": "on the moon",
}
STYLES = {"flat": "flat colours", "ink": "ink drawing", "neon": "neon light"}
SPLITS = ("tuning", "pretraining", "held_out")


@dataclass(frozen=True)
class Scene:
    """One picture's content. `seed` fixes position, size, phase and the random details.

    Example:
        >>> from lamp_lightning.toyworld import Scene
        >>> Scene("horse_run", "red", "meadow", "ink").caption
        'a red horse runs on the meadow, ink drawing'
    """

    motion: str
    colour: str
    place: str
    style: str
    seed: int = 0

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.motion, MOTIONS, "motion"),
            (self.colour, COLOURS, "colour"),
            (self.place, PLACES, "place"),
            (self.style, STYLES, "style"),
        ):
            if value not in known:
                raise ValueError(f"The toy world has no {what} {value!r}; it has {', '.join(known)}.")

    @property
    def caption(self) -> str:
        return f"{self.phrase()}, {STYLES[self.style]}"

    @property
    def split(self) -> str:
        """Which of `SPLITS` the combination of subject, place and colour belongs to.

        A Latin square: every motion meets every place and every colour in each of the splits.
        """
        rank = (
            MOTIONS.index(self.motion)
            + 2 * list(PLACES).index(self.place)
            + 3 * list(COLOURS).index(self.colour)
        ) % 5
        return {0: "held_out", 1: "tuning"}.get(rank, "pretraining")

    def phrase(self, colour: bool = True, place: bool = True, verb: bool = True) -> str:
        """The caption's first part, with what is asked for: `a red horse runs on the meadow`."""
        subject, does = _PHRASES[self.motion]
        if colour:
            words = subject.format(colour=self.colour)
        else:  # "a {colour} horse" -> "a horse"; "a person in {colour}" -> "a person"
            words = subject.replace(" in {colour}", "").replace("{colour} ", "")
        if words.startswith("a ") and words[2] in "aeiou":
            words = "an " + words[2:]
        parts = [words, does if verb else "", PLACES[self.place] if place else ""]
        return " ".join(part for part in parts if part)


def motion_name(motion: str) -> str:
    """`birds_fly` -> `birds fly`, the prompt that a motion is tuned with."""
    return motion.replace("_", " ")


def combinations(split: str | None = None, motion: str | None = None) -> Iterator[Scene]:
    """All scenes (seed 0) of a split and a motion, in a fixed order; `None` takes all."""
    for m, place, colour, style in product(MOTIONS, PLACES, COLOURS, STYLES):
        scene = Scene(m, colour, place, style)
        if motion in (None, m) and split in (None, scene.split):
            yield scene


def varied_scenes(split: str, motion: str, count: int, seed: int) -> list[Scene]:
    """`count` scenes of one motion and split, with places, colours and styles as different as can be."""
    rng = np.random.default_rng([seed, MOTIONS.index(motion), SPLITS.index(split)])
    pool = list(combinations(split, motion))
    order = rng.permutation(len(pool))
    chosen: list[Scene] = []
    while len(chosen) < count:
        # Take the scene whose attributes were used least so far.
        def used(i: int) -> int:
            return sum(
                (s.place == pool[i].place) * 2 + (s.colour == pool[i].colour) * 2 + (s.style == pool[i].style)
                for s in chosen
            )

        best = min(order, key=used)
        chosen.append(replace(pool[best], seed=int(rng.integers(1 << 30))))
    return chosen


def motion_set_scenes(motion: str, count: int = 8, seed: int = 0) -> list[Scene]:
    """The scenes of a motion set's clips (split `tuning`).

    Example:
        >>> from lamp_lightning.toyworld import motion_set_scenes
        >>> {scene.split for scene in motion_set_scenes("birds_fly", 3)}
        {'tuning'}
    """
    return varied_scenes("tuning", motion, count, seed)


def held_out_scenes(motion: str, count: int = 16, seed: int = 0) -> list[Scene]:
    """Scenes for judging (split `held_out`): never drawn for pretraining or tuning.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes
        >>> {scene.split for scene in held_out_scenes("birds_fly", 3)}
        {'held_out'}
    """
    return varied_scenes("held_out", motion, count, seed)


def held_out_prompts(motion: str, count: int = 4, seed: int = 0) -> list[str]:
    """Captions of held-out scenes of a motion.

    Example:
        >>> from lamp_lightning.toyworld import held_out_prompts
        >>> len(held_out_prompts("rain", count=3))
        3
    """
    return [scene.caption for scene in held_out_scenes(motion, count, seed)]


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as people write it: sometimes short, in another order, or only part of what is there."""
    kind = rng.integers(10)
    style = STYLES[scene.style]
    if kind < 4:
        return scene.caption
    if kind < 6:
        return scene.phrase()
    if kind == 6:
        return motion_name(scene.motion)
    if kind == 7:
        return f"{PLACES[scene.place].split(' ', 1)[1]}, {scene.phrase(place=False)}, {style}"
    if kind == 8:
        return scene.phrase(colour=bool(rng.integers(2)), verb=bool(rng.integers(2)))
    return f"{motion_name(scene.motion)}, {scene.colour}, {PLACES[scene.place]}"
