"""Transformers of flow matching through the ordinary commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning.data import decode_clip
from lamp_lightning.edit.__main__ import main as edit
from lamp_lightning.evaluate.__main__ import main as evaluate
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train

GROUPS = {"sana": "sana", "sd3": "sd35"}
SLOW = pytest.param("sd3", marks=pytest.mark.slow)


@pytest.fixture
def words(random_model, random_clip, clips, tmp_path, monkeypatch):
    """The words after a command for a kind of model; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def words(kind: str, **changes: Any) -> list[str]:
        settings: dict[str, Any] = {
            "model": GROUPS[kind],
            "model.path": random_model(kind),
            "model.clip": random_clip,
            "model.dtype": "float32",
            "data.cache_dir": clips / "cache",
            "data.size": "[32,32]",
            "data.num_frames": 4,
            "sampler.num_inference_steps": 2,
            "trainer.max_steps": 2,
            "logger": "none",
            "threads": 1,
            "hydra.run.dir": "run",
        }
        return [f"{key}={value}" for key, value in (settings | changes).items()]

    return words


def tuning(clips: Path, **changes: Any) -> dict[str, Any]:
    """What training takes beside the model."""
    return {"motion": "waterfall", "data.root": clips, "samples.every": "null", "samples.final": 0, **changes}


@pytest.mark.parametrize("kind", ["sana", SLOW])
def test_a_motion_is_tuned_resumed_sampled_mixed_and_measured(words, clips, tmp_path, kind, capsys):
    assert train(words(kind, **tuning(clips))) == 0
    shutil.copytree("run", "stopped")
    first = load_file("run/adapter.safetensors")
    assert all(tensor.any() for name, tensor in first.items() if "conv1d.weight" in name)
    # Resumed equals uninterrupted.
    assert train(["resume=stopped", "trainer.max_steps=3"]) == 0
    assert train(words(kind, **tuning(clips), **{"trainer.max_steps": 3, "hydra.run.dir": "through"})) == 0
    stopped, through = (load_file(f"{run}/adapter.safetensors") for run in ("stopped", "through"))
    assert all(torch.equal(tensor, through[name]) for name, tensor in stopped.items())
    assert any(not torch.equal(tensor, first[name]) for name, tensor in stopped.items())
    # One motion, two motions, a longer video in windows.
    few = ["prompt=a red lake", "threads=1"]
    assert sample(["run=run/adapter.safetensors", "out=one.mp4", *few]) == 0
    shutil.copy("run/adapter.safetensors", "other.safetensors")
    mixed = ["run=run:0.5,other.safetensors:0.5", "sampler=fast", "sampler.window=4", "sampler.overlap=1"]
    assert sample([*mixed, "num_frames=6", "out=mixed.mp4", *few]) == 0
    videos = [decode_clip(tmp_path / name).frames for name in ("one.mp4", "mixed.mp4")]
    assert [len(video) for video in videos] == [4, 6]
    assert evaluate(["folder=one.mp4", "clip=null"]) == 0


@pytest.mark.parametrize("kind", [pytest.param("sana", marks=pytest.mark.slow), SLOW])
def test_a_video_is_edited(words, clips, kind):
    clip = clips / "waterfall" / "clip_0.mp4"
    asked = {"video": clip, "source_prompt": "a bird", "prompt": "a red bird"}
    how = {"paint_from": "inversion", "paint_follow": 0.5, "follow": 0.5, "motion_strength": 0.5}
    assert edit(words(kind, **asked, **how)) == 0
    (folder,) = Path("run/videos").iterdir()
    assert (folder / "edit.mp4").is_file()
    assert np.isfinite(json.loads((folder / "metrics.json").read_text())["edit"]["flow_correlation"])
