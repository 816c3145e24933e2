"""The toy world: what is drawn, who may see it, and that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from lamp_lightning.data.motions import render_motion_set
from lamp_lightning.toyworld import (
    MOTIONS,
    Scene,
    held_out_prompts,
    held_out_scenes,
    motion_set_scenes,
    render_clip,
    render_still,
)
from lamp_lightning.toyworld.scenes import COLOURS, PLACES, STYLES, combinations, random_caption
from lamp_lightning.toyworld.subjects import FALL


def test_world_has_the_papers_motions_and_enough_places_colours_and_styles() -> None:
    assert len(MOTIONS) == 8
    assert len(PLACES) >= 10
    assert len(COLOURS) >= 8
    assert len(STYLES) >= 3
    assert len({scene.caption for scene in combinations()}) == 8 * len(PLACES) * len(COLOURS) * len(STYLES)


@pytest.mark.parametrize("motion", MOTIONS)
def test_scene_renders_the_same_pixels_each_time(motion: str) -> None:
    scene = held_out_scenes(motion, 1)[0]
    assert np.array_equal(render_clip(scene, frames=4), render_clip(scene, frames=4))


@pytest.mark.parametrize("motion", MOTIONS)
def test_any_frame_has_a_true_continuation(motion: str) -> None:
    scene = held_out_scenes(motion, 1)[0]
    clip = render_clip(scene)
    assert clip.shape == (24, 64, 64, 3)
    assert np.array_equal(render_clip(scene, start=5, frames=3), clip[5:8])
    assert np.array_equal(render_still(scene, t=7), clip[7])


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_moves_a_good_part_of_the_picture(motion: str) -> None:
    for scene in held_out_scenes(motion, 4):
        clip = render_clip(scene, frames=16).astype(int)
        moved = (np.abs(clip[1:] - clip[:1]).max(-1) > 25).any(0)
        assert moved.mean() > 0.05, scene
        still = np.abs(clip[1:] - clip[:-1]).max(axis=(1, 2, 3))
        assert (still > 25).sum() >= 12, scene  # it goes on moving, it does not jump once


@pytest.mark.parametrize("motion", ["rain", "waterfall"])
def test_streaks_fall_with_the_stated_velocity(motion: str) -> None:
    """Shifted back by the stated velocity, the next frame explains the last one better than unshifted."""
    vx, vy = FALL[motion]
    gain = []
    for scene in held_out_scenes(motion, 4):
        clip = render_clip(scene, frames=2, size=160).astype(float)
        x, y = round(vx * 160), round(vy * 160)
        inner = (slice(48, 112), slice(56, 104))
        shifted = np.roll(clip[1], (-y, -x), axis=(0, 1))
        moved = np.abs(clip[1] - clip[0]).max(-1) > 25
        keep = np.zeros_like(moved)
        keep[inner] = moved[inner]
        gain.append(np.abs(shifted - clip[0])[keep].mean() / np.abs(clip[1] - clip[0])[keep].mean())
    assert np.mean(gain) < 0.6


def test_larger_picture_shows_the_same_scene() -> None:
    scene = Scene("helicopter", "red", "meadow", "flat", 3)
    small = render_still(scene, t=2).astype(float)
    large = render_still(scene, t=2, size=256).astype(float)
    averaged = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - averaged).mean() < 6


def test_splits_never_meet() -> None:
    groups: dict[str, set] = {}
    for scene in combinations():
        groups.setdefault(scene.split, set()).add((scene.motion, scene.place, scene.colour))
    assert set(groups) == {"tuning", "pretraining", "held_out"}
    assert not groups["tuning"] & groups["held_out"]
    assert not groups["pretraining"] & groups["held_out"]
    for motion in MOTIONS:
        assert all(scene.split == "tuning" for scene in motion_set_scenes(motion, 16))
        assert all(scene.split == "held_out" for scene in held_out_scenes(motion, 16))
        for split in groups.values():  # every motion meets every place and colour in every split
            assert {place for m, place, _ in split if m == motion} == set(PLACES)
            assert {colour for m, _, colour in split if m == motion} == set(COLOURS)


def test_motion_set_is_varied() -> None:
    scenes = motion_set_scenes("rain", 8)
    assert len({scene.place for scene in scenes}) == 8
    assert len({scene.colour for scene in scenes}) == 8


def test_captions_read_as_english() -> None:
    assert (
        Scene("horse_run", "orange", "meadow", "ink").caption
        == "an orange horse runs on the meadow, ink drawing"
    )
    assert Scene("rain", "blue", "sea", "flat").caption == "blue rain falls over the sea, flat colours"
    scene = Scene("play_the_guitar", "red", "city", "neon")
    assert scene.phrase(colour=False) == "a person plays the guitar in the city"
    rng = np.random.default_rng(0)
    captions = {random_caption(scene, rng) for _ in range(200)}
    assert "play the guitar" in captions
    assert all("{" not in caption and "  " not in caption for caption in captions)
    assert len(held_out_prompts("rain", 4)) == 4


def test_unknown_attribute_names_what_exists() -> None:
    with pytest.raises(ValueError, match=r"no colour 'mauve'.*red, orange"):
        Scene("rain", "mauve", "sea", "flat")
    with pytest.raises(ValueError, match=r"no motion 'swim'.*waterfall"):
        render_motion_set("swim", "unused")


def test_motion_set_is_an_ordinary_folder_of_clips(tmp_path) -> None:
    from lamp_lightning.data.clips import decode_clip, list_clips

    render_motion_set("waterfall", tmp_path / "set", clips=2)
    paths = list_clips(tmp_path / "set")
    assert len(paths) == 2
    truth = render_clip(motion_set_scenes("waterfall", 2)[0])
    frames = decode_clip(paths[0]).frames
    assert frames.shape == truth.shape
    error = np.mean((frames.astype(float) - truth) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
