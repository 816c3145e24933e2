"""Damaged and hostile files: no code runs, nothing hangs or is lost, and what cannot be used is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile.generator import KINDS

HERE = Path(__file__).parents[1]
SAMPLE = 5
ALL = 1000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and process groups as on Linux")


def faults(tmp_path: Path, *words: str) -> list[dict]:
    """The lines of the inputs with faults, from a process that has computed nothing before it forks."""
    report = tmp_path / "report.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hostile.harness", *words, "--report", str(report)]
    ended = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert report.exists(), ended.stderr
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(lines) == int(words[words.index("--count") + 1])
    return [line for line in lines if line["faults"]]


def test_a_sample_of_hostile_files_ends_well_or_in_one_sentence(tmp_path):
    assert faults(tmp_path, "--count", str(SAMPLE)) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_hostile_files_end_well_or_in_one_sentence(tmp_path):
    assert faults(tmp_path, "--count", str(ALL)) == []


def test_every_kind_of_file_has_its_share():
    assert min(KINDS.values()) * ALL / sum(KINDS.values()) > 10
