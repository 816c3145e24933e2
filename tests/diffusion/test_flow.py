"""Flow matching: its mathematics, exactly, and beside the schedulers of diffusers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from lamp_lightning.diffusion import KnownFrames, denoise, first_frame_loss, invert, with_guidance
from lamp_lightning.diffusion.denoise import denoise_clips
from lamp_lightning.diffusion.flow import FlowLevels, flow_scheduler
from lamp_lightning.diffusion.repaint import repaint
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.schedule import (
    add_noise,
    prediction_of,
    prediction_type,
    signal_and_sigma,
    target,
    timestep_at,
)
from lamp_lightning.diffusion.windows import check_sampler
from lamp_lightning.runtime.errors import UserError

TEXT = torch.zeros(1, 3, 4)
SIZE = (4, 6)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(seed: int = 0, frames: int = 5) -> torch.Tensor:
    return gaussian(1, 2, frames, *SIZE, seed=seed)


def plain(scheduler: str, steps: int) -> Sampler:
    """A sampler without the authors' tricks."""
    changes = {"scheduler": scheduler, "num_inference_steps": steps, "shared_noise": 0.0, "adain": False}
    return Sampler().changed(changes)


def scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})


def test_noise_is_added_on_a_straight_line():
    clean, noise = clip(1), clip(2)
    assert torch.equal(add_noise(scheduler(), clean, noise, torch.tensor([0.0])), clean)
    assert torch.equal(add_noise(scheduler(), clean, noise, torch.tensor([1000.0])), noise)
    middle = add_noise(scheduler(), clean, noise, torch.tensor([500.0]))
    assert torch.equal(middle, 0.5 * clean + 0.5 * noise)
    assert torch.equal(target(scheduler(), clean, noise, torch.tensor([500.0])), noise - clean)


def test_noising_is_that_of_diffusers():
    flow, clean, noise = scheduler(), clip(1), clip(2)
    flow.set_timesteps(7)
    for timestep in flow.timesteps:
        theirs = flow.scale_noise(clean, timestep.reshape(1), noise)
        torch.testing.assert_close(add_noise(flow, clean, noise, timestep.reshape(1)), theirs)


def test_noise_and_clean_latents_come_back_from_the_velocity():
    clean, noise, timesteps = clip(1).double(), clip(2).double(), torch.tensor([250.0])
    levels = signal_and_sigma(scheduler(), clean, timesteps)
    noisy = add_noise(scheduler(), clean, noise, timesteps)
    found = prediction_of("flow_prediction").noise(noise - clean, noisy, *levels)
    torch.testing.assert_close(found, noise)
    torch.testing.assert_close((noisy - levels[1] * found) / levels[0], clean)


def test_a_model_that_knows_the_velocity_has_no_loss():
    clean, noise, timesteps = clip(1), clip(2), torch.tensor([300.0])
    model = lambda sample, timestep, text: noise - clean  # noqa: E731
    assert first_frame_loss(model, scheduler(), clean, noise, timesteps, TEXT) == 0


