"""What version 0.1 wrote, before the package was rearranged, is read, resumed and painted from.

`former/` holds those files as they were written; the paths in them begin with `/former`. Other processors may
round other ways, so numbers are compared to 1e-5 of their size; where this was first run they are the same to
the bit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lamp_lightning import LAMPPipeline
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train

FORMER = Path(__file__).parents[1] / "former"
PROMPT = {"prompt": "a red waterfall", "seed": 3, "output_type": "latent"}


@pytest.fixture
def former(tmp_path, monkeypatch):
    """The files at a place of their own, which their texts then name."""
    folder = Path(shutil.copytree(FORMER, tmp_path / "former"))
    for file in (*folder.rglob("*.yaml"), *folder.rglob("*.json")):
        file.write_text(file.read_text().replace("/former/", f"{folder}/"))
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / "pipeline" / part).exists():
            shutil.copytree(folder / "base" / part, folder / "pipeline" / part)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LAMP_LIGHTNING_HARDWARE", "cpu")
    return folder


def expected(name: str) -> torch.Tensor:
    return load_file(FORMER / "expected_latents.safetensors")[name]


def test_a_run_goes_on_and_ends_as_it_did(former):
    assert train(["resume=run/waterfall", "trainer.max_steps=6"]) == 0
    unet, then = (
        LAMPPipeline.from_motion("run/waterfall/adapter.safetensors").unet,
        load_file("resumed.safetensors"),
    )
    assert unet.trainable_names() == sorted(then)
    for name, tensor in then.items():  # former files have whole queries, and new ones differences
        torch.testing.assert_close(unet.get_parameter(name).detach(), tensor, rtol=1e-5, atol=1e-5)


def test_a_record_makes_its_video_again(former):
    assert sample(["again=painted/a_red_waterfall_seed3.json", "out=again", "format=png"]) == 0
    for frame in sorted(Path("painted").rglob("0*.png")):
        now = next(Path("again").rglob(frame.name))
        difference = np.asarray(Image.open(now), int) - np.asarray(Image.open(frame), int)
        assert np.abs(difference).max() <= 1


def test_a_saved_pipeline_paints_the_same(former):
    latents = LAMPPipeline.from_pretrained("pipeline")(**PROMPT, num_inference_steps=2).frames
    torch.testing.assert_close(latents, expected("pipeline"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["waterfall", "animatediff", "edit"])
def test_an_adapter_paints_the_same(former, name):
    pipeline = LAMPPipeline.from_motion(f"run/{name}/adapter.safetensors", "base")
    steps = {} if name == "edit" else {"num_inference_steps": 2}
    latents = pipeline(**PROMPT, **steps).frames
    torch.testing.assert_close(latents, expected(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["waterfall", "animatediff", "edit"])
def test_a_run_folder_is_painted_from(former, name):
    assert sample([f"run=run/{name}", "prompt=a lake", "out=new.mp4", "num_frames=3", "size=[32,32]"]) == 0
    assert Path("new.mp4").is_file()
