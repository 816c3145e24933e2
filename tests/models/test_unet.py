"""Inflation: what an inflated UNet keeps of the image model, and what each layer may see."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.diffusion import Conditions, first_frame_loss
from lamp_lightning.models.unet.layers import ClipGroupNorm, ClipShape, MotionConv
from method_models import image_unet, motion_unet, text, video
from random_models import TOKENS, WIDTH, WIDTH_2, random_unet


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
        {"only_cross_attention": (True, False), "mid_block_type": "UNetMidBlock2D", "conv_out_kernel": 1},
        {"layers_per_block": (1, 2), "downsample_padding": 0, "encoder_hid_dim_type": "text_proj",
         "encoder_hid_dim": 16, "mid_block_type": None},
        {"down_block_types": ("CrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
         "up_block_types": ("ResnetUpsampleBlock2D", "CrossAttnUpBlock2D"), "resnet_skip_time_act": True},
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
    temporal = nn.functional.conv1d(nn.functional.pad(lines, (2, 0)), layer.conv1d.weight, layer.conv1d.bias)
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
        monkeypatch.setattr("lamp_lightning.models.unet.attention.MAX_HEADS", 100)
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


def test_image_model_and_tuning_do_not_mix_in_mixed_precision():
    """Autocast keeps low-precision copies of weights, which must not outlive an exchange of the weights."""
    sample, words, unet = video(), text(), motion_unet()

    def outputs(kind: str) -> torch.Tensor:
        with unet.image_model() if kind == "image" else torch.no_grad():
            return unet(sample, 9, words)

    alone = {}
    for kind in ("image", "tuned"):
        with torch.autocast("cpu", torch.bfloat16):
            alone[kind] = outputs(kind)
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("tuned", "image", "tuned", "image"):
            assert torch.equal(outputs(kind), alone[kind]), kind


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


@pytest.mark.parametrize("slice_size", ["auto", "max", 2])
def test_attention_in_slices_is_the_same(slice_size):
    sample, words = video(frames=3, size=(7, 9)), text()
    unet = motion_unet(attention_head_dim=4)
    with torch.no_grad():
        whole = unet(sample, 9, words)
    unet.set_attention_slice(slice_size)
    with torch.no_grad():
        torch.testing.assert_close(unet(sample, 9, words), whole, atol=1e-6, rtol=0)
    trained = unet.train()(sample, 9, words)
    torch.testing.assert_close(trained, whole, atol=2e-6, rtol=0)
    trained.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in unet.tuned_parameters())


def test_slices_bound_the_scores_in_memory(monkeypatch):
    """Most of what attention needs where torch has no fused kernel: queries times keys of all heads."""
    sizes = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, **kwargs):
        sizes.append(query.shape[:-1].numel() * key.shape[-2])
        return attention(query, key, value, **kwargs)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watched)
    unet = motion_unet(attention_head_dim=4)

    def most(slice_size):
        unet.set_attention_slice(slice_size)
        sizes.clear()
        with torch.no_grad():
            unet(video(frames=5), 9, text())
        return max(sizes)

    clips, frames, heads, positions = 2, 5, 4, 8 * 8
    one_head = positions**2
    assert most(None) == clips * frames * heads * one_head
    assert most("auto") == heads / 2 * one_head
    assert most(3) == 3 * one_head
    assert most("max") == one_head
    assert most(0) == most(None)


def test_slices_of_a_size_that_cannot_be_are_refused():
    unet = motion_unet(attention_head_dim=(2, 4))
    for wrong in (3, -1, "half", [1, 2]):
        with pytest.raises(UserError, match="from 1 to 2"):
            unet.set_attention_slice(wrong)
    assert unet._clip.slice_size is None


@pytest.mark.parametrize(
    "switch",
    [
        lambda unet: unet.set_attn_processor(AttnProcessor()),
        lambda unet: unet.enable_xformers_memory_efficient_attention(),
        lambda unet: unet.fuse_qkv_projections(),
        lambda unet: unet.set_attention_backend("native"),
        lambda unet: unet.load_attn_procs({}),
        lambda unet: unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_attention_slice(1),
        lambda unet: unet.mid_block.attentions[0].transformer_blocks[0].attn1.fuse_projections(),
    ],
)
def test_what_would_replace_the_attention_to_the_first_frame_is_refused(switch):
    unet = motion_unet()
    names = list(unet.state_dict())
    with torch.no_grad():
        before = unet(video(), 9, text())
        with pytest.raises(UserError, match="first frame"):
            switch(unet)
        assert torch.equal(unet(video(), 9, text()), before)
    assert list(unet.state_dict()) == names


def test_switching_off_what_is_not_on_keeps_the_attention():
    """diffusers would put its default processor back, which no motion UNet ever had."""
    unet = motion_unet()
    with torch.no_grad():
        before = unet(video(), 9, text())
        unet.disable_xformers_memory_efficient_attention()
        unet.set_default_attn_processor()
        unet.set_attn_processor(unet.attn_processors)
        assert torch.equal(unet(video(), 9, text()), before)


def test_freeu_and_feed_forward_in_chunks_work_on_clips():
    unet = motion_unet()
    with torch.no_grad():
        before = unet(video(), 9, text())
        for block in unet.modules():
            if hasattr(block, "set_chunk_feed_forward"):
                block.set_chunk_feed_forward(1, dim=0)
        torch.testing.assert_close(unet(video(), 9, text()), before, atol=1e-6, rtol=0)
        unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        freed = unet(video(), 9, text())
        unet.disable_freeu()
        torch.testing.assert_close(unet(video(), 9, text()), before, atol=1e-6, rtol=0)
    assert freed.isfinite().all()
    assert not torch.allclose(freed, before, atol=1e-3)


def test_weights_may_be_offloaded_layer_by_layer():
    """As a pipeline's `enable_sequential_cpu_offload` does: each layer's weights come when it is called."""
    unet = motion_unet()
    with torch.no_grad():
        before = unet(video(), 9, text())
        cpu_offload(unet, torch.device("cpu"))
        assert unet.conv_in.conv1d.weight.is_meta
        assert torch.equal(unet(video(), 9, text()), before)
    with pytest.raises(UserError, match="enable_model_cpu_offload"), unet.image_model():
        pass


SDXL = [
    {},
    {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 3],
        "attention_head_dim": [1, 2, 4],
    },
]


def sdxl_conditions(clips: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Text of both encoders, pooled text and sizes."""
    generator = torch.Generator().manual_seed(4)
    words = torch.randn(clips, TOKENS, WIDTH + WIDTH_2, generator=generator)
    pooled = torch.randn(clips, WIDTH_2, generator=generator)
    sizes = torch.randint(0, 64, (clips, 6), generator=generator).float()
    return words, {"text_embeds": pooled, "time_ids": sizes}


