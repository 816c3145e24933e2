"""A setting that is declared in the sampler's schema reaches everything without another line of Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lamp_lightning
from lamp_lightning.models.adapter import read_metadata
from lamp_lightning.runtime.config import conf_dir

LINE = '    sparkle: Share = setting(0.25, "How much everything sparkles")\n'


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package in which `SamplerSettings` has one more line."""
    ours, copy = Path(lamp_lightning.__file__).parent, tmp_path / "src" / "lamp_lightning"
    shutil.copytree(ours, copy, ignore=shutil.ignore_patterns("weights", "__pycache__", "conf"))
    (copy / "toyworld" / "weights").symlink_to(ours / "toyworld" / "weights")
    (tmp_path / "conf").symlink_to(conf_dir())
    file = copy / "runtime" / "settings.py"
    text = file.read_text(encoding="utf-8")
    begin = text.index("    scheduler: ", text.index("class SamplerSettings"))
    file.write_text(text[:begin] + LINE + text[begin:], encoding="utf-8")
    return copy


def test_it_appears_in_help_validation_config_header_and_record(package, small, tmp_path):
    def run(command: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"lamp_lightning.{command}", *overrides],
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    shown = run("train", "--help").stdout
    assert "sampler.sparkle=0.25\n      How much everything sparkles. A number from 0 to 1." in shown
    assert "sampler.sparkle=null" in run("sample", "--help").stdout
    refused = run("train", "motion=rain", "sampler.sparkle=2")
    assert "sampler.sparkle must be a number from 0 to 1, but is 2" in refused.stderr
    done = run("train", "motion=rain", "logger=none", "hydra.run.dir=run", "sampler.sparkle=0.5", *small)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sampler"]["sparkle"] == 0.5
    header = read_metadata_of(package, tmp_path / "run" / "adapter.safetensors")
    assert json.loads(header["sampler"])["sparkle"] == 0.5
    done = run("sample", "run=run/adapter.safetensors", "prompt=rain", "out=here", "sampler.sparkle=0.75")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "here").glob("*.json")
    assert json.loads(record.read_text())["sampler"]["sparkle"] == 0.75
    again = run("sample", f"again={record}")
    assert "The same video, bit for bit." in again.stdout, again.stderr


def read_metadata_of(package: Path, adapter: Path) -> dict[str, str]:
    """The header, read as text: this version of the package would refuse what it does not know."""
    from safetensors import safe_open

    with pytest.raises(lamp_lightning.UserError, match=r"sampler\.sparkle"):
        read_metadata(adapter)
    with safe_open(adapter, "pt") as opened:
        return opened.metadata()
