"""Plots of a comparison: names stand by their own dots, and nothing is drawn at a wrong value."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lamp_lightning.metrics import Measure
from lamp_lightning.report import Comparison, Entry, Result
from lamp_lightning.report.curves import over_frames
from lamp_lightning.report.dots import dots
from lamp_lightning.report.drawing import Plot, svg, write_plots
from lamp_lightning.report.scatter import scatter
from lamp_lightning.report.write import plots

AMOUNT = Measure("amount", "motion amount", "truth", 2, "% of width")
STEADY = Measure("steady", "frame consistency", "higher", 3, only_moving=True)
RATIO = Measure("moving_error_ratio", "error to truth", "lower", 3)
TRUTH, FROZEN = (Entry(name, name, kind="reference") for name in ("truth", "frozen"))
LABELS = (
    "LAMP (ours)", "LAMP (with gate)", "LAMP (authors' recipe)", "Tune-A-Video", "Tune-A-Video (drawn noise)",
    "AnimateDiff", "Text2Video-Zero", "untuned",
)  # fmt: skip
# As in a comparison that was made: two pairs are close, and three stand by the right edge.
STANDING = (
    (1.75, 0.935), (2.04, 0.933), (2.72, 0.929), (2.32, 0.755), (5.59, 0.886), (2.97, 0.914), (4.75, 0.9345),
    (5.9, 0.931),
)  # fmt: skip


def methods(labels: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(Entry(f"m{k}", label, "", "baseline" if k else "ours") for k, label in enumerate(labels))


def standing(labels: tuple[str, ...], places: Any) -> tuple[Comparison, Plot]:
    """A comparison of methods at these places, with both references, and its scatter plot."""
    entries = (*methods(labels), TRUTH, FROZEN)
    values = [*places, (1.35, 0.975), (0.0, 1.0)]
    results = tuple(
        Result(entry.name, "rain", None, {"amount": float(x), "steady": float(y)})
        for entry, (x, y) in zip(entries, values, strict=True)
    )
    made = Comparison("T", "Q?", (AMOUNT, STEADY), entries, ("rain",), results, (), moves_by="amount")
    return made, scatter(made, AMOUNT, STEADY)[0]


def boxes(plot: Plot) -> list[tuple[Any, np.ndarray]]:
    """Each name of a plot with its corners in points of the page, ``(2, 2)``, without its leader."""
    FigureCanvasAgg(plot.figure).draw()  # puts them where they belong
    scale = 72 / plot.figure.dpi
    return [(t, Text.get_window_extent(t).get_points() * scale) for t in plot.figure.axes[0].texts]


def crowd() -> tuple[tuple[str, ...], np.ndarray]:
    random = np.random.default_rng(0)
    places = np.concatenate(
        [random.normal((2.4, 0.91), (0.15, 0.006), (16, 2)), random.uniform((0.5, 0.88), (4.5, 0.99), (6, 2))]
    )
    return tuple(f"setting number {k}" for k in range(len(places))), places


@pytest.mark.parametrize(("labels", "places"), [(LABELS, STANDING), crowd()], ids=["few", "crowd"])
def test_a_name_stands_by_its_own_dot_and_covers_nothing(labels: tuple[str, ...], places: Any) -> None:
    c, plot = standing(labels, places)
    axes = plot.figure.axes[0]
    scale = 72 / plot.figure.dpi
    values = dict(zip((e.label for e in c.entries), [*places, (1.35, 0.975), (0.0, 1.0)], strict=True))
    at = {name: axes.transData.transform(place) * scale for name, place in values.items()}
    found = boxes(plot)
    for (one, a), (other, b) in combinations(found, 2):
        apart = np.maximum(a[0] - b[1], b[0] - a[1]).max()
        assert apart > -0.5, (one.get_text(), other.get_text())
    low, high = axes.bbox.get_points() * scale
    for name, (start, end) in found:
        own = name.get_text()
        assert name.xy == pytest.approx(tuple(values[own]))
        assert (start > low + 1).all(), own
        assert (end < high).all(), own
        far = {each: np.linalg.norm(np.clip(p, start, end) - p) for each, p in at.items()}
        assert min(far.values()) > 4.5, own  # half a dot
        if name.arrow_patch is None:
            assert far[own] < 13, own  # a line of text
            assert far[own] == min(far.values()), own


def test_where_there_is_room_all_have_names() -> None:
    _, plot = standing(LABELS, STANDING)
    assert {t.get_text() for t in plot.figure.axes[0].texts} == {*LABELS, "truth", "frozen"}
    assert "Too close" not in plot.caption


def test_names_of_dots_that_stand_alone_need_no_leaders() -> None:
    places = [(5.5 if k % 2 else 2.5, 0.94 - 0.03 * k) for k in range(len(LABELS))]
    _, plot = standing(LABELS, places)
    assert len(plot.figure.axes[0].texts) == len(LABELS) + 2
    assert not [t.get_text() for t in plot.figure.axes[0].texts if t.arrow_patch is not None]


def test_dots_without_a_name_are_counted_and_ours_and_lonely_ones_have_theirs() -> None:
    labels, places = crowd()
    places[-1] = (4.6, 0.97)
    c, plot = standing(labels, places)
    names = {t.get_text() for t in plot.figure.axes[0].texts}
    assert {labels[0], labels[-1], "truth", "frozen"} <= names
    assert f"Too close to others for a name: {len(c.entries) - len(names)} of the dots." in plot.caption
    assert all(label in plot.alt for label in labels)


def test_leaders_do_not_cross_and_end_at_their_dots() -> None:
    _, plot = standing(*crowd())
    axes = plot.figure.axes[0]
    lines = []
    for name, box in boxes(plot):
        if name.arrow_patch is not None:
            own = axes.transData.transform(name.xy) * 72 / plot.figure.dpi
            lines.append((np.clip(own, *box), own))
    assert len(lines) > 3
    for (a, b), (p, q) in combinations(lines, 2):
        sides = [
            np.sign(np.linalg.det([v - u, w - u])) for u, v, w in ((a, b, p), (a, b, q), (p, q, a), (p, q, b))
        ]
        assert not (sides[0] != sides[1] and sides[2] != sides[3])


def by_motion(values: list[tuple[float, ...]]) -> tuple[Comparison, Plot]:
    entries = methods(LABELS[: len(values)])
    motions = ("rain", "birds", "horse")
    results = tuple(
        Result(entry.name, motion, 0, {"moving_error_ratio": value})
        for entry, each in zip(entries, values, strict=True)
        for motion, value in zip(motions, each, strict=True)
    )
    made = Comparison("T", "Q?", (RATIO,), entries, motions, results, ())
    return made, dots(made, RATIO)


def drawn(plot: Plot, markers: str) -> list[float]:
    lines = [line for line in plot.figure.axes[0].lines if line.get_marker() in markers]
    return sorted(float(x) for line in lines for x in np.atleast_1d(line.get_xdata()))


@pytest.mark.parametrize("far", [0.9, 30.0, -30.0])
def test_each_motion_is_drawn_at_its_value_or_as_an_arrow_at_the_edge(far: float) -> None:
    values = [(0.3, 0.4, far), (0.4, 0.5, 0.3), (0.2, 0.3, 0.1)]
    if abs(far) > 1:
        values = [(0.3, 0.4, far), (0.4, 0.5, far), (0.2, 0.3, far)]
    _, plot = by_motion(values)
    low, high = plot.figure.axes[0].get_xlim()
    everything = {v for each in values for v in each}
    means = {float(np.mean(each)) for each in values}
    for x in drawn(plot, "o"):
        assert min(abs(x - v) for v in everything | means) < 1e-9
        assert low < x < high
    arrows = drawn(plot, "<>")
    outside = [v for each in values for v in each if not low <= v <= high]
    assert len(arrows) >= 3 * bool(outside)
    assert all(x in (low, high) for x in arrows)
    assert ("An arrow at the edge" in plot.caption) == bool(outside)
    if far == 0.9:  # near enough
        assert far in drawn(plot, "o")
        assert not arrows


def curves(count: int, name: str = RATIO.name) -> Plot:
    measure = Measure(name, "error to truth", "lower", 3)
    entries = (*methods(LABELS[:count]), FROZEN)
    results = tuple(
        Result(e.name, "rain", 0, {name: 0.9}, over_frames={name: (0.0, 0.5 + k / 500, 0.9 - k / 500)})
        for k, e in enumerate(entries)
    )
    return over_frames(Comparison("T", "Q?", (measure,), entries, ("rain",), results, ()), measure)


def test_lines_over_frames_differ_and_ours_is_the_thickest() -> None:
    axes = curves(len(LABELS)).figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    looks = {(line.get_color(), str(line._dash_pattern), line.get_linewidth()) for line in lines}
    assert len(lines) == len(LABELS) + 1
    assert len(looks) == len(lines)
    widest = max(lines, key=lambda line: line.get_linewidth())
    assert widest.get_ydata()[-1] == pytest.approx(0.9)  # the first is ours
    assert sorted(line.get_linewidth() for line in lines)[-2] < 0.7 * widest.get_linewidth()


def test_names_of_lines_are_whole_within_the_page_and_apart() -> None:
    plot = curves(len(LABELS))
    found = boxes(plot)
    assert {t.get_text().replace("\n", " ") for t, _ in found} == {*LABELS, "frozen"}
    for (one, a), (other, b) in combinations(found, 2):
        assert np.maximum(a[0] - b[1], b[0] - a[1]).max() > -2.5, (one, other)  # of the line's own spacing
    assert max(box[1, 0] for _, box in found) <= plot.figure.get_size_inches()[0] * 72


def test_the_caption_says_what_a_frames_error_is_a_share_of() -> None:
    assert "a share of the frozen first frame's mean over all frames" in curves(3).caption
    assert curves(3, "error").caption == ""


def test_a_comparison_of_one_method_has_no_scatter_plot() -> None:
    entries = methods(LABELS[:1])
    results = (Result("m0", "rain", 0, {"amount": 1.0, "steady": 0.9}),)
    c = Comparison("T", "Q?", (AMOUNT, STEADY), entries, ("rain",), results, (), moves_by="amount")
    assert plots(c) == []


def test_files_have_titles_and_every_axis_its_unit(tmp_path) -> None:
    comparison, against = standing(LABELS, STANDING)
    made = [*(dots(comparison, measure) for measure in (AMOUNT, STEADY)), against]
    assert made[0].figure.axes[0].get_xlabel() == AMOUNT.heading
    assert "(% of width)" in AMOUNT.heading
    assert against.figure.axes[0].get_xlabel() == AMOUNT.heading
    assert against.figure.axes[0].get_ylabel() == STEADY.heading
    write_plots(made, tmp_path)
    for plot in made:
        written = (tmp_path / f"{plot.name}.svg").read_text(encoding="utf-8")
        assert plot.title.split()[0] in written
        assert written.count("<text") == svg(plot, inline=True).count("<text") + len(plot.title) // 44 + 1
        assert not plot.figure.texts, "the page has the title in its own words"
