"""Two commands at once in one place, stops at any moment, and children that end with their parents."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from omegaconf import DictConfig

from lamp_lightning.data.cache import Cache
from lamp_lightning.runtime import sweeps
from lamp_lightning.runtime.command import run_plainly
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.locks import Busy, hold, in_folder
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.stopping import Stopped, StopRequest, is_interrupt, quiet_interrupts
from lamp_lightning.train import __main__ as train
from lamp_lightning.train import run as tuning

HOLDING = """
import sys; from pathlib import Path
from lamp_lightning.runtime.locks import hold, in_folder
with hold(in_folder(Path(sys.argv[1])), what="it"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def others(tmp_path: Path):
    """Let another process hold the lock of a folder."""
    children = []

    def hold_in_another_process(folder: Path) -> int:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        children.append(child)
        assert child.stdout.readline() == b"ready\n"
        return child.pid

    yield hold_in_another_process
    for child in children:
        child.communicate()


@pytest.fixture
def cfg() -> DictConfig:
    return composed("train", ["logger=none", "trainer=cpu"])


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The folders of runs that would have been tuned; nothing is."""
    folders: list[Path] = []
    monkeypatch.setattr(tuning, "train", lambda run, cfg: folders.append(run.path))
    monkeypatch.chdir(tmp_path)
    return folders


# -- run folders ---------------------------------------------------------------------------------------------


def test_runs_begun_in_the_same_second_have_folders_of_their_own(cfg, tmp_path, others):
    folder = tmp_path / "2026-01-01_00-00-00"
    pid = others(folder)
    with RunFolder.begun(folder, cfg, or_next=True) as second:
        assert second.path == tmp_path / "2026-01-01_00-00-00_2"
        with RunFolder.begun(tmp_path / folder.name, cfg, or_next=True) as third:
            assert third.path.name.endswith("_3")
    with pytest.raises(Busy, match=f"process {pid} .*hydra.run.dir=<folder>"):
        RunFolder.create(folder, cfg)
    assert not (folder / "config.yaml").exists()
    assert not [path.name for path in second.path.iterdir() if path.name.startswith(".")]


def test_a_run_named_by_the_time_takes_the_next_name_and_one_named_by_the_user_ends(
    tuned, tmp_path, others, capsys
):
    others(tmp_path / "taken")
    words = ["motion=waterfall", "logger=none"]
    assert train.main([*words, "hydra.run.dir=taken"]) == 1
    assert "taken is being written by process" in capsys.readouterr().err
    by_time = "hydra.run.dir=taken"  # as Hydra's default would name it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "is_named", lambda job, setting: False)
        assert train.main([*words, by_time]) == 0
        assert train.main([*words, by_time]) == 0
    assert [folder.name for folder in tuned] == ["taken_2", "taken_3"]
    assert "taken belongs to another run: this one is in taken_2" in capsys.readouterr().out


def test_a_run_that_another_process_goes_on_with_is_left_alone(cfg, tuned, tmp_path, others, capsys):
    run = RunFolder.create(tmp_path / "run", cfg)
    pid = others(run.path)
    assert train.main(["resume=run", "save_every=7"]) == 1
    assert f"The run folder {run.path} is being written by process {pid}" in capsys.readouterr().err
    assert "save_every: 7" not in run.config_file.read_text()
    assert RunFolder.open(run.path)[0].path == run.path  # reading needs no lock
    assert not tuned


def test_sweeps_begun_in_the_same_second_have_folders_of_their_own(
    tuned, tmp_path, others, monkeypatch, capsys
):
    words = ["-m", "motion=waterfall", "seed=0,1", "logger=none"]
    assert train.main([*words, "hydra.sweep.dir=sweep"]) == 0
    jobs = ["0-motion=waterfall_seed=0", "1-motion=waterfall_seed=1"]
    assert tuned == [tmp_path / "sweep" / job for job in jobs]
    assert not list((tmp_path / "sweep").glob(".*"))
    others(tmp_path / "sweep")
    assert train.main([*words, "hydra.sweep.dir=sweep"]) == 1
    assert "The sweep's folder sweep is being written by process" in capsys.readouterr().err
    tuned.clear()
    monkeypatch.setattr(
        sweeps, "is_named", lambda job, setting: False
    )  # as if Hydra had named it by the time
    assert train.main([*words, "hydra.sweep.dir=sweep"]) == 0
    assert tuned == [tmp_path / "sweep_2" / job for job in jobs]
    assert sorted(path.name for path in (tmp_path / "sweep_2").iterdir()) == [*jobs, "multirun.yaml"]


# -- the cache -----------------------------------------------------------------------------------------------


def test_an_entry_that_another_process_makes_is_waited_for_and_not_made_again(tmp_path):
    import torch

    code = """
import sys, time, torch; from pathlib import Path
from lamp_lightning.data.cache import Cache
def make():
    print("ready", flush=True); time.sleep(0.3); return {"a": torch.ones(2)}
Cache(sys.argv[1]).tensors(Path(sys.argv[2]), make)
"""
    cache = Cache(tmp_path)
    entry = cache.path("latents", {"a": 1}, ".safetensors")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(entry)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    found = cache.tensors(entry, lambda: pytest.fail("it is made twice"))
    assert torch.equal(found["a"], torch.ones(2))
    assert child.wait() == 0
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


# -- stops ---------------------------------------------------------------------------------------------------


def test_a_stop_that_comes_too_late_for_a_run_still_ends_what_comes_after_it(
    cfg, tmp_path, monkeypatch, capsys
):
    run = RunFolder.create(tmp_path / "run", cfg)
    studio = SimpleNamespace(logger=None, run=run, cfg=cfg, stop=None, show_clips=lambda clips: None)
    data = SimpleNamespace(motion_set=SimpleNamespace(clips=[]))
    trainer = SimpleNamespace(loggers=[])
    parts = SimpleNamespace(studio=studio, data=data, trainer=trainer)

    def prepare(run, cfg, stop):
        parts.studio.stop = stop
        return parts

    monkeypatch.setattr(tuning, "prepare", prepare)
    monkeypatch.setattr(tuning, "fit", lambda *_: None)
    monkeypatch.setattr(tuning, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped):
        tuning.train(run, cfg)
    assert "Stopped after this run, which is finished" in capsys.readouterr().out


def test_an_interrupt_in_the_composition_of_a_config_ends_in_one_word(monkeypatch, capsys):
    import hydra

    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("of a library's clean-up")

    monkeypatch.setattr(hydra, "main", interrupted)
    assert train.main(["motion=waterfall"]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_interrupts_that_nothing_catches_end_in_one_word(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    quiet_interrupts()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "Stopped.\n"
    sys.excepthook(ValueError, ValueError("a fault"), None)
    assert "a fault" in capsys.readouterr().err
    assert not is_interrupt(ValueError())


def test_work_between_steps_ends_at_a_stop(tmp_path):
    with StopRequest() as stop:
        stop.signum = signal.SIGTERM
        with pytest.raises(Stopped):
            Cache(tmp_path).tensors(tmp_path / "latents" / "a.safetensors", lambda: pytest.fail("it goes on"))
    assert not list((tmp_path / "latents").iterdir())


def test_a_second_interrupt_that_a_library_swallows_still_ends_in_one_word(capsys):
    def load():
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise UserError("the weights cannot be loaded")  # which has lost the cause

    assert run_plainly(load) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped."

    def fail():
        raise UserError("no such file")

    assert run_plainly(fail) == 1  # what is interrupted is over
    assert capsys.readouterr().err == "Error: no such file\n"


# -- children ------------------------------------------------------------------------------------------------

PARENT = """
import sys, time
from lamp_lightning.runtime.attached import attached
with attached("timeit", ["-n1", "-r1", "import time; time.sleep(600)"]) as child:
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_command_ends_with_its_parent_however_that_ends(signum):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
    )
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    parent.send_signal(signum)
    parent.wait(20)
    child.wait(20)
    assert not psutil.pid_exists(child.pid)


def test_a_lock_is_held_by_this_process_only_while_it_is_used(tmp_path):
    with hold(in_folder(tmp_path), what="it"):
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []
