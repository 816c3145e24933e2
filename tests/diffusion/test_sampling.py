"""Loss, denoising, inversion and the tricks: what may and what may not change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

from lamp_lightning import UserError
from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.diffusion import (
    adain,
    adain_towards_first,
    add_noise,
    denoise,
    first_frame_loss,
    histogram_match,
    invert,
    shared_noise,
    target,
)
from method_models import image_unet, motion_unet, text, video

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TYPES = ["epsilon", "v_prediction", "sample"]


def ddim(prediction_type="epsilon"):
    return DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )


def sample(unet, scheduler=None, noise=None, first=None, **changes):
    noise = video(clips=1) if noise is None else noise
    first = video(clips=1, frames=1, seed=5) if first is None else first
    settings = {"guidance_scale": 3.0, "num_inference_steps": 4} | changes
    return denoise(unet, scheduler or ddim(), noise, first, text(2), **settings)


class Spy:
    """A UNet that predicts nothing and remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, sample, timestep, text, **_):
        self.seen.append((sample.clone(), timestep, text))
        return torch.zeros_like(sample)


# The loss


def test_noise_on_frame_0_changes_nothing():
    unet, latents, noise, steps = motion_unet(), video(), video(seed=3), torch.tensor([7, 900])
    other = noise.clone()
    other[:, :, 0] = 100
    results = []
    for drawn in (noise, other):
        unet.zero_grad()
        loss = first_frame_loss(unet, ddim(), latents, drawn, steps, text())
        loss.backward()
        results.append((loss, [p.grad.clone() for p in unet.tuned_parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_prediction_for_frame_0_changes_nothing(prediction_type):
    latents, noise, steps = video(), video(seed=3), torch.tensor([7, 900])

    def loss(prediction):
        return first_frame_loss(lambda *_: prediction, ddim(prediction_type), latents, noise, steps, text())

    prediction = video(seed=4)
    before = loss(prediction)
    prediction[:, :, 0] = 100
    assert torch.equal(loss(prediction), before)
    prediction[:, :, 1] += 1
    assert not torch.equal(loss(prediction), before)


def test_frame_0_enters_clean_and_the_others_noisy():
    spy, latents, noise, steps = Spy(), video(), video(seed=3), torch.tensor([7, 900])
    first_frame_loss(spy, ddim(), latents, noise, steps, text())
    seen = spy.seen[0][0]
    assert torch.equal(seen[:, :, 0], latents[:, :, 0])
    wanted = ddim().add_noise(latents, noise, steps)
    torch.testing.assert_close(seen[:, :, 1:], wanted[:, :, 1:])
    with pytest.raises(ValueError, match="2 frames"):
        first_frame_loss(spy, ddim(), latents[:, :, :1], noise[:, :, :1], steps, text())


def test_target_is_diffusers_own():
    latents, noise, steps = video(), video(seed=3), torch.tensor([7, 900])
    assert torch.equal(target(ddim("epsilon"), latents, noise, steps), noise)
    assert torch.equal(target(ddim("sample"), latents, noise, steps), latents)
    velocity = ddim().get_velocity(latents, noise, steps)
    torch.testing.assert_close(target(ddim("v_prediction"), latents, noise, steps), velocity)


def test_the_forward_process_is_that_of_the_schedule_whatever_the_scheduler():
    latents, noise, steps = video(), video(seed=3), torch.tensor([7, 900])
    wanted = add_noise(ddim(), latents, noise, steps)
    for cls in (EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler):
        torch.testing.assert_close(add_noise(cls.from_config(ddim().config), latents, noise, steps), wanted)


# Denoising


@pytest.mark.parametrize(
    "cls", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler]
)
@pytest.mark.parametrize("prediction_type", TYPES[:2])
def test_frame_0_is_the_given_latent_to_the_bit(cls, prediction_type):
    first = video(clips=1, frames=1, seed=5)
    output = sample(motion_unet(), cls.from_config(ddim(prediction_type).config), first=first)
    assert torch.equal(output[:, :, :1], first)
    assert output.isfinite().all()


def test_the_unet_always_sees_the_clean_first_frame():
    for cls in (DDIMScheduler, EulerDiscreteScheduler):
        spy, first = Spy(), video(clips=1, frames=1, seed=5)
        sample(spy, cls.from_config(ddim().config), first=first)
        assert len(spy.seen) == 4
        assert all(torch.equal(seen[:, :, :1], first.repeat(2, 1, 1, 1, 1)) for seen, _, _ in spy.seen)


def test_guidance_one_halves_the_work_and_needs_no_unconditional_text():
    words = text(2)
    full, half = Spy(), Spy()
    for spy, scale in ((full, 2.0), (half, 1.0)):
        denoise(
            spy, ddim(), video(clips=1), video(clips=1, frames=1), words,
            guidance_scale=scale, num_inference_steps=2,
        )  # fmt: skip
    assert full.seen[0][0].shape[0] == 2
    assert half.seen[0][0].shape[0] == 1
    assert torch.equal(half.seen[0][2], words[1:])
    unet = motion_unet()
    outputs = [
        denoise(
            unet, ddim(), video(clips=1), video(clips=1, frames=1), rows,
            guidance_scale=1, num_inference_steps=2,
        )
        for rows in (words, words[1:])
    ]  # fmt: skip
    assert torch.equal(*outputs)


def test_guidance_leads_from_the_first_text_to_the_second():
    def constant(sample, timestep, text):
        return text[:, :1, :1, None, None].expand(-1, 4, 5, 8, 8)

    words, scheduler = text(2), ddim()
    output = denoise(
        constant, scheduler, video(clips=1), video(clips=1, frames=1), words,
        guidance_scale=5, num_inference_steps=1, shared_noise=0, adain=False,
    )  # fmt: skip
    unconditional, conditional = words[0, 0, 0], words[1, 0, 0]
    prediction = (unconditional + 5 * (conditional - unconditional)).expand(1, 4, 4, 8, 8)
    scheduler.set_timesteps(1)
    noise = video(clips=1)[:, :, 1:]
    wanted = scheduler.step(prediction, scheduler.timesteps[0], noise).prev_sample
    torch.testing.assert_close(output[:, :, 1:], wanted)


def test_each_trick_can_be_switched_off_and_matters():
    unet = motion_unet()
    plain = sample(unet, shared_noise=0, adain=False)
    assert not torch.equal(sample(unet, shared_noise=0.2, adain=False), plain)
    assert not torch.equal(sample(unet, shared_noise=0, adain=True), plain)
    other = video(clips=1)
    other[:, :, 0] = 9  # frame 0's noise only enters through sharing
    assert torch.equal(sample(unet, noise=other, shared_noise=0, adain=False), plain)


def test_without_first_frame_it_paints_images_as_diffusers_does():
    unet, words = motion_unet(tuned=False), text(2)
    noise = video(clips=1, frames=1)
    output = denoise(unet, ddim(), noise, None, words, guidance_scale=3, num_inference_steps=4)
    scheduler, latents, images = ddim(), noise[:, :, 0], image_unet()
    scheduler.set_timesteps(4)
    for step in scheduler.timesteps:
        with torch.no_grad():
            unconditional, conditional = images(torch.cat([latents] * 2), step, words).sample.chunk(2)
        prediction = unconditional + 3 * (conditional - unconditional)
        latents = scheduler.step(prediction, step, latents).prev_sample
    assert torch.equal(output[:, :, 0], latents)


def test_progress_is_reported_after_every_step():
    seen = []
    output = sample(motion_unet(), callback=lambda step, steps, latents: seen.append((step, steps, latents)))
    assert [(step, steps) for step, steps, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.equal(seen[-1][2], output)


def test_one_first_frame_serves_all_clips():
    first = video(clips=1, frames=1, seed=5)
    output = denoise(
        Spy(), ddim(), video(clips=3), first[:, :, 0], text(6), guidance_scale=2, num_inference_steps=1
    )
    assert torch.equal(output[:, :, :1], first.expand(3, -1, -1, -1, -1))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"first frame must be one latent, b c 1 h w, not \(1, 4, 2, 8, 8\)"):
        sample(Spy(), first=video(clips=1, frames=2))
    with pytest.raises(ValueError, match="unconditional, then conditional"):
        denoise(
            Spy(), ddim(), video(clips=1), video(clips=1, frames=1), text(1),
            guidance_scale=2, num_inference_steps=1,
        )  # fmt: skip


# Inversion


@pytest.mark.parametrize("prediction_type", TYPES)
def test_sampling_leads_back_from_the_inverted_latents(prediction_type):
    """A UNet that believes in one noise, whatever it is shown, is inverted exactly."""
    believed, latents, words = video(clips=1, seed=8), video(clips=1), text(1)
    scheduler = ddim(prediction_type)

    def unet(sample, timestep, _text):
        alpha = scheduler.alphas_cumprod[timestep]
        clean = (sample - (1 - alpha) ** 0.5 * believed) / alpha**0.5
        velocity = alpha**0.5 * believed - (1 - alpha) ** 0.5 * clean
        return {"epsilon": believed, "v_prediction": velocity, "sample": clean}[prediction_type]

    noise = invert(unet, scheduler, latents, words, 5, prediction_type=prediction_type)
    back = denoise(
        unet, scheduler, noise, latents[:, :, :1], words,
        guidance_scale=1, num_inference_steps=5, shared_noise=0, adain=False,
    )  # fmt: skip
    assert not torch.allclose(noise, latents, atol=0.1)
    torch.testing.assert_close(back, latents, atol=1e-3, rtol=0)


# Tricks


def test_shared_noise_mixes_in_frame_0():
    noise = video()
    mixed = shared_noise(noise, 0.2)
    assert torch.equal(mixed[:, :, 0], noise[:, :, 0])
    torch.testing.assert_close(mixed[:, :, 3], 0.2 * noise[:, :, 0] + 0.8 * noise[:, :, 3])
    assert torch.equal(shared_noise(noise, 0), noise)
    assert torch.equal(shared_noise(noise, 1), noise[:, :, :1].expand_as(noise))
    with pytest.raises(ValueError, match="between 0 and 1"):
        shared_noise(noise, 1.5)


def test_adain_takes_mean_and_deviation_and_survives_flat_channels():
    content, style = video()[:, :, 0], 3 * video(seed=3)[:, :, 1] + 2
    output = adain(content, style)
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(output, dim=(2, 3)), statistic(style, dim=(2, 3)), atol=1e-4, rtol=1e-4
        )
    assert adain(torch.ones(1, 4, 8, 8), style[:1]).isfinite().all()


def test_adain_follows_the_authors_order():
    latents = video()
    middle = adain_towards_first(latents, late=False, last=False)
    assert torch.equal(middle[:, :, :2], latents[:, :, :2])
    assert torch.equal(middle[:, :, 2], adain(latents[:, :, 2], latents[:, :, 1]))
    late = adain_towards_first(latents, late=True, last=False)
    frame_1 = adain(latents[:, :, 1], latents[:, :, 0])
    assert torch.equal(late[:, :, 0], latents[:, :, 0])
    assert torch.equal(late[:, :, 1], frame_1)
    assert torch.equal(late[:, :, 4], adain(latents[:, :, 4], frame_1))
    last = adain_towards_first(latents, late=True, last=True)
    assert torch.equal(last[:, :, 0], latents[:, :, 0])
    assert torch.equal(last[:, :, 4], adain(late[:, :, 4], late[:, :, 0]))
    single = video(frames=1)
    assert torch.equal(adain_towards_first(single, late=True, last=True), single)


@pytest.mark.parametrize(("steps", "share", "first_late"), [(50, 0.6, 31), (20, 0.6, 13), (40, 30 / 40, 31)])
def test_frame_1_takes_the_statistics_of_frame_0_after_a_share_of_the_steps(steps, share, first_late):
    """The authors' 30 of 50; a share of 30 / steps is their code at other numbers of steps."""
    spy = Spy()
    sample(spy, guidance_scale=1, num_inference_steps=steps, adain_after=share)
    means = [latents[:, :, :2].mean(dim=(-1, -2)) for latents, *_ in spy.seen]
    tied = [torch.allclose(*mean.unbind(2), atol=1e-4) for mean in means[1:]]  # what the step before left
    assert tied == [index >= first_late for index in range(steps - 1)]


def test_histogram_matching_to_itself_changes_nothing_and_keeps_flat_frames_flat():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (9, 7, 3)).astype(np.float32) / 255
    reference = rng.random((5, 6, 3), dtype=np.float32)
    exact = np.floor(frame * 255) / np.float32(255)
    assert np.abs(histogram_match(frame, frame) - exact).max() < 1e-6
    flat = histogram_match(np.full((4, 4, 3), 0.5, np.float32), reference)
    assert (flat == flat[:1, :1]).all()
    assert set(np.unique(histogram_match(frame, reference))) <= {
        np.float32(value) / np.float32(255) for value in range(256)
    }