def test_the_first_frame_is_clean_and_outside_of_the_loss():
    clean, noise, timesteps = clip(1), clip(2), torch.tensor([300.0])
    seen = []

    def model(sample, timestep, text):
        seen.append(sample)
        return torch.zeros_like(sample)

    other = torch.cat([noise[:, :, :1] + 5, noise[:, :, 1:]], dim=2)
    losses = [first_frame_loss(model, scheduler(), clean, each, timesteps, TEXT) for each in (noise, other)]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][:, :, 0], clean[:, :, 0])
    assert losses[0] == losses[1] == (noise - clean)[:, :, 1:].square().mean()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_are_shifted_as_diffusers_shifts_them(shift):
    steps = 10
    flow, levels = scheduler(shift=shift), FlowLevels(shift=shift)
    flow.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    ours = [levels.shifted(1 - k / steps, SIZE) * 1000 for k in range(steps)]
    torch.testing.assert_close(flow.timesteps, torch.tensor(ours))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_shift_grows_with_the_picture_as_in_diffusers(kind):
    base = scheduler(use_dynamic_shifting=True, base_shift=0.6, max_shift=1.2, time_shift_type=kind)
    levels = FlowLevels.of(base.config, patch_size=2)
    for size in ((32, 32), (64, 96)):
        mu = calculate_shift(size[0] * size[1] // 4, 256, 4096, 0.6, 1.2)
        base.set_timesteps(5, mu=mu)
        ours = Sampler().changed({"num_inference_steps": 5})
        made = ours.make_scheduler({**base.config, "_flow": vars(levels)})
        ours.set_timesteps(made, "cpu", size)
        assert torch.equal(made.timesteps, base.timesteps)
        shift = math.exp(mu) if kind == "exponential" else mu
        assert levels.shift_at(size) == pytest.approx(shift)
        assert timestep_at(made, 0.5, size) == pytest.approx(500 * shift / (1 + 0.5 * (shift - 1)))


def test_training_levels_follow_a_shifted_logit_normal():
    generator = torch.Generator().manual_seed(0)
    levels = FlowLevels(shift=3.0)
    drawn = torch.cat([levels.drawn(generator, SIZE) for _ in range(2000)]) / 1000
    assert ((drawn > 0) & (drawn < 1)).all()
    undone = drawn / (3 - 2 * drawn)  # the shift
    normal = undone.logit()
    assert abs(normal.mean()) < 0.07
    assert abs(normal.std() - 1) < 0.07


STRAIGHT = ("DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler",
            "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")  # fmt: skip


@pytest.mark.parametrize("name", STRAIGHT)
def test_every_sampler_ends_at_the_clip_on_straight_lines(name):
    """The velocity to one clip: every solver of the equation gets there, in however few steps."""
    clean, noise = clip(1), clip(2)
    sampler = plain(name, 4)
    made = sampler.make_scheduler(scheduler().config)
    assert prediction_type(made) == "flow_prediction"

    def velocity(sample, timestep, known):
        sigma = made.sigmas[made.step_index or 0].clamp(max=1 - 1e-6)
        if name == "HeunDiscreteScheduler":
            sigma = timestep / 1000
        return (known.others(sample) - known.others(clean)) / sigma

    found = denoise_clips(velocity, made, noise, KnownFrames.first(clean[:, :, :1]), sampler)
    torch.testing.assert_close(found, clean, atol=2e-3, rtol=0)
    assert torch.equal(found[:, :, 0], clean[:, :, 0])


def test_euler_is_the_scheduler_of_diffusers_to_the_bit():
    noise, flow = clip(2), scheduler()
    model = lambda sample, timestep, text: (sample * 0.3 + timestep / 1000).sin()  # noqa: E731
    ours = denoise(
        model, scheduler(), noise, None, TEXT, guidance_scale=1, num_inference_steps=6, shared_noise=0.0
    )
    flow.set_timesteps(6)
    theirs = noise
    for timestep in flow.timesteps:
        theirs = flow.step(model(theirs, timestep, TEXT), timestep, theirs, return_dict=False)[0]
    assert torch.equal(ours, theirs)


def test_inversion_and_sampling_lead_there_and_back():
    clean = clip(1).double()
    model = lambda sample, timestep, text: gaussian(*sample.shape, seed=4).double()  # noqa: E731
    noise = invert(model, scheduler(), clean, TEXT, 9, keep_first=True)
    assert torch.equal(noise[:, :, 0], clean[:, :, 0])
    velocity = gaussian(*clean.shape, seed=4).double()
    torch.testing.assert_close(noise[:, :, 1:], (clean + velocity)[:, :, 1:], atol=1e-6, rtol=0)
    back = denoise(
        model, scheduler(), noise, clean[:, :, :1], TEXT, guidance_scale=1, num_inference_steps=9,
        shared_noise=0.0, adain=False,
    )  # fmt: skip
    torch.testing.assert_close(back, clean, atol=1e-6, rtol=0)


def test_a_finer_inversion_leads_back_closer():
    clean = clip(1)
    model = lambda sample, timestep, text: sample.sin() * (1 + timestep / 1000)  # noqa: E731

    def error(steps: int) -> float:
        noise = invert(model, scheduler(), clean, TEXT, steps, keep_first=False)
        back = denoise(
            model,
            scheduler(),
            noise,
            None,
            TEXT,
            guidance_scale=1,
            num_inference_steps=steps,
            shared_noise=0.0,
        )
        return float((back - clean).abs().mean())

    assert error(40) < 0.5 * error(10)


def test_a_picture_is_repainted_from_its_point_on_the_way():
    picture = clip(1, frames=1)
    predict = with_guidance(lambda sample, timestep, text: torch.zeros_like(sample), TEXT, scale=1)
    flow = scheduler()
    found = repaint(
        predict,
        flow,
        picture,
        strength=0.5,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
    )
    sigma = flow.timesteps[2] / 1000
    noise = gaussian(*picture.shape)
    torch.testing.assert_close(found, (1 - sigma) * picture + sigma * noise)
    assert torch.equal(repaint(predict, flow, picture, strength=0, num_inference_steps=4), picture)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_frames_of_a_former_window_enter_at_the_level_of_the_step(name):
    clean, noise, seen = clip(1), clip(2), []
    sampler = plain(name, 3)
    made = sampler.make_scheduler(scheduler().config)

    def predict(sample, timestep, known):
        seen.append((float(made.sigmas[len(seen)]), sample[:, :, 2]))
        return torch.zeros_like(known.others(sample))

    known = KnownFrames.first(clean[:, :, :1]) | KnownFrames(noised={2: clean[:, :, 2]})
    found = denoise_clips(predict, made, noise, known, sampler)
    for sigma, frame in seen:
        wanted = (1 - sigma) * clean[:, :, 2] + sigma * noise[:, :, 2]
        torch.testing.assert_close(frame, wanted, atol=1e-5, rtol=0)
    assert torch.equal(found[:, :, 2], clean[:, :, 2])


def test_timesteps_of_ones_own_are_what_the_model_sees():
    sampler = Sampler().changed({"scheduler": "EulerDiscreteScheduler", "timesteps": [1000, 700, 200]})
    made = sampler.make_scheduler(scheduler().config)
    sampler.set_timesteps(made, "cpu", SIZE)
    torch.testing.assert_close(made.timesteps, torch.tensor([1000.0, 700, 200]))
    torch.testing.assert_close(made.sigmas, torch.tensor([1.0, 0.7, 0.2, 0]))


def test_the_levels_survive_every_scheduler():
    base = scheduler(shift=2.5).config
    for name in STRAIGHT:
        made = Sampler().changed({"scheduler": name}).make_scheduler(base)
        again = Sampler().changed({"scheduler": "DDIMScheduler"}).make_scheduler(made.config)
        assert again.config.shift == 2.5
    unipc = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=4.0)
    assert FlowLevels.of(unipc.config).shift == 4.0  # as Sana's own index has it


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheduler": "LMSDiscreteScheduler"}, "cannot sample from a model of flow matching"),
        ({"scheduler_options": {"beta_start": 0.1}}, "beta_start"),
        ({"scheduler": "UniPCMultistepScheduler", "timesteps": [900, 100]}, "no timesteps of one's own"),
    ],
)
def test_what_flow_matching_has_not_is_refused(settings, said):
    sampler = Sampler().changed(settings)
    with pytest.raises(UserError, match=said):
        sampler.set_timesteps(sampler.make_scheduler(scheduler().config), "cpu", SIZE)


def test_a_shift_by_size_is_refused_where_the_solver_has_none():
    dynamic = FlowLevels(dynamic="exponential")
    with pytest.raises(UserError, match="depend on the size"):
        flow_scheduler("HeunDiscreteScheduler", dynamic)


def test_warping_is_refused_by_name():
    sampler = Sampler().changed({"start": "warp"})
    with pytest.raises(UserError, match="start=warp"):
        check_sampler(sampler, sampler.make_scheduler(scheduler().config), 4)


def test_a_flow_scheduler_is_refused_by_a_diffusion_model():
    from diffusers import DDIMScheduler

    sampler = Sampler().changed({"scheduler": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(UserError, match="this model is none"):
        sampler.make_scheduler(DDIMScheduler().config)
