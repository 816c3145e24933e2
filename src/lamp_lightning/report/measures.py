"""The metrics of the package as measures of a comparison."""

from __future__ import annotations

from collections.abc import Iterable

from lamp_lightning.metrics import MEASURES
from lamp_lightning.report.comparison import Measure

# By these a frozen video is perfect; and of these the truth's own value is the right one.
STILL_WINS = (
    "frame_consistency", "frame_consistency_neighbours", "first_frame_fidelity", "warping_error",
)  # fmt: skip
LIKE_TRUTH = ("motion_amount", "flow_length")


def measure(name: str) -> Measure:
    """The measure of that name, from ``lamp_lightning.metrics.MEASURES``; of other names just the name."""
    known = MEASURES.get(name)
    if known is None:
        return Measure(name, name.replace("_", " "), digits=4)
    directions = {True: "higher", False: "lower", None: "truth" if name in LIKE_TRUTH else "none"}
    unit = "°" if known.unit == "degrees" else known.unit
    better = directions[known.higher_is_better]
    return Measure(name, known.title, better, known.digits, unit, known.about, name in STILL_WINS)  # type: ignore[arg-type]


def measures(names: Iterable[str]) -> tuple[Measure, ...]:
    """Those measures, each once: the package's in their usual order, then the others by name."""
    wanted = set(names)
    usual = [name for name in MEASURES if name in wanted]
    return tuple(measure(name) for name in (*usual, *sorted(wanted - set(usual))))
