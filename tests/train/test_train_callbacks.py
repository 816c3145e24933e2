"""Callbacks by config group, held-out clips and what a run returns, of the train command."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.core.utils import JobReturn

from lamp_lightning.runtime.run_config import CALLBACKS, check_targets
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.train.__main__ import check_places, main
from processes import assert_same_end, state


@pytest.fixture
def quick(small: list[str]) -> list[str]:
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    own = [
        "motion=waterfall",
        "samples.final=0",
        "trainer.max_steps=6",
        "data.validation=0.25",
        "save_every=2",
    ]
    return [*kept, *own, "tuner.schedule=constant", "tuner.warmup_steps=0", "logger=csv"]


def changed(words: list[str], **changes: object) -> list[str]:
    given = {name.replace("__", "."): value for name, value in changes.items()}
    kept = [word for word in words if word.partition("=")[0] not in given]
    return [*kept, *(f"{name}={value}" for name, value in given.items())]


def losses(run: Path) -> dict[int, float]:
    table = pd.read_csv(run / "csv" / "metrics.csv")
    return dict(table[["step", "val/loss"]].dropna().itertuples(index=False))


def test_a_run_with_callbacks_resumes_to_the_same_bits(quick, tmp_path):
    words = [*quick, "callbacks=[ema,early_stopping]", "callbacks.ema.decay=0.5"]
    assert main([*words, "hydra.run.dir=whole"]) == 0
    assert main([*changed(words, trainer__max_steps=2), "hydra.run.dir=parts"]) == 0
    assert main(["resume=parts", "trainer.max_steps=6"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])
    (name,) = (name for name in whole["callbacks"] if name.startswith("EarlyStopping"))
    assert whole["callbacks"][name] == parts["callbacks"][name]
    assert losses(tmp_path / "whole").keys() == {1, 3, 5}
    last = json.loads((tmp_path / "whole" / "metrics.json").read_text())["val/loss"]
    assert last == pytest.approx(losses(tmp_path / "whole")[5])
    # The adapter has the averages, and what was lost is made again with the same bits.
    adapter = tmp_path / "whole" / "adapter.safetensors"
    before = adapter.read_bytes()
    adapter.unlink()
    assert main(["resume=whole"]) == 0
    assert adapter.read_bytes() == before


@pytest.fixture
def report():
    """What profilers report, which goes to the terminal by logging."""
    text = io.StringIO()
    logging.getLogger("lightning.pytorch.profilers").addHandler(handler := logging.StreamHandler(text))
    yield text
    logging.getLogger("lightning.pytorch.profilers").removeHandler(handler)


def test_a_run_that_stops_early_is_finished(quick, tmp_path, capsys, report):
    stop = ["callbacks=[early_stopping,model_checkpoint]", "callbacks.early_stopping.patience=1"]
    words = [*changed(quick, trainer__max_steps=50), *stop, "callbacks.early_stopping.min_delta=1000"]
    assert main([*words, "hydra.run.dir=run", "+trainer.profiler=simple"]) == 0
    capsys.readouterr()
    assert "run_training_batch" in report.getvalue()
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (facts["steps"], facts["stopped_early"]) == (4, True)
    assert state(tmp_path / "run")["global_step"] == 4
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    assert main(["resume=run"]) == 0
    assert capsys.readouterr().out == "Finished already: run\n"


def test_a_run_returns_the_number_that_a_sweeper_asks_for(quick, tmp_path, monkeypatch, capsys):
    returned = []
    result = JobReturn.return_value.fset
    monkeypatch.setattr(
        JobReturn, "return_value", property(JobReturn.return_value.fget, lambda self, value: (
            returned.append(value), result(self, value))),
    )  # fmt: skip
    words = [*changed(quick, trainer__max_steps=0, logger="none"), "hydra.run.dir=run"]
    assert main([*words, "optimized_metric=val/loss"]) == 0
    assert returned == [json.loads((tmp_path / "run" / "metrics.json").read_text())["val/loss"]]
    assert main([*changed(words, hydra__run__dir="other"), "optimized_metric=vall/loss"]) == 1
    assert "optimized_metric=vall/loss is not among what this run measured: " in capsys.readouterr().err


def test_a_development_run_is_fast(quick, capsys):
    assert main([*changed(quick, logger="none"), "+trainer.fast_dev_run=true", "hydra.run.dir=run"]) == 0
    assert "is tuned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks=early_stopping"], "callbacks.early_stopping watches val/loss whenever"),
        (["callbacks=nothing"], "Could not find 'callbacks/nothing'"),
        (["+callbacks.mine._target_=pathlib.Path"], "pathlib.Path is no Lightning callback"),
        (["+callbacks.mine.patience=3"], "callbacks must be names with a class and its options"),
        (["callbacks=ema", "callbacks.ema.decay=null", "+callbacks.ema.avg_fn=1"], "ema cannot be used"),
        (["trainer.strategy=ddp_spawn"], "trainer.strategy=ddp"),
        (["data.validation=2"], "data.validation must be a share between 0 and 1, or a folder of clips"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_back_is_said_before_training(quick, capsys, words, message):
    assert main([*changed(quick, data__validation="null"), *words, "hydra.run.dir=run"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_callbacks_of_a_file_run_no_code_and_write_below_the_run(tmp_path, capsys):
    from lamp_lightning.runtime.config import composed
    from lamp_lightning.runtime.errors import UserError

    cfg = composed("train", ["callbacks=model_checkpoint", "callbacks.model_checkpoint.dirpath=/elsewhere"])
    cfg.callbacks.model_checkpoint.filename = "../../../out"
    cfg.data.folder = str(tmp_path)
    run = RunFolder(tmp_path / "run")
    check_targets(cfg, file=run.config_file)
    check_places(cfg, run, [])
    assert [cfg.callbacks.model_checkpoint[name] for name in ("dirpath", "filename", "monitor")] == [
        None, None, "val/loss",
    ]  # fmt: skip
    assert "callbacks.model_checkpoint.dirpath=/elsewhere is not used" in capsys.readouterr().err
    cfg.callbacks.model_checkpoint._target_ = "os.system"
    with pytest.raises(UserError, match=r"asks for 'os\.system' in callbacks\.model_checkpoint\._target_"):
        check_targets(cfg, file=run.config_file)
    check_targets(cfg, file=run.config_file, given=["callbacks.model_checkpoint._target_=os.system"])
    assert all(name.startswith("lightning.pytorch.callbacks.") for name in CALLBACKS)
