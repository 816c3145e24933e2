"""The collect command: sweeps, seeds, unfinished and broken runs, and what it says when there is nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from conftest import full_config
from lamp_lightning.collect import main
from lamp_lightning.data.video import write_mp4
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.runs import RunFolder
from wandb_files import read_finished

SWEEP = [(noise, motion, seed) for noise in (0.0, 0.2) for motion in ("rain", "birds_fly") for seed in (0, 1)]


def make_run(folder: Path, noise: float = 0.2, motion: str = "rain", seed: int = 0, **metrics: Any) -> Path:
    """A finished run as the train command leaves it, with one video."""
    config = {
        "motion": {"name": motion},
        "model": {"name": "tiny", "norm": "per_frame", "recipe": {"max_steps": 3 + seed}},
        "data": {"folder": f"/clips/{motion}", "flip": motion == "rain", "size": [64, 64]},
        "sampler": {
            "shared_noise": noise,
            "noise_sharing": "variance_preserving" if noise > 0 else "authors",
        },
        "seed": seed,
    }
    run = RunFolder.create(folder, OmegaConf.merge(full_config(), config), None)
    frames = np.full((4, 16, 16, 3), 60 + 40 * seed, np.uint8)
    frames[1:, :8] = 200
    write_mp4(run.videos / "a_lake_seed0.mp4", frames)
    score = 50 + 10 * noise + seed + 4 * (motion == "rain")
    video = {"prompt": "a lake", "seed": 0, "file": "a_lake_seed0.mp4", "clip_score": score}
    values = {"clip_score": score, "motion_amount": 1.0, **metrics}
    facts = {"motion": motion, "model": "tiny", "steps": 3, "minutes": 2.0, "videos": [video], **values}
    run.metrics.write_text(json.dumps(facts))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number, (noise, motion, seed) in enumerate(SWEEP):
        make_run(
            tmp_path / "multirun" / f"{number}-shared_noise={noise},motion={motion}", noise, motion, seed
        )
    return tmp_path / "multirun"


def table(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(folder / "table.csv") as file:
        return {(row["shared_noise"], row["motion"]): row for row in csv.DictReader(file)}


def test_a_sweep_becomes_one_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"runs={sweep}"]) == 0
    out = sweep / "collected"
    rows = table(out)
    assert set(rows) == {(noise, motion) for noise in ("0", "0.2") for motion in ("all", "rain", "birds_fly")}
    assert rows["0", "rain"]["clip_score"] == "54.5"
    assert rows["0.2", "all"]["clip_score"] == "54.5"
    assert float(rows["0.2", "all"]["clip_score_spread"]) == pytest.approx(np.std([0, 1], ddof=1), rel=1e-4)
    assert rows["0", "all"]["seeds"] == "2"
    for absent in ("flip", "folder", "seed", "max_steps"):
        assert absent not in rows["0", "all"]
    said = capsys.readouterr().out
    assert "| shared\\_noise=0.2 | 0.2 |" in said
    assert "index.html" in said
    assert (out / "table.tex").is_file()
    assert list((out / "plots").glob("clip_score.*"))
    page = (out / "index.html").read_text()
    assert page.count("data:image/webp") == len(SWEEP)
    assert "sampler.noise_sharing" in page  # what differs along with the noise is said, once


def test_twice_is_the_same(sweep: Path) -> None:
    assert main([f"runs={sweep}"]) == 0
    before = {file: file.read_bytes() for file in (sweep / "collected").rglob("*") if file.is_file()}
    assert main([f"runs={sweep}"]) == 0
    assert {file: file.read_bytes() for file in (sweep / "collected").rglob("*") if file.is_file()} == before
    assert len(before) > 8


def test_unfinished_and_broken_runs_are_named_and_left_out(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = sorted(sweep.iterdir())
    (jobs[0] / "metrics.json").unlink()
    (jobs[1] / "metrics.json").write_text('{"clip_score": 5')
    (jobs[2] / "config.yaml").write_text("motion: [")
    assert main([f"runs={sweep}"]) == 0
    rows = table(sweep / "collected")
    assert ("0", "rain") not in rows
    assert rows["0", "birds_fly"]["clip_score"] == "51"
    said = capsys.readouterr().err
    for job, words in ((jobs[0], "not finished"), (jobs[1], "broken"), (jobs[2], "cannot be read")):
        (line,) = [line for line in said.splitlines() if job.name in line]
        assert line.startswith("Left out: ")
        assert words in line
    page = (sweep / "collected" / "index.html").read_text()
    assert "is not finished: it has no metrics.json" in page
    assert "Not ranked, since motions are missing" in page


def test_the_newer_of_two_equal_runs_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, started, score in (("a", "2026-01-02", 5.0), ("b", "2026-01-01", 9.0)):
        folder = make_run(tmp_path / "runs" / name, clip_score=score)
        info = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**info, "started": started}))
    make_run(tmp_path / "runs" / "c", noise=0.0)
    assert main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"]) == 0
    assert table(tmp_path / "out")["0.2", "all"]["clip_score"] == "5"
    newer, older = (short(tmp_path / "runs" / name) for name in ("a", "b"))
    assert f"{older} has the same settings as {newer}, which is newer" in capsys.readouterr().err


def test_lists_and_patterns_of_runs(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs=multirun/*motion=rain", "out=rain"]) == 0
    assert {motion for _, motion in table(tmp_path / "rain")} == {"all", "rain"}
    other = make_run(tmp_path / "other", noise=0.5)
    assert main([f"runs=[{sweep},{other}]", "title=Noise, shared"]) == 0
    rows = table(tmp_path / "collected")
    assert rows["0.5", "rain"]["seeds"] == "1"
    assert "<h1>Noise, shared</h1>" in (tmp_path / "collected" / "index.html").read_text()


def test_methods_are_called_by_their_names(tmp_path: Path) -> None:
    for noise, name in ((0.2, "lamp"), (0.0, "tune_a_video")):
        config = OmegaConf.load(make_run(tmp_path / "runs" / name, noise=noise) / "config.yaml")
        config.method = {"name": name}
        OmegaConf.save(config, tmp_path / "runs" / name / "config.yaml")
    assert main([f"runs={tmp_path / 'runs'}"]) == 0
    with open(tmp_path / "runs" / "collected" / "table.csv") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"lamp", "tune a video"}


def test_a_benchmark_measures_its_runs_itself(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "lamp" / "rain_seed0")
    make_run(tmp_path / "runs" / "other" / "rain_seed0", noise=0.0)
    judged = {"metrics": {"motion_fidelity": 0.75}, "videos": [], "seconds_per_video": 1.5}
    (tmp_path / "results" / "lamp").mkdir(parents=True)
    (tmp_path / "results" / "lamp" / "rain_seed0.json").write_text(json.dumps(judged))
    assert main([f"runs={tmp_path}"]) == 0
    rows = table(tmp_path / "collected")
    assert rows["0.2", "rain"]["motion_fidelity"] == "0.75"
    assert rows["0.2", "rain"]["seconds_per_video"] == "1.5"
    assert rows["0", "rain"]["motion_fidelity"] == ""


def test_what_the_evaluate_command_measured_counts(tmp_path: Path) -> None:
    for noise in (0.0, 0.2):
        folder = make_run(tmp_path / f"noise{noise}", noise=noise)
        (folder / "evaluation").mkdir()
        found = {"clip_score": 70 + noise, "motion_fidelity": 0.5, "count": 3, "videos": []}
        (folder / "evaluation" / "metrics.json").write_text(json.dumps(found))
    assert main([f"runs={tmp_path}"]) == 0
    row = table(tmp_path / "collected")["0.2", "rain"]
    assert (row["clip_score"], row["motion_fidelity"]) == ("70.2", "0.5")
    assert "count" not in row


def test_the_table_plots_and_page_go_to_wandb(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"runs={sweep}", "logger=wandb", "logger.mode=offline"]) == 0
    assert "wandb sync" in capsys.readouterr().out
    (records,) = (sweep / "collected").rglob("*.wandb")
    assert {"comparison", "plots/clip_score", "page"} <= {
        name.partition(".")[0] for name in read_finished(records).summary
    }
    (file,) = (sweep / "collected" / "wandb").rglob("comparison*.table.json")
    logged = json.loads(file.read_text())
    assert logged["columns"][:5] == ["entry", "label", "kind", "motion", "seeds"]
    (mean,) = [row for row in logged["data"] if row[0] == "shared_noise=0.2" and row[3] == "all"]
    assert mean[logged["columns"].index("clip_score")] == 54.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs=nowhere"], ["runs=nowhere", "no such folder"]),
        (["runs=no*where"], ["runs=no*where", "no such folder"]),
        (["runs=."], ["no run in it", "run.json"]),
        (["runs=unfinished"], ["None of the runs can be compared", "unfinished is not finished"]),
        ([], ["runs"]),
        (["runs=unfinished", "videos=-1"], ["videos must be a whole number"]),
    ],
)
def test_what_cannot_be_collected_is_said(
    words: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "runs=unfinished" in words:
        (make_run(tmp_path / "unfinished") / "metrics.json").unlink()
    assert main(words) == 1
    error = capsys.readouterr().err
    for word in said:
        assert word in error
    assert "Traceback" not in error
