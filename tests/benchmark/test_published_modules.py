"""method=animatediff begins with published motion modules, and what it writes opens in diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from safetensors.torch import load_file, save_file

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.models.adapter import header_of
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import Variant, inflated
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train
from method_models import image_unet, output, text, video

WEIGHTS = "diffusion_pytorch_model.safetensors"
KIND = Variant(kind="animatediff", first_frame=False)


@pytest.fixture
def published(tmp_path):
    """A folder as published motion modules have it, of version 2: with a module in the middle, 24 frames."""
    config = image_unet().config
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=config.block_out_channels,
        motion_layers_per_block=config.layers_per_block,
        motion_norm_num_groups=config.norm_num_groups,
        motion_num_attention_heads=4,
        motion_max_seq_length=24,
        use_motion_mid_block=True,
    )
    adapter.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def test_published_modules_move_as_in_diffusers_and_come_back_from_an_adapter(
    published, random_base, tmp_path
):
    unet = inflated(image_unet(), "per_frame", KIND, published)
    theirs = UNetMotionModel.from_unet2d(image_unet(), MotionAdapter.from_pretrained(published))
    with torch.no_grad():
        wanted = theirs(video(), 9, text().repeat_interleave(5, dim=0)).sample
    assert torch.equal(output(unet), wanted)
    assert all("motion_modules" in name for name in unet.trainable_names())
    base = load_base_model(random_base)
    tuned = inflated(base.unet, "per_frame", KIND, published)
    with torch.no_grad():
        for parameter in tuned.tuned_parameters():
            parameter.add_(0.1)
    file = tmp_path / "motion.safetensors"
    tuned.save_motion(file, base_model=str(random_base))
    structure = {"use_motion_mid_block": True, "motion_max_seq_length": 24, "motion_num_attention_heads": 4}
    assert header_of(file).motion_modules.model_dump() == structure
    assert torch.equal(output(LAMPPipeline.from_motion(file).unet), output(tuned))


def test_they_are_tuned_by_the_command_and_opened_by_diffusers(published, small):
    words = [word for word in small if not word.startswith(("samples.final", "trainer.max_steps"))]
    words += ["motion=rain", "method=animatediff", "logger=none", "samples.final=0", "sampler.window=24"]
    words += [f"model.motion_adapter={published}", "trainer.precision=32-true", "tuner.schedule=constant"]
    assert train([*words, "hydra.run.dir=run", "trainer.max_steps=1"]) == 0
    assert train(["resume=run", "trainer.max_steps=2"]) == 0
    theirs = dict(MotionAdapter.from_pretrained("run/motion_adapter").named_parameters())
    ours, before = load_file("run/adapter.safetensors"), load_file(published / WEIGHTS)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name].half(), ours[name]) for name in ours)  # half precision in the file
    moved = [(theirs[name] - before[name]).abs().max() for name in ours]
    assert 0 < max(moved) < 0.1  # a step from what was published
    made = ["prompt=a lake", "format=png", "precision=32-true", "threads=1", "out=out"]
    assert sample(["run=run/adapter.safetensors", *made]) == 0
    assert len(list(Path("out/a_lake_seed0_frames").iterdir())) == 4


def test_what_are_no_modules_of_the_model_is_named(published, tmp_path):
    def with_config(**changes):
        file = published / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def refused(message, source=published, variant=KIND):
        with pytest.raises(UserError, match=message):
            inflated(image_unet(), "per_frame", variant, source)

    refused("holds no motion modules", tmp_path / "nowhere")
    refused("take method=animatediff", variant=Variant())
    tensors = load_file(published / WEIGHTS)
    save_file(
        {name: tensor for name, tensor in tensors.items() if "mid_block" not in name}, published / WEIGHTS
    )
    refused("lacks tensors")
    save_file(tensors | {next(iter(tensors)): tensors[next(iter(tensors))] * torch.nan}, published / WEIGHTS)
    refused("NaN")
    (published / WEIGHTS).write_bytes(b"no tensors")
    refused("cannot be loaded")
    with_config(motion_max_seq_length=10**9)
    refused("motion_max_seq_length")
    with_config(block_out_channels=[320, 640])
    refused(r"block_out_channels is \[320, 640\], and this model needs")
    with_config(_class_name="UNet2DConditionModel")
    refused("not a diffusers MotionAdapter")
