"""tuner.scheduled_sampling by the commands: resumed to the bit, and off unless it is asked for."""

from __future__ import annotations

import pytest
import torch

from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.hardware import VARIABLE
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.train.__main__ import main as train
from processes import assert_same_end


@pytest.mark.parametrize(
    ("method", "kind"),
    [("lamp", "cpu"), ("lamp", "cpu_bf16"), ("lamp_known", "cpu"), ("animatediff", "cpu")],
)
def test_a_run_with_scheduled_sampling_resumes_to_the_bit(small, tmp_path, monkeypatch, method, kind):
    monkeypatch.setenv(VARIABLE, kind)
    kept = [word for word in small if not word.startswith("trainer.max_steps")]
    words = [f"method={method}", "motion=rain", "logger=none", "samples.final=0", *kept]
    words += ["tuner.schedule=constant", "tuner.warmup_steps=0"]
    own = [*words, "tuner.scheduled_sampling=0.8"]
    assert train([*own, "hydra.run.dir=whole", "trainer.max_steps=3"]) == 0
    assert train([*own, "hydra.run.dir=parts", "trainer.max_steps=1"]) == 0
    assert train(["resume=parts", "trainer.max_steps=3"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert train([*words, "hydra.run.dir=without", "trainer.max_steps=3"]) == 0
    states = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "without")]
    ours, others = (state["state_dict"] for state in states)
    assert any(not torch.equal(ours[name], others[name]) for name in ours)


def test_the_toy_worlds_transformer_is_tuned_so_and_resumes_to_the_bit(small, tmp_path):
    replaced = ("model.", "trainer.max_steps", "samples.final")
    words = [word for word in small if not word.startswith(replaced)]
    words += ["model=tiny_dit", "motion=rain", "logger=none", "samples.final=0"]
    words += ["tuner.schedule=constant", "tuner.warmup_steps=0"]
    assert train([*words, "hydra.run.dir=whole", "trainer.max_steps=3"]) == 0
    assert train([*words, "hydra.run.dir=parts", "trainer.max_steps=1"]) == 0
    assert train(["resume=parts", "trainer.max_steps=3"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    config = RunFolder.open("whole")[1]
    assert (config.method.name, config.tuner.scheduled_sampling) == ("lamp_scheduled", 1)


def test_the_authors_recipe_has_no_scheduled_sampling():
    for overrides in (["experiment=paper"], ["method=lamp_paper"], ["method=lamp"], ["model=sd15"]):
        assert composed("train", overrides).tuner.scheduled_sampling == 0


@pytest.mark.parametrize("value", ["1.5", "-0.1", "often"])
def test_a_share_that_is_none_is_refused_by_name(small, capsys, value):
    assert train([*small, "motion=rain", f"tuner.scheduled_sampling={value}"]) == 1
    assert "tuner.scheduled_sampling" in capsys.readouterr().err


def test_it_does_not_go_with_a_lora_of_appearance(small, capsys):
    words = [*small, "motion=rain", "method=motion_director", "logger=none"]
    assert train([*words, "tuner.scheduled_sampling=0.5"]) == 1
    assert "leave one of them out" in capsys.readouterr().err
