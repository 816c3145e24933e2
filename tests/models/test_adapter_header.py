"""The header of motion adapters: written in one order, read by one schema, safe with anybody's files."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamp_lightning import UserError
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.adapter import FORMAT, header_of, inverted_clip, read_metadata
from lamp_lightning.models.registry import Variant
from lamp_lightning.sample.motions import find_adapter
from method_models import motion_unet

SAMPLER = {"num_inference_steps": 2, "num_frames": 3, "size": [32, 32]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("written") / "motion.safetensors"
    motion_unet().save_motion(
        file,
        base_model="the/base",
        motion="fly",
        steps=7,
        sampler=SAMPLER,
        inverted_clip=torch.ones(1, 4, 3, 8, 8),
    )
    return file


@pytest.fixture
def adapter(written, tmp_path):
    file = tmp_path / "motion.safetensors"
    file.write_bytes(written.read_bytes())
    return file


def rewrite(file, change=None, **texts):
    metadata, tensors = read_metadata(file), load_file(file)
    if change is not None:
        change(tensors)
    save_file(tensors, file, metadata=metadata | texts)


def raw(file):
    """The header as it stands in the file, and where the tensors begin."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), 8 + length


def test_the_same_motion_is_the_same_bytes(tmp_path):
    unet, files = motion_unet(), [tmp_path / f"{k}.safetensors" for k in range(5)]
    prompt = 'é \n\x7f \\ "'
    for file in files:
        unet.save_motion(file, motion="fly", prompt=prompt, sampler={"adain": True})
    assert len({file.read_bytes() for file in files}) == 1
    header, begin = raw(files[0])
    assert next(iter(header)) == "__metadata__"
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert begin % 8 == 0
    assert read_metadata(files[0])["prompt"] == prompt
    assert sorted(load_file(files[0])) == unet.trainable_names()


def test_a_header_says_everything_with_its_type(written):
    header = header_of(written)
    assert header.variant == Variant()
    assert header.sampler == Sampler(num_inference_steps=2, num_frames=3, size=(32, 32))
    assert header.steps == 7
    assert header.norm == "joint"
    assert len(header.base_fingerprint) > 20
    assert torch.equal(inverted_clip(written), torch.ones(1, 4, 3, 8, 8))


