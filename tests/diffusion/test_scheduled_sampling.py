"""Scheduled sampling: noise of the model's own predictions, beside what diffusers' schedulers step to."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from lamp_lightning.diffusion.loss import known_frames_loss
from lamp_lightning.diffusion.schedule import add_noise, signal_and_sigma
from lamp_lightning.diffusion.scheduled_sampling import FULL_SIGMA, own_noise
from lamp_lightning.train.draws import draw_noisier

CLIPS, NOISE = (torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
TEXT = torch.zeros(2, 5, 16)


def half(sample, timestep, text, **_):
    """A model that is wrong: whatever it is to predict, it is half of what it sees."""
    return 0.5 * sample


def made(scheduler, timesteps, noisier):
    return own_noise(half, scheduler, CLIPS, NOISE, timesteps, noisier, TEXT, known=[0])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noisy_clips_are_what_a_step_of_ddim_leads_to(kind):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(10)
    noisier, timesteps = torch.tensor([800, 800]), torch.tensor([700, 700])
    own, _ = made(scheduler, timesteps, noisier)
    begun = add_noise(scheduler, CLIPS, NOISE, noisier)
    stepped = scheduler.step(half(begun, noisier, TEXT), 800, begun).prev_sample
    found = add_noise(scheduler, CLIPS, own, timesteps)
    torch.testing.assert_close(found[:, :, 1:], stepped[:, :, 1:], rtol=1e-4, atol=1e-4)


def test_noisy_clips_are_what_a_step_of_eulers_leads_to():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.9, 0.7])
    noisier, timesteps = torch.tensor([900.0, 900.0]), torch.tensor([700.0, 700.0])
    own, _ = made(scheduler, timesteps, noisier)
    begun = add_noise(scheduler, CLIPS, NOISE, noisier)
    stepped = scheduler.step(half(begun, noisier, TEXT), scheduler.timesteps[0], begun).prev_sample
    found = add_noise(scheduler, CLIPS, own, timesteps)
    torch.testing.assert_close(found[:, :, 1:], stepped[:, :, 1:], rtol=1e-4, atol=1e-4)


def test_the_noise_of_a_model_that_predicts_the_truth_stays_as_it_is():
    scheduler = DDIMScheduler(prediction_type="sample")

    def true(sample, timestep, text, **_):
        return CLIPS

    steps = torch.tensor([400, 20])
    own, _ = own_noise(true, scheduler, CLIPS, NOISE, steps, torch.tensor([900, 500]), TEXT, known=[0])
    torch.testing.assert_close(own, NOISE, rtol=1e-4, atol=1e-4)


def test_known_frames_and_clips_that_were_not_chosen_keep_their_noise_to_the_bit():
    own, scale = made(DDIMScheduler(), torch.tensor([400, 400]), torch.tensor([400, 700]))
    assert scale.tolist() == [1, 1]
    assert torch.equal(own[0], NOISE[0])
    assert torch.equal(own[1, :, 0], NOISE[1, :, 0])
    assert not torch.equal(own[1, :, 1:], NOISE[1, :, 1:])


def test_with_little_noise_the_loss_is_of_the_clean_latents_in_a_fixed_proportion():
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    timesteps = torch.tensor([10, 80])
    own, scale = made(scheduler, timesteps, timesteps + 300)
    signals, sigmas = signal_and_sigma(scheduler, CLIPS, timesteps)
    assert (sigmas < FULL_SIGMA).all()
    noisy = add_noise(scheduler, CLIPS, own, timesteps)
    clean = signals * noisy - sigmas * half(noisy, timesteps, TEXT)
    loss = known_frames_loss(half, scheduler, CLIPS, own, timesteps, TEXT, known=[0], scale=scale)
    wanted = ((clean - CLIPS)[:, :, 1:] ** 2).mean() / FULL_SIGMA**2
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_noisier_timesteps_depend_on_item_and_seed_alone_and_are_drawn_for_a_share(scheduler):
    items = torch.arange(400)
    timesteps = (items * 2.5).to(torch.float32 if "Flow" in type(scheduler).__name__ else torch.long)
    drawn = draw_noisier(scheduler, timesteps, items, seed=3, share=0.25)
    assert drawn.dtype == timesteps.dtype
    later = draw_noisier(scheduler, timesteps[7:9], items[7:9], seed=3, share=0.25)
    assert torch.equal(later, drawn[7:9])
    assert not torch.equal(drawn, draw_noisier(scheduler, timesteps, items, seed=4, share=0.25))
    assert ((drawn >= timesteps) & (drawn <= scheduler.config.num_train_timesteps)).all()
    assert 60 < (drawn > timesteps).sum() < 140  # 100 expected
    assert torch.equal(draw_noisier(scheduler, timesteps, items, seed=3, share=0.0), timesteps)
