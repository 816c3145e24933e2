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


# Commands one after the other in one process, which imports torch once; what each printed goes to a file.
COMMANDS = """
import contextlib, importlib, io, json, sys
ended = []
for command, *words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = importlib.import_module(f"lamp_lightning.{command}.__main__").main(words)
        except SystemExit as end:
            status = end.code
    ended.append([status or 0, out.getvalue(), err.getvalue()])
json.dump(ended, open("ended.json", "w"))
"""


def test_it_appears_in_help_validation_config_header_and_record(package, small, tmp_path):
    paint = ["sample", "run=run/adapter.safetensors", "prompt=rain", "out=here/rain.mp4"]
    commands = [
        ["train", "--help"],
        ["sample", "--help"],
        ["train", "motion=rain", "sampler.sparkle=2"],
        ["train", "motion=rain", "logger=none", "hydra.run.dir=run", "sampler.sparkle=0.5", *small],
        [*paint, "sampler.sparkle=0.75"],
        ["sample", "again=here/rain.json"],
    ]
    subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=tmp_path,
        check=True,
    )
    help_, help_of_sample, refused, tuned, painted, again = json.loads((tmp_path / "ended.json").read_text())
    assert "sampler.sparkle=0.25\n      How much everything sparkles. A number from 0 to 1." in help_[1]
    assert "sampler.sparkle=null" in help_of_sample[1]
    assert "sampler.sparkle must be a number from 0 to 1, but is 2" in refused[2]
    assert tuned[0] == 0, tuned[2]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sampler"]["sparkle"] == 0.5
    header = read_metadata_of(package, tmp_path / "run" / "adapter.safetensors")
    assert json.loads(header["sampler"])["sparkle"] == 0.5
    assert painted[0] == 0, painted[2]
    assert json.loads((tmp_path / "here" / "rain.json").read_text())["sampler"]["sparkle"] == 0.75
    assert "The same video, bit for bit." in again[1], again[2]


def read_metadata_of(package: Path, adapter: Path) -> dict[str, str]:
    """The header, read as text: this version of the package would refuse what it does not know."""
    from safetensors import safe_open

    with pytest.raises(lamp_lightning.UserError, match=r"sampler\.sparkle"):
        read_metadata(adapter)
    with safe_open(adapter, "pt") as opened:
        return opened.metadata()
