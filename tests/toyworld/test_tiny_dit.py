"""The tiny transformer: how it is pretrained, what of it is written, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, SanaPipeline
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from lamp_lightning import LAMPPipeline, toyworld
from lamp_lightning.models import load_base_model
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.toyworld import tiny_clip_path, tiny_dit_path, tiny_model_path
from lamp_lightning.toyworld.pretraining import transformer as pretraining
from lamp_lightning.toyworld.pretraining.judge import judged_right
from lamp_lightning.toyworld.pretraining.stages import decode, held_out_pictures, write_transformer
from lamp_lightning.toyworld.pretraining.stills import Stills, draw_scenes

LARGEST = 20 * 2**20  # bytes that the package may grow by


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The autoencoder and the reader of texts that the transformer stands on."""
    return {
        "vae": AutoencoderKL.from_pretrained(tiny_model_path() / "vae", torch_dtype=torch.float32).eval(),
        "text_encoder": CLIPTextModel.from_pretrained(tiny_model_path() / "text_encoder").float().eval(),
        "tokenizer": CLIPTokenizer.from_pretrained(tiny_model_path() / "tokenizer"),
    }


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory) -> Path:
    """A transformer that has learnt nothing, as pretraining writes it."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("weights")
    write_transformer(pretraining.build_transformer().eval(), out=out, **parts)
    return out / "tiny_dit"


def trained(parts: dict[str, Any], folder: Path, steps: int) -> dict[str, torch.Tensor]:
    scenes, _ = draw_scenes(("tuning",), 6, 0)
    latents = torch.randn(6, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    words = {"tokenizer": parts["tokenizer"], "text_encoder": parts["text_encoder"]}
    data = Stills(latents.numpy(), scenes)  # no picture is looked at
    model = pretraining.train_transformer(
        data=data, latents=latents, folder=folder, steps=steps, batch=2, **words
    )
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_pretraining_goes_on_where_it_was_stopped(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("lamp_lightning.toyworld.pretraining.training.learning_rate", lambda *_: 1e-3)
    through = trained(parts, tmp_path / "through", 2)
    trained(parts, tmp_path / "stopped", 1)
    stopped = trained(parts, tmp_path / "stopped", 2)
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in through.items())


def test_levels_are_spread_from_the_clean_end_to_noise():
    generator = torch.Generator().manual_seed(0)
    levels = torch.cat([pretraining.spread_levels(32, generator) for _ in range(100)])
    assert 0 <= levels.min() < 0.02
    assert 0.98 < levels.max() <= 1
    assert abs(levels.mean() - 0.5) < 0.02


def test_what_is_written_is_small_and_a_pipeline_of_diffusers(folder):
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LARGEST
    theirs = SanaPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    how: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 3.0}
    own = {"complex_human_instruction": None, "max_sequence_length": 32, "use_resolution_binning": False}
    generator = torch.Generator().manual_seed(0)
    wanted = theirs("a red bird", generator=generator, output_type="latent", **how, **own).images
    ours = LAMPPipeline.from_pretrained(folder)
    ours.set_progress_bar_config(disable=True)
    ours.scheduler = theirs.scheduler
    paint = {"paint_guidance_scale": 3.0, "paint_steps": 2}
    found = ours("a red bird", num_frames=1, seed=0, output_type="latent", **how, **paint).frames
    assert torch.equal(found[:, :, 0], wanted)


def test_what_to_run_is_said_where_it_has_no_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(toyworld, "tiny_dit_path", lambda: tmp_path / "tiny_dit")
    with pytest.raises(UserError, match="pretrain --stages transformer"):
        load_base_model("tiny_dit")
    monkeypatch.setattr(toyworld, "tiny_dit_path", lambda: folder)
    assert load_base_model("tiny_dit").is_transformer


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (64, 12),  # a few steps do: eight pictures of each motion
        pytest.param(200, 30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),  # as it was measured
    ],
)
def test_what_is_shipped_generates_held_out_captions_as_asked(parts, count, steps):
    pipeline = SanaPipeline.from_pretrained(tiny_dit_path())
    clip = CLIPModel.from_pretrained(tiny_clip_path()).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip_path())
    scenes = held_out_pictures(count)
    latents = pretraining.paint_with_flow(
        pipeline.transformer.float(),
        pipeline.text_encoder.float(),
        pipeline.tokenizer,
        [scene.caption for scene in scenes],
        steps=steps,
        batch=32,
    )
    shares = judged_right(clip, tokenizer, decode(parts["vae"], latents), scenes)
    assert shares["motion"] >= 0.9
    assert shares["place"] >= 0.9
    assert shares["colour"] >= 0.8
