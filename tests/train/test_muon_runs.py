"""tuner.optimizer=muon by the commands: resumed to the bit, and refused where a checkpoint is of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lamp_lightning.models.adapter import header_of
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.hardware import VARIABLE
from lamp_lightning.train.__main__ import main as train
from processes import assert_same_end


@pytest.mark.parametrize("kind", ["cpu", "cpu_bf16"])
def test_a_run_of_lamp_plus_resumes_to_the_bit(small, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setenv(VARIABLE, kind)
    kept = [word for word in small if not word.startswith("trainer.max_steps")]
    words = ["motion=rain", "method=lamp_plus", "logger=none", "samples.final=0", *kept]
    words += ["tuner.schedule=constant", "tuner.warmup_steps=0"]
    assert train([*words, "hydra.run.dir=whole", "trainer.max_steps=3"]) == 0
    assert train([*words, "hydra.run.dir=parts", "trainer.max_steps=1"]) == 0
    assert train(["resume=parts", "trainer.max_steps=3"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert header_of(Path("parts/adapter.safetensors")).variant.conv_first
    # Matrices have a momentum, and what is no matrix the moments of AdamW.
    saved = torch.load("parts/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert {frozenset(state) for state in saved.values()} == {
        frozenset({"momentum_buffer"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }
    capsys.readouterr()
    assert train(["resume=parts", "tuner.optimizer=adamw", "trainer.max_steps=4"]) == 1
    assert "muon" in capsys.readouterr().err


def test_a_checkpoint_without_its_momentum_is_refused_by_name(small, capsys):
    words = ["motion=rain", "tuner.optimizer=muon", "logger=none", *small, "hydra.run.dir=run"]
    assert train([*words, "trainer.max_steps=1", "samples.final=0"]) == 0
    file = Path("run/checkpoints/last.ckpt")
    content = torch.load(file, weights_only=True)
    state = content["optimizer_states"][0]["state"]
    number = next(k for k in state if "momentum_buffer" in state[k])
    del state[number]["momentum_buffer"]
    torch.save(content, file)
    capsys.readouterr()
    assert train(["resume=run", "trainer.max_steps=2"]) == 1
    assert f"optimizer_states.0.state.{number} lacks 'momentum_buffer'" in capsys.readouterr().err


def test_the_rate_of_muon_follows_the_models_recipe():
    for model, rate in (("tiny", 5e-3), ("sd15", 7.5e-5)):
        config = composed("train", [f"model={model}", "method=lamp_plus"])
        assert config.tuner.optimizer == "muon"
        assert abs(config.tuner.learning_rate - rate) < 1e-12
    assert composed("train", ["method=lamp"]).tuner.optimizer == "adamw"
