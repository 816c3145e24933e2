"""Sweeps: killed half-way and called again they end as if nothing had happened, under any launcher."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lamp_lightning.train.__main__ import main
from processes import assert_same_end, start, wait_for


@pytest.fixture
def sweep(small: list[str]) -> list[str]:
    """Four jobs of a few steps."""
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    swept = ["-m", "motion=waterfall,rain", "seed=0,1", "hydra.sweep.subdir=${hydra.job.num}"]
    return [*swept, "logger=none", "samples.final=0", "trainer.max_steps=6", "save_every=2", *kept]


def jobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_a_killed_sweep_skips_what_is_finished_and_ends_as_an_uninterrupted_one(sweep, tmp_path, capsys):
    sweep = [*sweep, "seed=0"]  # two jobs
    assert main([*sweep, "hydra.sweep.dir=whole"]) == 0
    killed = start("lamp_lightning.train", [*sweep, "hydra.sweep.dir=killed"], tmp_path)
    second = jobs(tmp_path / "whole")[1].name
    wait_for(tmp_path / "killed" / second / "checkpoints" / "last.ckpt", killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = jobs(tmp_path / "killed")[0]
    kept = (first / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["resume=killed"]) == 0
    assert capsys.readouterr().out.count("Finished already: ") == 1
    assert (first / "metrics.json").stat().st_mtime_ns == kept
    assert [path.name for path in jobs(tmp_path / "killed")] == [p.name for p in jobs(tmp_path / "whole")]
    for name in (path.name for path in jobs(tmp_path / "whole")):
        assert_same_end(tmp_path / "whole" / name, tmp_path / "killed" / name)
        a, b = (json.loads((tmp_path / s / name / "metrics.json").read_text()) for s in ("whole", "killed"))
        assert a | {"minutes": 0} == b | {"minutes": 0}


def test_the_same_words_and_folder_go_on_too_and_other_settings_are_refused(sweep, tmp_path, capsys):
    assert main([*sweep, "motion=rain", "seed=3", "hydra.sweep.dir=s"]) == 0
    capsys.readouterr()
    assert main([*sweep, "motion=rain", "seed=3", "hydra.sweep.dir=s"]) == 0
    assert "Finished already: " in capsys.readouterr().out
    other = ["motion=rain", "seed=3", "trainer.max_steps=7", "hydra.sweep.dir=s", "hydra.sweep.subdir=same"]
    assert main([*sweep, *other]) == 0
    assert main([*sweep, *other, "trainer.max_steps=8"]) == 1
    message = capsys.readouterr().err
    assert "trainer.max_steps" in message
    assert "hydra.sweep.dir=<folder>" in message
    assert main(["resume=s", "trainer.max_steps=9"]) == 1
    assert "trainer.max_steps=9" in capsys.readouterr().err


def test_a_stopped_sweep_says_how_to_go_on(sweep, tmp_path):
    process = start("lamp_lightning.train", [*sweep, "trainer.max_steps=2000", "hydra.sweep.dir=s"], tmp_path)
    wait_for(tmp_path / "s" / "0" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 143
    assert "python -m lamp_lightning.train resume=s\n" in out
    assert len(jobs(tmp_path / "s")) == 1  # the sweep ended, not only this job


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_other_launchers_run_the_jobs_and_report_those_that_fail(launcher, sweep, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    swept = ["motion=rain", "seed=0", "sampler.scheduler=Nothing,DDIMScheduler"]
    words = [*sweep, *swept, "trainer.max_steps=2"]
    process = start(
        "lamp_lightning.train", [*words, f"hydra/launcher={launcher}", "hydra.sweep.dir=s"], tmp_path
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, (out, err)
    finished = [path for path in jobs(tmp_path / "s") if (path / "metrics.json").exists()]
    assert [path.name for path in finished] == ["1"], (out, err)
