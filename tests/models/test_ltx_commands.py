"""LTX-Video with a LoRA through the ordinary commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from PIL import Image
from safetensors.torch import load_file

from lamp_lightning import LAMPPipeline
from lamp_lightning.benchmark import suite
from lamp_lightning.benchmark.__main__ import main as benchmark
from lamp_lightning.convert import main as convert
from lamp_lightning.data import decode_clip
from lamp_lightning.edit.__main__ import main as edit
from lamp_lightning.evaluate.__main__ import main as evaluate
from lamp_lightning.models import read_metadata
from lamp_lightning.report import Comparison
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train


@pytest.fixture
def words(random_model, random_clip, clips, tmp_path, monkeypatch):
    """The words of a training run of seconds; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def words(**changes: Any) -> list[str]:
        settings: dict[str, Any] = {
            "method": "image_to_video",
            "model": "ltx",
            "model.path": random_model("ltx"),
            "model.clip": random_clip,
            "model.dtype": "float32",
            "motion": "waterfall",
            "data.root": clips,
            "data.cache_dir": clips / "cache",
            "data.size": "[32,32]",
            "data.num_frames": 5,
            "tuner.rank": 2,
            "sampler.num_inference_steps": 2,
            "trainer.max_steps": 2,
            "trainer.precision": "32-true",
            "samples.every": "null",
            "samples.final": 0,
            "logger": "none",
            "threads": 1,
            "hydra.run.dir": "run",
        }
        return [f"{key}={value}" for key, value in (settings | changes).items()]

    return words


def tensors(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"{run}/adapter.safetensors")


def test_a_motion_is_tuned_resumed_sampled_and_measured(words, tmp_path):
    assert train(words()) == 0
    shutil.copytree("run", "stopped")
    first = tensors("run")
    assert all(tensor.any() for tensor in first.values())
    assert all(".lora." in name for name in first)
    assert read_metadata("run/adapter.safetensors")["rank"] == "2"
    # Resumed equals uninterrupted.
    assert train(["resume=stopped", "trainer.max_steps=3"]) == 0
    assert train(words(**{"trainer.max_steps": 3, "hydra.run.dir": "through"})) == 0
    stopped, through = tensors("stopped"), tensors("through")
    assert all(torch.equal(tensor, through[name]) for name, tensor in stopped.items())
    assert any(not torch.equal(tensor, first[name]) for name, tensor in stopped.items())
    # From a text, from a picture, longer than it was tuned.
    few = ["run=run/adapter.safetensors", "prompt=a red lake", "threads=1", "precision=32-true"]
    assert sample([*few, "out=one.mp4"]) == 0
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save("grey.png")
    assert sample([*few, "first_frame=grey.png", "num_frames=9", "out=long.mp4"]) == 0
    shutil.copy("run/adapter.safetensors", "other.safetensors")
    assert sample(["run=run:0.5,other.safetensors:0.5", "sampler=fast", "out=mixed.mp4", *few[1:]]) == 0
    videos = [decode_clip(tmp_path / name) for name in ("one.mp4", "long.mp4", "mixed.mp4")]
    assert [len(video.frames) for video in videos] == [5, 9, 5]
    assert videos[0].fps == 8  # that of the clips
    assert evaluate(["folder=one.mp4", "clip=null"]) == 0


def test_a_run_shows_videos_and_keeps_held_out_clips(words):
    changes = {"samples.every": 1, "samples.while_training": 1, "samples.final": 1, "data.validation": 0.25}
    assert train(words(**changes)) == 0
    numbers = json.loads(Path("run/metrics.json").read_text())
    assert np.isfinite(numbers["val/loss"])
    assert len(list(Path("run/videos").glob("*.mp4"))) == 1
    assert len(list(Path("run/samples/step_000001").glob("*.mp4"))) == 1


def test_tuning_goes_on_from_a_motion(words, capsys):
    assert train(words()) == 0
    begun = {"model.motion_adapter": "run", "hydra.run.dir": "on", "tuner.learning_rate": 1e-12}
    assert train(words(**begun)) == 0
    before, after = tensors("run"), tensors("on")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert train(words(**begun | {"tuner.rank": 3, "hydra.run.dir": "other"})) == 1
    assert "Give tuner.rank=2" in capsys.readouterr().err


