"""MotionTuner: what it trains, what it draws, what its checkpoints hold."""

from __future__ import annotations

import pytest
import torch

from lamp_lightning.diffusion import first_frame_loss, known_frames_loss
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import MotionUNet
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.train.tuner import MotionTuner, item_generator


@pytest.fixture
def base(random_base):
    torch.manual_seed(0)
    return load_base_model(random_base)


@pytest.fixture
def tuner(base):
    return MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler, learning_rate=1e-3, seed=3)


def batch(clips: int = 2, first: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(first)
    return {
        "latents": torch.randn(clips, 4, 3, 8, 8, generator=generator),
        "text": torch.randn(clips, 16, 16, generator=generator),
        "index": torch.arange(first, first + clips),
    }


def test_the_optimiser_has_the_tuned_parameters_and_no_others(tuner):
    optimizer = tuner.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in tuner.unet.tuned_parameters()}
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-2)
    learning = {name for name, p in tuner.named_parameters() if p.requires_grad}
    assert learning == set(tuner.tuned_names())


def test_a_step_changes_tuned_weights_only(tuner):
    before = {name: p.detach().clone() for name, p in tuner.named_parameters()}
    optimizer = tuner.configure_optimizers()
    for first in (0, 2):  # the first step opens the zero-initialised layers, the second reaches behind them
        tuner.training_step(batch(first=first), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in tuner.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(tuner.tuned_names())


def test_the_loss_is_the_first_frame_loss_of_what_is_drawn(tuner):
    data = batch()
    noise, timesteps = tuner.draw(data["latents"], data["index"])
    wanted = first_frame_loss(tuner.unet, tuner.scheduler, data["latents"], noise, timesteps, data["text"])
    assert torch.equal(tuner.training_step(data, 0), wanted)


def test_further_conditions_of_a_batch_reach_the_unet(tuner, monkeypatch):
    seen = []
    forward = tuner.unet.forward

    def spy(sample, timestep, text, added_cond_kwargs=None):
        seen.append(added_cond_kwargs)
        return forward(sample, timestep, text)

    monkeypatch.setattr(tuner.unet, "forward", spy)
    added = {"text_embeds": torch.zeros(2, 8), "time_ids": torch.zeros(2, 6)}
    tuner.training_step(batch() | {"added_cond_kwargs": added}, 0)
    tuner.training_step(batch(), 0)
    assert seen == [added, None]


def test_noise_and_timestep_belong_to_the_item(tuner):
    data = batch(4)
    noise, timesteps = tuner.draw(data["latents"], torch.tensor([5, 6, 7, 8]))
    again_noise, again_timesteps = tuner.draw(data["latents"][:2], torch.tensor([7, 5]))
    assert torch.equal(again_noise, noise[[2, 0]])
    assert torch.equal(again_timesteps, timesteps[[2, 0]])
    assert not torch.equal(noise[0], noise[1])
    torch.manual_seed(99)  # the global state has no say
    assert torch.equal(tuner.draw(data["latents"], torch.tensor([5, 6, 7, 8]))[0], noise)


def test_another_seed_draws_other_noise():
    def first(seed: int, index: int) -> float:
        return torch.randn(1, generator=item_generator(seed, index)).item()

    values = {first(seed, index) for seed in range(5) for index in range(5)}
    assert len(values) == 25


def test_timesteps_cover_the_whole_schedule(tuner):
    _, timesteps = tuner.draw(torch.zeros(2000, 1, 2, 1, 1), torch.arange(2000))
    assert timesteps.min() < 10
    assert timesteps.max() > 989
    assert abs(timesteps.float().mean() - 499.5) < 20


def test_tuned_weights_are_float32_in_a_half_precision_model(random_base):
    base = load_base_model(random_base, torch_dtype=torch.bfloat16)
    tuner = MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler)
    assert {p.dtype for p in tuner.unet.tuned_parameters()} == {torch.float32}
    assert {p.dtype for p in tuner.unet.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_checkpoints_hold_tuned_parameters_only(tuner):
    checkpoint = {"state_dict": tuner.state_dict()}
    tuner.on_save_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == set(tuner.tuned_names())
    tuner.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_checkpoint_of_another_model_is_refused(tuner, change):
    checkpoint = {"state_dict": tuner.state_dict()}
    tuner.on_save_checkpoint(checkpoint)
    if change == "missing":
        name = tuner.tuned_names()[0]
        del checkpoint["state_dict"][name]
    else:
        name = "unet.strange.conv1d.weight"
        checkpoint["state_dict"][name] = torch.zeros(1)
    with pytest.raises(UserError, match=name):
        tuner.on_load_checkpoint(checkpoint)


def test_rates(tuner):
    assert tuner.rate_share(0) == tuner.rate_share(10**6) == 1
    tuner.warmup_steps = 4
    assert [tuner.rate_share(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    tuner.schedule = "cosine"
    tuner._trainer = type("Trainer", (), {"max_steps": 14})()
    assert [round(tuner.rate_share(step), 6) for step in (0, 3, 4, 9, 14)] == [0.25, 1, 1, 0.5, 0]


def test_an_unknown_schedule_is_refused(base):
    with pytest.raises(UserError, match=r"tuner\.schedule must be one of constant, cosine, but is 'step'"):
        MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler, schedule="step")


def test_known_frames_depend_on_the_item_and_the_seed_alone_and_are_out_of_the_loss(base):
    variant = Variant(known="any", conv_first=True)
    tuner = MotionTuner(MotionUNet.from_unet(base.unet, variant=variant), base.scheduler, seed=3)
    drawn = [tuner.draw_known(16, torch.tensor([item, 99])) for item in range(20)]
    assert drawn == [tuner.draw_known(16, torch.tensor([item, 5])) for item in range(20)]
    assert len(set(drawn)) > 5
    data = batch()
    noise, timesteps = tuner.draw(data["latents"], data["index"])
    wanted = known_frames_loss(
        tuner.unet, tuner.scheduler, data["latents"], noise, timesteps, data["text"], known=(0, 2)
    )
    assert torch.equal(tuner.loss(data, noise, timesteps, (0, 2)), wanted)
    assert not torch.equal(tuner.loss(data, noise, timesteps), wanted)


def test_lamp_draws_no_known_frames(tuner):
    assert tuner.draw_known(16, torch.tensor([0])) is None
