"""Windows of clips, as an autoencoder encodes them that has several frames to a latent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lamp_lightning.data import MotionDataset, encode_motion_set
from lamp_lightning.data.clip import Clip, MotionSet
from lamp_lightning.data.windows import Windows
from lamp_lightning.models import load_base_model
from lamp_lightning.runtime.errors import UserError
from random_ltx import CHANNELS


@pytest.fixture(scope="module")
def folder(random_model) -> Path:
    return random_model("ltx")


def motion_set(frames: int = 12, masked: bool = False) -> MotionSet:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8) for _ in range(2)]
    mask = np.zeros((frames, 32, 32), np.uint8)
    mask[1:5, :, :16] = 255
    return MotionSet("rain", [
        Clip(Path(f"{k}.mp4"), each, 8, (32, 32), "rain", mask=mask if masked else None)
        for k, each in enumerate(pixels)
    ])  # fmt: skip


def test_windows_are_encoded_each_by_itself_and_read_from_the_cache(folder, tmp_path, monkeypatch):
    base, windows = load_base_model(folder), Windows(5, 2, 2)
    found = encode_motion_set(motion_set(), base, flip=True, cache_dir=tmp_path, windows=windows)
    starts = windows.starts(12)
    assert starts == [0, 1, 2, 3]
    assert found.moments[0].shape == (2 * CHANNELS, 2 * len(starts), 2, 2)
    pixels = torch.from_numpy(motion_set().clips[0].frames[1:10:2]).permute(3, 0, 1, 2)[None].float()
    second = base.encode_clips(pixels / 127.5 - 1)[0]
    assert torch.equal(found.moments[0][:, 2:4], second)
    assert torch.equal(found.flipped[0][:, 2:4], base.encode_clips(pixels.flip(-1) / 127.5 - 1)[0])
    torch.testing.assert_close(found.added["latent_spacing"][0], torch.tensor([4 / 4, 16.0, 16.0]))
    monkeypatch.setattr(type(base), "encode_clips", None)  # not called again
    again = encode_motion_set(motion_set(), base, flip=True, cache_dir=tmp_path, windows=windows)
    assert torch.equal(again.moments[1], found.moments[1])


def test_samples_are_whole_windows(folder, tmp_path):
    base = load_base_model(folder)
    found = encode_motion_set(motion_set(), base, cache_dir=tmp_path, windows=Windows(5, 1, 2))
    data = MotionDataset(found, num_frames=5, seed=0)
    assert torch.equal(data[3]["latents"], MotionDataset(found, 5, seed=0)[3]["latents"])
    for moments in found.moments:
        moments[CHANNELS:] = -30  # a draw is the mean then
    seen = set()
    for index in range(40):
        item = data[index]
        assert item["latents"].shape == (CHANNELS, 2, 2, 2)
        mean, spread = (each[0, :, 0, 0, 0] for each in base.statistics(5))
        for clip, moments in enumerate(found.moments):
            for window, whole in enumerate(moments.split(2, dim=1)):
                latents = (whole[:CHANNELS] - mean.view(-1, 1, 1, 1)) / spread.view(-1, 1, 1, 1)
                if torch.allclose(item["latents"], latents, atol=1e-5):
                    seen.add((clip, window))
    assert seen == {(clip, window) for clip in (0, 1) for window in range(4)}


def test_clips_that_are_too_short_are_refused():
    with pytest.raises(UserError, match="A clip of 8 frames is too short for 5 frames, 2 apart"):
        Windows(5, 2, 2).starts(8)


def test_masks_weigh_the_latents_of_their_frames(folder, tmp_path):
    base = load_base_model(folder)
    found = encode_motion_set(motion_set(masked=True), base, cache_dir=tmp_path, windows=Windows(5, 1, 2))
    mask = found.masks[0]  # two latents of each of the windows that begin at frames 0, 2, 4 and 7
    assert mask.shape == (8, 2, 2)
    assert mask[:, 0, 0].tolist() == [0, 1, 1, 0.5, 1, 0, 0, 0]
    assert not mask[:, :, 1].any()
    item = MotionDataset(found, num_frames=5, seed=0)[0]
    assert item["mask"].shape == item["latents"].shape[1:]
