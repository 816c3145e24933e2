"""Motions of low rank: tuned as factors, stored as factors, and used as any motion."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning import MotionTuner, UserError
from lamp_lightning.models.adapter import header_of
from lamp_lightning.models.compress import compress
from lamp_lightning.models.lowrank import factored, factors, multiplied, product, stored_shapes
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.unet.animatediff import AnimateDiffUNet
from method_models import image_unet, images_of, motion_unet, output, text, video
from random_models import WIDTH, WIDTH_2
from random_transformers import KINDS, T5, TEXT, random_transformer

RANK = 2


def low_rank_unet(seed=5):
    """A MotionUNet that was tuned at a low rank."""
    unet = motion_unet(tuned=False)
    torch.manual_seed(seed)
    unet.set_rank(RANK)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


def no_base(*_):
    raise AssertionError("no base model is needed")


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_until_it_is_tuned_a_model_of_low_rank_paints_as_before():
    unet = motion_unet(tuned=False)
    unet.set_rank(RANK)
    same(output(unet), output(motion_unet(tuned=False)), atol=0)
    assert unet.rank == RANK
    tuned = sum(p.numel() for p in unet.tuned_parameters())
    whole = motion_unet(tuned=False)
    shapes = {name: tuple(p.shape) for name, p in whole.own_parameters().items() if p.requires_grad}
    stored = stored_shapes(shapes, RANK)
    assert {name: tuple(p.shape) for name, p in unet.own_parameters().items() if p.requires_grad} == stored
    assert tuned < 0.35 * sum(p.numel() for p in motion_unet().tuned_parameters())
    assert {p for p in unet.parameters() if p.requires_grad} == set(unet.tuned_parameters())
    assert unet.fingerprint() == motion_unet().fingerprint()
    with pytest.raises(UserError, match="tuning at rank 2 begins at an untuned one"):
        motion_unet().set_rank(RANK)
    with pytest.raises(UserError, match="'animatediff' have no low rank"):
        AnimateDiffUNet.from_unet(image_unet()).set_rank(RANK)


def test_a_motion_of_low_rank_is_an_ordinary_motion(tmp_path):
    tuned, unet = low_rank_unet(), motion_unet(tuned=False)
    file, whole = tmp_path / "low.safetensors", tmp_path / "whole.safetensors"
    tuned.save_motion(file, motion="fly")
    motion_unet().save_motion(whole)
    before, moving = output(unet), output(tuned)
    with tuned.image_model():
        same(output(tuned), images_of(video(), text()))
    assert header_of(file).rank == RANK
    assert sorted(load_file(file)) == tuned.trainable_names()
    assert file.stat().st_size < 0.45 * whole.stat().st_size
    unet.load_motion(file)
    same(output(unet), moving)
    loaded = output(unet)
    assert (loaded - before).abs().max() > 0.1
    unet.set_motions({file: 1.0, whole: 0.0})
    same(output(unet), moving)
    unet.set_motions({file: 0.0, whole: 1.0})
    same(output(unet), output(motion_unet()))
    unet.load_motion(whole)
    unet.load_motion(file)
    assert torch.equal(output(unet), loaded)
    with unet.image_model():
        same(output(unet), images_of(video(), text()))
    unet.unload_motion()
    assert torch.equal(output(unet), before)
    tuned.load_motion(file)  # what was tuned as factors goes on as whole weights
    assert tuned.rank is None
    assert torch.equal(output(tuned), loaded)
    assert list(tuned.state_dict()) == list(unet.state_dict())


def test_a_first_step_of_low_rank_is_as_large_as_a_rate_of_whole_weights_needs():
    """Of AdamW. The weight moves by (inner / rank)^(1/4) of a whole step, the loss falls by its inverse."""
    moved, fell = {}, {}
    name = "mid_block.resnets.0.conv1.conv1d.weight"
    for rank in (None, 1, 4):
        torch.manual_seed(0)
        unet = motion_unet(tuned=False, block_out_channels=(16, 64))
        tuner = MotionTuner(unet, None, rank=rank, learning_rate=1e-3, weight_decay=0, base_model="any")
        optimizer = tuner.configure_optimizers()
        unet(video(), 9, text()).square().mean().backward()
        if rank is None:
            gradient = unet.get_parameter(name).grad.clone()
        optimizer.step()
        unet.set_rank(None)
        change = unet.get_parameter(name).detach()
        moved[rank], fell[rank] = change.norm().item(), -(change * gradient).sum().item()
    for rank in (1, 4):
        wanted = (3 * 64 / rank) ** 0.25
        assert moved[rank] / moved[None] == pytest.approx(wanted, rel=0.2)
        assert 0.5 < fell[rank] / fell[None] * wanted < 3


def test_factors_are_the_best_of_their_rank():
    weight = torch.randn(12, 6, 3, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(weight.flatten(1))
    found = product(*factors(weight, 4))
    assert found.shape == weight.shape
    assert float((found - weight).norm()) == pytest.approx(float(values[4:].norm()), rel=1e-4)
    low = product(torch.randn(2, 6, 3), torch.randn(12, 2))
    same(multiplied(factored({"a.weight": low, "a.bias": weight}, 2))["a.weight"], low)


def test_a_motion_is_compressed_afterwards_and_the_error_is_told(tmp_path):
    unet = motion_unet()
    file, small, half = (tmp_path / f"{name}.safetensors" for name in ("whole", "small", "half"))
    unet.save_motion(file, motion="fly", inverted_clip=torch.ones(1, 4, 3, 8, 8))
    made = compress(file, small, rank=RANK, queries_of_base=no_base)
    assert (made.before, made.after) == (file.stat().st_size, small.stat().st_size)
    assert made.after < made.before / 3
    assert list(made.losses) == ["conv1d", "conv_gate", "attn1.to_q", "attn_temp", "all"]
    assert made.losses["conv_gate"].error < 1e-3  # a gate stays whole
    assert made.losses["all"].after == sum(tensor.numel() for tensor in load_file(small).values()) - 768
    loaded = motion_unet(tuned=False)
    loaded.load_motion(small)
    names = [name for name in unet.trainable_names() if ".conv1d." in name]
    ours, theirs = loaded.own_parameters(), unet.own_parameters()
    error = sum((ours[name] - theirs[name]).square().sum() for name in names)
    norm = sum(theirs[name].square().sum() for name in names)
    assert made.losses["conv1d"].error == pytest.approx((error / norm).sqrt().item(), rel=1e-3)
    assert 0.3 < made.losses["conv1d"].error < 1
    header = header_of(small)
    assert (header.motion, header.rank, header.queries) == ("fly", RANK, "difference")
    with pytest.raises(UserError, match="is of rank 2 already"):
        compress(small, half, rank=1, queries_of_base=no_base)
    made = compress(file, half, queries_of_base=no_base)  # half precision alone
    assert made.losses["all"].error < 2**-11
    assert made.losses["all"].before == made.losses["all"].after


def test_what_was_tuned_at_a_rank_is_compressed_to_it_without_an_error(tmp_path):
    file, whole, small = (tmp_path / f"{name}.safetensors" for name in ("low", "whole", "small"))
    low_rank_unet().save_motion(file)
    unet = motion_unet(tuned=False)
    unet.load_motion(file)
    unet.save_motion(whole)
    made = compress(whole, small, rank=RANK, dtype=torch.float32, queries_of_base=no_base)
    assert made.losses["all"].error < 1e-6
    unet.load_motion(small)
    same(output(unet), output(low_rank_unet()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_transformers_motion_of_low_rank_is_an_ordinary_motion(kind, tmp_path):
    def model():
        return inflated(random_transformer(kind), "per_frame")

    def moved(unet):
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(1, 4, 3, 8, 8, generator=generator)
        width = T5 if kind == "sd3" else TEXT
        added = {"text_embeds": torch.ones(1, WIDTH + WIDTH_2)} if kind == "sd3" else None
        with torch.no_grad():
            return unet(sample, 400.0, torch.randn(1, 7, width, generator=generator), added)

    tuned, plain, file = model(), model(), tmp_path / "low.safetensors"
    before = moved(plain)
    tuned.set_rank(RANK)
    same(moved(tuned), before, atol=0)
    with torch.no_grad():
        for parameter in tuned.tuned_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    after = moved(tuned)
    assert (after - before).abs().max() > 1e-3
    tuned.save_motion(file)
    assert header_of(file).rank == RANK
    assert any(name.endswith("to_q.up") and "temp" not in name for name in load_file(file))
    plain.load_motion(file)
    same(moved(plain), after)
    plain.unload_motion()
    assert torch.equal(moved(plain), before)
    with pytest.raises(UserError, match="save its motion"):
        tuned.save_pretrained(tmp_path / "model")
