"""LoRA layers, IP-Adapters and ControlNets change the picture under a motion, and leave the motion."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.models.unet.animatediff import AnimateDiffUNet
from lora_files import PICTURE, controlnet, ip_adapter, lora
from method_models import image_unet, motion_unet, text, video

STYLE = {"prefix": "unet", "adapter_name": "style"}


def output(unet, *args, **kwargs):
    with torch.no_grad():
        return unet(video(), 9, text(), *args, **kwargs)


def images(unet, *args, **kwargs):
    """What an image model's UNet makes of the frames, `b c f h w`."""
    with torch.no_grad():
        frames = video().transpose(1, 2).flatten(0, 1)
        out = unet(frames, 9, text().repeat_interleave(5, dim=0), *args, **kwargs).sample
    return out.unflatten(0, (2, 5)).transpose(1, 2)


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def queries(unet):
    return {name: p.detach().clone() for name, p in unet.own_parameters().items() if "attn1.to_q" in name}


@pytest.fixture
def motion(tmp_path):
    """An adapter of `motion_unet`'s tuned weights."""
    motion_unet().save_motion(tmp_path / "motion.safetensors", motion="rain")
    return tmp_path / "motion.safetensors"


def test_a_lora_is_the_same_under_a_motion_whichever_comes_first(motion, tmp_path):
    styled, first = motion_unet(tuned=False), motion_unet(tuned=False)
    plain = output(styled)
    styled.load_motion(motion)
    moving = output(styled)
    styled.load_lora_adapter(lora(), **STYLE)
    first.load_lora_adapter(lora(), **STYLE)
    first.load_motion(motion)
    assert torch.equal(output(styled), output(first))
    assert not torch.allclose(output(styled), moving, atol=0.1)
    assert all(torch.equal(weight, queries(motion_unet())[name]) for name, weight in queries(first).items())
    same(output(first, cross_attention_kwargs={"scale": 0.0}), moving)
    assert styled.trainable_names() == motion_unet().trainable_names()
    assert [p for p in styled.parameters() if p.requires_grad] == [
        p for p in styled.parameters() if any(p is tuned for tuned in styled.tuned_parameters())
    ]
    styled.save_motion(tmp_path / "again.safetensors", motion="rain")  # the motion alone, to the byte
    assert (tmp_path / "again.safetensors").read_bytes() == motion.read_bytes()
    with styled.image_model():
        painted = output(styled)
    image_model = image_unet()
    image_model.load_lora_adapter(lora(), **STYLE)
    same(painted, images(image_model))  # the first frame is painted in the style, without the motion
    styled.unload_lora()
    assert torch.equal(output(styled), moving)
    first.unload_motion()
    with first.image_model():
        same(output(first), images(image_model))
    first.unload_lora()
    assert torch.equal(output(first), plain)
    assert list(first.state_dict()) == list(motion_unet().state_dict())


def test_a_fused_lora_survives_every_change_of_motion(motion):
    unet = motion_unet(tuned=False)
    plain = output(unet)
    unet.load_lora_adapter(lora(), **STYLE)
    styled = output(unet)
    unet.fuse_lora(lora_scale=0.5)
    assert not torch.allclose(output(unet), styled, atol=1e-2)
    unet.load_motion(motion)
    wanted = motion_unet()
    wanted.load_lora_adapter(lora(), **STYLE)
    same(output(unet), output(wanted, cross_attention_kwargs={"scale": 0.5}))
    unet.set_motions({motion: 0.0})
    with unet.image_model():
        painted = output(unet)
    image_model = image_unet()
    image_model.load_lora_adapter(lora(), **STYLE)
    same(painted, images(image_model, cross_attention_kwargs={"scale": 0.5}))
    for remove in (unet.unload_lora, lambda: unet.delete_adapters("style")):
        with pytest.raises(UserError, match="unfuse_lora"):
            remove()
    unet.unload_motion()
    unet.unfuse_lora()
    unet.unload_lora()
    same(output(unet), plain)


