"""Commands that are killed at random points lose nothing and leave nothing behind (`benchmarks/kills.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each trial is a fork")
def test_resumed_commands_end_as_those_that_were_never_killed(tmp_path):
    words = [sys.executable, str(PROGRAM), "--count", "25", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "seed1" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 25
    assert sum(line["status"] != 0 for line in lines) > 15  # the others were done before the signal came
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.stdout.startswith("25 trials, ")  # and none is repeated
