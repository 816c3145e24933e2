"""What diffusers expects of its models, asked of MotionUNet; docs/diffusers.md has the table."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel

from lamp_lightning import LAMPPipeline, MotionUNet
from method_models import motion_unet, text, video
from random_models import save_single_file


def output(unet, **kwargs):
    with torch.no_grad():
        return unet(video(), 9, text(), **kwargs)


def test_outputs_as_diffusers_gives_them_and_a_tensor_by_default():
    unet = motion_unet()
    prediction = output(unet)
    assert type(prediction) is torch.Tensor
    assert torch.equal(output(unet, return_dict=True).sample, prediction)
    assert torch.equal(output(unet, return_dict=True)[0], prediction)
    (alone,) = output(unet, return_dict=False)
    assert torch.equal(alone, prediction)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_variants_and_shards_are_written_and_read_by_the_unet(tmp_path, variant):
    unet = motion_unet()
    unet.save_pretrained(tmp_path, variant=variant, max_shard_size="30KB")
    names = {file.name for file in tmp_path.iterdir()}
    middle = f".{variant}" if variant else ""
    assert f"diffusion_pytorch_model.safetensors.index{middle}.json" in names
    assert sum(file.startswith(f"diffusion_pytorch_model{middle}-0") for file in names) > 2
    assert f"image_queries{middle}.safetensors" in names
    loaded = MotionUNet.from_pretrained(tmp_path, variant=variant)
    assert torch.equal(output(loaded), output(unet))
    with loaded.image_model(), unet.image_model():
        assert torch.equal(output(loaded), output(unet))
    if variant:
        with pytest.raises(OSError, match="no file named"):
            MotionUNet.from_pretrained(tmp_path)


def test_a_pipelines_variant_and_shards_reach_the_unet(tmp_path, random_base):
    pipeline = LAMPPipeline.from_pretrained(random_base)
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="30KB")
    index = json.loads((tmp_path / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    loaded = LAMPPipeline.from_pretrained(tmp_path, variant="fp16")
    assert loaded.unet.knows_image_model
    for name, tensor in pipeline.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_load_in_the_precision_that_is_asked_for(tmp_path, dtype):
    unet = motion_unet()
    unet.save_pretrained(tmp_path)
    for argument in ("torch_dtype", "dtype"):
        loaded = MotionUNet.from_pretrained(tmp_path, **{argument: dtype})
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert loaded.dtype == dtype
    with torch.no_grad():
        close = loaded(video().to(dtype), 9, text().to(dtype))
    torch.testing.assert_close(close.float(), output(unet), atol=0.3, rtol=0)


def test_repeated_blocks_are_compiled_and_give_the_same():
    unet = motion_unet()
    wanted = output(unet)
    unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(output(unet), wanted, atol=1e-5, rtol=0)
    with unet.image_model():
        assert not torch.allclose(output(unet), wanted, atol=0.1)
    torch.testing.assert_close(output(unet), wanted, atol=1e-5, rtol=0)
    blocks = [m for m in unet.modules() if type(m).__name__ == "MotionTransformerBlock"]
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_training_with_ema_and_gradient_checkpointing():
    unet = motion_unet().train()
    assert not unet.is_gradient_checkpointing
    unet.enable_gradient_checkpointing()
    assert unet.is_gradient_checkpointing
    average = EMAModel(unet.tuned_parameters())
    before = [p.detach().clone() for p in average.shadow_params]
    torch.nn.functional.mse_loss(unet(video(), 9, text()), video()).backward()
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.sub_(0.1 * parameter.grad)
    average.step(unet.tuned_parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, average.shadow_params, strict=True))
    unet.disable_gradient_checkpointing()
    assert not unet.is_gradient_checkpointing


def test_float8_storage_keeps_motion_image_model_and_pictures(random_base, tmp_path):
    """diffusers keeps weights in 8 bits and computes in another precision; latents are never 8 bits."""
    pipeline = LAMPPipeline.from_pretrained(random_base)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for parameter in pipeline.unet.tuned_parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    pipeline.unet.save_motion(tmp_path / "motion.safetensors", motion="rain")
    few = {"num_frames": 3, "num_inference_steps": 2, "paint_steps": 2, "seed": 0}
    first = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = pipeline("a red bird", first, **few).frames
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert torch.float8_e4m3fn in {p.dtype for p in pipeline.unet.tuned_parameters()}
    close = pipeline("a red bird", first, **few).frames
    assert abs(close - wanted).mean() < 0.05
    assert pipeline("a red bird", **few).frames.shape == wanted.shape  # painted by the image model
    pipeline.load_motion(tmp_path / "motion.safetensors", check_base=False)
    assert abs(pipeline("a red bird", first, **few).frames - close).max() < 1e-3


def test_a_single_file_is_inflated(tmp_path, random_base):
    file = save_single_file(random_base, tmp_path / "model.safetensors")
    unet = MotionUNet.from_single_file(file, config=str(random_base), subfolder="unet", norm="per_frame")
    assert unet.norm == "per_frame"
    image = UNet2DConditionModel.from_pretrained(random_base, subfolder="unet")
    with torch.no_grad():
        one = unet(video(frames=1), 9, text())[:, :, 0]
        assert torch.equal(one, image(video(frames=1)[:, :, 0], 9, text()).sample)
