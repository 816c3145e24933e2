"""Inflation: what an inflated UNet keeps of the image model, and what each layer may see."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.unet.layers import ClipGroupNorm, ClipShape, MotionConv
from method_models import image_unet, motion_unet, text, video


def image_output(unet: UNet2DConditionModel, sample: torch.Tensor, timestep, words) -> torch.Tensor:
    with torch.no_grad():
        return unet(sample, timestep, words).sample


@pytest.mark.parametrize("norm", ["joint", "per_frame"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True},
        {"layers_per_block": 2, "down_block_types": ("CrossAttnDownBlock2D",) * 2,
         "up_block_types": ("CrossAttnUpBlock2D",) * 2},
        {"resnet_time_scale_shift": "scale_shift", "transformer_layers_per_block": 2},
    ],
)  # fmt: skip
def test_untuned_one_frame_clips_are_images_to_the_bit(norm, shape):
    sample, words, timesteps = video(frames=1, clips=3), text(3), torch.tensor([7, 500, 999])
    wanted = image_output(image_unet(**shape), sample[:, :, 0], timesteps, words)
    unet = motion_unet(norm=norm, tuned=False, **shape)
    with torch.no_grad():
        assert torch.equal(unet(sample, timesteps, words)[:, :, 0], wanted)


def test_untuned_per_frame_norm_leaves_frame_0_of_any_clip_to_the_bit():
    sample, words, timesteps = video(frames=5), text(), torch.tensor([7, 500])
    images, frames = image_unet(), sample.transpose(1, 2).flatten(0, 1)
    wanted = image_output(
        images, frames, timesteps.repeat_interleave(5), words.repeat_interleave(5, dim=0)
    ).unflatten(0, (2, 5))
    unet = motion_unet(norm="per_frame", tuned=False)
    with torch.no_grad():
        output = unet(sample, timesteps, words)
    assert torch.equal(output[:, :, 0], wanted[:, 0])
    assert not torch.allclose(output[:, :, 1], wanted[:, 1], atol=1e-3)  # the others look at frame 0


def test_untuned_per_frame_norm_leaves_frame_0_as_the_image_alone():
    """Libraries may sum in another order for another batch size: equal up to float32's rounding."""
    sample, words = video(frames=5), text()
    wanted = image_output(image_unet(), sample[:, :, 0], 500, words)
    with torch.no_grad():
        output = motion_unet(norm="per_frame", tuned=False)(sample, 500, words)
    torch.testing.assert_close(output[:, :, 0], wanted, atol=2e-6, rtol=0)


def test_odd_sizes_and_any_number_of_frames():
    for size, frames in (((7, 9), 2), ((6, 10), 3), ((8, 8), 17)):
        sample = video(frames=frames, clips=1, size=size)
        assert motion_unet()(sample, 3, text(1)).shape == sample.shape


