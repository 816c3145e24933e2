"""What commands say of overrides that name nothing, and of a `+` for something that nobody reads."""

from __future__ import annotations

import os
import signal
from importlib import import_module

import pytest

from lamp_lightning.runtime.command import run_plainly
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.help_layout import help_of
from lamp_lightning.runtime.mistakes import corrected
from lamp_lightning.train.__main__ import main


def said_by(command: str, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    module = "" if command in ("collect", "convert", "share") else ".__main__"
    assert import_module(f"lamp_lightning.{command}{module}").main(list(words)) == 1
    error = capsys.readouterr().err
    assert error.count("Error:") == 1
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("command", "word", "said"),
    [
        ("train", "num_frame=8", "Did you mean data.num_frames?"),
        ("train", "max_step=8", "Did you mean trainer.max_steps?"),
        ("train", "trainer.max_step=8", "Did you mean trainer.max_steps?"),
        ("train", "learning_rate=1", "Did you mean tuner.learning_rate?"),
        ("train", "motion=waterfal", "Did you mean waterfall?"),
        ("train", "model=sd16", "sd15"),
        ("train", "logger=wanb", "Did you mean logger=wandb?"),
        ("train", "experiment=papers", "ablation/<name>"),
        ("train", "experiment=no_gate", "Did you mean experiment=ablation/no_gate?"),
        ("train", "motion=rain,waterfall", "lamp_lightning.train -m motion=rain,waterfall"),
        ("train", "trainer.precision=16", "Did you mean trainer.precision=16-mixed?"),
        ("sample", "motion=nowhere", "motion=nowhere does not exist"),
        ("sample", "run=nowhere", "run=nowhere does not exist"),
        ("train", "hydra/sweeper=optun", "pip install -e '.[sweep]'"),
        ("train", "trainer.foo=1", "added with a plus: +trainer.foo=<value>"),
        ("train", "ckpt_path=x", "resume=<run folder>"),
        ("train", "+ckpt_path=x", "Nothing reads +ckpt_path=x."),
        ("train", "+trainer.callbacks=[x]", "callbacks=<name>"),
        ("train", "+trainer.max_epochs=3", "trainer.max_steps=<steps>"),
        ("train", "+mine=1", "Nothing reads +mine=1."),
        ("train", "+motion.mine=1", "Nothing reads +motion.mine=1."),
        ("train", "logger=[csv,tensorboard]", "-m logger=csv,tensorboard"),
        ("train", "~logger", "Choose another with logger=<name>."),
        ("sample", "model=sd15", "base=<folder, hub id or file>"),
        ("collect", "model=sd15", "collect has no setting 'model': it belongs to inspect, train, edit."),
    ],
)
def test_a_wrong_word_leads_to_the_right_one(command, word, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in said_by(command, word, capsys=capsys)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_plus_before_a_group_and_none_before_a_setting_of_lightning_work():
    words = corrected(["+debug=overfit", "trainer.detect_anomaly=true"], "train")
    cfg = composed("train", words)
    assert (cfg.data.max_clips, cfg.data.flip, cfg.trainer.detect_anomaly) == (1, False, True)


def test_an_addition_that_another_setting_takes_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["+mine=-1", "tuner.learning_rate=${mine}"]
    assert main(words) == 1
    assert "tuner.learning_rate must be a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["default", "fdr", "limit", "overfit", "profiler"])
def test_debug_runs_are_short_and_lie_apart(name):
    cfg = composed("train", [f"debug={name}"])
    assert cfg.trainer.max_steps <= 60
    assert cfg.logger._target_ == "lamp_lightning.no_logger"


def test_help_says_what_each_choice_is():
    shown = help_of("train")
    assert "debug=overfit" in shown
    assert "One clip again and again" in shown
    assert "python -m lamp_lightning.train motion=rain hparams_search=learning_rate" in shown


def test_tags_reach_the_config_and_its_logger():
    assert composed("train", ["tags=[a,b]"]).logger.tags == ["a", "b"]
    assert composed("train").logger.tags == []
    assert composed("collect", ["runs=x", "logger=wandb"]).logger.tags == []


def test_a_run_begins_with_a_tree_of_what_it_chooses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["motion=custom", "motion.name=x", "data.folder=nowhere", "logger=none", "data.num_frames=5"]
    assert main([*words, "print_config=true"]) == 1
    shown = capsys.readouterr().out
    for line in ("model = tiny", "num_frames = 5", "logger = none"):
        assert line in shown
    assert "weight_decay" not in shown  # as declared
    assert main(words) == 1
    assert "num_frames = 5" not in capsys.readouterr().out


def test_what_cannot_be_read_is_named_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "1.mp4").write_bytes(b"not looked at yet")
    (tmp_path / "a.png").write_text("no picture")
    words = ["data.folder=clips", "model.path=no_such_model"]  # which would be said otherwise
    assert "a.png cannot be" in said_by("train", *words, "samples.first_frame=a.png", capsys=capsys)
    (clips / "1_mask.png").write_text("no picture")
    assert "1_mask.png" in said_by("train", *words, capsys=capsys)
    (clips / "captions.txt").write_text("1.mp4: a\n2.mp4: b\n")
    assert "captions.txt" in said_by("train", *words, capsys=capsys)


def test_a_sigterm_while_modules_are_imported_clears_up(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    cleared = []

    def begun() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleared.append(True)

    assert run_plainly(begun) == 143
    assert cleared
    assert "Stopped." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
