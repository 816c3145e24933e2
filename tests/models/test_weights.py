"""Base models, motion adapters, the authors' checkpoints: what loads, and what is refused and how."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.models import load_base_model, read_metadata
from method_models import image_unet, motion_unet, text, video
from random_models import save_random_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("pipeline"))


def state(unet):
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


# Base models


def test_base_model_encodes_and_decodes(pipeline_folder):
    base = load_base_model(pipeline_folder)
    assert base.vae_scale_factor == 4
    assert base.encode_prompts(["a bird", "word " * 500]).text.shape == (2, 16, 16)
    pixels = torch.rand(3, 3, 32, 32) * 2 - 1
    moments = base.encode_moments(pixels)
    assert moments.shape == (3, 8, 8, 8)
    mean = moments[:, :4] * base.vae.config.scaling_factor
    torch.testing.assert_close(base.latents_from_pixels(pixels), mean)
    draws = [base.sample_latents(moments, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    decoded = base.decode_latents(mean)
    assert decoded.shape == (3, 3, 32, 32)
    assert decoded.abs().max() <= 1
    torch.testing.assert_close(base.unscale(base.scale(mean)), mean)
    assert not any(p.requires_grad for part in (base.vae, base.text_encoder) for p in part.parameters())


def test_scale_and_shift_come_from_the_autoencoder(pipeline_folder):
    base = load_base_model(pipeline_folder)
    base.vae.register_to_config(shift_factor=0.25)
    assert torch.equal(
        base.scale(torch.ones(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 0.75 * base.vae.config.scaling_factor)
    )


def test_identity_follows_weights_and_configuration(pipeline_folder):
    base, again = load_base_model(pipeline_folder), load_base_model(pipeline_folder)
    assert base.identity == again.identity
    with torch.no_grad():
        next(again.vae.parameters()).view(-1)[0] += 1
    del again.identity
    assert again.identity["vae"] != base.identity["vae"]
    assert again.identity["text_encoder"] == base.identity["text_encoder"]
    again = load_base_model(pipeline_folder)
    again.vae.register_to_config(scaling_factor=3.0)
    assert again.identity["vae"] != base.identity["vae"]


def test_base_model_dtype(pipeline_folder):
    base = load_base_model(pipeline_folder, torch_dtype=torch.bfloat16)
    assert {p.dtype for part in (base.vae, base.unet, base.text_encoder) for p in part.parameters()} == {
        torch.bfloat16
    }
    assert base.encode_prompts(["a"]).text.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "does not exist"),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda f: shutil.rmtree(f / "vae"), "lacks the folder vae"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "unet cannot be loaded"),
        (lambda f: (f / "unet" / "config.json").write_text("x"), "unet.config.json cannot be read"),
        (lambda f: os.truncate(f / "vae" / "diffusion_pytorch_model.safetensors", 900), "vae cannot be"),
        (lambda f: os.truncate(f / "text_encoder" / "model.safetensors", 900), "text_encoder cannot be"),
        (lambda f: shutil.rmtree(f / "scheduler"), "lacks the folder scheduler"),
    ],
)
def test_damaged_base_models_are_named(pipeline_folder, tmp_path, damage, message):
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "model"))
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load_base_model(folder)
    assert str(folder) in str(error.value)


def test_nan_weights_are_refused(pipeline_folder, tmp_path):
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "model"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_in.bias"][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'decoder\.conv_in\.bias' holds NaN"):
        load_base_model(folder)


def test_a_model_without_its_parts_is_named(pipeline_folder, tmp_path):
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    for entry, message in (
        (None, "names no vae"),
        (["os", "system"], "only"),
        (["diffusers", "Nope"], "Nope"),
    ):
        changed = index | ({"vae": entry} if entry else {})
        if entry is None:
            del changed["vae"]
        (folder / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            load_base_model(folder)


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match="someone/some-model cannot be fetched from the hub: no network"):
        load_base_model("someone/some-model")


# Motion adapters


@pytest.fixture
def adapter(tmp_path):
    file = tmp_path / "runs" / "adapter.safetensors"
    motion_unet().save_motion(file, base_model="the/base", motion="fly", num_frames=16, prompt=None)
    return file


def test_an_adapter_carries_the_motion_and_its_facts(adapter):
    tuned, unet = motion_unet(), motion_unet(tuned=False)
    metadata = unet.load_motion(adapter)
    assert same(state(unet), state(tuned))
    assert metadata["base_model"] == "the/base"
    assert metadata["motion"] == "fly"
    assert metadata["num_frames"] == "16"
    assert metadata["norm"] == "joint"
    assert "prompt" not in metadata
    assert {"version_lamp_lightning", "version_torch", "version_diffusers"} <= metadata.keys()
    assert read_metadata(adapter) == metadata
    assert sorted(load_file(adapter)) == unet.trainable_names()
    assert [file.name for file in adapter.parent.iterdir()] == [adapter.name]


def test_an_adapter_brings_the_norm_that_it_was_tuned_with(tmp_path):
    tuned, unet = motion_unet(norm="per_frame"), motion_unet(tuned=False)
    tuned.save_motion(tmp_path / "motion.safetensors")
    unet.load_motion(tmp_path / "motion.safetensors")
    assert unet.norm == "per_frame"
    with torch.no_grad():
        assert torch.equal(unet(video(), 9, text()), tuned(video(), 9, text()))


def test_the_image_model_survives_an_adapter(adapter):
    unet, images = motion_unet(tuned=False), image_unet()
    unet.load_motion(adapter)
    sample, words = video(frames=1), text()
    with unet.image_model():
        output = unet(sample, 9, words)
    with torch.no_grad():
        assert torch.equal(output[:, :, 0], images(sample[:, :, 0], 9, words).sample)


def test_an_adapter_fits_the_base_in_lower_precision(adapter):
    unet = motion_unet(tuned=False).to(torch.bfloat16)
    unet.load_motion(adapter)
    assert unet.conv_in.conv1d.weight.abs().sum() > 0


def rewrite(file, change=None, **header):
    metadata, tensors = read_metadata(file), load_file(file)
    if change is not None:
        change(tensors)
    save_file(tensors, file, metadata=metadata | header)


def fill_nan(tensors):
    tensors["conv_in.conv1d.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: rewrite(f, lambda t: t.pop("conv_out.conv1d.bias")), r"lacks.*conv_out\.conv1d\.bias"),
        (lambda f: rewrite(f, lambda t: t.update(stray=torch.ones(1))), "unknown.*stray"),
        (
            lambda f: rewrite(f, lambda t: t.update({"conv_in.conv1d.bias": torch.ones(3)})),
            r"conv_in\.conv1d\.bias.*shape \(3,\).*\(16,\)",
        ),
        (lambda f: rewrite(f, fill_nan), r"conv_in\.conv1d\.bias.*NaN"),
        (lambda f: rewrite(f, norm="sideways"), "'norm' is 'sideways'"),
        (lambda f: rewrite(f, format_version="99"), "update lamp-lightning"),
        (lambda f: rewrite(f, format="something"), "not a motion adapter"),
        (lambda f: f.write_bytes(f.read_bytes()[:500]), "not a readable safetensors"),
        (lambda f: f.write_text("hello"), "not a readable safetensors"),
        (lambda f: f.unlink(), "does not exist"),
    ],
)
def test_damaged_adapters_are_named_and_nothing_is_loaded(adapter, damage, message):
    damage(adapter)
    unet = motion_unet(tuned=False)
    before = state(unet)
    with pytest.raises(UserError, match=message) as error:
        unet.load_motion(adapter)
    assert str(adapter) in str(error.value)
    assert same(state(unet), before)


def test_an_adapter_of_another_base_is_refused_unless_asked_for(adapter):
    other = motion_unet(seed=1, tuned=False)
    before = state(other)
    with pytest.raises(UserError, match="the/base"):
        other.load_motion(adapter)
    assert same(state(other), before)
    other.load_motion(adapter, check_base=False)
    assert not same(state(other), before)
    larger = motion_unet(tuned=False, block_out_channels=(16, 64))
    with pytest.raises(UserError, match="the/base"):
        larger.load_motion(adapter, check_base=False)


def test_a_diverged_or_unwritable_adapter_is_not_written(tmp_path):
    unet = motion_unet()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        unet.save_motion(tmp_path / "file" / "adapter.safetensors")
    with torch.no_grad():
        unet.conv_in.conv1d.bias[0] = float("inf")
    with pytest.raises(UserError, match="diverged"):
        unet.save_motion(tmp_path / "adapter.safetensors")
    assert not (tmp_path / "adapter.safetensors").exists()


# The authors' checkpoints


@pytest.mark.parametrize("case", ["sd1", "sd2"])
def test_official_to_ours_to_official_is_the_same_to_the_bit(tmp_path, case):
    source = GOLDEN / case / "unet"
    MotionUNet.from_official(source).save_official(tmp_path)
    weights = "diffusion_pytorch_model.bin"
    ours, theirs = (torch.load(folder / weights, weights_only=True) for folder in (tmp_path, source))
    assert same(ours, theirs)
    assert all(ours[name].dtype == theirs[name].dtype for name in ours)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, source))
    assert ours == theirs


def test_official_to_adapter_to_official(tmp_path):
    official = MotionUNet.from_official(GOLDEN / "sd1" / "unet")
    official.save_motion(tmp_path / "adapter.safetensors")
    again = MotionUNet.from_official(GOLDEN / "sd1" / "unet")
    with torch.no_grad():
        for parameter in again.tuned_parameters():
            parameter.zero_()
    again.load_motion(tmp_path / "adapter.safetensors")
    assert same(state(again), state(official))
    assert not again.knows_image_model


def test_official_reads_safetensors_and_pipeline_folders(tmp_path):
    folder = tmp_path / "unet"
    shutil.copytree(GOLDEN / "sd1" / "unet", folder)
    tensors = torch.load(folder / "diffusion_pytorch_model.bin", weights_only=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.bin").unlink()
    assert same(state(MotionUNet.from_official(tmp_path)), dict(tensors))


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(Path(os.environ["BOMB"]) / "exploded"),))


def resave(folder, change):
    file = folder / "diffusion_pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save(change(tensors) or tensors, file)


def remove(tensors, name):
    del tensors[name]


def set_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: resave(f, lambda t: remove(t, "conv_in.conv2d.bias")),
            r"lacks.*conv_in\.conv2d\.bias",
        ),
        (lambda f: resave(f, lambda t: t.update(stray=torch.ones(1))), "unknown.*stray"),
        (lambda f: resave(f, lambda t: t.update({"conv_in.conv2d.bias": torch.ones(3)})), "shape"),
        (
            lambda f: resave(f, lambda t: t.update({"conv_in.conv2d.bias": torch.full((16,), torch.nan)})),
            "NaN",
        ),
        (lambda f: resave(f, lambda t: {"a": Bomb()}), "would run code"),
        (lambda f: resave(f, lambda t: {"a": 1}), "not a dictionary of tensors"),
        (lambda f: os.truncate(f / "diffusion_pytorch_model.bin", 5000), "damaged"),
        (lambda f: (f / "diffusion_pytorch_model.bin").unlink(), "holds no weights"),
        (lambda f: (f / "config.json").unlink(), "no checkpoint folder"),
        (lambda f: (f / "config.json").write_text("x"), "not valid JSON"),
        (lambda f: set_config(f, _class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
        (lambda f: set_config(f, use_temp=False), "temporal"),
        (lambda f: set_config(f, act_fn="mish"), "act_fn='mish'"),
    ],
)
def test_damaged_official_folders_are_named(tmp_path, monkeypatch, damage, message):
    monkeypatch.setenv("BOMB", str(tmp_path))
    folder = Path(shutil.copytree(GOLDEN / "sd1" / "unet", tmp_path / "unet"))
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        MotionUNet.from_official(folder)
    assert str(folder) in str(error.value)
    assert not (tmp_path / "exploded").exists()


def test_what_the_authors_code_does_not_know_is_not_saved(tmp_path):
    with pytest.raises(UserError, match="norm=joint"):
        motion_unet(norm="per_frame").save_official(tmp_path)
    with pytest.raises(UserError, match="transformer_layers_per_block"):
        motion_unet(transformer_layers_per_block=2).save_official(tmp_path)
    with pytest.raises(UserError, match="act_fn='mish'"):
        motion_unet(act_fn="mish").save_official(tmp_path)
    motion_unet().save_official(tmp_path)
    assert same(state(MotionUNet.from_official(tmp_path)), state(motion_unet()))