def test_older_adapters_and_what_others_add_to_a_header_still_load(adapter):
    metadata = read_metadata(adapter)
    few = {key: metadata[key] for key in ("format", "format_version", "norm", "base_fingerprint")}
    tensors = {name: tensor for name, tensor in load_file(adapter).items() if name != "inverted_clip"}
    save_file(tensors, adapter, metadata=few | {"sha256": "abc", "modelspec.title": "{not json"})
    motion_unet(tuned=False).load_motion(adapter)
    found = find_adapter(adapter)
    assert (found.motion, found.prompt, found.base, found.sampler) == ("motion", "motion", "", Sampler())
    assert read_metadata(adapter)["modelspec.title"] == "{not json"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("variant", "{", "'variant' is '{': invalid JSON"),
        ("variant", '"lamp"', "'variant' is 'lamp'"),
        ("variant", '{"gate": "yes"}', "'variant.gate' is 'yes'"),
        ("variant", '{"wings": true}', "'variant.wings', which is not known"),
        ("variant", '{"tuned": ["wings"]}', "'wings', which cannot be tuned"),
        ("variant", '{"gate": ' + "[" * 100_000, "recursion limit"),
        ("sampler", "[]", r"'sampler' is \[\]"),
        ("sampler", '{"wings": 1}', "'sampler.wings', which is not known"),
        ("sampler", '{"num_frames": 1000000000}', "'sampler.num_frames' is 1000000000"),
        ("sampler", '{"num_frames": 1e9}', "'sampler.num_frames'"),
        ("sampler", '{"size": ["a", "u", "t", "o"]}', "'sampler.size"),
        ("sampler", '{"size": [100000, 64]}', "'sampler.size.0' is 100000"),
        ("sampler", '{"guidance_scale": NaN}', "'sampler.guidance_scale' is nan"),
        ("sampler", '{"adain": 1}', "'sampler.adain' is 1"),
        (
            "sampler",
            '{"scheduler_options": {"solver_order": 1000000000}}',
            "'sampler.scheduler_options.solver_",
        ),
        ("base_fingerprint", "null", "'base_fingerprint' is None"),
        ("base_fingerprint", "[Infinity]", "'base_fingerprint.0' is inf"),
        ("base_fingerprint", "much", "'base_fingerprint' is 'much': invalid JSON"),
        ("num_frames", "0", "'num_frames' is 0"),
        ("steps", "-1", "'steps' is -1"),
        ("base_dtype", "int8", "'base_dtype' is 'int8'"),
        ("base_model", "a\0b", "no control characters"),
        ("painter", "x" * 5000, "at most 4096 characters"),
        ("memory", '{"vae_tiling": "on"}', "'memory.vae_tiling' is 'on'"),
    ],
)
def test_a_damaged_header_is_named_and_nothing_is_loaded(adapter, key, text, message):
    rewrite(adapter, **{key: text})
    unet = motion_unet(tuned=False)
    before = [parameter.clone() for parameter in unet.parameters()]
    for read in (unet.load_motion, find_adapter, read_metadata):
        with pytest.raises(UserError, match=message) as error:
            read(adapter)
        assert str(adapter) in str(error.value)
        assert len(str(error.value)) < 1000
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update(inverted_clip=torch.ones(4, 3, 8, 8)),
            r"shape \(4, 3, 8, 8\), not \(1, c, f, h, w\)",
        ),
        (
            lambda t: t.update(inverted_clip=torch.ones(1, 9, 3, 8, 8)),
            "has 9 channels, and this UNet's latents have 4",
        ),
        (lambda t: t.update(inverted_clip=torch.ones(1, 4, 3, 8, 8).int()), "'inverted_clip' is of type I32"),
        (
            lambda t: t.update(inverted_clip=torch.full((1, 4, 3, 8, 8), torch.nan)),
            "'inverted_clip' holds NaN",
        ),
        (
            lambda t: t.update({"conv_in.conv1d.bias": torch.ones(16).int()}),
            "'conv_in.conv1d.bias' is of type I32",
        ),
        (
            lambda t: t.update({"conv_in.conv1d.bias": torch.ones(16).to(torch.float8_e4m3fn)}),
            "'conv_in.conv1d.bias' is of type F8_E4M3",
        ),
    ],
)
def test_tensors_of_another_kind_are_named(adapter, change, message):
    rewrite(adapter, change)
    with pytest.raises(UserError, match=message):
        motion_unet(tuned=False).load_motion(adapter)


def test_a_header_that_could_not_be_read_again_is_not_written(tmp_path):
    file = tmp_path / "motion.safetensors"
    for facts, message in (
        ({"sampler": {"num_frames": 0}}, "'sampler.num_frames' is 0"),
        ({"prompt": "caf\udce9"}, r"'prompt' of its header would be 'caf\\udce9', which is no UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            motion_unet().save_motion(file, **facts)
    assert list(tmp_path.iterdir()) == []


def test_a_header_of_absurd_size_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "large.safetensors"
    with open(file, "wb") as opened:
        opened.write((99 << 20).to_bytes(8, "little") + b"{")
        opened.truncate(100 << 20)  # sparse
    with pytest.raises(UserError, match="its header has 103,809,024 bytes"):
        read_metadata(file)


def test_flipped_bits_and_cut_files_end_in_one_message(adapter):
    """Seeded damage to the header: what is read is read whole, everything else ends in UserError."""
    sound, chance, sound_ones, refused = adapter.read_bytes(), random.Random(0), 0, 0
    begin = raw(adapter)[1]
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 3, 30))):
            damaged[chance.randrange(begin)] ^= 1 << chance.randrange(8)
        if chance.random() < 0.1:
            damaged = damaged[: chance.randrange(begin)]
        adapter.write_bytes(damaged)
        try:
            found = find_adapter(adapter)
            assert read_metadata(adapter)["format"] == FORMAT
            assert isinstance(found.sampler.num_frames, int)
            inverted_clip(adapter)
            sound_ones += 1
        except UserError as error:
            refused += str(adapter) in str(error)
    assert sound_ones + refused == 300
    assert 100 < refused < 300
