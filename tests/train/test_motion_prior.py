"""Tuning begins with another motion: a prior of many clips, from which a few steps are enough."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning.train.__main__ import main


def tuned(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter.safetensors")


@pytest.fixture
def prior(small) -> list[str]:
    """Overrides of a run; a finished one lies in the folder ``prior``."""
    words = [*small, "logger=none", "samples.final=0", "motion=rain"]
    assert main([*words, "hydra.run.dir=prior"]) == 0
    return [*words, "model.motion_adapter=prior", "hydra.run.dir=begun"]


@pytest.mark.parametrize("known", ["first", "any"])  # other frames may be given than in the prior's tuning
def test_a_run_begins_with_the_parameters_of_another(prior, known):
    assert main([*prior, "motion=waterfall", "trainer.max_steps=0", f"model.layers.known={known}"]) == 0
    begun, before = tuned("begun"), tuned("prior")
    assert before.keys() == begun.keys()
    assert all(torch.equal(begun[name], before[name]) for name in before)


def test_a_run_that_goes_on_needs_no_more_what_it_began_with(prior, tmp_path, monkeypatch):
    assert main([*prior, "motion=waterfall", "trainer.max_steps=1"]) == 0
    before = tuned("begun")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("../prior").rename("../gone")
    assert main(["resume=../begun", "trainer.max_steps=2"]) == 0
    after = tuned("../begun")
    assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.motion_adapter=nowhere/prior", "model.motion_adapter=nowhere/prior cannot be used."),
        ("model.layers.causal=false", "other motion layers than this run. They differ in causal"),
        ("model.norm=joint", "was tuned with model.norm=per_frame, not joint"),
        ("tuner.rank=2", "tuner.rank=2 tunes factors from the start. Give tuner.rank=null"),
    ],
)
def test_a_motion_that_does_not_fit_is_refused_in_words(prior, override, said, capsys):
    assert main([*prior, override]) == 1
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not Path("begun").exists()
