"""LAMPPipeline: prompt and first frame to video."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image

from lamp_lightning import LAMPPipeline, MotionUNet, UserError
from lamp_lightning.diffusion import histogram_match
from lamp_lightning.models import load_base_model
from random_models import save_random_model

FAST = {"num_frames": 3, "num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("pipeline"))


def make(folder, tuned=True):
    pipeline = LAMPPipeline.from_base(load_base_model(folder))
    pipeline.set_progress_bar_config(disable=True)
    if tuned:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in pipeline.unet.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return pipeline


@pytest.fixture(scope="module")
def pipeline(folder):
    return make(folder)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_frame_0_is_the_given_image_to_the_bit(pipeline, photo):
    video = pipeline("a bird", photo, output_type="latent", seed=0, **FAST).frames
    assert video.shape == (1, 4, 3, 8, 8)
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255 * 2 - 1
    assert torch.equal(video[:, :, 0], pipeline.base.latents_from_pixels(pixels))
    assert not torch.equal(video[:, :, 1], video[:, :, 0])


def test_the_painted_first_frame_is_diffusers_own_whatever_was_tuned(pipeline, folder):
    video = pipeline("a bird", output_type="latent", seed=3, **FAST).frames
    scheduler = pipeline.base.scheduler
    diffusers = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, scheduler=scheduler)
    diffusers.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = diffusers(
        "a bird", latents=noise[:, :, 0], num_inference_steps=2, guidance_scale=2.0, output_type="latent"
    ).images
    # diffusers encodes the two texts one by one, which rounds otherwise than both at once.
    torch.testing.assert_close(video[:, :, 0], wanted, atol=1e-5, rtol=0)
    painted = pipeline.paint("a bird", num_inference_steps=2, guidance_scale=2.0, seed=3)
    assert painted[0].size == (32, 32)
    again = pipeline("a bird", seed=3, output_type="pil", histogram_matching=False, **FAST).frames
    assert np.array_equal(np.asarray(painted[0]), np.asarray(again[0][0]))


def test_output_types_agree(pipeline, photo):
    outputs = {
        kind: pipeline("a bird", photo, seed=0, output_type=kind, **FAST).frames
        for kind in ("np", "pt", "pil")
    }
    assert outputs["np"].shape == (1, 3, 32, 32, 3)
    assert outputs["np"].dtype == np.float32
    assert 0 <= outputs["np"].min() <= outputs["np"].max() <= 1
    assert np.array_equal(outputs["pt"].permute(0, 1, 3, 4, 2).numpy(), outputs["np"])
    assert isinstance(outputs["pil"][0][0], Image.Image)
    last = np.asarray(outputs["pil"][0][2], dtype=np.float32) / 255
    assert np.abs(last - outputs["np"][0, 2]).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(pipeline("a bird", photo, seed=0, return_dict=False, **FAST)[0], outputs["np"])


def test_histogram_matching_can_be_switched_off(pipeline, photo):
    plain, matched = (
        pipeline("a bird", photo, seed=0, histogram_matching=on, **FAST).frames[0] for on in (False, True)
    )
    assert np.array_equal(plain[0], matched[0])
    assert np.array_equal(histogram_match(plain[2], plain[0]), matched[2])
    assert not np.array_equal(plain[2], matched[2])


def test_a_batch_is_its_videos_one_by_one(pipeline, photo):
    prompts = ["a bird", "a horse"]
    both = pipeline(prompts, photo, seed=4, output_type="latent", **FAST).frames
    for i, prompt in enumerate(prompts):
        alone = pipeline(prompt, photo, seed=4 + i, output_type="latent", **FAST).frames
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=0)
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    again = pipeline(prompts, [photo, photo], generator=generators, output_type="latent", **FAST).frames
    torch.testing.assert_close(again, both, atol=1e-4, rtol=0)
    assert not torch.equal(both[0, :, 1], both[1, :, 1])


def test_settings_reach_the_sampler(pipeline, photo):
    def latents(**changes):
        return pipeline("a bird", photo, seed=0, output_type="latent", **(FAST | changes)).frames

    plain = latents()
    assert torch.equal(latents(), plain)
    for change in (
        {"shared_noise": 0.0},
        {"adain": False},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a horse"},
        {"num_inference_steps": 3},
    ):
        assert not torch.equal(latents(**change), plain), change
    seen = []
    latents(progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert seen == [("denoising", 1, 2), ("denoising", 2, 2)]


def test_size_frames_and_scheduler_are_free(pipeline, photo):
    wide = pipeline("a bird", photo, height=16, width=40, seed=0, **FAST).frames
    assert wide.shape == (1, 3, 16, 40, 3)
    still = pipeline("a bird", photo, seed=0, **(FAST | {"num_frames": 1})).frames
    assert still.shape == (1, 1, 32, 32, 3)
    before = pipeline.scheduler
    try:
        pipeline.scheduler = EulerDiscreteScheduler.from_config(before.config)
        assert np.isfinite(pipeline("a bird", photo, seed=0, **FAST).frames).all()
    finally:
        pipeline.scheduler = before


def test_a_motion_adapter_makes_the_difference(pipeline, folder, photo, tmp_path):
    pipeline.unet.save_motion(tmp_path / "a.safetensors", motion="fly")
    other = make(folder, tuned=False)
    settings = FAST | {"seed": 0, "output_type": "latent"}
    before = other("a bird", photo, **settings).frames
    assert other.load_motion(tmp_path / "a.safetensors")["motion"] == "fly"
    after = other("a bird", photo, **settings).frames
    assert not torch.equal(before, after)
    assert torch.equal(after, pipeline("a bird", photo, **settings).frames)


def test_save_and_load_as_a_diffusers_pipeline(pipeline, photo, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = LAMPPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.unet, MotionUNet)
    settings = FAST | {"seed": 0, "output_type": "latent"}
    wanted = pipeline("a bird", photo, **settings).frames
    assert torch.equal(loaded("a bird", photo, **settings).frames, wanted)
    # The image model below the tuned weights is saved, too: it still paints.
    assert torch.equal(loaded("a bird", **settings).frames, pipeline("a bird", **settings).frames)


def test_a_base_model_becomes_a_pipeline_in_one_line(pipeline, folder, photo):
    loaded = LAMPPipeline.from_pretrained(folder, norm="per_frame", torch_dtype=torch.bfloat16)
    assert (loaded.unet.norm, loaded.unet.dtype, loaded.vae.dtype) == ("per_frame",) + (torch.bfloat16,) * 2
    loaded = LAMPPipeline.from_pretrained(str(folder))
    loaded.set_progress_bar_config(disable=True)
    wanted = make(folder, tuned=False)("a bird", photo, seed=0, **FAST).frames
    assert np.array_equal(loaded("a bird", photo, seed=0, **FAST).frames, wanted)
    with pytest.raises(UserError, match="nowhere"):
        LAMPPipeline.from_pretrained("./nowhere")


def test_a_motion_brings_its_settings_along(pipeline, folder, photo, tmp_path):
    settings = {"num_frames": 4, "num_inference_steps": 3, "guidance_scale": 1.0, "size": [16, 24]}
    settings |= {"scheduler": "EulerDiscreteScheduler", "histogram_matching": False}
    pipeline.unet.save_motion(tmp_path / "motion.safetensors", sampler=settings, prompt="a bird")
    loaded = LAMPPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    loaded.load_motion(tmp_path / "motion.safetensors")
    assert isinstance(loaded.scheduler, EulerDiscreteScheduler)
    seen = []
    video = loaded("a bird", photo, seed=0, progress=lambda *now: seen.append(now)).frames
    assert video.shape == (1, 4, 16, 24, 3)
    assert [now for now in seen if now[0] == "denoising"] == [("denoising", k, 3) for k in (1, 2, 3)]
    assert seen[-1] == ("decoding", 4, 4)
    assert np.array_equal(loaded(image=photo, seed=0).frames, video)  # the prompt is the motion's own
    assert loaded("a bird", photo, seed=0, num_frames=2, height=32).frames.shape == (1, 2, 32, 24, 3)
    loaded.save_pretrained(tmp_path / "saved")
    again = LAMPPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(again("a bird", photo, seed=0).frames, video)


def test_the_step_hook_of_diffusers_sees_and_changes_the_latents(pipeline, photo):
    settings = FAST | {"seed": 0, "output_type": "latent", "adain": False}
    plain, seen = pipeline("a bird", photo, **settings).frames, []

    def end(pipe, step, timestep, tensors):
        seen.append((pipe is pipeline, step, int(timestep)))
        return {"latents": tensors["latents"] * 0 + 7} if step == 1 else {}

    changed = pipeline("a bird", photo, callback_on_step_end=end, **settings).frames
    assert [step for _, step, _ in seen] == [0, 1]
    assert all(same for same, _, _ in seen)
    assert seen[0][2] > seen[1][2]
    assert torch.equal(changed[:, :, 0], plain[:, :, 0])  # the first frame stays as given
    assert (changed[:, :, 1:] == 7).all()


def test_given_noise_is_where_denoising_begins(pipeline, photo):
    settings = FAST | {"output_type": "latent"}
    noise = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(9))
    video = pipeline("a bird", photo, noise=noise, **settings).frames
    assert video.shape == noise.shape
    drawn = pipeline("a bird", photo, seed=9, shared_noise=0.0, **(settings | {"num_frames": 5})).frames
    assert torch.equal(video, drawn)


def test_first_frames_come_as_a_batch_too(pipeline, photo):
    photos = np.stack([photo, photo[::-1]])
    one, two = (
        pipeline(["a bird", "a lake"], given, seed=0, **FAST).frames for given in (photos, list(photos))
    )
    assert np.array_equal(one, two)
    tensor = torch.from_numpy(photos).permute(0, 3, 1, 2)
    assert np.array_equal(pipeline(["a bird", "a lake"], tensor, seed=0, **FAST).frames, one)


def test_parts_can_be_offloaded(folder, photo):
    pipeline = make(folder)
    wanted = pipeline("a bird", photo, seed=0, **FAST).frames
    pipeline.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(pipeline("a bird", photo, seed=0, **FAST).frames, wanted)
    with pytest.raises(UserError, match="enable_model_cpu_offload"):
        pipeline.enable_sequential_cpu_offload()


def test_slices_and_tiles_spare_the_autoencoder(folder, photo):
    pipeline, seen = make(folder), []
    pipeline.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))

    def decoded(height):
        seen.clear()
        return pipeline("a bird", photo, seed=0, height=height, **FAST).frames, list(seen)

    whole, at_once = decoded(32)
    assert at_once == [(3, 4, 8, 8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.enable_vae_slicing()
        sliced, one_by_one = decoded(32)
        assert one_by_one == [(1, 4, 8, 8)] * 3
        assert np.median(np.abs(sliced - whole)) < 1e-5
        pipeline.disable_vae_slicing()
        assert decoded(32)[1] == at_once
        pipeline.enable_vae_tiling()
        tiled, tiles = decoded(64)
        assert len(tiles) > 1
        assert all(tile[0] == 3 and max(tile[2:]) <= 8 for tile in tiles)
        assert tiled.shape == (1, 3, 64, 32, 3)
        pipeline.disable_vae_tiling()
        assert decoded(64)[1] == [(3, 4, 16, 8)]


def test_the_readmes_lines_paint_a_video(tmp_path):
    """The lines of the section "In Python", with the adapter of an untuned tiny model."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = readme.split("## In Python")[1].split("```python")[1].split("```")[0]
    adapter = tmp_path / "adapter.safetensors"
    tiny = LAMPPipeline.from_pretrained("tiny", norm="per_frame")
    tiny.unet.save_motion(adapter, sampler={"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 3})
    code = code.replace("runs/waterfall/<time>/adapter.safetensors", str(adapter))
    found: dict = {}
    exec(code, found)
    assert found["video"].shape == (3, 64, 64, 3)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 30}, "multiples of 4"),
        ({"num_frames": 0}, "num_frames must be a whole number from 1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a number from 0"),
        ({"callback_on_step_end_tensor_inputs": ["timesteps"]}, "timesteps"),
        ({"output_type": "gif"}, "output_type"),
        ({"first_frame": [1, 2, 3]}, "3 first frames"),
        ({"first_frame": "missing.png"}, "missing.png does not exist"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts"),
        ({"prompt": []}, "empty list"),
        ({"prompt": np.zeros((8, 8, 3))}, r"pipe\(prompt, image=picture\)"),
        ({"seed": 0, "generator": torch.Generator()}, "not both"),
        ({"generator": [torch.Generator()] * 2}, "2 generators"),
    ],
)
def test_arguments_that_cannot_work_are_explained(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**({"prompt": "a bird"} | FAST | arguments))
