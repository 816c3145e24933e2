"""Masks beside clips weigh the loss: white counts, black does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from data_fakes import FakeBase, draw_frames, write_clip
from lamp_lightning.data.clips import list_clips, load_motion_set
from lamp_lightning.data.datamodule import MotionSetDataModule
from lamp_lightning.diffusion import first_frame_loss
from lamp_lightning.runtime.errors import UserError

SIZE = (32, 32)


def left_half(height: int = 32, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


@pytest.fixture
def folder(tmp_path) -> Path:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        write_clip(clips / f"{number}.mp4", np.roll(draw_frames(6, 32, 32), number, axis=2))
    return clips


def module(folder: Path, **settings) -> MotionSetDataModule:
    made = MotionSetDataModule(
        folder, "m", num_frames=4, size=SIZE[0], cache_dir=folder.parent / "cache", **settings
    )
    made.prepare(FakeBase())
    return made


def masks(folder: Path, **settings):
    return module(folder, **settings).latent_clips.masks


def test_a_picture_is_the_mask_of_all_frames_and_no_clip_itself(folder):
    Image.fromarray(left_half(64, 64)).save(folder / "0_mask.png")
    assert [clip.name for clip in list_clips(folder)] == ["0.mp4", "1.mp4"]
    first, second = masks(folder)
    assert first.shape == (6, 8, 8)
    assert (first[..., :3] == 1).all()
    assert (first[..., 5:] == 0).all()
    assert second is None
    assert (masks(folder, mask_black=0.25)[0][..., 5:] == 0.25).all()
    assert masks(folder, mask_black=1.0) is None
    assert masks(folder, use_masks=False) is None


def test_a_video_is_the_mask_of_each_frame(folder):
    video = np.zeros((6, 32, 32, 3), np.uint8)
    video[3:, :16] = 255
    write_clip(folder / "1_mask.mp4", video)
    assert [clip.name for clip in list_clips(folder)] == ["0.mp4", "1.mp4"]
    first, second = masks(folder)
    assert first is None
    assert (second[:3] == 0).all()
    assert (second[3:, :3] == 1).all()
    assert (second[3:, 5:] == 0).all()


def test_samples_have_the_mask_of_their_frames_mirrored_with_them(folder):
    Image.fromarray(left_half()).save(folder / "0_mask.png")
    items = module(folder, flip=True).dataset
    plain = module(folder, flip=True, use_masks=False).dataset
    seen = set()
    for number in range(24):
        item, without = items[number], plain[number]
        assert torch.equal(item["latents"], without["latents"])
        assert "mask" not in without
        if items.clip_of(number) == 1:
            assert (item["mask"] == 1).all()
            continue
        assert item["mask"].shape == item["latents"].shape[1:]
        seen.add(tuple(item["mask"][0, 0].tolist()))
    assert seen == {(1.0,) * 4 + (0.0,) * 4, (0.0,) * 4 + (1.0,) * 4}


def test_an_all_white_mask_is_as_none_to_the_bit(folder):
    before = module(folder).dataset[3]
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(folder / "0_mask.png")
    write_clip(folder / "1_mask.mp4", np.full((6, 32, 32, 3), 255, np.uint8))
    after = module(folder).dataset[3]
    assert before.keys() == after.keys()
    assert torch.equal(before["latents"], after["latents"])


def test_what_is_black_gives_no_gradient_and_the_rest_the_mean_of_its_own():
    generator = torch.Generator().manual_seed(0)
    latents, noise, prediction = (torch.randn(2, 4, 5, 8, 8, generator=generator) for _ in range(3))
    prediction.requires_grad_()
    weights = torch.ones(2, 5, 8, 8)
    weights[0, :, :, 4:] = 0
    steps, text = torch.tensor([5, 700]), torch.zeros(2, 3, 6)
    arguments = (lambda *_: prediction, DDIMScheduler(), latents, noise, steps, text)
    loss = first_frame_loss(*arguments, weights=weights)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert (gradient[0, ..., 4:] == 0).all()
    assert (gradient[0, :, 1:, :, :4] != 0).all()
    assert (gradient[1, :, 1:] != 0).all()
    errors = (prediction - noise)[:, :, 1:] ** 2
    wanted = (errors[0, ..., :4].mean() + errors[1].mean()) / 2
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(first_frame_loss(*arguments, weights=weights * 0 + 1), errors.mean())
    assert torch.equal(first_frame_loss(*arguments, weights=None), first_frame_loss(*arguments))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: Image.new("L", (32, 32)).save(f / "0_mask.png"), "all black"),
        (lambda f: Image.new("L", (64, 32), 255).save(f / "0_mask.png"), "64x32 pixels, another shape"),
        (lambda f: (f / "0_mask.png").write_text("no"), "cannot be read as a mask"),
        (lambda f: write_clip(f / "0_mask.mp4", draw_frames(5, 32, 32)), "has 5 frames and its clip 6"),
        (
            lambda f: [Image.new("L", (32, 32)).save(f / f"0_mask.{kind}") for kind in ("png", "bmp")],
            "Keep one mask",
        ),
    ],
)
def test_masks_that_cannot_be_used_are_named(folder, make, message):
    make(folder)
    with pytest.raises(UserError, match=message):
        load_motion_set(
            folder, motion="m", size=SIZE, num_frames=4, cache_dir=folder.parent / "cache", masks=True
        )
