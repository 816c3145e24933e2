"""A motion is kept as the difference to its base, so that styles and fine-tuned models keep their change."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.models.adapter import header_of, read_metadata
from lamp_lightning.models.variant import Variant
from lora_files import lora
from method_models import image_unet, motion_unet, output

QUERY = "attn1.to_q.weight"


def fine_tuned(**changes):
    """The image model of `method_models` after a training of others: all of its weights have moved."""
    unet = image_unet(**changes)
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unet


def queries(unet):
    return {name: p.detach().clone() for name, p in unet.own_parameters().items() if name.endswith(QUERY)}


def as_former(file, tuned, **header):
    """The adapter as versions before differences wrote it: whole queries."""
    metadata = {key: text for key, text in read_metadata(file).items() if key != "queries"} | header
    whole = {name: p.detach().contiguous() for name, p in tuned.own_parameters().items()}
    tensors = {name: whole[name] for name in load_file(file)}
    save_file(tensors, file, metadata=metadata | {"format_version": "1"})


@pytest.fixture
def motion(tmp_path):
    motion_unet().save_motion(tmp_path / "motion.safetensors", motion="rain", base_model="/no/where")
    return tmp_path / "motion.safetensors"


def test_on_its_own_base_a_motion_is_as_tuned_to_the_bit(motion):
    unet, tuned = motion_unet(tuned=False), motion_unet()
    unet.load_motion(motion)
    assert all(torch.equal(p, tuned.own_parameters()[name]) for name, p in unet.own_parameters().items())
    assert header_of(motion).queries == "difference"
    stored = {name: tensor for name, tensor in load_file(motion).items() if name.endswith(QUERY)}
    base = image_unet()
    assert stored.keys() == queries(unet).keys()
    for name, change in stored.items():
        assert torch.equal((base.get_parameter(name).double() + change).float(), queries(tuned)[name])


def test_a_motion_of_other_queries_is_as_tuned_too(tmp_path):
    variant = Variant(tuned=("attn1.to_q", "attn2.to_q"))
    tuned = MotionUNet.from_unet(image_unet(), variant=variant)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.tuned_parameters():
            parameter.mul_(-3)  # no small change: differences are larger than the weights
    tuned.save_motion(tmp_path / "motion.safetensors")
    unet = motion_unet(tuned=False)
    unet.load_motion(tmp_path / "motion.safetensors")
    assert torch.equal(output(unet), output(tuned))
    unet.unload_motion()
    assert torch.equal(output(unet), output(motion_unet(tuned=False)))


def test_a_fine_tuned_model_below_a_motion_keeps_its_change(motion):
    unet = MotionUNet.from_unet(fine_tuned())
    with pytest.raises(UserError, match=r"other weights than this UNet's.*check_base=false"):
        unet.load_motion(motion)
    unet.load_motion(motion, check_base=False)
    for name, weight in queries(unet).items():
        change = queries(motion_unet())[name] - image_unet().get_parameter(name)
        wanted = fine_tuned().get_parameter(name) + change
        torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=0)
        assert change.abs().max() > 0.1
    unet.set_motions({motion: 0.5}, check_base=False)
    for name, weight in queries(unet).items():
        half = fine_tuned().get_parameter(name) + 0.5 * (
            queries(motion_unet())[name] - image_unet().get_parameter(name)
        )
        torch.testing.assert_close(weight, half, atol=1e-6, rtol=0)
    unet.unload_motion()
    assert torch.equal(output(unet), output(MotionUNet.from_unet(fine_tuned())))


def test_a_lora_that_was_fused_before_inflation_is_below_a_motion_as_one_that_is_loaded(motion):
    image = image_unet()
    image.load_lora_adapter(lora(), prefix="unet", adapter_name="style")
    image.fuse_lora()
    image.unload_lora()
    fused, loaded = MotionUNet.from_unet(image), motion_unet(tuned=False)
    fused.load_motion(motion, check_base=False)
    loaded.load_motion(motion)
    loaded.load_lora_adapter(lora(), prefix="unet", adapter_name="style")
    torch.testing.assert_close(output(fused), output(loaded), atol=2e-5, rtol=0)
    assert not torch.allclose(output(fused), output(motion_unet()), atol=0.1)


def test_former_adapters_load_to_the_bit_on_their_own_base(motion):
    as_former(motion, motion_unet())
    unet = motion_unet(tuned=False)
    unet.load_motion(motion)
    assert torch.equal(output(unet), output(motion_unet()))


def test_former_adapters_are_differences_on_another_base_if_their_own_can_be_loaded(
    motion, random_base, tmp_path
):
    as_former(motion, motion_unet())
    unet = MotionUNet.from_unet(fine_tuned())
    before = output(unet)
    with pytest.raises(UserError, match=r"'/no/where' cannot be loaded.*lamp_lightning.convert from="):
        unet.load_motion(motion, check_base=False)
    assert torch.equal(output(unet), before)  # nothing is overwritten

    own = MotionUNet.from_pretrained(random_base)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in own.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    new, former = tmp_path / "new.safetensors", tmp_path / "former.safetensors"
    for file in (new, former):
        own.save_motion(file, base_model=str(random_base))
    as_former(former, own)
    outputs = []
    for file in (new, former):
        unet.load_motion(file, check_base=False)
        outputs.append(output(unet))
    assert torch.equal(*outputs)


def test_half_precision_halves_a_file_and_keeps_the_motion(motion, tmp_path):
    tuned, unet = motion_unet(), motion_unet(tuned=False)
    with torch.no_grad():
        tuned.conv_in.conv1d.bias[0] = 1e5  # more than float16 holds
    file, whole = tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    tuned.save_motion(file, dtype=torch.float16)
    tuned.save_motion(whole)
    assert file.stat().st_size < 0.6 * whole.stat().st_size
    unet.load_motion(file)
    assert unet.conv_in.conv1d.bias[0] == 1e5
    ours, theirs, base = unet.own_parameters(), tuned.own_parameters(), image_unet()
    for name in unet.trainable_names():
        start = base.get_parameter(name) if name.endswith(QUERY) else torch.zeros(())
        change = theirs[name] - start
        error = (ours[name] - start - change).abs()
        assert (error <= change.abs() * 2**-11 + 2**-23).all(), name  # half of float16's last bit
