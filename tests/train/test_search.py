"""Sweeps end with their best job, and Optuna finds a better learning rate than a bad default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.train.__main__ import main

BAD = 1e-7  # a learning rate with which next to nothing is learned


@pytest.fixture
def quick(small):
    """A run of ten steps that generates nothing and reports nowhere."""
    left = [word for word in small if not word.startswith(("samples.final", "trainer.max_steps"))]
    return ["motion=rain", "logger=none", *left, "samples.final=0", "trainer.max_steps=10", "save_every=1000"]


def loss_of(folder: Path) -> float:
    return json.loads((folder / "metrics.json").read_text())["loss"]


def test_optuna_finds_a_better_learning_rate_than_a_bad_one_in_six_trials(quick, tmp_path, capsys):
    optuna = pytest.importorskip("optuna", reason="pip install -e '.[sweep]'")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert main([*quick, "hydra.run.dir=bad", f"tuner.learning_rate={BAD}"]) == 0
    search = ["-m", *quick, "hydra/sweeper=optuna", "hydra.sweep.dir=search", "hydra.sweeper.n_jobs=1"]
    search += ["hydra.sweeper.n_trials=6", f"tuner.learning_rate=tag(log,interval({BAD},1e-1))"]
    assert main(search) == 1  # of what is it to be the best?
    assert "optimized_metric=val/loss" in capsys.readouterr().err
    assert main([*search, "optimized_metric=loss"]) == 0
    shown = capsys.readouterr().out
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    assert len(study.trials) == 6
    assert study.best_value < loss_of(tmp_path / "bad")
    assert f"{study.best_value:.6g}" in shown
    assert f"Best job: tuner.learning_rate={study.best_params['tuner.learning_rate']:g}" in shown
    (best,) = (tmp_path / "search").glob(f"{study.best_trial.number}-*")
    assert loss_of(best) == study.best_value
    assert main(["resume=search"]) == 0  # nothing is tuned again, and the study is the same
    assert capsys.readouterr().out.count("Finished already") == 6
    again = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]


def test_an_ordinary_sweep_shows_its_best_job(quick, tmp_path, capsys):
    words = ["-m", *quick, "trainer.max_steps=2", "hydra.sweep.dir=sweep", "tuner.learning_rate=1e-1,1e-7"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    runs = [RunFolder.open(file.parent) for file in (tmp_path / "sweep").glob("*/metrics.json")]
    best = min(runs, key=lambda opened: loss_of(opened[0].path))[1]
    assert f"Best job: tuner.learning_rate={best.tuner.learning_rate}" in shown
    assert "the best loss first" in shown