# Given images


def test_images_of_every_kind_become_the_same_pixels(tmp_path):
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(array).save(path := tmp_path / "photo.png")
    kinds = [
        path,
        str(path),
        Image.fromarray(array),
        array,
        torch.from_numpy(array).permute(2, 0, 1),
        array.astype(np.float32) / 255,
    ]
    wanted = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
    for image in kinds:
        torch.testing.assert_close(pixels_from_image(image, (8, 12)), wanted, atol=1e-6, rtol=0)
        assert pixels_from_image(image, (8, 8)).shape == (3, 8, 8)
    middle = torch.from_numpy(array).permute(2, 0, 1)[:, :, 2:10] / 127.5 - 1
    torch.testing.assert_close(pixels_from_image(array, (8, 8)), middle, atol=1e-2, rtol=0)


def test_images_that_are_none_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for image, message in (
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path / "text.png", "cannot be read as an image"),
        (tmp_path, "cannot be read as an image"),
        (np.zeros((8, 8), np.uint8), "RGB"),
        (torch.zeros(4, 8, 8), "RGB"),
        (2 * np.ones((8, 8, 3), np.float32), r"0\.\.1"),
        (7, "int"),
    ):
        with pytest.raises(UserError, match=message):
            pixels_from_image(image, (8, 8))
