"""Means and spreads of a comparison, which value of a column is best, and whether a lead is clear."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lamp_lightning.metrics.registry import Measure
from lamp_lightning.report.comparison import TRUTH, Comparison, Entry

MOVES = 0.5  # a method truly moves if it has at least this share of the truth's motion


@dataclass(frozen=True)
class Value:
    """A mean, and the standard deviation over seeds, None with less than two."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Summary(Value):
    """The mean over motions (the spread is that of the seeds' means), and the value of each motion.

    ``complete``: no motion is missing that another method has.
    """

    motions: dict[str, Value] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True)
class Difference:
    """How much better (above 0) or worse one method is than another, in the measure's unit.

    ``spread``: standard deviation over the ``seeds`` that both have, None with less than two; ``won`` of
    ``motions``: where it is the better one. ``clear``: every seed says the same, and the mean is above the
    spread; with one seed: all motions, at least two, say the same.
    """

    mean: float
    spread: float | None
    seeds: int
    won: int
    motions: int
    clear: bool


def value_of(numbers: list[float]) -> Value:
    """Mean and spread of the values of some seeds."""
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Value(float(np.mean(numbers)), spread, len(numbers))


def by_motion_and_seed(c: Comparison, entry: str, measure: str) -> dict[str, dict[int | None, float]]:
    """All values of a measure that an entry has."""
    found: dict[str, dict[int | None, float]] = {}
    for motion in c.motions:
        for result in c.results:
            if (result.entry, result.motion) == (entry, motion):
                value = result.value(measure)
                if value is not None:
                    found.setdefault(motion, {})[result.seed] = value
    return found


def summary(c: Comparison, entry: Entry, measure: Measure) -> Summary | None:
    """An entry's mean, spread and values by motion, or None where nothing was measured."""
    found = by_motion_and_seed(c, entry.name, measure.name)
    if not found:
        return None
    motions = {motion: value_of(list(seeds.values())) for motion, seeds in found.items()}
    complete = all(set(found) >= set(by_motion_and_seed(c, e.name, measure.name)) for e in c.methods)
    common = set.intersection(*(set(seeds) for seeds in found.values()))
    means = [float(np.mean([found[motion][seed] for motion in found])) for seed in _ordered(common)]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    mean = float(np.mean([value.mean for value in motions.values()]))
    return Summary(mean, spread, len(means), motions, complete)


def goodness(c: Comparison, measure: Measure, motion: str, value: float) -> float | None:
    """The value so that more is better; None where nothing says which is."""
    if measure.better == "truth":
        true = by_motion_and_seed(c, TRUTH, measure.name).get(motion)
        return None if true is None else -abs(value - float(np.mean(list(true.values()))))
    return {"higher": value, "lower": -value}.get(measure.better)


def score(c: Comparison, entry: Entry, measure: Measure) -> float | None:
    """The mean goodness over motions, to rank by."""
    found = summary(c, entry, measure)
    if found is None:
        return None
    good = [goodness(c, measure, motion, value.mean) for motion, value in found.motions.items()]
    known = [value for value in good if value is not None]
    return float(np.mean(known)) if known and len(known) == len(good) else None


def true_motion(c: Comparison) -> Summary | None:
    """How much truly moves, by the measure ``moves_by``; None where that is not known."""
    truth = c.entry(TRUTH)
    return None if truth is None or c.moves_by is None else summary(c, truth, c.measure(c.moves_by))


def hardly_moves(c: Comparison, entry: Entry) -> bool:
    """Whether an entry has less than half of the true motion; False where that is not known."""
    true = true_motion(c)
    found = None if c.moves_by is None else summary(c, entry, c.measure(c.moves_by))
    if true is None or found is None:
        return False
    common = set(true.motions) & set(found.motions)
    mean = {which: sum(each.motions[m].mean for m in common) for which, each in ((0, true), (1, found))}
    return mean[1] < MOVES * mean[0]


def ranking(c: Comparison, measure: Measure, motion: str | None = None) -> list[tuple[float, Entry]]:
    """The methods from best to worst, over all motions or on one, with their mean goodness.

    Only those with all motions are ranked and, where standing still pays, those that truly move: none where
    that is not known.
    """
    if measure.only_moving and true_motion(c) is None:
        return []
    ranked = []
    for entry in c.methods:
        found = summary(c, entry, measure)
        if found is None or (measure.only_moving and hardly_moves(c, entry)):
            continue
        if motion is None:
            points = score(c, entry, measure) if found.complete else None
        else:
            value = found.motions.get(motion)
            points = None if value is None else goodness(c, measure, motion, value.mean)
        if points is not None:
            ranked.append((points, entry))
    return sorted(ranked, key=lambda each: -each[0])


def best(c: Comparison, measure: Measure, motion: str | None = None) -> set[str]:
    """The names of the best methods: several where they are the same in the digits shown.

    Nothing is the best of one.
    """
    ranked = ranking(c, measure, motion)
    if len(ranked) < 2:
        return set()
    top = round(ranked[0][0], measure.digits)
    return {entry.name for points, entry in ranked if round(points, measure.digits) == top}


def difference(c: Comparison, measure: Measure, a: Entry, b: Entry) -> Difference | None:
    """How much better ``a`` is than ``b`` on what both have; None where there is nothing to compare by."""
    ours, theirs = (by_motion_and_seed(c, each.name, measure.name) for each in (a, b))
    motions = [motion for motion in c.motions if motion in ours and motion in theirs]
    if not motions or goodness(c, measure, motions[0], 0.0) is None:
        return None

    def good(values: dict[int | None, float], motion: str, seed: int | None) -> float:
        value = values.get(seed, float(np.mean(list(values.values()))))  # without seeds: its one value
        return goodness(c, measure, motion, value) or 0.0

    def ahead(motion: str, seed: int | None) -> float:
        return good(ours[motion], motion, seed) - good(theirs[motion], motion, seed)

    seeds = _ordered(set.intersection(*(_seeds(ours[m], theirs[m]) for m in motions)))
    if not seeds:  # the motions have no seed in common: all means
        seeds = [None]
    by_motion = [float(np.mean([ahead(motion, seed) for seed in seeds])) for motion in motions]
    by_seed = [float(np.mean([ahead(motion, seed) for motion in motions])) for seed in seeds]
    mean = float(np.mean(by_seed))
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
    votes = by_motion if spread is None else by_seed
    agreed = all(vote > 0 for vote in votes) or all(vote < 0 for vote in votes)
    clear = agreed and len(votes) > 1 and abs(mean) > (spread or 0.0)
    return Difference(mean, spread, len(seeds), sum(x > 0 for x in by_motion), len(motions), clear)


def _seeds(a: dict[int | None, float], b: dict[int | None, float]) -> set[int | None]:
    """The seeds to compare with: the common ones, or the other's where one has no seeds."""
    if set(a) == {None}:
        return set(b)
    return set(a) if set(b) == {None} else set(a) & set(b)


def _ordered(seeds: set[int | None]) -> list[int | None]:
    return sorted(seeds, key=lambda seed: -1 if seed is None else seed)
