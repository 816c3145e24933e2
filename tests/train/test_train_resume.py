"""Interrupted runs: killed, stopped, resumed; the end is the same to the bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning.train.__main__ import main
from processes import assert_same_end, start, state, wait_for

STEPS = 16


@pytest.fixture
def quick(small: list[str]) -> list[str]:
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    rate = ["tuner.schedule=constant", "tuner.warmup_steps=0"]  # not one that depends on max_steps
    return ["motion=waterfall", "logger=none", "samples.final=0", f"trainer.max_steps={STEPS}", *rate, *kept]


def test_a_killed_run_resumes_to_the_same_bits(quick, tmp_path, capsys):
    rates = ["tuner.schedule=cosine", "tuner.warmup_steps=3", "trainer.accumulate_grad_batches=2"]
    assert main([*quick, *rates, "hydra.run.dir=whole", f"save_every={STEPS}"]) == 0
    killed = start("lamp_lightning.train", [*quick, *rates, "hydra.run.dir=killed", "save_every=3"], tmp_path)
    wait_for(tmp_path / "killed" / "checkpoints" / "last.ckpt", killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < state(tmp_path / "killed")["global_step"] < STEPS
    assert main(["resume=killed"]) == 0
    assert state(tmp_path / "killed")["global_step"] == STEPS
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_says_how_to_resume(quick, tmp_path, signum, status):
    many = [word for word in quick if not word.startswith("trainer.max_steps")] + ["trainer.max_steps=100000"]
    process = start("lamp_lightning.train", [*many, "hydra.run.dir=stopped", "save_every=2"], tmp_path)
    wait_for(tmp_path / "stopped" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=200)
    assert process.returncode == status
    assert "python -m lamp_lightning.train resume=stopped" in out
    assert "Traceback" not in out + err
    saved = state(tmp_path / "stopped")["global_step"]
    assert (tmp_path / "stopped" / "adapter.safetensors").is_file()
    # It goes on where it stood: two more steps, and the same as that many without a stop.
    assert main(["resume=stopped", f"trainer.max_steps={saved + 2}"]) == 0
    assert main([*quick, "hydra.run.dir=whole", f"trainer.max_steps={saved + 2}"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, with its content; and when each folder changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def test_resuming_a_finished_run_says_so_and_changes_no_file(quick, tmp_path, capsys):
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=2", "samples.final=1"]) == 0
    before = files_of(tmp_path / "run")
    assert not [name for name in before if Path(name).name.startswith(".") and name != "."]
    capsys.readouterr()
    assert main(["resume=run"]) == 0
    assert main(["resume=run/checkpoints/last.ckpt", "threads=2", "trainer.max_steps=2"]) == 0
    assert capsys.readouterr().out == "Finished already: run\n" * 2
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize("lost", ["videos/*.gif", "adapter.safetensors"])
def test_what_a_finished_run_has_lost_is_made_again_with_the_same_bits(quick, tmp_path, lost):
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=2", "samples.final=1"]) == 0
    before = files_of(tmp_path / "run")
    (file,) = (tmp_path / "run").glob(lost)
    file.unlink()
    assert main(["resume=run"]) == 0
    after = files_of(tmp_path / "run")
    assert after.keys() == before.keys()
    same = [name for name in before if not name.endswith("metrics.json")]  # that has times
    assert [after[name][1] for name in same] == [before[name][1] for name in same]


def test_a_finished_run_with_other_settings_goes_on(quick, tmp_path, capsys):
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=2"]) == 0
    before = load_file(tmp_path / "run" / "adapter.safetensors")
    assert main(["resume=run/checkpoints/last.ckpt", "samples.final=1"]) == 0
    after = load_file(tmp_path / "run" / "adapter.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(list((tmp_path / "run" / "videos").glob("*.mp4"))) == 1


def test_a_run_without_a_checkpoint_begins_again(quick, tmp_path):
    for name in ("one", "two"):
        assert main([*quick, f"hydra.run.dir={name}", "trainer.max_steps=3"]) == 0
    (tmp_path / "two" / "checkpoints" / "last.ckpt").unlink()
    (tmp_path / "two" / "metrics.json").unlink()
    assert main(["resume=two"]) == 0
    assert_same_end(tmp_path / "one", tmp_path / "two")


def test_a_damaged_checkpoint_is_named(quick, tmp_path, capsys):
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=2"]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert main(["resume=run", "trainer.max_steps=3"]) == 1
    captured = capsys.readouterr()
    assert f"Error: The checkpoint {checkpoint} cannot be read" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "override", ["motion=rain", "trainer.max_step=9", "model.nothing=1", "trainer.max_steps=x"]
)
def test_what_cannot_change_in_a_resumed_run_is_refused(quick, tmp_path, capsys, override):
    from lamp_lightning.runtime.config import composed
    from lamp_lightning.runtime.runs import RunFolder

    cfg = composed("train", quick)
    RunFolder.create(tmp_path / "run", cfg)
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert main(["resume=run", override]) == 1
    assert override.partition("=")[0] in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_run_folder_is_not_begun_twice(quick, tmp_path, capsys):
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=1"]) == 0
    before = (tmp_path / "run" / "adapter.safetensors").read_bytes()
    assert main([*quick, "hydra.run.dir=run", "trainer.max_steps=2"]) == 1
    assert f"resume={tmp_path / 'run'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "adapter.safetensors").read_bytes() == before
