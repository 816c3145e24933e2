"""The benchmark command: a suite from tuning to the report, stopped, repeated, and what goes wrong."""

from __future__ import annotations

import csv
import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

from lamp_lightning.benchmark import suite as benchmarking
from lamp_lightning.benchmark.__main__ import main
from lamp_lightning.benchmark.suite import QUICK, command_of, find_methods
from lamp_lightning.report import Comparison
from lamp_lightning.runtime.config import composed, options
from lamp_lightning.train.__main__ import main as train
from processes import start, wait_for


@pytest.fixture
def words(small: list[str]) -> list[str]:
    """A suite of seconds: its `words`, and few scenes."""
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples", "threads"))]
    return [f"words=[{','.join(_quoted(word) for word in kept)}]", "scenes=2", "threads=1", "out=b"]


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    return f"'{key}={value}'"


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are tuned in this process: only what an interruption needs is worth a process of its own."""

    @contextmanager
    def attached(module: str, words: list[str]) -> Iterator[SimpleNamespace]:
        assert module == "lamp_lightning.train"
        outer = Singleton.get_state()  # Hydra's: of the benchmark command
        GlobalHydra.instance().clear()
        status = train(words)
        Singleton.set_state(outer)
        yield SimpleNamespace(poll=lambda: status)

    monkeypatch.setattr(benchmarking, "attached", attached)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    name = next(iter(rows[0]))
    return {row[name]: row for row in rows}


@pytest.mark.usefixtures("trained_here")
def test_a_suite_ends_in_tables_and_a_page_and_called_again_does_nothing_anew(words, tmp_path, capsys):
    suite = ["entries=[lamp,untuned]", "motions=[rain]", "seeds=[0,1]", "steps=2", *words]
    assert main(suite) == 0
    folder = tmp_path / "b"
    found = Comparison.load(folder / "comparison.json")
    assert {entry.name for entry in found.entries} == {"lamp", "untuned", "frozen", "truth"}
    assert len(found.results) == 2 * 2 + 2
    by_name = {(r.entry, r.motion): r for r in found.results if r.seed is None}
    assert by_name["frozen", "rain"].metrics["moving_error_ratio"] == pytest.approx(1)
    assert by_name["truth", "rain"].metrics["moving_error_ratio"] == 0
    assert by_name["frozen", "rain"].metrics["motion_fidelity"] == 0
    for result in found.results:
        curve = result.over_frames["moving_error_ratio"]
        assert curve[0] == pytest.approx(0, abs=0.05)
        assert np.mean(curve) == pytest.approx(result.metrics["moving_error_ratio"])
    assert (folder / "plots" / "moving_error_ratio_over_frames.png").is_file()
    videos = {r.entry: r.videos[0].video.read() for r in found.results if r.motion == "rain"}
    assert (videos["lamp"][0] == videos["untuned"][0]).all()  # both were given the same first frame
    assert (videos["frozen"] == videos["truth"][:1]).all()
    assert (folder / "index.html").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("metrics.json")}
    before |= {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.json")}
    tables = (folder / "table.csv").read_bytes()
    assert len(before) == 4 + 6
    capsys.readouterr()
    assert main(suite) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (folder / "table.csv").read_bytes() == tables
    assert "lamp_lightning.train" not in capsys.readouterr().out


@pytest.mark.usefixtures("trained_here")
@pytest.mark.parametrize(
    ("suite", "entries"),
    [
        ("baselines", "lamp,text2video_zero"),
        pytest.param("baselines", None, marks=pytest.mark.slow),  # all of them
        ("ablations", "full,noise_05"),
        pytest.param("plus", None, marks=pytest.mark.slow),
    ],
)
def test_quick_goes_once_through_a_suite(suite, entries, words, tmp_path):
    asked = [f"suite={suite}", *([] if entries is None else [f"entries=[{entries}]"])]
    words = [word.replace("num_inference_steps=2", "num_inference_steps=3") for word in words]
    assert main([*asked, "quick=true", *words]) == 0
    folder = tmp_path / "b_quick"  # a folder of its own: its figures never mix with the suite's
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    suite = composed("benchmark", asked).suite
    names = {*(suite.entries if entries is None else entries.split(",")), "frozen", "truth"}
    found = Comparison.load(folder / "comparison.json")
    assert found.left_out == ()
    assert {entry.name for entry in found.entries} == {result.entry for result in found.results} == names
    assert (found.motions, found.seeds) == ((suite.motions[0],), (suite.seeds[0],))
    assert all(len(result.videos) == QUICK["scenes"] for result in found.results)
    steps = [json.loads(path.read_text())["steps"] for path in folder.rglob("runs/*/*/metrics.json")]
    once = QUICK["steps"]
    assert set(steps) <= {0, once, 2 * once}  # untuned; of two clips; of one clip, as the authors tune
    assert (folder / "index.html").is_file()


@pytest.mark.parametrize("suite", options("suite"))
def test_every_suite_has_methods_that_can_be_tuned_and_claims_about_them(suite):
    cfg = composed("benchmark", [f"suite={suite}", "motions=[helicopter]"])
    methods = {method.name for method in find_methods(cfg)}  # which checks all of their overrides
    assert {name for claim in cfg.suite.claims for name in (claim.entry, *claim.against)} <= methods


@pytest.mark.usefixtures("trained_here")
def test_other_sampling_takes_the_runs_that_are_there(words, tmp_path):
    asked = ["suite=ablations", "entries=[full,noise_08]", "motions=[rain]", "seeds=[0]", "steps=1", *words]
    assert main(asked) == 0
    assert [path.name for path in (tmp_path / "b" / "runs").iterdir()] == ["full"]
    results = Comparison.load(tmp_path / "b" / "comparison.json").results
    full, shared = (next(r for r in results if r.entry == name) for name in ("full", "noise_08"))
    assert (full.videos[0].video.read() != shared.videos[0].video.read()).any()


@pytest.mark.usefixtures("trained_here")
def test_figures_never_stand_under_words_that_did_not_make_them(words, tmp_path, capsys):
    asked = ["entries=[lamp]", "motions=[rain]", "seeds=[0]", "steps=1", *words]
    assert main(asked) == 0
    page = tmp_path / "b" / "index.html"
    assert "1 of 2 clips" in page.read_text(encoding="utf-8")  # the budget
    before = page.read_bytes()
    other = [word.replace("words=[", "words=['tuner.learning_rate=0.5',") for word in asked]
    for changed, named in ((other, "tuner.learning_rate"), ([*asked, "steps=2"], "max_steps")):
        assert main(changed) == 1
        message = capsys.readouterr().err
        assert "rain_seed0 holds a run with another" in message
        assert named in message
        assert "out=<folder>" in message
        assert page.read_bytes() == before
    assert main([*other, "entries=[untuned]"]) == 1  # the scenes would be those of the other words
    assert main([*asked, "threads=2"]) == 0  # changes no figure


@pytest.mark.slow
def test_a_stopped_suite_goes_on(words, tmp_path, request):
    suite = ["entries=[lamp,untuned]", "motions=[rain]", "seeds=[0,1]", "steps=10", *words]
    process = start("lamp_lightning.benchmark", suite, tmp_path)
    first = tmp_path / "b" / "runs" / "lamp" / "rain_seed0"
    wait_for(first / "config.yaml", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 143
    assert "The same overrides go on" in out
    assert not (tmp_path / "b" / "index.html").exists()
    request.getfixturevalue("trained_here")
    assert main(suite) == 0
    assert len(Comparison.load(tmp_path / "b" / "comparison.json").results) == 4 + 2
    steps = [json.loads(path.read_text())["steps"] for path in (tmp_path / "b").rglob("lamp/*/metrics.json")]
    assert steps == [10, 10]


@pytest.mark.usefixtures("trained_here")
def test_a_broken_run_is_named_and_the_rest_compared(words, tmp_path, capsys):
    suite = ["entries=[lamp,untuned]", "motions=[rain]", "seeds=[0]", "steps=1", *words]
    assert main(suite) == 0
    run = tmp_path / "b" / "runs" / "lamp" / "rain_seed0"
    (run / "adapter.safetensors").write_bytes(b"damaged")
    assert main(suite) == 0
    assert "Left out: LAMP (ours), rain, seed 0: " in capsys.readouterr().err
    page = (tmp_path / "b" / "index.html").read_text(encoding="utf-8")
    assert "rain_seed0" in page
    assert {r.entry for r in Comparison.load(tmp_path / "b" / "comparison.json").results} == {
        "untuned",
        "frozen",
        "truth",
    }
    (run / "config.yaml").write_bytes(b"{damaged")
    assert main(suite) == 0
    assert "lamp/rain_seed0/config.yaml cannot be read" in capsys.readouterr().err.replace("\\", "/")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["suite=ablations", "entries=[full,noise_08]", "seeds=[3,4]", "quick=true"],
        ["motions=[rain]", "steps=7", "scenes=2", 'words=["model=sd15","data.prompt=\'a, b\'"]'],
    ],
)
def test_the_report_names_the_command_that_makes_it(words):
    asked = composed("benchmark", words)
    command = shlex.split(command_of(asked))
    assert command[:3] == ["python", "-m", "lamp_lightning.benchmark"]
    assert composed("benchmark", command[3:]) == asked


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("words=[model=sd15]", "stands in quotes of its own"),
        ("motions=[walk]", "no motion 'walk'"),
        ("motions=[]", "motions must be a list"),
        ("seeds=null", "seeds must be a list of whole numbers"),
        ("entries=[lamb]", "no 'lamb'; it has lamp"),
        ('words=["trainer.max_step=1"]', "trainer.max_step"),
        ('words=["model.layers.temporal_conv=false"]', "give model.layers.gate=true"),
        ("suite=paper", "suite"),
        ("scenes=0", "scenes must be"),
        ("entries=[]", "entries must be"),
        ("entries=[lamp,untuned,lamp]", "entries has lamp more than once"),
        ("motions=[rain,rain]", "motions has rain more than once"),
        ("motions=[custom]", "motion.name has no value"),
        ("seeds=[1,1]", "seeds has 1 more than once"),
        ("seeds=5", "seeds must be a list of whole numbers"),
        ("seeds=[null]", "seeds must be a list of whole numbers"),
        ("words=null", "words must be a list"),
        ("words=model", '\'words=["model=sd15","trainer=gpu"]\''),
        ("out=", "out must be a text"),
        ("out=null", "out=<folder>"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(word, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([word]) == 1
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
