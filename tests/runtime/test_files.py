"""Files that are written: whole or not at all, by one process at a time, with nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lamp_lightning.runtime import files, locks
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import (
    machine,
    part_of,
    remove_dead,
    replacing,
    save_tensors,
    scratch,
    write_json,
    write_text,
)
from lamp_lightning.runtime.locks import Busy, beside, hold, holder_of, in_folder, only_writer
from lamp_lightning.runtime.stopping import Stopped, StopRequest

NOBODY = 2**22 + 1  # no process has this number: Linux gives out smaller ones


def in_another_process(code: str, *words: str) -> subprocess.Popen[str]:
    """Python code that has `Path`, `sys` and the locks; it prints a line when it is ready."""
    program = (
        f"import sys, time; from pathlib import Path\nfrom lamp_lightning.runtime.locks import *\n{code}"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


HOLDING = "with hold(Path(sys.argv[1]), what='it'): print('ready', flush=True); sys.stdin.read()"


# -- writing -------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    file = tmp_path / "deep" / "facts.json"
    write_json(file, {"a": "é"})
    assert file.read_text(encoding="utf-8") == '{\n "a": "é"\n}\n'

    def fail(part: Path) -> None:
        part.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.write_atomic(file, fail)
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "é"}
    assert list(file.parent.iterdir()) == [file]


def test_all_files_get_the_permissions_of_new_files_whatever_library_writes_them(tmp_path):
    before = os.umask(0o027)
    try:
        for name, write in {
            "a.safetensors": lambda part: save_file({"a": torch.zeros(2)}, part),
            "a.ckpt": lambda part: save_tensors({"a": torch.zeros(2)}, part),
            "a.png": lambda part: Image.new("RGB", (2, 2)).save(part),
            "a.txt": lambda part: part.write_text("a"),
        }.items():
            files.write_atomic(tmp_path / name, write)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640, name
    finally:
        os.umask(before)


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("I/O error: No space left on device (os error 28)"),
    OSError("No space left on device"),
])  # fmt: skip
def test_a_full_disk_is_named_as_that(tmp_path, error):
    file = tmp_path / "adapter.safetensors"
    with pytest.raises(UserError) as raised, replacing(file):
        raise error
    assert str(raised.value) == (
        f"{file} cannot be written: no space is left on the device. Free some space and try again."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_found_behind_the_errors_of_pytorch():
    with pytest.raises(OSError, match="No space left on device"):
        save_tensors({"a": torch.zeros(1 << 16)}, Path("/dev/full"))


def test_a_command_names_a_full_disk_whatever_met_it(capsys):
    from lamp_lightning.runtime.command import run_plainly

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "videos/a.mp4")

    assert run_plainly(full) == 1
    assert capsys.readouterr().err.startswith("Error: videos/a.mp4 cannot be written: no space is left")


# -- what dead processes left --------------------------------------------------------------------------------


def leave(folder: Path, name: str, age: float = 0.0) -> Path:
    """A temporary folder with a file in it."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "half").write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_temporary_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead = leave(tmp_path, f".a.mp4.{machine()}-{NOBODY}-0.part")
    reused = leave(tmp_path, f".b.mp4.{machine()}-1-0.part", age=10**9)  # the first process began later
    earlier = leave(tmp_path, f".c.mp4.{machine()}-{os.getpid()}-999.part")  # another one of this number
    alive = leave(tmp_path, f".d.mp4.{machine()}-{os.getppid()}-0.part")
    elsewhere = leave(tmp_path, f".e.mp4.00000000-{NOBODY}-0.part")
    mine = leave(tmp_path, part_of(tmp_path / "f.mp4").name)
    others = [leave(tmp_path, name) for name in (".config", ".x.part", "a.1.part", f".y.{machine()}-1.part")]
    inside = leave(tmp_path / "checkpoints", f".last.ckpt.{machine()}-{NOBODY}-3.part")
    remove_dead(tmp_path)
    assert not any(path.exists() for path in (dead, reused, earlier))
    assert all(path.exists() for path in (alive, elsewhere, mine, inside, *others))
    remove_dead(tmp_path, ("checkpoints",), owned=True)  # by the only process that writes there
    assert not inside.exists()
    assert not elsewhere.exists()
    assert all(path.exists() for path in (alive, mine, *others))


def test_temporary_files_of_earlier_versions_go_too(tmp_path):
    names = [f".a.json.{NOBODY}.part", f".{NOBODY}_0123abcd.part", ".writing_ab_1cd2e.rgb", ".cat_seed0.part"]
    left = [leave(tmp_path, name) for name in names]
    remove_dead(tmp_path)
    assert all(path.exists() for path in left)  # whose they are cannot be told: perhaps not of this machine
    remove_dead(tmp_path, owned=True)
    assert not any(path.exists() for path in left)
    old = [leave(tmp_path, name, age=2 * files.DAY) for name in names]
    remove_dead(tmp_path)
    assert not any(path.exists() for path in old)


