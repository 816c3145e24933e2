"""SDXL: two text encoders, pooled prompts and size conditions, in painting and in training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

from data_fakes import write_set
from lamp_lightning import LAMPPipeline, MotionSetDataModule, MotionTuner, UserError
from lamp_lightning.diffusion.conditions import size_conditions
from lamp_lightning.models import load_base_model
from random_models import save_random_model

FAST = {"num_frames": 3, "num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("sdxl"), "sdxl")


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = LAMPPipeline.from_base(load_base_model(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("negative", [None, "", "a blue lake"])
def test_the_painted_first_frame_is_diffusers_own(pipeline, folder, negative):
    """Prompts, pooled prompts, a missing negative prompt as zeros, size conditions: as SDXL wants them."""
    diffusers = StableDiffusionXLPipeline.from_pretrained(folder)
    diffusers.set_progress_bar_config(disable=True)
    diffusers.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    noise = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = diffusers(
        "a red bird",
        negative_prompt=negative,
        latents=noise[:, :, 0],
        num_inference_steps=3,
        guidance_scale=4.0,
        height=32,
        width=32,
        output_type="latent",
    ).images
    video = pipeline("a red bird", seed=3, negative_prompt=negative, **FAST).frames
    # Where diffusers encodes the two texts one by one, that rounds otherwise than both at once.
    torch.testing.assert_close(video[:, :, 0], wanted, atol=2e-5, rtol=0)


def test_the_size_conditions_reach_the_unet(pipeline):
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = []
    forward = pipeline.unet.forward

    def watching(*args, **kwargs):
        seen.append(kwargs["added_cond_kwargs"])
        return forward(*args, **kwargs)

    pipeline.unet.forward = watching
    try:
        pipeline(["a bird", "a lake"], photo, height=16, width=24, seed=0, **FAST)
    finally:
        del pipeline.unet.forward
    assert seen[0]["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 4  # two clips, with and without prompt
    assert seen[0]["text_embeds"].shape == (4, 24)
    assert not seen[0]["text_embeds"][:2].any()


def test_size_conditions_tell_where_a_centre_crop_lies():
    assert size_conditions(None, (64, 96)).tolist() == [64, 96, 0, 0, 64, 96]
    # 200x400 scaled by 0.5 to 100x200, of which the middle 100x100 is seen
    assert size_conditions((200, 400), (100, 100)).tolist() == [200, 400, 0, 50, 100, 100]
    assert size_conditions((400, 100), (100, 100)).tolist() == [400, 100, 150, 0, 100, 100]


def test_training_batches_carry_pooled_prompts_and_the_clips_sizes(folder, tmp_path):
    base = load_base_model(folder)
    clips = write_set(tmp_path / "clips", height=48, width=64)
    data = MotionSetDataModule(clips, "rain", num_frames=4, size=32, batch_size=2, cache_dir=tmp_path)
    data.prepare(base)
    batch = next(iter(data.train_dataloader()))
    added = batch["added_cond_kwargs"]
    # 48x64 scaled by 2/3 to 32x42.7, of which the middle 32x32 is seen
    assert added["time_ids"].tolist() == [[48, 64, 0, 5, 32, 32]] * 2
    torch.testing.assert_close(added["text_embeds"][0], base.encode_prompts(["rain"]).pooled[0])
    assert torch.equal(data.prepare(base).added["text_embeds"][0], added["text_embeds"][0])  # from the cache
    unet = LAMPPipeline.from_base(base).unet
    tuner = MotionTuner(unet, base.scheduler)
    tuner.log = lambda *args, **kwargs: None
    loss = tuner.training_step(batch, 0)
    batch["added_cond_kwargs"]["text_embeds"] = batch["added_cond_kwargs"]["text_embeds"] + 1
    assert tuner.training_step(batch, 0) != loss


def test_a_saved_pipeline_paints_the_same(pipeline, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pipeline.save_pretrained(tmp_path)
    loaded = LAMPPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    wanted = pipeline("a bird", photo, seed=1, **FAST).frames
    assert torch.equal(loaded("a bird", photo, seed=1, **FAST).frames, wanted)


def test_the_autoencoder_is_spared_float16(folder, pipeline):
    """SDXL's overflows in float16: it stays in float32, and out of float16 autocast."""
    base = load_base_model(folder, torch_dtype=torch.float16)
    assert (base.vae.dtype, base.unet.dtype, base.text_encoder_2.dtype) == (
        torch.float32,
        torch.float16,
        torch.float16,
    )
    latents = torch.randn(1, 4, 8, 8)
    wanted = pipeline.base.decode_latents(latents)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(pipeline.base.decode_latents(latents), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(pipeline.base.decode_latents(latents), wanted)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("sdxl", {"text_encoder_2": [None, None], "tokenizer_2": [None, None]}, "do not go together"),
        ("sdxl", {"text_encoder": [None, None]}, "names no text_encoder"),
        ("sdxl", {"tokenizer_2": [None, None]}, "names no tokenizer_2"),
        ("sd1", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderKL"),
        ("sd1", {"unet": ["diffusers", "UNet3DConditionModel"]}, "UNet2DConditionModel"),
    ],
)
def test_models_of_another_kind_are_named(tmp_path, kind, change, message):
    folder = save_random_model(tmp_path / "model", kind)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(UserError, match=message):
        load_base_model(folder)
