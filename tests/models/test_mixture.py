"""Several motions at once: weighted, switched, and unloaded without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lamp_lightning import LAMPPipeline, UserError
from method_models import image_unet, motion_unet, text, video
from random_models import save_random_model


def another_motion(base_seed=0, seed=5, **kwargs):
    """A second motion of the same base."""
    unet = motion_unet(base_seed, tuned=False, **kwargs)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


@pytest.fixture
def motions(tmp_path):
    """Two adapters of one base model."""
    motion_unet().save_motion(tmp_path / "a.safetensors", motion="fly")
    another_motion().save_motion(tmp_path / "b.safetensors", motion="fall")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def output(unet):
    with torch.no_grad():
        return unet(video(), 9, text())


def test_one_motion_of_weight_1_is_that_motion_to_the_bit(motions):
    unet = motion_unet(tuned=False)
    assert unet.set_motions({motions[0]: 1.0})[0]["motion"] == "fly"
    assert torch.equal(output(unet), output(motion_unet()))


def test_weights_of_nothing_and_halves_of_the_same(motions):
    a, b = motions
    unet, tuned, untuned = motion_unet(tuned=False), output(motion_unet()), output(motion_unet(tuned=False))
    for mixed, wanted in (
        ({a: 0.0}, untuned),
        ({a: 1.0, b: 0.0}, tuned),
        ({b: 0.0, a: 1.0}, tuned),
    ):
        unet.set_motions(mixed)
        torch.testing.assert_close(output(unet), wanted, atol=1e-5, rtol=0)
    again = a.with_name("again.safetensors")
    again.write_bytes(a.read_bytes())
    unet.set_motions({a: 0.5, again: 0.5})
    torch.testing.assert_close(output(unet), tuned, atol=1e-5, rtol=0)
    unet.set_motions({a: 0.7, b: 0.5})
    assert not torch.allclose(output(unet), tuned, atol=1e-2)


def test_every_layer_adds_its_weighted_motions(motions):
    """Against the formulas, layer by layer, with the two single UNets as the parts."""
    unet, one, two, base = motion_unet(tuned=False), motion_unet(), another_motion(), image_unet()
    unet.set_motions({motions[0]: 0.7, motions[1]: 0.5})
    for each in (unet, one, two):
        each._clip.frames = 5
    x = torch.randn(10, 4, 8, 8)
    plain = base.conv_in(x)
    parts = [each.conv_in(x) - plain for each in (one, two)]
    torch.testing.assert_close(unet.conv_in(x), plain + 0.7 * parts[0] + 0.5 * parts[1], atol=1e-5, rtol=0)
    name = "down_blocks.0.attentions.0.transformer_blocks.0"
    query = base.get_submodule(name).attn1.to_q.weight
    changes = [each.get_submodule(name).attn1.to_q.weight - query for each in (one, two)]
    wanted = query + 0.7 * changes[0] + 0.5 * changes[1]
    torch.testing.assert_close(unet.get_submodule(name).attn1.to_q.weight, wanted, atol=1e-6, rtol=0)
    blocks, seen = [each.get_submodule(name) for each in (unet, one, two)], []
    blocks[0].norm_temp.register_forward_hook(lambda _, given, normed: seen.append((given[0], normed)))
    found = blocks[0](torch.randn(10, 64, 16), encoder_hidden_states=text())
    hidden, normed = seen[0]
    wanted = hidden + 0.7 * blocks[1].attn_temp(normed) + 0.5 * blocks[2].attn_temp(normed)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - hidden).abs().max() > 0.01


def test_unloading_leaves_the_base_to_the_bit(motions):
    unet = motion_unet(tuned=False, norm="per_frame")
    before, wanted = {k: v.clone() for k, v in unet.state_dict().items()}, output(unet)
    for load in (
        lambda: unet.load_motion(motions[0]),
        lambda: unet.set_motions({motions[0]: 0.7, motions[1]: 0.5}),
        lambda: (unet.load_motion(motions[0]), unet.load_motion(motions[1])),  # switched
    ):
        load()
        assert unet.norm == "joint"
        assert not torch.equal(output(unet), wanted)
        unet.unload_motion()
        assert unet.norm == "per_frame"
        after = unet.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert torch.equal(output(unet), wanted)


def test_switching_leaves_nothing_of_the_one_before(motions):
    unet = motion_unet(tuned=False)
    unet.set_motions({motions[0]: 0.7, motions[1]: 0.5})
    unet.load_motion(motions[1])
    assert torch.equal(output(unet), output(another_motion()))


def test_the_image_model_paints_below_a_mixture(motions):
    unet, sample, words = motion_unet(tuned=False), video(frames=1), text()
    unet.set_motions({motions[0]: 0.7, motions[1]: 0.5})
    with unet.image_model(), torch.no_grad():
        assert torch.equal(unet(sample, 9, words)[:, :, 0], image_unet()(sample[:, :, 0], 9, words).sample)


def test_a_mixture_moves_with_the_unet(motions):
    unet = motion_unet(tuned=False)
    unet.set_motions({motions[0]: 0.7, motions[1]: 0.5})
    wanted = output(unet)
    unet.to(torch.bfloat16)
    with torch.no_grad():
        low = unet(video().bfloat16(), 9, text().bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), wanted, atol=0.2, rtol=0)


def test_a_mixture_is_no_adapter_and_no_model(motions, tmp_path):
    unet = motion_unet(tuned=False)
    unet.set_motions({motions[0]: 0.7, motions[1]: 0.5})
    with pytest.raises(UserError, match="several motions are mixed"):
        unet.save_motion(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="Several motions are mixed"):
        unet.save_pretrained(tmp_path / "c")
    assert not (tmp_path / "c.safetensors").exists()


def test_motions_that_cannot_be_mixed_are_refused_and_nothing_changes(motions, tmp_path):
    unet = motion_unet(tuned=False)
    before = output(unet)
    another_motion(norm="per_frame").save_motion(tmp_path / "frames.safetensors")
    motion_unet(seed=1).save_motion(tmp_path / "other.safetensors", base_model="the/other")
    for mixed, message in (
        ({}, "No motions"),
        ({motions[0]: float("nan")}, "weight is nan"),
        ({motions[0]: 0.5, tmp_path / "frames.safetensors": 0.5}, "different norms"),
        ({motions[0]: 0.5, tmp_path / "other.safetensors": 0.5}, "the/other"),
        ({motions[0]: 0.5, tmp_path / "none.safetensors": 0.5}, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            unet.set_motions(mixed)
        assert torch.equal(output(unet), before)


def test_a_pipeline_mixes_switches_and_unloads(tmp_path):
    folder = save_random_model(tmp_path / "base")
    pipeline = LAMPPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1.0, "num_frames": 3}
    before, scheduler = pipeline("a bird", photo, **settings).frames, pipeline.scheduler
    for k, name in enumerate(("a", "b")):
        tuned = LAMPPipeline.from_pretrained(folder).unet
        torch.manual_seed(k)
        with torch.no_grad():
            for parameter in tuned.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        told = {"num_frames": 4 + k, "scheduler": "EulerDiscreteScheduler"}
        tuned.save_motion(tmp_path / f"{name}.safetensors", sampler=told)
    a, b = (tmp_path / f"{name}.safetensors" for name in ("a", "b"))
    pipeline.load_motion(a)
    alone = pipeline("a bird", photo, **settings).frames
    pipeline.set_motions({a: 0.7, b: 0.9})
    assert pipeline.sampler.num_frames == 5
    assert not np.array_equal(pipeline("a bird", photo, **settings).frames, alone)
    pipeline.unload_motion()
    assert pipeline.scheduler is scheduler
    assert np.array_equal(pipeline("a bird", photo, **settings).frames, before)