def test_clips_of_a_batch_do_not_mix():
    unet, sample, words, timesteps = motion_unet(), video(clips=2), text(2), torch.tensor([7, 500])
    with torch.no_grad():
        both = unet(sample, timesteps, words)
        alone = [unet(sample[i : i + 1], timesteps[i], words[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=0)


def test_a_motion_layer_sees_the_present_and_two_frames_of_the_past():
    torch.manual_seed(0)
    layer = MotionConv(nn.Conv2d(4, 6, 3, padding=1), ClipShape(frames=6))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(12, 4, 5, 5)  # two clips
    for changed in range(12):
        other = x.clone()
        other[changed] += 1
        differs = (layer(other) != layer(x)).flatten(1).any(1).nonzero().flatten().tolist()
        clip_end = 6 if changed < 6 else 12
        assert differs == [f for f in (changed, changed + 1, changed + 2) if f < clip_end]


def test_a_motion_layer_is_the_papers_formula():
    torch.manual_seed(0)
    layer = MotionConv(nn.Conv2d(4, 6, 3, padding=1, stride=2), ClipShape(frames=3))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    y = layer.conv2d(x := torch.randn(6, 4, 8, 8))
    lines = y.unflatten(0, (2, 3)).permute(0, 3, 4, 2, 1).reshape(-1, 6, 3)  # (b h w) c f
    temporal = layer.conv1d(nn.functional.pad(lines, (2, 0)))
    temporal = temporal.view(2, 4, 4, 6, 3).permute(0, 4, 3, 1, 2).flatten(0, 1)
    wanted = y + torch.sigmoid(layer.conv_gate(y)) * temporal
    torch.testing.assert_close(layer(x), wanted, atol=1e-4, rtol=1e-5)


def test_motion_layers_start_as_the_plain_convolution():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    x = torch.randn(6, 4, 5, 5)
    assert torch.equal(MotionConv(conv, ClipShape(frames=3))(x), conv(x))


def test_joint_norm_pools_over_the_frames_of_each_clip():
    norm = nn.GroupNorm(2, 4)
    x = torch.randn(6, 4, 5, 5)
    nn.init.normal_(norm.weight)
    output = ClipGroupNorm(norm, ClipShape(frames=3))(x)
    clips = x.unflatten(0, (2, 3)).transpose(1, 2)  # b c f h w
    torch.testing.assert_close(output, norm(clips).transpose(1, 2).flatten(0, 1))
    assert not torch.allclose(output, norm(x), atol=1e-3)


def test_frames_look_at_the_first_frame_only_where_nothing_is_tuned():
    unet, sample, words = motion_unet(norm="per_frame", tuned=False), video(clips=1), text(1)
    with torch.no_grad():
        before = unet(sample, 9, words)
        sample[:, :, 2] += 1
        after = unet(sample, 9, words)
        changed = [not torch.equal(before[:, :, f], after[:, :, f]) for f in range(5)]
        assert changed == [False, False, True, False, False]
        sample[:, :, 0] += 1
        last = unet(sample, 9, words)
    assert not torch.allclose(last[:, :, 1], after[:, :, 1], atol=1e-3)


def test_temporal_attention_in_parts_is_the_same(monkeypatch):
    unet = motion_unet()
    with torch.no_grad():
        whole = unet(video(), 9, text())
        monkeypatch.setattr("lamp_lightning.unet.attention.MAX_HEADS", 100)
        torch.testing.assert_close(unet(video(), 9, text()), whole, atol=1e-6, rtol=0)


def test_image_model_is_what_was_before_tuning_and_tuning_comes_back():
    sample, words = video(frames=4), text()
    images, unet = image_unet(), motion_unet()
    frames = sample.transpose(1, 2).flatten(0, 1)
    wanted = image_output(images, frames, 9, words.repeat_interleave(4, dim=0))
    with torch.no_grad():
        tuned = unet(sample, 9, words)
    with unet.image_model() as same:
        assert same is unet
        assert torch.equal(unet(sample, 9, words).transpose(1, 2).flatten(0, 1), wanted)
    with torch.no_grad():
        assert torch.equal(unet(sample, 9, words), tuned)


def test_image_model_restores_the_tuned_weights_after_an_error():
    unet = motion_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with pytest.raises(ValueError), unet.image_model():
        raise ValueError
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert unet._clip.motion


def test_inflation_is_in_place_and_keeps_every_weight():
    images = image_unet()
    weights = dict(images.named_parameters())
    unet = MotionUNet.from_unet(images)
    assert unet is images
    kept = {name.replace(".conv2d.", "."): p for name, p in unet.named_parameters()}
    assert all(kept[name] is p for name, p in weights.items())


def test_only_tuned_parameters_get_gradients():
    unet = motion_unet()
    unet(video(), 9, text()).square().mean().backward()
    with_gradient = {name for name, p in unet.named_parameters() if p.grad is not None}
    assert with_gradient == set(unet.trainable_names())


def test_gradient_checkpointing_changes_no_gradient():
    plain, checkpointed = motion_unet(), motion_unet()
    checkpointed.enable_gradient_checkpointing()
    for unet in (plain, checkpointed):
        unet.train()(video(), 9, text()).square().mean().backward()
    for a, b in zip(plain.tuned_parameters(), checkpointed.tuned_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_copies_are_independent():
    unet = motion_unet()
    twin = copy.deepcopy(unet)
    with torch.no_grad():
        twin(video(frames=2), 9, text())
        output = unet(video(frames=5), 9, text())
        torch.testing.assert_close(twin(video(frames=5), 9, text()), output)
    assert twin.conv_in.clip is twin._clip
    assert twin._clip is not unet._clip


@pytest.mark.parametrize("norm", ["joint", "per_frame"])
def test_save_and_load_as_a_diffusers_model(tmp_path, norm):
    unet = motion_unet(norm=norm)
    unet.save_pretrained(tmp_path)
    loaded = MotionUNet.from_pretrained(tmp_path)
    assert loaded.norm == norm
    with torch.no_grad():
        assert torch.equal(loaded(video(), 9, text()), unet(video(), 9, text()))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in unet.parameters()]
    with pytest.raises(UserError, match="norm="):
        MotionUNet.from_pretrained(tmp_path, norm="joint" if norm == "per_frame" else "per_frame")
    with loaded.image_model(), unet.image_model():  # the image model's queries are saved beside the tuned
        assert torch.equal(loaded(video(), 9, text()), unet(video(), 9, text()))


def test_load_an_image_model(tmp_path):
    images = image_unet()
    images.save_pretrained(tmp_path / "unet")
    for path in (tmp_path, tmp_path / "unet"):
        unet = MotionUNet.from_pretrained(path, norm="per_frame")
        assert unet.norm == "per_frame"
        with torch.no_grad():
            output = unet(video(frames=1), 9, text())
        assert torch.equal(output[:, :, 0], image_output(image_unet(), video(frames=1)[:, :, 0], 9, text()))


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="holds no UNet"):
        MotionUNet.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="already"):
        MotionUNet.from_unet(motion_unet())
    with pytest.raises(UserError, match="'joint'"):
        MotionUNet.from_unet(image_unet(), "layer")
    plain = image_unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    assert MotionUNet.from_unet(plain)  # attention in the middle is enough
    with pytest.raises(UserError, match="spatial transformer blocks"):
        MotionUNet.from_unet(
            image_unet(down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        )
    with pytest.raises(ValueError, match="one text per clip"):
        motion_unet()(video(clips=2), 9, text(1))


def test_a_refused_unet_stays_an_image_model():
    images = image_unet()
    with pytest.raises(UserError):
        MotionUNet.from_unet(images, "nonsense")
    assert type(images) is UNet2DConditionModel
    assert image_output(images, video()[:, :, 0], 9, text()).shape == (2, 4, 8, 8)


def test_stable_diffusion_1_4_has_the_authors_parameter_counts():
    with torch.device("meta"):
        unet = MotionUNet.from_unet(
            UNet2DConditionModel(
                sample_size=64,
                cross_attention_dim=768,
                attention_head_dim=8,
                block_out_channels=(320, 640, 1280, 1280),
            )
        )
    assert sum(p.numel() for p in unet.parameters()) == 1_101_091_358
    assert sum(p.numel() for p in unet.tuned_parameters()) == 253_935_834
