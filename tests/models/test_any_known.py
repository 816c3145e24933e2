"""Models that are tuned with any known frames: which frames see which, and what stays as LAMP's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lamp_lightning.diffusion.known import nearest_known, random_known
from lamp_lightning.diffusion.loss import known_frames_loss
from lamp_lightning.models import load_base_model
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from random_models import TOKENS, WIDTH, WIDTH_2
from random_transformers import TEXT, random_transformer

ANY = Variant(known="any", conv_first=True, causal=False)
KINDS = ("sd", "sana", "sd3")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(request, random_base) -> Any:
    """A model of a kind with motion layers that start at nothing."""
    image = load_base_model(random_base).unet if request.param == "sd" else random_transformer(request.param)
    return inflated(image, "per_frame", ANY)


def predict(model: Any, sample: Tensor, **given: Any) -> Tensor:
    """The prediction for clips `1 c f h w` at one noise level."""
    width = model.config.get("cross_attention_dim") if hasattr(model.config, "down_block_types") else TEXT
    added, tokens = {}, TOKENS
    if "SD3" in type(model).__name__:
        width, added = model.config.joint_attention_dim, {"text_embeds": gaussian(1, WIDTH + WIDTH_2, seed=3)}
    elif "Sana" in type(model).__name__:
        added = {"encoder_attention_mask": torch.ones(1, tokens)}
    with torch.no_grad():
        return model(sample, 400.0, gaussian(1, tokens, width, seed=2), added or None, **given)


def clip(model: Any, frames: int = 6) -> Tensor:
    return gaussian(1, model.config.in_channels, frames, 8, 8)


def filled(model: Any) -> Any:
    """The same with its tuned layers filled, as training would."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_frame_0_alone_is_what_is_known_where_nothing_is_said(model):
    sample = clip(filled(model))
    assert torch.equal(predict(model, sample), predict(model, sample, known=[0]))
    assert not torch.equal(predict(model, sample), predict(model, sample, known=[0, 5]))


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_untuned_a_frame_looks_at_the_known_frames_around_it_and_at_no_others(model):
    sample, known = clip(model), [0, 2, 5]
    before = predict(model, sample, known=known)
    looked_at = {1: {0, 2}, 3: {2, 5}, 4: {2, 5}}
    for changed in range(6):
        other = sample.clone()
        other[:, :, changed] += 1
        differs = (predict(model, other, known=known) != before).flatten(3).any(3).any(1)[0]
        found = {frame for frame in (1, 3, 4) if differs[frame]}
        assert found == {frame for frame, seen in looked_at.items() if changed in seen | {frame}}


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_untuned_a_frame_after_the_last_known_one_goes_on_from_it_as_lamp_from_the_first(model):
    sample = clip(model)
    several = predict(model, sample, known=[0, 2])
    alone = predict(model, sample[:, :, 2:])
    torch.testing.assert_close(several[:, :, 3:], alone[:, :, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_tuned_all_frames_hear_of_all_known_ones(model):
    sample, known = clip(filled(model)), [0, 5]
    before = predict(model, sample, known=known)
    for changed in known:
        other = sample.clone()
        other[:, :, changed] += 1
        differs = (predict(model, other, known=known) != before).flatten(3).any(3).any(1)[0]
        assert differs[1:5].all()


@pytest.mark.parametrize("model", ["sd"], indirect=True)
def test_noise_and_loss_on_known_frames_change_nothing(model):
    latents, noise, text = clip(model), clip(model) + 1, gaussian(1, 7, model.config.cross_attention_dim)

    def loss(noise: Tensor) -> Tensor:
        timesteps = torch.tensor([300])
        return known_frames_loss(model, DDIMScheduler(), latents, noise, timesteps, text, known=[0, 3])

    other = noise.clone()
    other[:, :, [0, 3]] = 9
    assert torch.equal(loss(noise), loss(other))
    other[:, :, 4] = 9
    assert not torch.equal(loss(noise), loss(other))


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_known_frames_that_a_model_cannot_take_are_refused(model):
    sample = clip(model)
    for known in ([], [6], [-1]):
        with pytest.raises(ValueError, match="must be frames of a clip of 6"):
            predict(model, sample, known=known)
    model.set_variant(Variant())
    with pytest.raises(ValueError, match=r"frame 0 as the only known one, not \[0, 3\]"):
        predict(model, sample, known=[0, 3])


def test_frames_cannot_be_given_to_a_model_without_a_first_frame():
    with pytest.raises(UserError, match="known=any"):
        Variant(known="any", first_frame=False)


def test_what_is_known_in_tuning_always_has_frame_0_and_leaves_something_to_learn():
    of_16 = []
    for frames in (2, 3, 5, 16):
        of_16 = [random_known(frames, torch.Generator().manual_seed(seed)) for seed in range(200)]
        for known in of_16:
            assert known[0] == 0
            assert known[-1] < frames
            assert len(known) < frames
            assert known == tuple(sorted(set(known)))
    assert 70 < of_16.count((0,)) < 140, "LAMP's own task is half of it"
    assert {(0, 15), (0, 1, 2, 3)} < set(of_16)
    assert any(set(range(0, 16, 2)) <= set(known) for known in of_16)


def test_frames_before_the_first_known_one_have_it_on_both_sides():
    assert nearest_known((2,), frames=4) == ((2,) * 4, (2,) * 4, (0.0,) * 4)
