"""The authors' values: their code on tiny random weights, see tests/golden/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from lamp_lightning import MotionUNet
from lamp_lightning.diffusion import adain, denoise, first_frame_loss, histogram_match, invert

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["sd1", "sd2", "odd"])
def case(request):
    folder = GOLDEN / request.param
    settings = json.loads((folder / "case.json").read_text())
    return SimpleNamespace(
        unet=MotionUNet.from_official(folder / "unet"),
        scheduler=DDIMScheduler(**settings["scheduler"]),
        settings=settings,
        trainable=json.loads((folder / "trainable.json").read_text()),
        **load_file(folder / "tensors.safetensors"),
    )


def test_forward(case):
    with torch.no_grad():
        output = case.unet(case.forward_sample, case.forward_timestep, case.forward_text)
    torch.testing.assert_close(output, case.forward_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["odd"], indirect=True)
def test_one_timestep_for_all_clips(case):
    with torch.no_grad():
        output = case.unet(case.forward_sample, 500, case.forward_text)
    torch.testing.assert_close(output, case.forward_output_timestep_500, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slice_size", ["auto", "max"])
def test_attention_in_slices(case, slice_size):
    case.unet.set_attention_slice(slice_size)
    test_forward(case)


def test_loss_and_gradient_norm(case):
    loss = first_frame_loss(
        case.unet,
        case.scheduler,
        case.loss_latents,
        case.loss_noise,
        case.forward_timestep,
        case.forward_text,
    )
    torch.testing.assert_close(loss, case.loss_value, atol=1e-6, rtol=0)
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in case.unet.tuned_parameters()]).norm()
    torch.testing.assert_close(norm, case.grad_norm_total, atol=0, rtol=1e-5)


def test_what_is_tuned(case):
    assert case.unet.trainable_names() == sorted(case.trainable["trainable"])
    named = {name for name, parameter in case.unet.named_parameters() if parameter.requires_grad}
    assert named == set(case.trainable["trainable"])
    assert sum(p.numel() for p in case.unet.tuned_parameters()) == case.trainable["trainable_parameters"]
    assert sum(p.numel() for p in case.unet.parameters()) == case.trainable["all_parameters"]


def test_guided_steps_with_all_tricks(case):
    """Their AdaIN towards frame 0 starts at a step's number, ours at a share of the steps."""
    steps = case.settings["num_inference_steps"]
    output = denoise(
        case.unet,
        case.scheduler,
        case.sample_noise,
        case.sample_first_frame,
        case.sample_text_uncond_then_cond,
        guidance_scale=case.settings["guidance_scale"],
        num_inference_steps=steps,
        shared_noise=case.settings["shared_noise_alpha"],
        adain_after=case.settings["adain_last_steps_after_index"] / steps,
    )
    torch.testing.assert_close(output, case.sample_output, atol=1e-4, rtol=0)
    assert torch.equal(output[:, :, 0], case.sample_first_frame[:, :, 0])


def test_inversion(case):
    conditional = case.sample_text_uncond_then_cond.chunk(2)[1]
    steps = case.settings.get("invert_steps", 10)
    output = invert(case.unet, case.scheduler, case.invert_latents, conditional, steps)
    wanted = getattr(case, f"invert_output_{steps}_steps")
    torch.testing.assert_close(output, wanted, atol=1e-4, rtol=0)


def test_histogram_matching_is_exact(case):
    output = histogram_match(case.hist_frame.numpy(), case.hist_reference.numpy())
    assert (output == case.hist_output.numpy()).all()


def test_adain(case):
    torch.testing.assert_close(
        adain(case.adain_content, case.adain_style), case.adain_output, atol=1e-6, rtol=0
    )
