"""Latents and text: the cache, and samples as a pure function of seed and number."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.utils.data import DataLoader

from data_fakes import FakeBase, draw_frames
from lamp_lightning.data import Clip, LatentClips, MotionDataset, MotionSet, encode_motion_set
from lamp_lightning.data.dataset import SampleStream
from lamp_lightning.runtime.errors import UserError


def _motion_set(count: int = 3, frames: int = 20, prompts: tuple[str, ...] = ("rain",)) -> MotionSet:
    clips = [
        Clip(
            Path(f"{n}.mp4"),
            np.roll(draw_frames(frames, 16, 24), n, 1),
            10.0,
            prompt=prompts[n % len(prompts)],
        )
        for n in range(count)
    ]
    return MotionSet("rain", clips)


def _encode(tmp_path, base, motion_set=None, **settings):
    return encode_motion_set(motion_set or _motion_set(), base, cache_dir=tmp_path, **settings)


def test_moments_are_those_of_the_model(tmp_path):
    base, motion_set = FakeBase(), _motion_set()
    clips = _encode(tmp_path, base, motion_set)
    assert len(clips) == 3
    assert clips.flipped is None
    assert clips.scale == 0.5
    for clip, moments in zip(motion_set.clips, clips.moments, strict=True):
        pixels = torch.from_numpy(clip.frames.copy()).permute(0, 3, 1, 2) / 127.5 - 1
        assert moments.shape == (16, 20, 4, 6)
        torch.testing.assert_close(moments, base.encode_moments(pixels).transpose(0, 1), rtol=0, atol=0)


def test_flipped_moments_are_those_of_mirrored_pixels(tmp_path):
    motion_set = _motion_set()
    clips = _encode(tmp_path, FakeBase(), motion_set, flip=True)
    mirrored = MotionSet("rain", [replace(c, frames=c.frames[:, :, ::-1]) for c in motion_set.clips])
    expected = _encode(tmp_path / "other", FakeBase(), mirrored)
    for found, wanted in zip(clips.flipped, expected.moments, strict=True):
        assert torch.equal(found, wanted)


def test_each_clip_and_prompt_is_encoded_once(tmp_path):
    motion_set = _motion_set(prompts=("rain", "snow"))
    base, seen = FakeBase(), []
    first = _encode(tmp_path, base, motion_set, flip=True, progress=lambda *done: seen.append(done))
    assert base.encoded_frames == 2 * 3 * 20
    assert sorted(base.encoded_prompts) == ["rain", "snow"]
    assert seen == [(n, 6) for n in range(1, 7)]
    again = FakeBase()
    second = _encode(tmp_path, again, motion_set, flip=True)
    assert again.encoded_frames == 0
    assert again.encoded_prompts == []
    assert all(map(torch.equal, first.moments + first.flipped, second.moments + second.flipped))
    assert torch.equal(first.text, second.text)
    assert torch.equal(first.text, FakeBase().encode_prompts(motion_set.prompts).text)


def test_a_stale_cache_is_never_used(tmp_path):
    _encode(tmp_path, FakeBase("one"))
    other_weights = FakeBase("two")
    _encode(tmp_path, other_weights)
    assert other_weights.encoded_frames == 60
    assert other_weights.encoded_prompts == ["rain"]
    other_precision = FakeBase("one")
    other_precision.vae.dtype = torch.bfloat16
    _encode(tmp_path, other_precision)
    assert other_precision.encoded_frames == 60
    motion_set, base = _motion_set(prompts=("snow",)), FakeBase("one")
    motion_set.clips[1].frames[3, 2, 1] ^= 1  # one bit of one clip, and another prompt
    _encode(tmp_path, base, motion_set)
    assert base.encoded_frames == 20
    assert base.encoded_prompts == ["snow"]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "foreign"])
def test_damaged_entries_are_computed_again(tmp_path, damage):
    before = _encode(tmp_path, FakeBase())
    for file in tmp_path.rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        if damage == "flipped bit":
            data[-5] ^= 4
        file.write_bytes({"cut": data[:-9], "empty": b"", "foreign": b"x" * 999}.get(damage, data))
    base = FakeBase()
    with pytest.warns(UserWarning, match="damaged") as caught:
        after = _encode(tmp_path, base)
    assert len([w for w in caught if "computing it again" in str(w.message)]) == 4
    assert base.encoded_frames == 60
    assert all(map(torch.equal, before.moments, after.moments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _encode(tmp_path, FakeBase())


def test_an_autoencoder_that_overflows_is_reported_and_not_cached(tmp_path):
    base = FakeBase()
    base.encode_moments = lambda pixels: torch.full((len(pixels), 16, 4, 6), float("nan"))
    with pytest.raises(UserError, match=r"0.mp4: .*not finite.*float32"):
        _encode(tmp_path, base)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_latents_of_inference_mode_can_be_trained_on(tmp_path):
    class Inference(FakeBase):
        @torch.inference_mode()
        def encode_moments(self, pixels):
            return super().encode_moments(pixels)

    clips = _encode(tmp_path, Inference())
    weight = torch.ones((), requires_grad=True)
    (clips.moments[0] * weight).sum().backward()


def test_sampling_is_that_of_diffusers():
    moments = torch.randn(16, 5, 4, 4) * 3
    clips = LatentClips([moments], None, torch.zeros(1, 2, 3), scale=0.7, shift=0.1)
    found = clips.sample(moments, torch.Generator().manual_seed(1))
    noise = torch.randn((8, 5, 4, 4), generator=torch.Generator().manual_seed(1))
    posterior = DiagonalGaussianDistribution(moments[None])
    expected = (posterior.mean + posterior.std * noise - 0.1) * 0.7
    torch.testing.assert_close(found[None], expected)


# The dataset. Each frame's mean tells clip (hundreds), mirrored (negative) and frame; no variance.


def _numbered(lengths=(10, 20, 16), flip=True) -> LatentClips:
    moments = []
    for clip, length in enumerate(lengths):
        mean = (100.0 * clip + 1 + torch.arange(length)).view(1, -1, 1, 1).expand(2, length, 3, 3)
        moments.append(torch.cat([mean, torch.full_like(mean, -60.0)]))
    flipped = [torch.cat([-m[:2], m[2:]]) for m in moments] if flip else None
    return LatentClips(moments, flipped, torch.arange(len(lengths)).view(-1, 1, 1).expand(-1, 2, 3).float())


def _same(left: dict, right: dict) -> bool:
    return all(
        torch.equal(left[key], right[key]) if key != "index" else left[key] == right[key] for key in left
    )


def test_an_item_is_a_pure_function_of_seed_and_number():
    clips = _numbered()
    first, second = MotionDataset(clips, 4, 2, seed=3), MotionDataset(clips, 4, 2, seed=3)
    forward = [first[i] for i in range(30)]
    torch.manual_seed(99)
    backward = [second[i] for i in reversed(range(30))][::-1]
    assert all(map(_same, forward, backward))
    other = MotionDataset(clips, 4, 2, seed=4)
    assert not all(_same(item, other[i]) for i, item in enumerate(forward))


def test_noise_differs_between_items_and_frames():
    moments = torch.zeros(4, 4, 8, 8)
    items = MotionDataset(LatentClips([moments], None, torch.zeros(1, 2, 3)), 4)
    frames = torch.cat([items[i]["latents"].transpose(0, 1) for i in range(20)])
    assert len({frame.sum().item() for frame in frames}) == 80
    assert frames.std().item() == pytest.approx(1, abs=0.05)


def test_each_round_visits_every_clip_once_in_an_order_of_its_own():
    items = MotionDataset(_numbered((8,) * 8), 4)
    rounds = [tuple(items.clip_of(8 * epoch + place) for place in range(8)) for epoch in range(20)]
    assert all(sorted(visited) == list(range(8)) for visited in rounds)
    assert len(set(rounds)) > 15


def test_crops_keep_order_and_stride_and_reach_both_ends():
    items = MotionDataset(_numbered(), 4, 2, seed=0)
    starts: dict[int, set[int]] = {}
    mirrored = 0
    for index in range(600):
        item = items[index]
        values = item["latents"][0, :, 0, 0]
        clip = items.clip_of(index)
        first = int(values[0].abs().round()) - 100 * clip - 1
        expected = 100.0 * clip + 1 + first + 2 * torch.arange(4)
        torch.testing.assert_close(values.abs(), expected)
        assert item["latents"].shape == (2, 4, 3, 3)
        assert torch.equal(item["text"], items.clips.text[clip])
        assert item["index"] == index
        mirrored += int(values[0] < 0)
        starts.setdefault(clip, set()).add(first)
    assert starts == {0: set(range(4)), 1: set(range(14)), 2: set(range(10))}
    assert 240 < mirrored < 360


def test_without_flips_the_same_item_has_the_same_crop():
    plain, flips = MotionDataset(_numbered(flip=False), 4), MotionDataset(_numbered(), 4)
    for index in range(50):
        torch.testing.assert_close(plain[index]["latents"], flips[index]["latents"].abs())


def test_a_clip_of_just_enough_frames_is_taken_whole():
    items = MotionDataset(_numbered((7,)), 4, 2)
    assert items[5]["latents"].shape[1] == 4
    with pytest.raises(UserError, match="7 frames"):
        MotionDataset(_numbered((7,)), 4, 3)


def _indices(stream: SampleStream, batches: int, workers: int = 0) -> list[list[int]]:
    loader = DataLoader(stream, batch_size=stream.batch_size, num_workers=workers)
    return [batch["index"].tolist() for batch in itertools.islice(loader, batches)]


def test_the_stream_goes_on_from_any_number():
    items = MotionDataset(_numbered(), 4)
    stream = SampleStream(items, batch_size=2)
    assert _indices(stream, 3) == [[0, 1], [2, 3], [4, 5]]
    stream.first = 4
    assert _indices(stream, 1) == [[4, 5]]


def test_devices_share_the_stream():
    items = MotionDataset(_numbered(), 4)
    shares = [_indices(SampleStream(items, 2, rank, 3), 2) for rank in range(3)]
    assert shares == [[[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]]]


def test_workers_keep_the_order():
    stream = SampleStream(MotionDataset(_numbered(), 4), batch_size=2)
    assert _indices(stream, 5, workers=2) == _indices(stream, 5)
