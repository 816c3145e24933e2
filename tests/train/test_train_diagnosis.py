"""What the train command says came of it, in runs made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamp_lightning.train.__main__ import main


def diagnosed(run: Path, *words: str) -> dict:
    assert main([*words, f"hydra.run.dir={run}", "logger=none"]) == 0
    return json.loads((run / "metrics.json").read_text())["diagnosis"]


@pytest.mark.slow  # with the tiny model: half a minute
@pytest.mark.parametrize(("method", "verdict"), [("frozen", "static"), ("untuned", "exploding")])
def test_the_tiny_model_untuned_stands_still_or_moves_too_much(
    tmp_path, monkeypatch, capsys, method, verdict
):
    monkeypatch.chdir(tmp_path)
    words = ["motion=horse_run", f"method={method}", "data.num_frames=6", "data.max_clips=8"]
    words += ["samples.final=2", "sampler.paint_steps=6", "threads=1", f"data.cache_dir={tmp_path / 'cache'}"]
    found = diagnosed(tmp_path / "run", *words)
    assert found["verdict"] == verdict
    assert found["advice"] == "The model is not tuned: tune it."
    assert f"diagnosis     {verdict}. " in capsys.readouterr().out


def test_the_best_step_is_found_across_a_resume(small, tmp_path, capsys):
    words = [*small, "data.validation=0.25", "save_every=1", "trainer.max_steps=3"]
    found = diagnosed(tmp_path / "run", *words)
    losses = {int(step): loss for step, loss in found["losses"].items()}
    assert set(losses) == {1, 2, 3}
    assert found["best_step"] == min(losses, key=lambda step: losses[step])
    assert f"lowest at step {found['best_step']}" in capsys.readouterr().out
    assert main([f"resume={tmp_path / 'run'}", "trainer.max_steps=4"]) == 0
    longer = json.loads((tmp_path / "run" / "metrics.json").read_text())["diagnosis"]
    assert {int(step) for step in longer["losses"]} == {1, 2, 3, 4}
    assert [longer["losses"][str(step)] for step in (1, 2, 3)] == [losses[step] for step in (1, 2, 3)]
