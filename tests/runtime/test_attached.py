"""Commands as children: one that is ready begins at once, and none outlives its parent."""

from __future__ import annotations

from lamp_lightning.runtime import attached


def test_a_process_that_is_ready_runs_a_module_and_writes_its_log(tmp_path):
    ready = attached.warm(["json", "no_such_module"], cwd=tmp_path)
    assert attached.begin(ready, "this", ["a word"], tmp_path / "log.txt")
    assert ready.wait(60) == 0
    assert "The Zen of Python" in (tmp_path / "log.txt").read_text()


def test_one_that_waits_goes_with_its_parent_and_then_cannot_begin(tmp_path):
    ready = attached.warm([])
    assert ready.stdin is not None
    ready.stdin.close()
    assert ready.wait(60) == 0
    gone = attached.warm([])
    gone.kill()
    gone.wait()
    assert not attached.begin(gone, "this", [], tmp_path / "log.txt")
