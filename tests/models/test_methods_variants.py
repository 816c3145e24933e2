"""Variants of the model: each switch does what it says, is kept in adapters, and comes back with them."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.diffusion import (
    KnownFrames,
    all_frames_loss,
    denoise_in_windows,
    first_frame_loss,
    with_guidance,
)
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import Variant
from lamp_lightning.models.unet.attention import ClipAttention
from lamp_lightning.models.unet.layers import ClipShape, MotionConv
from lamp_lightning.train.tuner import MotionTuner
from method_models import image_unet, images_of, motion_unet, output, text, video

OTHERS = [
    Variant(first_frame=False),
    Variant(gate=False),
    Variant(temporal_conv=False),
    Variant(causal=False),
    Variant(self_attention="own"),
    Variant(self_attention="first_and_former"),
    Variant(temporal_attention=False),
    Variant(conv_first=True),
    Variant(gate=False, conv_first=True),
    Variant(tuned=("conv1d", "conv_gate")),
    Variant(tuned=("attn1.to_q", "attn2.to_q", "attn_temp"), temporal_conv=False, first_frame=False),
]


def tuned_unet(variant, seed=5, **kwargs):
    """A MotionUNet of a variant whose tuned parameters, and no others, are no longer the untuned ones."""
    unet = motion_unet(tuned=False, **kwargs)
    unet.set_variant(variant)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches", list(itertools.product([True, False], repeat=3)), ids=lambda s: "".join("01"[x] for x in s)
)
def test_untuned_with_its_own_attention_each_frame_is_the_image_models(switches):
    gate, causal, temporal_attention = switches
    variant = Variant(gate=gate, causal=causal, temporal_attention=temporal_attention, self_attention="own")
    unet = motion_unet(norm="per_frame", tuned=False)
    unet.set_variant(variant)
    torch.testing.assert_close(output(unet), images_of(video(), text()), atol=2e-6, rtol=0)


def test_the_first_and_former_frame_of_one_frame_are_that_frame():
    unet = motion_unet(norm="per_frame", tuned=False)
    unet.set_variant(Variant(self_attention="first_and_former"))
    torch.testing.assert_close(output(unet, 1), images_of(video(1), text()), atol=2e-6, rtol=0)
    torch.testing.assert_close(
        output(unet)[:, :, :1], images_of(video(), text())[:, :, :1], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("looks_at", ["first_frame", "own", "first_and_former"])
def test_self_attention_looks_where_it_says(looks_at, sliced):
    torch.manual_seed(0)
    attention = image_unet().down_blocks[0].attentions[0].transformer_blocks[0].attn1
    clip = ClipShape(frames=4, variant=Variant(self_attention=looks_at), slice_size=1 if sliced else None)
    x = torch.randn(8, 6, 16)  # two clips of four frames
    with torch.no_grad():
        found = ClipAttention(clip)(attention, x)
        for frame in range(8):
            first, former = frame // 4 * 4, max(frame - 1, frame // 4 * 4)
            seen = {"first_frame": [first], "own": [frame], "first_and_former": [first, former]}[looks_at]
            wanted = attention(x[frame : frame + 1], torch.cat([x[s] for s in seen])[None])
            torch.testing.assert_close(found[frame : frame + 1], wanted, atol=1e-6, rtol=0)


def random_layer(variant):
    torch.manual_seed(0)
    layer = MotionConv(nn.Conv2d(4, 6, 3, padding=1), ClipShape(frames=6, variant=variant))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, torch.randn(12, 4, 5, 5)


def test_a_centred_motion_layer_sees_one_frame_of_the_past_and_one_of_the_future():
    layer, x = random_layer(Variant(causal=False))
    for changed in range(12):
        other = x.clone()
        other[changed] += 1
        differs = (layer(other) != layer(x)).flatten(1).any(1).nonzero().flatten().tolist()
        clip = range(0, 6) if changed < 6 else range(6, 12)
        assert differs == [f for f in (changed - 1, changed, changed + 1) if f in clip]


def test_a_motion_layer_without_gate_adds_its_convolution():
    layer, x = random_layer(Variant(gate=False))
    y = layer.conv2d(x)
    torch.testing.assert_close(layer(x), y + layer.over_frames(y, layer.conv1d))


def test_a_convolution_of_frame_0_is_added_to_all_frames_of_its_clip():
    layer, x = random_layer(Variant(conv_first=True, temporal_conv=False))
    assert torch.equal(layer(x), layer.conv2d(x)), "where there is none"
    layer.show_first(True)
    assert torch.equal(layer(x), layer.conv2d(x)), "where it is zero"
    nn.init.normal_(layer.conv_first.weight)
    y = layer.conv2d(x)
    added = [layer.conv_first(y[first : first + 1]) for first in (0, 6)]
    wanted = torch.cat([y[:6] + added[0], y[6:] + added[1]])
    torch.testing.assert_close(layer(x), wanted)


def test_a_motion_with_a_convolution_of_frame_0_comes_and_goes(tmp_path):
    plain, shown = tuned_unet(Variant()), tuned_unet(Variant(conv_first=True))
    files = {}
    for name, unet in {"plain": plain, "shown": shown}.items():
        unet.save_motion(files.setdefault(name, tmp_path / f"{name}.safetensors"))
    assert not torch.equal(output(plain), output(shown))
    for loads in (plain, shown, motion_unet(tuned=False)):
        own, names = output(loads), set(loads.state_dict())
        loads.load_motion(files["shown"], check_base=False)
        assert torch.equal(output(loads), output(tuned_unet(Variant(conv_first=True))))
        loads.load_motion(files["plain"], check_base=False)
        assert torch.equal(output(loads), output(tuned_unet(Variant())))
        loads.set_motions({files["shown"]: 0.5}, check_base=False)
        loads.set_motions({files["shown"]: 1.0}, check_base=False)
        assert torch.equal(output(loads), output(tuned_unet(Variant(conv_first=True))))
        loads.unload_motion()
        assert torch.equal(output(loads), own)
        assert set(loads.state_dict()) == names


def test_parts_that_are_switched_off_have_no_say():
    layer, x = random_layer(Variant(temporal_conv=False))
    assert torch.equal(layer(x), layer.conv2d(x))
    unet = motion_unet()
    whole = output(unet)
    unet.set_variant(Variant(temporal_attention=False))
    without = output(unet)
    assert not torch.allclose(without, whole, atol=1e-3)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn_temp" in name:
                parameter.zero_()
    assert torch.equal(output(unet), without)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "svd"}, "model.layers.kind must be one of lamp, animatediff"),
        ({"self_attention": "last"}, "model.layers.self_attention must be one of first_frame"),
        ({"tuned": ["conv2d"]}, "'conv2d', which cannot be tuned: give some of conv1d"),
        ({"tuned": ["conv_gate"], "gate": False}, "model.layers.gate=false leaves out"),
        ({"tuned": ["conv1d"], "temporal_conv": False}, "model.layers.temporal_conv=false leaves out"),
        ({"tuned": ["attn_temp"], "temporal_attention": False}, "temporal_attention=false leaves out"),
        ({"gate": False, "temporal_conv": False}, "leaves out: give model.layers.gate=true with it"),
        ({"causal": False, "temporal_conv": False}, "leaves out: give model.layers.causal=true"),
        ({"kind": "animatediff", "causal": False}, "model.layers.causal is about LAMP's layers"),
        ({"kind": "animatediff", "tuned": ["conv1d"]}, "give some of motion_modules"),
        ({"colour": "red"}, "has no part 'colour'"),
    ],
)
def test_contradictions_are_said(values, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        Variant.from_settings(values)


def test_what_is_tuned_by_default_is_what_the_layers_have():
    assert Variant().sets == ("conv1d", "conv_gate", "attn1.to_q", "attn_temp")
    assert Variant(gate=False).sets == ("conv1d", "attn1.to_q", "attn_temp")
    assert Variant(temporal_conv=False, temporal_attention=False).sets == ("attn1.to_q",)
    assert Variant(tuned=("attn_temp", "conv1d", "attn1.to_q", "conv_gate")) == Variant()
    for variant in OTHERS:
        assert Variant.from_settings(json.loads(json.dumps(variant.settings()))) == variant


# -- tuning --------------------------------------------------------------------------------------------------


@pytest.fixture
def base(random_base):
    return load_base_model(random_base)


def batch(first=0):
    generator = torch.Generator().manual_seed(first)
    return {
        "latents": torch.randn(2, 4, 3, 8, 8, generator=generator),
        "text": torch.randn(2, 16, 16, generator=generator),
        "index": torch.arange(first, first + 2),
    }


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_tuning_changes_the_named_sets_and_leaves_all_else_to_the_bit(base, variant):
    unet = MotionUNet.from_unet(base.unet, variant=variant)
    tuner = MotionTuner(unet, base.scheduler, learning_rate=1e-3)
    assert unet.variant == variant
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    optimizer = tuner.configure_optimizers()
    for first in (0, 2):  # the first step opens the zero-initialised layers, the second reaches behind them
        tuner.training_step(batch(first), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(unet.trainable_names()) != set()
    for name in changed:
        assert any(f".{part}." in f".{name}" for part in variant.sets), name


def test_the_tuner_takes_what_is_tuned_and_whether_a_first_frame_is_given(base):
    unet = MotionUNet.from_unet(base.unet, variant=Variant(causal=False))
    tuner = MotionTuner(unet, base.scheduler, first_frame=False, tuned=["conv1d"])
    assert unet.variant == Variant(causal=False, first_frame=False, tuned=("conv1d",))
    assert {name for name, p in unet.named_parameters() if p.requires_grad} == set(unet.names_of(["conv1d"]))
    data = batch()
    drawn = tuner.draw(data["latents"], data["index"])
    wanted = all_frames_loss(unet, base.scheduler, data["latents"], *drawn, data["text"])
    assert torch.equal(tuner.training_step(data, 0), wanted)
    assert not torch.equal(
        first_frame_loss(unet, base.scheduler, data["latents"], *drawn, data["text"]), wanted
    )


def test_the_loss_without_first_frame_is_on_all_frames_of_noised_clips(base):
    seen = []

    def unet(sample, timesteps, words):
        seen.append(sample)
        return torch.zeros_like(sample)

    latents, noise, timesteps = video(3), video(3, seed=4), torch.tensor([0, 999])
    loss = all_frames_loss(unet, base.scheduler, latents, noise, timesteps, text())
    torch.testing.assert_close(loss, (noise**2).mean())
    levels = base.scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1, 1)
    torch.testing.assert_close(seen[0], levels.sqrt() * latents + (1 - levels).sqrt() * noise)


def test_a_checkpoint_of_another_variant_is_refused(base):
    tuner = MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler)
    checkpoint = {"state_dict": tuner.state_dict()}
    tuner.on_save_checkpoint(checkpoint)
    tuner.on_load_checkpoint(checkpoint)
    tuner.unet.set_variant(Variant(causal=False))
    with pytest.raises(UserError, match="differs in causal True and False"):
        tuner.on_load_checkpoint(checkpoint)


# -- adapters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_any_motion_unet_loads_an_adapter_of_any_variant_and_forgets_it_again(tmp_path, variant):
    tuned_unet(Variant(), seed=1).save_motion(tmp_path / "lamp.safetensors")
    other = tuned_unet(variant)
    other.save_motion(tmp_path / "other.safetensors")
    unet = motion_unet(tuned=False)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    untuned, lamp = output(unet), None
    for _ in range(2):  # also after one another
        unet.load_motion(tmp_path / "lamp.safetensors")
        lamp = output(unet) if lamp is None else lamp
        assert torch.equal(output(unet), lamp)
        assert unet.variant == Variant()
        metadata = unet.load_motion(tmp_path / "other.safetensors")
        assert unet.variant == variant
        assert json.loads(metadata["variant"]) == variant.settings()
        assert torch.equal(output(unet), output(other))
    unet.unload_motion()
    assert unet.variant == Variant()
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert torch.equal(output(unet), untuned)


def test_a_saved_model_knows_its_variant_and_its_image_model(tmp_path):
    unet = tuned_unet(OTHERS[-1])
    unet.save_pretrained(tmp_path)
    again = MotionUNet.from_pretrained(tmp_path)
    assert again.variant == OTHERS[-1]
    assert torch.equal(output(again), output(unet))
    for tuned in (unet, again):
        with tuned.image_model():
            torch.testing.assert_close(output(tuned), images_of(video(), text()), atol=2e-6, rtol=0)
    assert torch.equal(output(unet), output(again))


def test_motions_of_one_variant_mix_and_of_two_do_not(tmp_path):
    variant = OTHERS[-1]
    for name, kind, seed in (("a", variant, 1), ("b", variant, 2), ("lamp", Variant(), 3)):
        tuned_unet(kind, seed=seed).save_motion(tmp_path / f"{name}.safetensors")
    a, b, lamp = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "lamp"))
    unet = motion_unet(tuned=False)
    untuned = output(unet)
    unet.load_motion(a)
    alone = output(unet)
    unet.load_motion(lamp)  # what it tunes must not stay behind in the mixture
    unet.set_motions({a: 1.0, b: 0.0})
    torch.testing.assert_close(output(unet), alone, atol=1e-5, rtol=0)
    unet.set_motions({a: 0.5, b: 0.5})
    assert not torch.allclose(output(unet), alone, atol=1e-3)
    mixed = output(unet)
    with pytest.raises(UserError, match=r"motions of different models .* they differ in .*first_frame False"):
        unet.set_motions({a: 0.5, lamp: 0.5})
    assert torch.equal(output(unet), mixed)
    unet.unload_motion()
    assert torch.equal(output(unet), untuned)


def test_the_authors_code_gets_lamp_only(tmp_path):
    unet = tuned_unet(Variant(causal=False))
    with pytest.raises(UserError, match="differs from it in causal True and False"):
        unet.save_official(tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


# -- sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True])
def test_without_conditioning_a_given_first_frame_is_noised_as_the_others_and_comes_out_as_given(base, given):
    seen = []

    def unet(sample, timestep, words):
        seen.append((int(timestep), sample.clone()))
        return 0.1 * sample

    noise, first = video(7, clips=1), video(1, clips=1, seed=9)
    settings = {"num_inference_steps": 3, "shared_noise": 0.0, "adain": False, "window": 5, "overlap": 2}
    scheduler = base.scheduler
    result = denoise_in_windows(
        with_guidance(unet, text(1), scale=1.0),
        scheduler,
        noise,
        KnownFrames.first(first, noised=True) if given else KnownFrames.none(),
        Sampler().changed(settings),
    )
    assert result.shape == noise.shape
    assert torch.equal(result[:, :, :1], first) is given
    anchor = result[:, :, :1]
    for number, (timestep, sample) in enumerate(seen):
        if number < 3 and not given:  # frame 0 of the first window is made with the others
            continue
        wanted = scheduler.add_noise(anchor, noise[:, :, :1], torch.tensor([timestep]))
        torch.testing.assert_close(sample[:, :, :1], wanted)
