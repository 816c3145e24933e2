"""The program `lamp`, its completion in a shell, and the names by which printed commands call programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamp_lightning.runtime import console, program


def lamp(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from lamp_lightning.runtime.program import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_it_runs_commands_and_knows_misspelt_ones(tmp_path):
    done = lamp("train", "num_frame=8", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no setting 'num_frame'. Did you mean data.num_frames?")
    done = lamp("trian", folder=tmp_path)
    assert done.returncode == 1
    assert "Did you mean lamp train?" in done.stderr
    done = lamp(folder=tmp_path)
    assert done.returncode == 0
    assert "lamp <command>" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_shell_completes_commands_settings_choices_and_own_motions(tmp_path):
    script = program.completion()
    for folder in ("data/pouring_tea", "data/$(touch ran)", "data/two words", "runs/juggling"):
        (tmp_path / folder).mkdir(parents=True)
    for line, replies in (
        ("lamp tr", ["train"]),
        ("lamp train logger=c", ["csv"]),
        ("lamp train motion=rain trainer.max", ["trainer.max_steps="]),
        ("lamp sample sampler=f", ["fast"]),
        ("lamp collect --h", ["--help"]),
        ("lamp train motion=p", ["play_the_guitar", "pouring_tea"]),
        ("lamp train motion=t", ["turn_to_smile"]),
        ("lamp sample motion=", ["juggling"]),
    ):
        asked = f'COMP_LINE="{line}"; COMP_POINT={len(line)}; _lamp; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert done.stdout.splitlines() == replies, line
    assert not (tmp_path / "ran").exists()


def test_printed_commands_work_in_a_shell_that_has_not_activated_the_environment(tmp_path, monkeypatch):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "wandb"):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    assert console.program("wandb") == ".venv/bin/wandb"
    assert console.call("train") == ".venv/bin/python -m lamp_lightning.train"
    monkeypatch.setenv("PATH", str(programs))
    assert console.program("wandb") == "wandb"
    assert console.call("train") == "python -m lamp_lightning.train"
