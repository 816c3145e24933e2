"""Sana and Stable Diffusion 3.5 as models of clips: what they share with the image models, and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from lamp_lightning import LAMPPipeline
from lamp_lightning.diffusion import Conditions, first_frame_loss
from lamp_lightning.models import load_base_model
from lamp_lightning.models.base.load import check_parts
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.transformer.motion_transformer import MotionSana, MotionSD3, MotionTransformer
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from random_models import TOKENS, WIDTH, WIDTH_2
from random_transformers import (
    CHANNELS,
    KINDS,
    T5,
    TEXT,
    random_transformer,
    save_random_transformer,
    save_sd3_file,
)


@pytest.fixture(scope="module")
def base(random_model) -> Callable[[str], Any]:
    """The base model of a kind, loaded once."""
    return cache(lambda kind: load_base_model(random_model(kind)))


CLASSES = {"sana": MotionSana, "sd3": MotionSD3}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(frames: int = 5, count: int = 2, seed: int = 1) -> Tensor:
    return gaussian(count, CHANNELS, frames, 8, 6, seed=seed)


def conditions(kind: str, count: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """Text and what comes with it."""
    if kind == "sd3":
        return gaussian(count, 7, T5, seed=2), {"text_embeds": gaussian(count, WIDTH + WIDTH_2, seed=3)}
    mask = torch.ones(count, 7)
    mask[1:, 4:] = 0
    return gaussian(count, 7, TEXT, seed=2), {"encoder_attention_mask": mask}


def image_of(model: Any, kind: str, frames: Tensor, times: Tensor, row: int) -> Tensor:
    """What diffusers' model makes of frames `n c h w` at timesteps `n` under one clip's text."""
    text, added = conditions(kind)
    text, *rest = (x[row : row + 1].expand(len(frames), *x.shape[1:]) for x in (text, *added.values()))
    if kind == "sd3":
        return model(frames, text, rest[0], times, return_dict=False)[0]
    return model(frames, text, times, encoder_attention_mask=rest[0], return_dict=False)[0]


def motion(kind: str, *, tuned: bool = False, **variant: Any) -> MotionTransformer:
    """An inflated transformer; `tuned` fills the layers that start at zero, as training would."""
    model: Any = inflated(random_transformer(kind), "per_frame", Variant(**variant))
    if tuned:
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in model.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def predicted(model: Any, kind: str, sample: Tensor, timestep: Any = 400.0) -> Tensor:
    text, added = conditions(kind, len(sample))
    with torch.no_grad():
        return model(sample, timestep, text, added)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_the_pipeline_is_that_of_diffusers_to_the_bit(random_model, kind):
    folder = random_model(kind)
    how: dict[str, Any] = {"height": 32, "width": 32, "guidance_scale": 3.0, "num_inference_steps": 3}
    theirs: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    words = {"negative_prompt": "rain", "output_type": "latent"}
    own = {"use_resolution_binning": False, "max_sequence_length": TOKENS} if kind == "sana" else {}
    prompt, seed = "A red bird ", 3
    wanted = theirs(prompt, generator=torch.Generator().manual_seed(seed), **how, **words, **own).images
    pipe = LAMPPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = theirs.scheduler
    paint = {"paint_guidance_scale": how["guidance_scale"], "paint_steps": how["num_inference_steps"]}
    found = pipe(prompt, num_frames=1, seed=seed, **how, **paint, **words).frames
    assert isinstance(pipe.unet, CLASSES[kind])
    assert torch.equal(found[:, :, 0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_of_one_frame_is_a_picture(kind):
    sample, times = clips(1), torch.tensor([300.0, 700.0])
    image = random_transformer(kind)
    text, added = conditions(kind)
    with torch.no_grad():
        if kind == "sd3":
            wanted = image(sample[:, :, 0], text, added["text_embeds"], times, return_dict=False)[0]
        else:
            mask = added["encoder_attention_mask"]
            wanted = image(sample[:, :, 0], text, times, encoder_attention_mask=mask, return_dict=False)[0]
    assert torch.equal(predicted(motion(kind), kind, sample, times)[:, :, 0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_frame_0_is_the_image_models_prediction_of_a_clean_picture(kind):
    sample, image = clips(), random_transformer(kind)
    found = predicted(motion(kind), kind, sample, torch.tensor([300.0, 700.0]))
    for row in range(2):
        with torch.no_grad():
            wanted = image_of(image, kind, sample[row, :, 0][None], torch.zeros(1), row)
        torch.testing.assert_close(found[row, :, 0], wanted[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_in_its_context_the_image_model_is_there_and_the_motion_comes_back(kind):
    model, sample, image = motion(kind, tuned=True), clips(), random_transformer(kind)
    before = predicted(model, kind, sample)
    with model.image_model() as same:
        found = predicted(same, kind, sample)
    for row in range(2):
        with torch.no_grad():
            wanted = image_of(image, kind, sample[row].transpose(0, 1), torch.full((5,), 400.0), row)
        torch.testing.assert_close(found[row].transpose(0, 1), wanted, atol=1e-6, rtol=0)
    assert torch.equal(predicted(model, kind, sample), before)


@pytest.mark.parametrize("kind", KINDS)
def test_no_temporal_convolution_sees_the_future(kind):
    model = motion(kind, tuned=True, temporal_attention=False)
    sample = clips()
    other = sample.clone()
    other[:, :, 3:] += 1
    one, two = (predicted(model, kind, each) for each in (sample, other))
    assert torch.equal(one[:, :, :3], two[:, :, :3])
    assert not torch.equal(one[:, :, 3:], two[:, :, 3:])
    past = sample.clone()
    past[:, :, 2] += 1  # and what is seen is the past: not by frame 0, but by frames 3 and 4
    three = predicted(model, kind, past)
    assert torch.equal(one[:, :, :2], three[:, :, :2])
    assert not torch.equal(one[:, :, 3], three[:, :, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_looks_at_the_first(kind):
    """The other parts left out, a frame knows itself and frame 0; of frame 0, in each token, all of it."""
    model = motion(kind, tuned=True, temporal_attention=False, temporal_conv=False)
    sample = clips()
    first, second = sample.clone(), sample.clone()
    first[:, :, 0, 0, 0] += 1
    second[:, :, 1, 0, 0] += 1
    before, by_first, by_second = (predicted(model, kind, each) for each in (sample, first, second))
    assert ((before - by_first)[:, :, 2:, 4:].abs().amax((1, 3, 4)) > 0).all()
    assert torch.equal(before[:, :, [0, 2, 3, 4]], by_second[:, :, [0, 2, 3, 4]])


@pytest.mark.parametrize("looks_at", ["own", "first_and_former"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_frames_can_be_looked_at(kind, looks_at):
    model = motion(kind, tuned=True, temporal_attention=False, temporal_conv=False, self_attention=looks_at)
    sample = clips()
    other = sample.clone()
    other[:, :, 2, 0, 0] += 1
    changed = (predicted(model, kind, sample) != predicted(model, kind, other)).any(4).any(3).any(1).any(0)
    after = looks_at == "first_and_former"  # one frame in each of the two blocks
    assert changed.tolist() == [False, False, True, after, after]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_loss_on_frame_0_change_nothing(kind):
    model, clean, noise = motion(kind, tuned=True), clips(), clips(seed=9)
    text, added = conditions(kind)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    times = torch.tensor([200.0, 800.0])
    found = []
    for first in (0.0, 7.0):
        noise[:, :, 0] = first
        model.zero_grad()
        told = Conditions.of(text, added)
        loss = first_frame_loss(model, scheduler, clean, noise, times, told)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.tuned_parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(each.any() for each in found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_with_checkpointing(kind):
    clean, noise, (text, added) = clips(), clips(seed=9), conditions(kind)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    gradients = []
    for checkpointing in (False, True):
        model = motion(kind, tuned=True).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        told = Conditions.of(text, added)
        first_frame_loss(model, scheduler, clean, noise, torch.tensor([200.0, 800.0]), told).backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        gradients.append([p.grad for p in model.tuned_parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_frozen_weights_learn_in_mixed_precision(kind):
    model = motion(kind, tuned=True).to(torch.bfloat16)
    for parameter in model.tuned_parameters():
        parameter.data = parameter.data.float()
    exact = predicted(motion(kind, tuned=True), kind, clips())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text, added = conditions(kind)
        found = model(clips(), 400.0, text, added)
        found.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.tuned_parameters())
    assert (found.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_timestep_for_each_frame_can_be_given(kind):
    model, sample = motion(kind, tuned=True), clips()
    times = torch.tensor([[0.0, 300, 300, 300, 300], [0.0, 700, 700, 700, 700]])
    assert torch.equal(
        predicted(model, kind, sample, times), predicted(model, kind, sample, torch.tensor([300.0, 700.0]))
    )
    without = motion(kind, tuned=True, first_frame=False)
    times[:, 0] = torch.tensor([300.0, 700])
    of_clips = torch.tensor([300.0, 700.0])
    assert torch.equal(predicted(without, kind, sample, times), predicted(without, kind, sample, of_clips))


@pytest.mark.parametrize("kind", KINDS)
def test_a_motion_comes_back_to_the_bit_and_leaves_no_trace(kind, tmp_path):
    tuned, model, sample = motion(kind, tuned=True), motion(kind), clips()
    untuned = predicted(model, kind, sample)
    tuned.save_motion(tmp_path / "rain.safetensors")
    model.load_motion(tmp_path / "rain.safetensors")
    moved = predicted(tuned, kind, sample)
    assert torch.equal(predicted(model, kind, sample), moved)
    model.set_motions({tmp_path / "rain.safetensors": 0.5})
    half = predicted(model, kind, sample)
    assert not torch.equal(half, moved)
    assert not torch.equal(half, untuned)
    model.set_motions({tmp_path / "rain.safetensors": 0.0})
    torch.testing.assert_close(predicted(model, kind, sample), untuned)
    model.unload_motion()
    assert torch.equal(predicted(model, kind, sample), untuned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_pipeline_is_the_same(random_model, tmp_path, kind):
    pipe = LAMPPipeline.from_pretrained(random_model(kind))
    torch.manual_seed(0)
    for parameter in pipe.unet.tuned_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    pipe.save_pretrained(tmp_path / "saved")
    again = LAMPPipeline.from_pretrained(tmp_path / "saved")
    few = {"num_frames": 3, "num_inference_steps": 2, "paint_steps": 2, "seed": 0, "output_type": "latent"}
    for each in (pipe, again):
        each.set_progress_bar_config(disable=True)
    one, other = (each("rain", **few).frames for each in (pipe, again))
    assert torch.equal(one, other)


def test_stable_diffusion_3_works_without_t5(tmp_path):
    folder = save_random_transformer(tmp_path, "sd3", t5=False)
    theirs: Any = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None
    )
    wanted = theirs.encode_prompt("a bird", None, None, do_classifier_free_guidance=False)
    found = load_base_model(folder).encode_prompts(["a bird"])
    assert torch.equal(found.text, wanted[0])
    assert torch.equal(found.pooled, wanted[2])


@pytest.mark.parametrize("t5", [True, False])
def test_a_single_file_of_stable_diffusion_3_holds_what_its_folder_does(random_model, base, tmp_path, t5):
    folder = random_model("sd3")
    file = save_sd3_file(folder, tmp_path / "model.safetensors", t5=t5)
    one, other = base("sd3"), load_base_model(file, config=folder)
    assert (other.text_encoder_3 is not None) == (other.tokenizer_3 is not None) == t5
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", *(["text_encoder_3"] if t5 else [])):
        ours, theirs = (getattr(each, part).state_dict() for each in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert other.scheduler.config.shift == 3.0


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("sana", {"guidance_embeds": True}, "distilled"),
        ("sana", {"caption_channels": 8}, "8 numbers"),
        ("sd3", {"pooled_projection_dim": 8}, "pooled texts"),
        ("sd3", {"joint_attention_dim": 40}, "text embeddings"),
        ("sd3", {"in_channels": 8}, "8 channels"),
    ],
)
def test_parts_that_do_not_go_together_are_named(base, kind, changes, said):
    others = replace(base(kind), unet=random_transformer(kind, **changes))
    with pytest.raises(UserError, match=said):
        check_parts(others)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_transformer_has_not_is_refused(kind):
    with pytest.raises(UserError, match="per_frame"):
        inflated(random_transformer(kind), "joint")
    with pytest.raises(UserError, match="made for UNets"):
        inflated(random_transformer(kind), "per_frame", Variant(kind="animatediff", first_frame=False))
    with pytest.raises(UserError, match="already"):
        inflated(motion(kind))
    with pytest.raises(UserError, match="LoRA"):
        motion(kind).load_lora_adapter("style.safetensors")
    if kind == "sd3":
        with pytest.raises(UserError, match="attn2"):
            inflated(random_transformer(kind), "per_frame", Variant(tuned=("attn2.to_q",)))