def sdxl_image_unet(**changes) -> UNet2DConditionModel:
    """Frozen: torch multiplies with weights that train in another order, which rounds otherwise."""
    return random_unet("sdxl", **changes).requires_grad_(False)


def sdxl_motion_unet(**changes) -> MotionUNet:
    unet = MotionUNet.from_unet(sdxl_image_unet(**changes))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


@pytest.mark.parametrize("norm", ["joint", "per_frame"])
@pytest.mark.parametrize("shape", SDXL)
def test_untuned_one_frame_clips_of_sdxl_are_images_to_the_bit(norm, shape):
    sample, timesteps = video(frames=1, clips=3), torch.tensor([7, 500, 999])
    words, added = sdxl_conditions(3)
    with torch.no_grad():
        images = sdxl_image_unet(**shape)
        wanted = images(sample[:, :, 0], timesteps, words, added_cond_kwargs=added).sample
        unet = MotionUNet.from_unet(images, norm)
        assert torch.equal(unet(sample, timesteps, words, added)[:, :, 0], wanted)
        added["time_ids"] = added["time_ids"].flip(0)
        assert not torch.equal(unet(sample, timesteps, words, added)[:, :, 0], wanted)


@pytest.mark.parametrize("shape", SDXL)
def test_image_model_of_sdxl_is_what_was_before_tuning(shape):
    """Each clip's conditions go to all of its frames."""
    sample, (words, added) = video(frames=4), sdxl_conditions(2)
    each = {name: value.repeat_interleave(4, dim=0) for name, value in added.items()}
    folded = sample.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        wanted = sdxl_image_unet(**shape)(
            folded, 9, words.repeat_interleave(4, dim=0), added_cond_kwargs=each
        ).sample
        unet = sdxl_motion_unet(**shape)
        tuned = unet(sample, 9, words, added)
        with unet.image_model():
            assert torch.equal(unet(sample, 9, words, added).transpose(1, 2).flatten(0, 1), wanted)
        assert torch.equal(unet(sample, 9, words, added), tuned)
    assert not torch.allclose(tuned.transpose(1, 2).flatten(0, 1), wanted, atol=1e-2)


@pytest.mark.parametrize("shape", SDXL)
def test_gradient_checkpointing_of_sdxl_changes_no_loss_and_no_gradient(shape):
    latents, noise, (words, added) = video(frames=3), video(frames=3, seed=9), sdxl_conditions(2)
    losses, gradients = [], []
    for checkpointing in (False, True):
        unet = sdxl_motion_unet(**shape).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        loss = first_frame_loss(
            unet, DDIMScheduler(), latents, noise, torch.tensor([7, 500]), Conditions.of(words, added)
        )
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad for parameter in unet.tuned_parameters()])
    assert torch.equal(*losses)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


def test_every_transformer_layer_of_sdxl_has_its_temporal_attention():
    unet = MotionUNet.from_unet(sdxl_image_unet(**SDXL[1]))
    layers = [name for name in unet.trainable_names() if name.endswith("attn_temp.to_q.weight")]
    down, middle, up = 2 * (2 + 3), 3, 3 * (2 + 3)
    assert len(layers) == down + middle + up
