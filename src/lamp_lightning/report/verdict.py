"""The conclusion of a comparison in plain sentences, computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamp_lightning.metrics.registry import Measure, capital
from lamp_lightning.report.comparison import FROZEN, TRUTH, Claim, Comparison, Entry
from lamp_lightning.report.statistics import (
    Difference,
    best,
    difference,
    hardly_moves,
    ranking,
    score,
    summary,
)
from lamp_lightning.runtime.console import counted

ENOUGH = 4  # videos of a run, before its means are held against another's
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class CheckedClaim:
    """A claim, what became of it (`HOLDS`, `FAILS` or `OPEN`), and the numbers that say so."""

    text: str
    outcome: str
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """A headline, why, what limits it, and the claims that were checked."""

    headline: str
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    claims: tuple[CheckedClaim, ...]


def verdict(c: Comparison) -> Verdict:
    """What the numbers say."""
    deciding = [c.measure(name) for name in c.deciding] or [m for m in c.measures if m.better != "none"]
    ranked = [measure for measure in deciding if ranking(c, measure)]
    reasons = [*_parts(c, ranked), *(_reason(c, measure) for measure in ranked)]
    reasons += [_guard(c, m) for m in c.measures if m.only_moving and m not in ranked and ranking(c, m)]
    claims = tuple(checked for claim in c.claims if (checked := check(c, claim)) is not None)
    return Verdict(_headline(c, ranked), tuple(reasons), tuple(_limits(c, ranked)), claims)


def _headline(c: Comparison, measures: Sequence[Measure]) -> str:
    if len(c.methods) < 2 or not measures:
        return "There are no two methods here that could be compared."
    if c.ours is not None and all(entry.kind == "ablation" for entry in c.methods if entry != c.ours):
        return _headline_of_parts(c, measures[0])
    if missing := _missing(c):
        return f"Too little is there to say which is best: {'; '.join(missing)}."
    leaders = {measure.name: _leader(c, measure) for measure in measures}
    winners = {entry.name for entry in leaders.values()}
    if len(winners) == 1:
        winner = leaders[measures[0].name]
        by = joined([measure.words for measure in measures])
        close = [(measure, names) for measure in measures if (names := _not_beaten(c, measure, winner))]
        if not close:
            return f"{winner.label} is best: ahead of every other method on {by}."
        over = "every other method"
        if len({name for _, names in close for name in names}) <= 2:
            over = joined([f"{joined(names)} on {measure.words}" for measure, names in close])
        return f"{winner.label} has the best values on {by}, but not a clear lead over {over}."
    led: dict[str, list[str]] = {}
    for measure in measures:
        led.setdefault(leaders[measure.name].label, []).append(measure.words)
    parts = [f"{label} leads on {joined(titles)}" for label, titles in led.items()]
    return "No method is best at everything: " + joined(parts) + "."


def _missing(c: Comparison) -> list[str]:
    """What runs lack before one of them can be called best: tuning, and enough videos."""
    words = []
    if c.results and all(result.steps == 0 for result in c.results):
        words.append("none of the runs is tuned (trainer.max_steps= of more than 0)")
    fewest = min((result.count for result in c.results if result.count is not None), default=ENOUGH)
    if fewest < ENOUGH:
        needed = f"at least {ENOUGH} are needed: samples.final={ENOUGH}"
        words.append(f"some have {counted(fewest, 'video')} only ({needed})")
    return words


def _headline_of_parts(c: Comparison, measure: Measure) -> str:
    """How many changes to ours make it worse and better, by the weightiest measure, and which most of all."""
    assert c.ours is not None
    changes, other = _changes(c, measure)
    if not changes:
        return (
            f"None of the {len(other)} changes to {c.ours.label} makes a clear difference to {measure.words}."
        )
    parts = [
        f"{how} with {joined(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for how, names in changes.items()
    ]
    few = "one change makes" if len(other) == 1 else f"{len(other)} changes make"
    rest = f"; {few} no clear difference" if other else ""
    return f"By {measure.words}, {c.ours.label} is clearly {'; clearly '.join(parts)}{rest}."


def _leader(c: Comparison, measure: Measure) -> Entry:
    """The best method; of several that show the same number ours, if it is one of them."""
    leaders, ours = best(c, measure), c.ours
    return ours if ours is not None and ours.name in leaders else ranking(c, measure)[0][1]


def _not_beaten(c: Comparison, measure: Measure, winner: Entry) -> list[str]:
    """Labels of the methods over which its lead is not clear."""
    others = [entry for _, entry in ranking(c, measure) if entry != winner]
    found = [(entry, difference(c, measure, winner, entry)) for entry in others]
    return [entry.label for entry, each in found if each is None or not (each.clear and each.mean > 0)]


def _reason(c: Comparison, measure: Measure) -> str:
    """Who leads, by how much, over whom and how surely; and where ours stands, if it is another."""
    leader = _leader(c, measure)
    others = [entry for _, entry in ranking(c, measure) if entry != leader]
    text = f"{_heading(measure)}: {leader.label} has {_value(c, leader, measure)}"
    if others:
        found = difference(c, measure, leader, others[0])
        text += f", the next best, {others[0].label}, {_value(c, others[0], measure)}"
        text += f" ({_how_sure(found)})" if found is not None else ""
    text += f"{_references(c, measure)}."
    ours = c.ours
    if ours != leader and (last := _last_on(c, leader)):
        text += f" {leader.label} is last of all on {joined(last)}."
    if ours is not None and ours != leader and ours in others:
        place = [entry for _, entry in ranking(c, measure)].index(ours) + 1
        found = difference(c, measure, ours, leader)
        text += f" {ours.label} is number {place} of {len(others) + 1}, with {_value(c, ours, measure)}"
        text += f" ({_how_sure(found)})." if found is not None else "."
    return text


def _last_on(c: Comparison, entry: Entry) -> list[str]:
    """Where a method that leads elsewhere is the worst of at least three: what its lead is paid with."""
    ranked = [(measure, ranking(c, measure)) for measure in c.measures if measure.better != "none"]
    return [measure.words for measure, order in ranked if len(order) > 2 and order[-1][1] == entry]


def _guard(c: Comparison, measure: Measure) -> str:
    """A measure that standing still would win: who leads of those that move, and where ours is."""
    leader, ours = _leader(c, measure), c.ours
    text = f"{_heading(measure)}, among the methods that truly move: {leader.label} leads with "
    text += f"{_value(c, leader, measure)}{_references(c, measure)}."
    if ours is None or ours == leader:
        return text
    if hardly_moves(c, ours):
        return f"{text} {ours.label} hardly moves."
    found = difference(c, measure, ours, leader)
    worse = "is worse" if found is not None and found.clear else "is not clearly different"
    return f"{text} {ours.label} {worse}, with {_value(c, ours, measure)}."


def _parts(c: Comparison, measures: Sequence[Measure]) -> list[str]:
    """What each ablation does to ours."""
    said = []
    for measure in measures:
        changes, other = _changes(c, measure)
        if c.ours is None or not (changes or other):
            continue
        parts = [f"clearly {how} with {joined(names)}" for how, names in changes.items()]
        rest = "the other " if parts else "all "
        parts += [f"{rest}{len(other)} make no clear difference"] * bool(other)
        said.append(f"{capital(measure.words)}, beside {c.ours.label}: {'; '.join(parts)}.")
    return said


def _changes(c: Comparison, measure: Measure) -> tuple[dict[str, list[str]], list[str]]:
    """The ablations that are clearly "worse" or "better" than ours, largest change first; and the others."""
    clear: list[tuple[bool, float, str]] = []
    other: list[str] = []
    for entry in c.entries:
        if c.ours is None or entry.kind != "ablation":
            continue
        found = difference(c, measure, c.ours, entry)
        if found is not None and found.clear:
            said = f"{entry.label} (by {_amount(measure, found.mean)})"
            clear.append((found.mean > 0, abs(found.mean), said))
        elif found is not None:
            other.append(entry.label)
    changes: dict[str, list[str]] = {}
    for is_worse, _, said in sorted(clear, reverse=True):
        changes.setdefault("worse" if is_worse else "better", []).append(said)
    return changes, other


def _limits(c: Comparison, measures: Sequence[Measure]) -> list[str]:
    """What a reader has to know before believing the headline."""
    said = []
    still = [entry.label for entry in c.methods if hardly_moves(c, entry)]
    if still:
        said.append(f"Hardly moving (less than half of the true motion): {', '.join(still)}.")
    frozen = c.entry(FROZEN)
    for measure in measures:
        line = None if frozen is None else score(c, frozen, measure)
        if line is None:
            continue
        worse = [entry.label for points, entry in ranking(c, measure) if points < line]
        if worse:
            said.append(f"Worse than standing still on {measure.words}: {', '.join(worse)}.")
    said += _of_motion_alone(c)
    partial = [e.label for e in c.methods for m in measures if (s := summary(c, e, m)) and not s.complete]
    if partial:
        said.append(f"Not ranked, since motions are missing: {', '.join(dict.fromkeys(partial))}.")
    missing = [e.label for e in c.methods if not any(result.entry == e.name for result in c.results)]
    if missing:
        said.append(f"Without any result: {', '.join(missing)}.")
    if len(c.seeds) < 2:
        said.append("Each method ran with one seed, so nothing tells how much of a lead is luck.")
    return said + [f"Left out: {text}" for text in c.left_out]


def _of_motion_alone(c: Comparison) -> list[str]:
    """What to make of the most motion fidelity, where another than ours has it."""
    by_name = {measure.name: measure for measure in c.measures}
    measure, ours = by_name.get("motion_fidelity"), c.ours
    if measure is None or ours is None or not ranking(c, measure) or (best_ := _leader(c, measure)) == ours:
        return []
    pairs = [
        f"{m.words} {_value(c, best_, m)} ({ours.label} {_value(c, ours, m)})"
        for m in (by_name.get(name) for name in ("clip_score", "first_frame_fidelity"))
        if m is not None
    ]
    beside = f" Read it beside {joined(pairs)}." if pairs else ""
    return [
        f"{best_.label} leads on motion fidelity, which looks at motion alone: a method that repeats its "
        f"training clips has the most of it, whatever picture and prompt ask for.{beside}"
    ]


def check(c: Comparison, claim: Claim) -> CheckedClaim | None:
    """Hold a claim against the numbers; None where none of its methods was measured."""
    measure, entry = c.measure(claim.measure), c.entry(claim.entry)
    outcomes: list[str] = []
    evidence: dict[str, list[str]] = {}  # by how sure it is
    for name in claim.against:
        other = c.entry(name)
        found = None if entry is None or other is None else difference(c, measure, entry, other)
        if found is None or other is None:
            outcomes.append(OPEN)
            evidence.setdefault("not measured", []).append(other.label if other else name)
            continue
        outcomes.append(_outcome(found, claim))
        better = "better" if found.mean > 0 else "worse"
        by = f"{better} than {other.label} by {_amount(measure, found.mean)}"
        evidence.setdefault(_how_sure(found), []).append(by if found.mean else f"the same as {other.label}")
    if entry is None or not outcomes:
        return None
    outcome = next((each for each in (FAILS, OPEN) if each in outcomes), HOLDS)
    texts = [f"{', '.join(words)} ({sure})" for sure, words in evidence.items()]
    text = f"{measure.words} {_value(c, entry, measure)}: {'; '.join(texts)}."
    return CheckedClaim(claim.text, outcome, capital(text))


def _outcome(found: Difference, claim: Claim) -> str:
    if claim.relation == "no_worse" and found.mean >= 0:
        return HOLDS
    if not found.clear:
        return OPEN
    return HOLDS if found.mean > 0 else FAILS


def _how_sure(found: Difference) -> str:
    where = f"ahead on {found.won} of {found.motions} motions" if found.motions > 1 else ""
    if found.seeds < 2:
        sure = "one seed"
    elif found.clear:
        sure = f"the same in all {found.seeds} seeds, beyond their spread"
    else:
        sure = f"within the spread of {found.seeds} seeds"
    return ", ".join(filter(None, (where, sure)))


def _heading(measure: Measure) -> str:
    how = {"higher": "higher is better", "lower": "lower is better", "truth": "nearest to the truth is best"}
    return f"{capital(measure.title)} ({how[measure.better]})"


def _value(c: Comparison, entry: Entry, measure: Measure) -> str:
    found = summary(c, entry, measure)
    return "no value" if found is None else measure.quantity(found.mean, found.spread)


def _amount(measure: Measure, value: float) -> str:
    """The size of a difference."""
    text = measure.quantity(abs(value))
    return text if float(measure.number(value)) else f"less than {measure.quantity(10**-measure.digits)}"


def _references(c: Comparison, measure: Measure) -> str:
    """What standing still and the truth have, where it is known."""
    words = []
    for name, how in ((FROZEN, "standing still has"), (TRUTH, "the truth")):
        entry = c.entry(name)
        if entry is not None and summary(c, entry, measure) is not None:
            words.append(f"{how} {_value(c, entry, measure)}")
    return f"; {joined(words)}" if words else ""


def joined(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
