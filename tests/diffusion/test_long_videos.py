"""Videos of any length: known frames, windows that continue each other, and the settings for them."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.diffusion import (
    KnownFrames,
    count_windows,
    denoise,
    denoise_in_windows,
    with_guidance,
)
from lamp_lightning.diffusion.sampler import Sampler
from method_models import motion_unet, text, video
from random_models import save_random_model

SETTINGS = {"guidance_scale": 2.0, "num_inference_steps": 3, "shared_noise": 0.2}


def scheduler(name="DDIMScheduler"):
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    own = {"clip_sample": False} if name == "DDIMScheduler" else {}
    return getattr(diffusers, name)(**betas, **own)


def first_frame():
    return video(frames=1, seed=8)


def words():
    return torch.cat([text(seed=3), text(seed=4)])


@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"],
)
def test_known_frames_come_out_as_given_and_lead_the_others(name):
    unet, noise = motion_unet(), video(frames=5)
    known = {1: video(frames=1, seed=20)[:, :, 0], 2: video(frames=1, seed=21)[:, :, 0]}
    plain = denoise(unet, scheduler(name), noise, first_frame(), words(), **SETTINGS)
    pinned = denoise(unet, scheduler(name), noise, first_frame(), words(), known=known, **SETTINGS)
    for frame, latents in known.items():
        assert torch.equal(pinned[:, :, frame], latents)
    assert torch.equal(pinned[:, :, 0], first_frame()[:, :, 0])
    assert torch.isfinite(pinned).all()
    assert not torch.allclose(pinned[:, :, 3], plain[:, :, 3], atol=1e-3)


@pytest.mark.parametrize("frame", [0, 5, -1])
def test_a_known_frame_is_one_of_the_moving_ones(frame):
    with pytest.raises(ValueError, match="cannot be known"):
        denoise(
            motion_unet(), scheduler(), video(), first_frame(), words(), known={frame: video()}, **SETTINGS
        )


def in_windows(unet, noise, window, overlap, **others):
    return denoise_in_windows(
        with_guidance(unet, words(), scale=SETTINGS["guidance_scale"]),
        scheduler(),
        noise,
        KnownFrames.first(first_frame()),
        Sampler().changed({**SETTINGS, "window": window, "overlap": overlap}),
        **others,
    )


def test_a_video_within_the_window_is_sampled_at_once():
    unet, noise = motion_unet(), video(frames=6)
    wanted = denoise(unet, scheduler(), noise, first_frame(), words(), **SETTINGS)
    for window, overlap in ((6, 2), (9, 4), (6, 99)):
        assert torch.equal(in_windows(unet, noise, window, overlap), wanted)


@pytest.mark.parametrize(("frames", "window", "overlap"), [(7, 6, 2), (12, 6, 2), (13, 6, 4), (11, 5, 1)])
def test_windows_continue_each_other(frames, window, overlap):
    unet, noise, seen = motion_unet(), video(frames=frames), []
    long = in_windows(
        unet,
        noise,
        window,
        overlap,
        callback=lambda step, steps, latents: seen.append((step, steps, latents.shape[2])),
    )
    assert long.shape == noise.shape
    begin = denoise(unet, scheduler(), noise[:, :, :window], first_frame(), words(), **SETTINGS)
    assert torch.equal(long[:, :, :window], begin)
    # The second window: the first frame, the last known ones, and new ones, with their own noise.
    new = min(window - 1 - overlap, frames - window)
    places = [0, *range(window - overlap, window + new)]
    known = {1 + k: begin[:, :, window - overlap + k] for k in range(overlap)}
    part = denoise(unet, scheduler(), noise[:, :, places], first_frame(), words(), known=known, **SETTINGS)
    assert torch.equal(long[:, :, window : window + new], part[:, :, 1 + overlap :])
    windows = count_windows(frames, window, overlap)
    assert [step for step, _, _ in seen] == list(range(1, 3 * windows + 1))
    assert {steps for _, steps, _ in seen} == {3 * windows}
    assert max(count for _, _, count in seen) == window


def test_windows_without_room_are_refused():
    for window, overlap in ((4, 3), (4, 0)):
        with pytest.raises(ValueError, match="overlap must lie between"):
            count_windows(9, window, overlap)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pipeline = LAMPPipeline.from_pretrained(save_random_model(tmp_path_factory.mktemp("base")))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_pipeline_goes_on_in_windows(pipeline):
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    seen = []
    long = pipeline("a bird", photo, num_frames=20, window=8, overlap=3, **settings,
                    progress=lambda *now: seen.append(now)).frames  # fmt: skip
    assert long.shape == (1, 4, 20, 8, 8)
    assert seen[-1] == ("denoising", 8, 8)  # four windows of two steps: 8 frames, and 4 more in each
    at_once = pipeline("a bird", photo, num_frames=20, **settings).frames
    assert not torch.equal(long, at_once)
    assert pipeline("a bird", photo, num_frames=130, **settings).frames.shape[2] == 130
    with pytest.raises(UserError, match="window=8 has no room"):
        pipeline("a bird", photo, num_frames=20, window=8, overlap=7, **settings)


@pytest.mark.parametrize("clean", [False, True])
def test_windows_begin_with_clean_frames_for_a_model_that_was_tuned_with_any(clean):
    seen: list[tuple[int, ...]] = []

    def predict(sample: torch.Tensor, timestep: torch.Tensor, known: KnownFrames) -> torch.Tensor:
        seen.append(known.numbers)
        return torch.zeros_like(known.others(sample))

    sampler = Sampler().changed({"window": 4, "overlap": 2, "num_inference_steps": 1, "adain": False})
    first = KnownFrames.first(torch.ones(1, 4, 1, 8, 8))
    given = first | KnownFrames(clean={5: torch.full((1, 4, 8, 8), 7.0)})
    video = denoise_in_windows(predict, scheduler(), torch.zeros(1, 4, 6, 8, 8), given, sampler, clean=clean)
    assert (video[:, :, 5] == 7).all()
    assert seen == ([(0,), (0, 1, 2)] if clean else [(0,), (0,), (0, 3)]), (
        "a window of known frames alone is there"
    )
