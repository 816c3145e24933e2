"""A video keeps to its first frame: it begins with that frame's colours, and what stands still stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from torch import Tensor

from lamp_lightning.diffusion import KnownFrames
from lamp_lightning.diffusion.denoise import denoise_clips
from lamp_lightning.diffusion.first_frame import over_known, steadied
from lamp_lightning.diffusion.flow import FlowLevels, flow_scheduler
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.schedule import prediction_of, prediction_type, signal_and_sigma

SCHEDULERS = {
    "epsilon": lambda: DDIMScheduler(),
    "v_prediction": lambda: DDIMScheduler(prediction_type="v_prediction"),
    "sample": lambda: DDIMScheduler(prediction_type="sample"),
    "flow": lambda: flow_scheduler("EulerDiscreteScheduler", FlowLevels()),
}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def knowing(clean: Tensor, scheduler: Any) -> Any:
    """A model that knows the clean frames 1.. of a clip, as a prediction of the scheduler's kind."""
    kind = prediction_of(prediction_type(scheduler))

    def predict(sample: Tensor, timestep: Tensor, known: KnownFrames) -> Tensor:
        noisy = known.others(sample)
        signal, sigma = signal_and_sigma(scheduler, noisy, timestep.reshape(1).long())
        return kind.target(clean, (noisy - signal * clean) / sigma, signal, sigma)

    return predict


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(), UniPCMultistepScheduler()], ids=lambda s: type(s).__name__
)
def test_sampling_begins_with_the_level_and_the_blurred_colours_of_the_first_frame(scheduler):
    scheduler.set_timesteps(10)
    noise, plain = gaussian(2, 4, 3, 8, 8), torch.full((2, 4, 8, 8), 3.0)
    begun = over_known(scheduler, noise, KnownFrames.first(plain))
    alpha = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    torch.testing.assert_close(begun, alpha.sqrt() * 3 + (1 - alpha).sqrt() * noise)
    sharp = torch.zeros(2, 4, 8, 8)
    sharp[..., 4, 4] = 9
    blurred = over_known(scheduler, torch.zeros_like(noise), KnownFrames.first(sharp))[:, :, 1] / alpha.sqrt()
    torch.testing.assert_close(blurred[0, 0, 3:6, 3:6], torch.ones(3, 3))
    assert blurred[0, 0].count_nonzero() == 9


def test_flow_matching_begins_at_pure_noise():
    scheduler = SCHEDULERS["flow"]()
    scheduler.set_timesteps(10)
    noise = gaussian(1, 4, 3, 8, 8)
    torch.testing.assert_close(over_known(scheduler, noise, KnownFrames.first(torch.ones(1, 4, 8, 8))), noise)


def test_a_start_over_the_first_frame_reaches_a_model_that_believes_what_it_sees():
    first = torch.full((1, 4, 8, 8), 2.0)
    made = {}
    for start in ("noise", "first_frame"):
        sampler = Sampler().changed(
            {"start": start, "num_inference_steps": 4, "adain": False, "shared_noise": 0}
        )
        unet = lambda sample, timestep, known: torch.zeros_like(known.others(sample))  # noqa: E731  (no noise)
        made[start] = denoise_clips(
            unet, DDIMScheduler(), torch.zeros(1, 4, 3, 8, 8), KnownFrames.first(first), sampler
        )
    assert (made["noise"][:, :, 1:] == 0).all()
    assert (made["first_frame"][:, :, 1:] > 0.1).all()
    assert torch.equal(made["first_frame"][:, :, 0], first)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_small_changes_from_the_first_frame_fade_and_large_ones_stay(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    first, clean = torch.ones(1, 4, 8, 8), torch.ones(1, 4, 2, 8, 8)
    clean[..., 0, :, :4] += 0.1  # trembles
    clean[..., 1, 7, 7] += 2.0  # moves
    known = KnownFrames.first(first)
    steady = steadied(knowing(clean, scheduler), scheduler, threshold=0.3)
    timestep = scheduler.timesteps[4]
    sample = known.whole(gaussian(1, 4, 2, 8, 8))
    kind = prediction_of(prediction_type(scheduler))
    signal, sigma = signal_and_sigma(scheduler, sample[:, :, 1:], timestep.reshape(1).long())
    noise = kind.noise(steady(sample, timestep, known), sample[:, :, 1:], signal, sigma)
    found = (sample[:, :, 1:] - sigma * noise) / signal - 1
    small, large = 0.1 * 0.01 / (0.01 + 0.09), 2 * 4 / (4 + 0.09)
    torch.testing.assert_close(found[0, 0, 0, 0, :4], torch.full((4,), small), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0, 0, 1, 7, 7], torch.tensor(large), atol=1e-5, rtol=0)
    assert found[0, 0, 1, :6].abs().max() < 1e-5


def test_at_pure_noise_a_prediction_stays_as_it_is():
    scheduler = SCHEDULERS["flow"]()
    scheduler.set_timesteps(10)
    clean, known = gaussian(1, 4, 2, 8, 8), KnownFrames.first(torch.zeros(1, 4, 8, 8))
    arguments = known.whole(gaussian(1, 4, 2, 8, 8, seed=1)), scheduler.timesteps[0], known
    model = knowing(clean, scheduler)
    assert torch.equal(steadied(model, scheduler, 0.3)(*arguments), model(*arguments))


def test_nothing_is_steadied_where_no_first_frame_is_given():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    model = knowing(torch.zeros(1, 4, 2, 8, 8), scheduler)
    arguments = gaussian(1, 4, 2, 8, 8), scheduler.timesteps[4], KnownFrames.none()
    assert torch.equal(steadied(model, scheduler, 0.3)(*arguments), model(*arguments))


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_trembling_background_stands_still_with_any_scheduler(kind):
    first, clean = gaussian(1, 4, 8, 8), torch.zeros(1, 4, 2, 8, 8)
    clean += first.unsqueeze(2) + 0.05 * gaussian(1, 4, 2, 8, 8, seed=1)
    error = {}
    for steady in (0, 0.3):
        sampler = Sampler().changed(
            {"scheduler": kind, "num_inference_steps": 6, "adain": False, "steady": steady}
        )
        made = denoise_clips(
            knowing(clean, DDIMScheduler()),
            sampler.make_scheduler(DDIMScheduler(clip_sample=False).config),
            gaussian(1, 4, 3, 8, 8),
            KnownFrames.first(first),
            sampler,
        )
        error[steady] = float((made[:, :, 1:] - first.unsqueeze(2)).square().mean())
    assert error[0.3] < 0.1 * error[0]
