"""Comparisons: the data and its errors, numbers and marks of the tables, the words of the conclusion."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comparisons import comparison, frames
from lamp_lightning.data.video import read_video
from lamp_lightning.metrics import Measure, measures
from lamp_lightning.report import (
    Claim,
    Comparison,
    Entry,
    HeldOutScene,
    Result,
    SceneVideo,
    VideoFile,
    write_report,
)
from lamp_lightning.report.curves import over_frames
from lamp_lightning.report.page import fewer_scenes, wanted_videos
from lamp_lightning.report.statistics import best, difference, summary
from lamp_lightning.report.strips import make_strips
from lamp_lightning.report.tables import escape, latex, main_table, markdown, notes
from lamp_lightning.report.verdict import verdict
from lamp_lightning.report.write import videos_side_by_side
from lamp_lightning.runtime.errors import UserError


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return comparison(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def report(known: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(known, folder)
    return folder


def test_what_is_saved_comes_back_with_its_videos(known: Comparison, tmp_path: Path) -> None:
    file = known.save(tmp_path / "deep" / "comparison.json")
    assert not Path(json.loads(file.read_text())["results"][0]["videos"][0]["video"]["file"]).is_absolute()
    back = Comparison.load(file)
    video = back.results[0].videos[1].video
    assert video is not None
    assert (video.read() == frames(5)).all()
    assert back.save(file).read_text() == file.read_text()
    names = [replace(r, videos=()) for r in back.results]
    assert names == [replace(r, videos=()) for r in known.results]
    assert (back.entries, back.claims, back.measures) == (known.entries, known.claims, known.measures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"titel": 1}, ["titel", "Unexpected"]),
        ({"motions": []}, ["needs motions"]),
        ({"motions": ["rain"]}, ["birds_fly", "there are rain"]),
        ({"deciding": ["beauty"]}, ["deciding", "beauty", "error, consistency, amount"]),
        ({"measures": [{"name": "motion", "title": "motion"}]}, ["cannot be called 'motion'"]),
        ({"fps": "quick"}, ["fps", "number"]),
        (
            {"entries": [{"name": "ours", "label": "x", "kind": "best"}]},
            ["entries.0.kind", "'ours', 'baseline'"],
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    known: Comparison, tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    file = known.save(tmp_path / "comparison.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as error:
        Comparison.load(file)
    for word in (str(file), *words):
        assert word in str(error.value)


def test_results_must_be_unique_and_finite(known: Comparison) -> None:
    with pytest.raises(UserError, match="Two of the results"):
        replace(known, results=(known.results[0], known.results[0]))
    with pytest.raises(UserError, match="error = nan"):
        replace(known, results=(Result("ours", "rain", 0, {"error": math.nan}),))


def test_means_and_spreads(known: Comparison) -> None:
    found = summary(known, known.entries[0], known.measure("error"))
    assert found is not None
    assert found.mean == pytest.approx(0.45)
    assert found.spread == pytest.approx(np.std([0.40, 0.50], ddof=1))  # the seeds' means over motions
    assert found.motions["birds_fly"].mean == pytest.approx(0.55)
    true = summary(known, known.entries[4], known.measure("error"))
    assert true is not None
    assert true.spread is None


def test_best_marks(known: Comparison) -> None:
    assert best(known, known.measure("error")) == {"ours"}  # not the truth
    assert best(known, known.measure("consistency")) == {"ours"}  # not frozen, nor what hardly moves
    assert best(known, known.measure("amount")) == {"ours"}  # nearest to the truth
    half = tuple(r for r in known.results if (r.entry, r.motion) != ("ours", "rain"))
    assert best(replace(known, results=half), known.measure("error")) == {"rival"}  # ours lacks a motion
    coarse = replace(known, measures=(replace(known.measures[0], digits=0), *known.measures[1:]))
    assert best(coarse, coarse.measure("error")) == {"ours"}
    assert best(coarse, coarse.measure("error"), "birds_fly") == {"ours", "rival", "sleepy"}


def test_a_lead_is_clear_where_all_seeds_agree_beyond_the_spread(known: Comparison) -> None:
    ours, rival, *_ = known.entries
    found = difference(known, known.measure("error"), ours, rival)
    assert found is not None
    assert (found.mean, found.won, found.motions, found.seeds) == (pytest.approx(0.35), 2, 2, 2)
    assert found.clear
    wild = [replace(r, metrics={**r.metrics, "error": 0.1 if r.seed else 1.2}) for r in known.results[:4]]
    unsure = replace(known, results=(*wild, *known.results[4:]))
    found = difference(unsure, known.measure("error"), ours, rival)
    assert found is not None
    assert not found.clear


def test_markdown_and_csv(known: Comparison, report: Path) -> None:
    table = main_table(known)
    text = markdown(table, notes(known, table))
    assert "| LAMP\\_1 & co | **0.45 ± 0.07** | **0.965 ± 0.007** |" in text
    assert "| sleepy | 0.96 ± 0.00 | 0.999 ± 0.000† |" in text
    assert "| *truth* | 0.00 | 0.980 |" in text
    assert "† has less than half" in text
    written = (report / "table.md").read_text()
    assert written.startswith("**LAMP\\_1 & co is best")
    assert "- does not hold: The rival is nearer to the truth. Error to truth 0.80" in written
    with open(report / "table.csv") as file:
        rows = {(row["entry"], row["motion"]): row for row in csv.DictReader(file)}
    assert rows["ours", "all"]["error"] == "0.45"
    assert rows["ours", "rain"]["error_spread"] == "0.0707107"
    assert rows["ours", "all"]["minutes"] == "3.5"
    assert rows["truth", "all"]["error_spread"] == ""
    with open(report / "long.csv") as file:
        lines = list(csv.DictReader(file))
    assert {
        "entry": "rival",
        "motion": "rain",
        "seed": "1",
        "scene": "s0",
        "measure": "error",
        "value": "0.7",
    } in lines
    assert sum(line["scene"] == "" and line["measure"] == "error" for line in lines) == 16


def test_latex_is_escaped_and_whole(known: Comparison) -> None:
    assert escape(r"50% of a_b & {c} #1 $x ~ ^ \ ± 3°") == (
        r"50\% of a\_b \& \{c\} \#1 \$x \textasciitilde{} \textasciicircum{} \textbackslash{} $\pm$ 3$^\circ$"
    )
    text = latex(main_table(known))
    assert r"LAMP\_1 \& co & \textbf{0.45 $\pm$ 0.07}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert text.index("sleepy") < text.index("frozen")
    assert text.isascii()


def test_the_conclusion_says_what_the_numbers_say(known: Comparison) -> None:
    found = verdict(known)
    assert found.headline == "LAMP_1 & co is best: ahead of every other method on error to truth."
    assert "0.45 ± 0.07, the next best, rival <b>, 0.80 ± 0.00" in found.reasons[0]
    assert "ahead on 2 of 2 motions, the same in all 2 seeds" in found.reasons[0]
    assert [claim.outcome for claim in found.claims] == ["holds", "does not hold", "does not hold"]
    assert any("Hardly moving" in text and "sleepy" in text for text in found.limits)
    worse = replace(known, entries=(*(replace(e, kind="baseline") for e in known.entries[:1]),
                                    replace(known.entries[1], kind="ours"), *known.entries[2:]))  # fmt: skip
    assert verdict(worse).headline.startswith("LAMP_1 & co is best")
    assert "rival <b> is number 2 of 3, with 0.80" in verdict(worse).reasons[0]
    free = tuple(replace(measure, only_moving=False) for measure in known.measures)
    split = replace(known, measures=free, deciding=("error", "consistency"))
    assert verdict(split).headline == (
        "No method is best at everything: LAMP_1 & co leads on error to truth and sleepy leads on "
        "frame consistency."
    )
    assert any("sleepy is last of all on error to truth" in text for text in verdict(split).reasons)
    rain = tuple(r for r in known.results if r.seed != 1 and r.motion == "rain")
    assert "not a clear lead" in verdict(replace(known, results=rain)).headline  # one seed, one motion
    close = tuple(  # the rival is ahead on one motion of two
        replace(r, metrics={**r.metrics, "error": 0.2}) if (r.entry, r.motion) == ("rival", "rain") else r
        for r in known.results
        if r.seed != 1
    )
    assert verdict(replace(known, results=close)).headline == (
        "LAMP_1 & co has the best values on error to truth, but not a clear lead over rival <b> on error to "
        "truth."
    )
    alone = replace(known, results=tuple(r for r in known.results if r.seed != 1))
    assert any("one seed" in text for text in verdict(alone).limits)


def test_no_worse_needs_more_than_a_lack_of_proof(known: Comparison) -> None:
    """With one seed and one motion no difference is clear: being behind is undecided then."""
    claim = Claim("No worse.", "error", "rival", ("ours",), "no_worse")
    rain = tuple(r for r in known.results if r.seed != 1 and r.motion == "rain")
    alone = replace(known, results=rain, claims=(claim, replace(claim, entry="ours", against=("rival",))))
    assert [checked.outcome for checked in verdict(alone).claims] == ["undecided", "holds"]
    both = replace(known, claims=(replace(claim, against=("rival",)),))
    (itself,) = verdict(both).claims
    assert itself.outcome == "holds"
    assert "the same as rival <b>" in itself.evidence


def test_nothing_wins_by_standing_still_where_no_truth_is_known(known: Comparison) -> None:
    entries = tuple(entry for entry in known.entries if entry.name != "truth")
    results = tuple(result for result in known.results if result.entry != "truth")
    blind = replace(known, entries=entries, results=results, moves_by="amount", claims=())
    assert best(blind, known.measure("consistency")) == set()
    assert best(blind, known.measure("error")) == {"ours"}
    assert not any("truly move" in text for text in verdict(blind).reasons)
    assert any(
        "Nothing is called best on frame consistency" in note for note in notes(blind, main_table(blind))
    )
    assert not any("Nothing is called best" in note for note in notes(known, main_table(known)))


def test_ablations_are_sorted_by_what_they_do(known: Comparison) -> None:
    entries = (
        known.entries[0],
        *(replace(e, kind="ablation") for e in known.entries[1:3]),
        *known.entries[3:],
    )
    found = verdict(replace(known, entries=entries))
    assert found.reasons[0] == (
        "Error to truth, beside LAMP_1 & co: clearly worse with sleepy (by 0.51) and rival <b> (by 0.35)."
    )
    assert found.headline == (
        "By error to truth, LAMP_1 & co is clearly worse with sleepy (by 0.51) and rival <b> (by 0.35)."
    )
    one = replace(known, entries=entries, results=tuple(r for r in known.results if r.seed != 1))
    one = replace(one, results=tuple(r for r in one.results if r.motion == "rain"))
    assert (
        verdict(one).headline
        == "None of the 2 changes to LAMP_1 & co makes a clear difference to error to truth."
    )
    assert "all 2 make no clear difference" in verdict(one).reasons[0]


def test_the_same_comparison_makes_the_same_files(known: Comparison, report: Path, tmp_path: Path) -> None:
    write_report(known, tmp_path)
    files = sorted(p.relative_to(report) for p in report.rglob("*") if p.is_file())
    assert {"index.html", "table.tex", "plots/error.svg", "plots/consistency_against_motion.png"} <= {
        file.as_posix() for file in files
    }
    for file in files:
        if file.name != "comparison.json":  # it names files from where it lies
            assert (tmp_path / file).read_bytes() == (report / file).read_bytes(), file


def test_a_broken_video_is_named_and_the_others_are_shown(known: Comparison, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    result = replace(known.results[0], videos=(SceneVideo("s0", VideoFile(str(broken))),))
    with pytest.warns(UserWarning, match=r"broken\.mp4"):
        page = write_report(replace(known, results=(result, *known.results[1:])), tmp_path / "out")
    text = page.read_text()
    assert "Left out: " in text
    assert "broken.mp4" in text
    assert "data:image/webp" in text


def test_videos_shrink_until_they_fit_and_the_page_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", rng.integers(0, 256, (9, 200, 320, 3), dtype=np.uint8))
    videos = {0: VideoFile(str(tmp_path / "noise.npz"))}
    whole, said, _ = make_strips(videos, 10**8)
    assert (whole[0].width, whole[0].height, whole[0].rows, said) == (320, 200, 2, "")
    small, said, _ = make_strips(videos, 100_000)
    assert len(small[0].uri) <= 100_000
    assert small[0].width < 320
    assert f"at most {small[0].width} pixels" in said


def test_a_page_shows_the_first_scenes_where_there_are_many(known: Comparison) -> None:
    wanted = wanted_videos(known)
    assert len(wanted) == 2 * 2 * (3 * 2 + 2)
    assert fewer_scenes(known, wanted) == (wanted, "")
    fewer, said = fewer_scenes(known, wanted, 20)
    assert {each.scene.name for each in fewer} == {"s0"}
    assert said == "Of each motion's scenes at most 1 is shown."


def test_the_packages_metrics_become_measures() -> None:
    found = measures(["my_own", "frame_consistency", "motion_amount", "clip_score"], truth=True)
    assert [m.name for m in found] == ["clip_score", "frame_consistency", "motion_amount", "my_own"]
    assert [m.better for m in found] == ["higher", "higher", "truth", "none"]
    assert [m.only_moving for m in found] == [False, True, False, False]


def test_one_method_without_videos_makes_a_page_too(tmp_path: Path) -> None:
    alone = Comparison(
        "One", "What is it?", (Measure("error", "error", "lower"),), (Entry("a", "A"),), ("rain",),
        (Result("a", "rain", 0, {"error": 0.5}),), (HeldOutScene("rain", "s", "rain"),),
    )  # fmt: skip
    text = write_report(alone, tmp_path).read_text()
    assert "no two methods" in text
    assert "<script>" not in text


def test_values_over_frames_are_drawn(known: Comparison, tmp_path: Path) -> None:
    curves = {"ours": 0.1, "truth": 0.0}
    results = [
        replace(r, over_frames={"error": tuple(curves[r.entry] * f for f in range(8))})
        if r.entry in curves
        else r
        for r in known.results
    ]
    write_report(replace(known, results=tuple(results)), tmp_path)
    assert (tmp_path / "plots" / "error_over_frames.png").is_file()
    page = (tmp_path / "index.html").read_text()
    assert "Error to truth at the last frame: truth 0.00; LAMP_1 &amp; co 0.70." in page


def test_of_very_many_lines_those_are_named_that_there_is_room_for() -> None:
    measure = Measure("error", "error", "lower")
    entries = [Entry(f"m{k}", f"method {k}", "", "ablation") for k in range(20)]
    entries.insert(7, Entry("ours", "ours", "", "ours"))
    results = tuple(
        Result(e.name, "rain", 0, {"error": 0.9}, over_frames={"error": (0.0, 0.9 + k / 1000)})
        for k, e in enumerate(entries)
    )
    crowded = Comparison("Many", "Which?", (measure,), tuple(entries), ("rain",), results, ())
    plot = over_frames(crowded, measure)
    axes = plot.figure.axes[0]
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    low, high = axes.get_ylim()
    assert {"ours", "method 0", "method 19"} < set(names)
    assert "method 10" not in names
    assert "Thin lines: 10 methods" in plot.caption
    heights = sorted(names.values())
    assert low <= heights[0]
    assert heights[-1] <= high + 1e-9
    assert np.diff(heights).min() > (high - low) / 18  # a line of text
    assert "method 10 0.91" in plot.alt


def test_wandb_gets_the_videos_side_by_side(known: Comparison, tmp_path: Path) -> None:
    heads, rows = videos_side_by_side(known, tmp_path)
    assert heads[:3] == ["motion", "prompt", "seed"]
    assert set(heads[3:]) == {entry.label for entry in known.entries}
    assert [(row[0], row[2]) for row in rows[:4]] == [("rain", 0), ("rain", 1), ("rain", 0), ("rain", 1)]
    assert len(rows) == len(known.scenes) * len(known.seeds)
    ours, truth = heads.index("LAMP_1 & co"), heads.index("truth")
    larger = frames(0).repeat(4, axis=1).repeat(4, axis=2).astype(int)
    assert np.abs(read_video(rows[0][ours]._path) - larger).mean() < 4  # H.264 loses a little
    assert np.abs(read_video(rows[0][truth]._path) - larger).mean() > 8
    assert rows[0][truth]._path == rows[1][truth]._path  # the truth has no seed


def test_nothing_is_best_of_untuned_runs_or_too_few_videos(known: Comparison) -> None:
    def with_facts(**facts: int) -> str:
        return verdict(replace(known, results=tuple(replace(r, **facts) for r in known.results))).headline

    assert with_facts(steps=360, count=4).startswith("LAMP_1 & co is best")
    assert with_facts(steps=0, count=1) == (
        "Too little is there to say which is best: none of the runs is tuned (trainer.max_steps= of more "
        "than 0); some have 1 video only (at least 4 are needed: samples.final=4)."
    )
    assert "some have 2 videos only" in with_facts(count=2)


def test_the_most_motion_fidelity_is_put_beside_what_it_costs() -> None:
    entries = (Entry("ours", "LAMP", kind="ours"), Entry("one", "1 clip", kind="ablation"))
    results = tuple(
        Result(entry, "rain", seed, {"motion_fidelity": fidelity, "clip_score": score})
        for entry, fidelity, score in (("ours", 0.66, 49.0), ("one", 0.71, 47.0))
        for seed in (0, 1)
    )
    columns = measures(["motion_fidelity", "clip_score"])
    said = verdict(Comparison("Parts", "What?", columns, entries, ("rain",), results)).limits
    assert (
        "1 clip leads on motion fidelity, which looks at motion alone: a method that repeats its training "
        "clips has the most of it, whatever picture and prompt ask for. Read it beside CLIP score "
        "47.00 ± 0.00 (LAMP 49.00 ± 0.00)."
    ) in said