def test_it_is_an_entry_of_a_benchmark(words, monkeypatch):
    @contextmanager
    def attached(module: str, asked: list[str]) -> Iterator[SimpleNamespace]:  # in this process
        outer = Singleton.get_state()
        GlobalHydra.instance().clear()
        status = train(asked)
        Singleton.set_state(outer)
        yield SimpleNamespace(poll=lambda: status)

    monkeypatch.setattr(suite, "attached", attached)
    own = ("method=", "model=", "motion=", "trainer.max_steps=", "samples.", "threads=", "hydra.")
    common = [f"'{word}'" for word in words() if not word.startswith(own)]
    entries = ["suite=video_models", "entries=[image_to_video,image_to_video_untuned]"]
    asked = [*entries, "motions=[rain]", "steps=1", "scenes=2", "threads=1", "out=b"]
    assert benchmark([*asked, f"words=[{','.join(common)}]"]) == 0
    found = Comparison.load(Path("b/comparison.json"))
    assert found.left_out == ()
    made = {result.entry: result.videos[0].video.read() for result in found.results}
    assert made.keys() == {"image_to_video", "image_to_video_untuned", "frozen"}
    assert all(video.shape == (5, 32, 32, 3) for video in made.values())
    assert not np.array_equal(made["image_to_video"], made["image_to_video_untuned"])


def test_a_tuned_motion_is_loaded_by_diffusers(words, random_model, capsys):
    assert train(words()) == 0
    assert convert(["from=run", "out=theirs"]) == 0
    theirs: Any = diffusers.LTXImageToVideoPipeline.from_pretrained(random_model("ltx"))
    theirs.load_lora_weights("theirs")
    ours = LAMPPipeline.from_motion("run/adapter.safetensors").unet
    found = {name: p for name, p in theirs.transformer.named_parameters() if ".lora_A." in name}
    assert len(found) == 2 * 2 * 4
    for name, parameter in found.items():
        own = ours.get_parameter(name.replace("lora_A.default_0", "lora.down"))
        assert torch.equal(own, parameter)
    assert convert(["from=run", "out=theirs"]) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert convert(["from=run", "out=theirs", "overwrite=true"]) == 0
    assert convert(["from=run", "out=half.safetensors"]) == 0
    assert convert(["from=run", "out=less.safetensors", "rank=1"]) == 1
    assert "is of rank 2 already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.num_frames": 6}, "data.num_frames=6 cannot be used"),
        ({"data.num_frames": 6}, "Give 5 or 9."),
        ({"data.num_frames": 3}, "Give 5."),
        ({"data.size": "[32,40]"}, "size must be multiples of 16"),
        ({"method": "lamp"}, "give method=image_to_video"),
        ({"method": "animatediff"}, "give method=image_to_video"),
        ({"model": "tiny", "model.path": "tiny", "data.size": "[64,64]"}, "give model=ltx"),
        ({"model.layers.known": "any"}, "model.layers.known is about LAMP's layers"),
        ({"model.norm": "joint"}, "give model.norm=per_frame"),
        ({"tuner.tuned": "[attn_temp]"}, "give some of lora"),
        ({"tuner.appearance_rank": 2}, "give tuner.appearance_rank=null"),
        ({"samples.final": 1, "sampler.start": "still"}, "take start=noise"),
        ({"samples.final": 1, "sampler.window": 4}, "give window=5 or more"),
        ({"samples.final": 1, "sampler.num_inference_steps": 1}, "num_inference_steps of at least 2"),
        ({"sampler.scheduler": "HeunDiscreteScheduler"}, "take FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_what_cannot_be_used_ends_in_one_message(words, changes, message, capsys):
    assert train(words(**changes)) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("Error:") == 1


def test_a_video_is_not_edited(words, clips, capsys):
    asked = {"video": clips / "waterfall" / "clip_0.mp4", "source_prompt": "a bird", "prompt": "a red bird"}
    left_out = ("method=", "motion=", "data.root=", "samples.")
    said = [word for word in words(**asked) if not word.startswith(left_out)]
    assert edit(said) == 1
    assert "An edit needs a latent for each frame" in capsys.readouterr().err