def test_names_of_convolutions_and_of_kohya_files_find_their_layers(tmp_path):
    """A LoRA names `conv_in`, which a motion UNet has as `conv_in.conv2d`."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path / "style"
    weights = lora(targets=("conv1", "conv_in"))
    StableDiffusionPipeline.save_lora_weights(
        folder, {name.removeprefix("unet."): tensor for name, tensor in weights.items()}
    )
    unet, other, image_model = motion_unet(tuned=False), motion_unet(tuned=False), image_unet()
    unet.load_lora_adapter(folder, **STYLE)
    kohya = {}
    for name, tensor in weights.items():
        place, part = name.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        key = "lora_unet_" + place.replace(".", "_")
        kohya[f"{key}.lora_{'down' if part == 'lora_A' else 'up'}.weight"] = tensor
        kohya[f"{key}.alpha"] = torch.tensor(1.0)
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    found, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(kohya)
    other.load_lora_adapter(found, network_alphas=alphas, **STYLE)
    image_model.load_lora_adapter(weights, **STYLE)
    with unet.image_model(), other.image_model():
        same(output(unet), images(image_model))
        same(output(other), images(image_model, cross_attention_kwargs={"scale": 0.5}))  # alpha / rank


def test_new_lora_layers_are_the_image_models(tmp_path):
    from peft import LoraConfig

    unet = motion_unet()
    before = output(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]), "style")
    assert torch.equal(output(unet), before)  # B begins at zero
    added = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert added
    assert all("lora" in name and "attn_temp" not in name for name in added)
    unet.save_lora_adapter(tmp_path, "style")
    saved = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    image_model = image_unet()
    image_model.load_lora_adapter(saved, prefix=None)  # every name is known to an image model
    assert len(saved) == sum("lora" in name for name, _ in image_model.named_parameters())


def test_what_is_loaded_is_unloaded_before_inflation_and_saving(tmp_path):
    unet, image_model = motion_unet(), image_unet()
    for each in (unet, image_model):
        each.load_lora_adapter(lora(), **STYLE)
    for refused in (
        lambda: MotionUNet.from_unet(image_model),
        lambda: AnimateDiffUNet.from_unet(image_model),
        lambda: unet.save_pretrained(tmp_path),
        lambda: unet.save_official(tmp_path),
    ):
        with pytest.raises(UserError, match=r"LoRA layers.*unload_lora_weights"):
            refused()
    image_model.unload_lora()
    image_model._load_ip_adapter_weights([ip_adapter(image_model)])
    with pytest.raises(UserError, match=r"IP-Adapter.*unload_ip_adapter"):
        MotionUNet.from_unet(image_model)
    assert not list(tmp_path.iterdir())


def test_an_ip_adapter_adds_pictures_to_every_frame_and_leaves_the_motion(motion):
    unet, image_model = motion_unet(), image_unet()
    before, fingerprint = output(unet), unet.fingerprint()
    pictures = torch.randn(2, 1, PICTURE)
    each = {"added_cond_kwargs": {"image_embeds": [pictures.repeat_interleave(5, dim=0)]}}
    told = {"image_embeds": [pictures]}
    for model in (unet, image_model):
        model._load_ip_adapter_weights([ip_adapter(image_unet())])
    with_pictures = output(unet, told)
    assert not torch.allclose(with_pictures, before, atol=0.1)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    masked = {"cross_attention_kwargs": {"ip_adapter_masks": [mask]}}
    with unet.image_model():
        same(output(unet, told), images(image_model, **each))
        same(output(unet, told, **masked), images(image_model, **each, **masked))
    assert unet.fingerprint() == fingerprint
    unet.load_motion(motion)
    assert torch.equal(output(unet, told), with_pictures)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.0]
    same(output(unet, told), before)
    with pytest.raises(UserError, match="IP-Adapter"):
        unet.save_pretrained(motion.parent / "unet")


def test_a_controlnet_guides_every_frame_and_leaves_the_motion():
    unet, image_model = motion_unet(), image_unet()
    net, edges = controlnet(image_model), torch.randn(10, 3, 64, 64)  # eight pixels to a latent
    frames, words = video().transpose(1, 2).flatten(0, 1), text().repeat_interleave(5, dim=0)
    with torch.no_grad():
        down, middle = net(frames, 9, words, edges, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    before, none = output(unet), {"down_block_additional_residuals": [0 * x for x in down]}
    assert not torch.allclose(output(unet, **residuals), before, atol=0.1)
    same(output(unet, **none, mid_block_additional_residual=0 * middle), before)
    with unet.image_model():
        same(output(unet, **residuals), images(image_model, **residuals))


def test_animatediffs_modules_take_all_of_it_too(tmp_path):
    unet = AnimateDiffUNet.from_unet(image_unet())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    unet.save_motion(tmp_path / "motion.safetensors", motion="rain")
    moving, fingerprint, image_model = output(unet), unet.fingerprint(), image_unet()
    for model in (unet, image_model):
        model.load_lora_adapter(lora(), **STYLE)
    assert not torch.allclose(output(unet), moving, atol=0.1)
    assert unet.fingerprint() == fingerprint
    with unet.image_model():
        same(output(unet), images(image_model))
    unet.fuse_lora()
    styled = output(unet)
    unet.load_motion(tmp_path / "motion.safetensors")
    same(output(unet), styled)
    unet.unfuse_lora()
    unet.unload_lora()
    same(output(unet), moving)
    unet._load_ip_adapter_weights([ip_adapter(image_unet())])
    told = {"image_embeds": [torch.randn(2, 1, PICTURE)]}
    assert not torch.allclose(output(unet, told), moving, atol=0.1)
    assert unet.fingerprint() == pytest.approx(fingerprint)  # fusing rounds
    assert type(output(unet, told, return_dict=True).sample) is torch.Tensor