def test_tidying_up_never_follows_links(tmp_path):
    outside = leave(tmp_path / "outside", f".a.{machine()}-{NOBODY}-0.part")
    run = tmp_path / "run"
    run.mkdir()
    (run / "videos").symlink_to(tmp_path / "outside")
    (run / f".b.{machine()}-{NOBODY}-0.part").symlink_to(tmp_path / "outside")
    remove_dead(run, ("videos",), owned=True)
    assert (outside / "half").exists()
    assert [path.name for path in run.iterdir()] == ["videos"]


def test_folders_for_intermediate_files_go_with_their_process_or_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = leave(tmp_path, f".lamp-lightning.{machine()}-{NOBODY}-0.part")
    with scratch() as folder, scratch() as other:
        assert not dead.exists()
        assert folder.is_dir()
        assert other.is_dir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(tmp_path.iterdir())


# -- locks ---------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_a_lock(tmp_path):
    lock = in_folder(tmp_path)
    child = in_another_process(HOLDING, str(lock))
    with pytest.raises(Busy) as raised, hold(lock, what=f"The folder {tmp_path}", advice="Wait."):
        pass
    told = str(raised.value)
    assert told.startswith(f"The folder {tmp_path} is being written by process {child.pid} on ")
    assert re.search(r", since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\S* \(-c \S+\)\. Wait\.$", told), told
    child.communicate()
    with hold(lock, what="it"), hold(lock, what="it"):  # the same process may, again and again
        assert lock.exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    lock = beside(tmp_path / "entry.rgb")
    child = in_another_process(HOLDING, str(lock))
    child.kill()
    child.communicate()
    assert lock.exists()  # it is free all the same
    assert holder_of(lock).is_dead
    with hold(lock, what="it"):
        assert holder_of(lock).process == os.getpid()
    assert not lock.exists()


def test_a_lock_of_a_killed_process_goes_even_if_nobody_wants_it(tmp_path):
    child = in_another_process(HOLDING, str(beside(tmp_path / "a")))
    alive = in_another_process(HOLDING, str(beside(tmp_path / "b")))
    child.kill()
    child.communicate()
    locks.remove_free(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]
    alive.communicate()


def test_waiting_for_a_lock_ends_when_it_is_free_or_at_a_stop(tmp_path):
    lock = in_folder(tmp_path)
    code = "with hold(Path(sys.argv[1]), what='it'): print('ready', flush=True); time.sleep(0.5)"
    child = in_another_process(code, str(lock))
    with hold(lock, what="it", wait=True):
        assert child.wait(10) == 0
    child = in_another_process(HOLDING, str(lock))
    with StopRequest() as stop:
        stop.signum = 15
        with pytest.raises(Stopped), hold(lock, what="it", wait=True):
            pass
    child.communicate()


def test_of_many_processes_one_at_a_time_has_a_lock(tmp_path):
    code = """
print("ready", flush=True)
for k in range(30):
    with hold(Path(sys.argv[1]) / ".lock", what="it", wait=True):
        (Path(sys.argv[1]) / "owner").touch(exist_ok=False)
        (Path(sys.argv[1]) / "owner").unlink()
"""
    locks_poll = "import lamp_lightning.runtime.locks as l; l.POLL = 0.001\n"
    children = [in_another_process(locks_poll + code, str(tmp_path)) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


def test_a_folder_of_results_is_tidied_up_and_goes_if_nothing_is_written(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError), only_writer(out):
        raise UserError("no")
    assert not out.exists()
    left = leave(out, f".a.png.{machine()}-{NOBODY}-0.part")
    with only_writer(out):
        assert not left.exists()
    assert not list(out.iterdir())


def test_what_stands_in_a_lock_file_is_shown_as_text_only(tmp_path):
    lock = in_folder(tmp_path)
    for content in ("", "[" * 10_000, "{}", '{"process": "1"}', "x" * 10_000):
        lock.write_text(content)
        assert holder_of(lock) is None
    facts = {"process": 1, "machine": "m", "host": "h\x1b[2J", "since": "then", "command": "c\nd"}
    lock.write_text(json.dumps(facts))
    assert str(holder_of(lock)) == "process 1 on h?[2J, since then (c?d)"


def test_a_file_system_without_locks_is_written_without(tmp_path, monkeypatch):
    def none(self: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", none)
    with hold(in_folder(tmp_path), what="it"):
        (tmp_path / "a").touch()
