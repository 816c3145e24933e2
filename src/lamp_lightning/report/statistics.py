"""Means and spreads of a comparison, which value of a column is best, and whether a lead is clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from lamp_lightning.metrics.registry import Measure
from lamp_lightning.report.comparison import TRUTH, Comparison, Entry

MOVES = 0.5  # a method truly moves if it has at least this share of the truth's motion
NO_SEED = -1  # in tables, of what needs no seed


@dataclass(frozen=True)
class Value:
    """A mean, and the standard deviation over seeds, None with less than two."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Summary(Value):
    """The mean over motions (the spread is that of the seeds' means), and the value of each motion.

    `complete`: no motion is missing that another method has.
    """

    motions: dict[str, Value] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True)
class Difference:
    """How much better (above 0) or worse one method is than another, in the measure's unit.

    `spread`: standard deviation over the `seeds` that both have, None with less than two; `won` of `motions`:
    where it is the better one. `clear`: every seed says the same, and the mean is above the spread; with one
    seed: all motions, at least two, say the same.
    """

    mean: float
    spread: float | None
    seeds: int
    won: int
    motions: int
    clear: bool


@lru_cache(maxsize=8)
def values(c: Comparison) -> dict[tuple[str, str], pd.DataFrame]:
    """What was measured, by entry and measure: motions in rows, seeds in columns, NaN where there is none."""
    names = [measure.name for measure in c.columns]
    rows = [
        (r.entry, r.motion, NO_SEED if r.seed is None else r.seed, *map(r.value, names)) for r in c.results
    ]
    table = pd.DataFrame(rows, columns=["entry", "motion", "seed", *names])
    table = table.astype(dict.fromkeys(names, float)).set_index(["entry", "motion", "seed"])
    found = {}
    for entry, group in table.groupby(level="entry", sort=False):
        for name in names:
            wide = group[name].droplevel("entry").unstack("seed").reindex(list(c.motions))
            wide = wide.dropna(how="all").dropna(axis=1, how="all")
            if not wide.empty:
                found[str(entry), name] = wide
    return found


@lru_cache(maxsize=8)
def _summaries(c: Comparison) -> dict[tuple[str, str], Summary]:
    found = {}
    for (entry, measure), table in values(c).items():
        motions = {str(motion): _value(row.dropna()) for motion, row in table.iterrows()}
        others = (values(c).get((method.name, measure)) for method in c.methods)
        complete = all(other is None or set(other.index) <= set(motions) for other in others)
        seeds = _value(table.dropna(axis=1).mean())  # of the seeds that all motions have
        mean = float(np.mean([value.mean for value in motions.values()]))
        found[entry, measure] = Summary(mean, seeds.spread, seeds.seeds, motions, complete)
    return found


def _value(numbers: pd.Series) -> Value:
    """Mean and spread of the values of some seeds."""
    spread = float(numbers.std()) if len(numbers) > 1 else None
    return Value(float(numbers.mean()), spread, len(numbers))


def summary(c: Comparison, entry: Entry, measure: Measure) -> Summary | None:
    """An entry's mean, spread and values by motion, or None where nothing was measured."""
    return _summaries(c).get((entry.name, measure.name))


def measured(c: Comparison, entries: Sequence[Entry], measure: Measure) -> list[tuple[Entry, Summary]]:
    """Those of the entries that have values of a measure, with their summaries."""
    return [(entry, found) for entry in entries if (found := summary(c, entry, measure)) is not None]


def goodness(c: Comparison, measure: Measure, table: pd.DataFrame) -> pd.DataFrame | None:
    """Values by motion so that more is better; None where nothing says which is."""
    if measure.better == "truth":
        true = values(c).get((TRUTH, measure.name))
        return None if true is None else -table.sub(true.mean(axis=1), axis=0).loc[table.index].abs()
    return {"higher": table, "lower": -table}.get(measure.better)


def _scores(c: Comparison, entry: Entry, measure: Measure) -> pd.Series:
    """The goodness of an entry's mean on each motion; empty where that is not known for all."""
    found = summary(c, entry, measure)
    means = {motion: value.mean for motion, value in found.motions.items()} if found else {}
    good = goodness(c, measure, pd.DataFrame({"mean": means}, dtype=float))
    return pd.Series(dtype=float) if good is None else good["mean"]


def score(c: Comparison, entry: Entry, measure: Measure) -> float | None:
    """The mean goodness over motions, to rank by."""
    good = _scores(c, entry, measure)
    return None if good.empty or good.isna().any() else float(good.mean())


def true_motion(c: Comparison) -> Summary | None:
    """How much truly moves, by the measure `moves_by`; None where that is not known."""
    truth = c.entry(TRUTH)
    return None if truth is None or c.moves_by is None else summary(c, truth, c.measure(c.moves_by))


def hardly_moves(c: Comparison, entry: Entry) -> bool:
    """Whether an entry has less than half of the true motion; False where that is not known."""
    true = true_motion(c)
    found = None if c.moves_by is None else summary(c, entry, c.measure(c.moves_by))
    if true is None or found is None:
        return False
    common = set(true.motions) & set(found.motions)
    wanted, has = (sum(each.motions[motion].mean for motion in common) for each in (true, found))
    return has < MOVES * wanted


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
            points = _scores(c, entry, measure).get(motion)
        if points is not None and not np.isnan(points):
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
    """How much better `a` is than `b` on what both have; None where there is nothing to compare by."""
    tables = [values(c).get((each.name, measure.name)) for each in (a, b)]
    good = [
        made for table in tables if table is not None and (made := goodness(c, measure, table)) is not None
    ]
    if len(good) < 2 or (motions := good[0].index.intersection(good[1].index, sort=False)).empty:
        return None
    ours, theirs = (_of_seeds(table.loc[motions], other) for table, other in (good, good[::-1]))
    ahead = (ours - theirs).dropna(axis=1)
    if ahead.empty:  # the motions have no seed in common: all means
        ahead = (good[0].mean(axis=1) - good[1].mean(axis=1)).loc[motions].to_frame()
    by_motion, by_seed = ahead.mean(axis=1), ahead.mean()
    total = _value(by_seed)
    votes = by_motion if total.spread is None else by_seed
    agreed = bool((votes > 0).all() or (votes < 0).all())
    clear = agreed and len(votes) > 1 and abs(total.mean) > (total.spread or 0.0)
    return Difference(total.mean, total.spread, total.seeds, int((by_motion > 0).sum()), len(motions), clear)


def _of_seeds(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Values without seeds are the same with each of the other's seeds."""
    if list(table.columns) != [NO_SEED]:
        return table
    return pd.DataFrame(dict.fromkeys(other.columns, table[NO_SEED]))
