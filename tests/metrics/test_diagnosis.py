"""What came of tuning, in words: videos made for each case are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lamp_lightning.metrics.diagnosis import diagnose
from lamp_lightning.metrics.familiar import knows
from lamp_lightning.toyworld import held_out_scenes, motion_set_scenes, render_clip

FRAMES = 8


@pytest.fixture(scope="module", params=["helicopter", "horse_run"])
def toy(request) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True videos of held-out scenes, and clips."""
    motion = request.param
    videos = [render_clip(scene, frames=FRAMES) for scene in held_out_scenes(motion, 2)]
    return videos, [render_clip(scene, frames=FRAMES) for scene in motion_set_scenes(motion, 3)]


def blend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A video that turns from one into another."""
    share = np.linspace(0, 1, FRAMES)[:, None, None, None]
    return (a * (1 - share) + b * share).astype(np.uint8)


def test_a_good_a_static_an_exploding_and_an_overfitted_one_are_told_apart(toy):
    videos, clips = toy
    noise = np.random.default_rng(0).normal(0, 60, videos[0].shape)
    growing = noise * np.linspace(0, 1, FRAMES)[:, None, None, None]
    dissolved = [np.clip(video + growing, 0, 255).astype(np.uint8) for video in videos]
    cases = {
        "good": videos,
        "static": [np.repeat(video[:1], FRAMES, axis=0) for video in videos],
        "exploding": dissolved,
        "overfitted": [blend(video, clip) for video, clip in zip(videos, clips, strict=False)],
    }
    found = {name: diagnose(made, clips) for name, made in cases.items()}
    assert {name: diagnosis.verdict for name, diagnosis in found.items()} == {name: name for name in cases}
    assert found["good"].advice == ""
    assert "more steps" in found["static"].advice
    assert "dissolve" in found["exploding"].reason
    assert found["overfitted"].taken == 1
    assert "learned by heart" in found["overfitted"].words


def test_too_much_motion_is_exploding(toy):
    videos, clips = toy
    wild = [np.stack([np.roll(video[0], 12 * t, axis=1) for t in range(FRAMES)]) for video in videos]
    assert diagnose(wild, clips).verdict == "exploding"


def test_the_held_out_loss_names_the_best_step_and_what_was_learned_by_heart(toy):
    videos, clips = toy
    risen = diagnose(videos, clips, losses={300: 0.15, 100: 0.12, 200: 0.10})
    assert (risen.verdict, risen.best_step) == ("overfitted", 200)
    assert "lowest at step 200 (0.1000; 0.1500 at step 300)" in risen.words
    assert "trainer.max_steps=200" in risen.advice
    falling = diagnose(videos, clips, losses={100: 0.12, 200: 0.10, 300: float("nan")})
    assert (falling.verdict, falling.best_step) == ("good", 200)
    assert json.loads(json.dumps(falling.as_dict()))["verdict"] == "good"
    assert diagnose(videos, clips).best_step is None


def test_an_untuned_model_is_to_be_tuned():
    video = render_clip(held_out_scenes("rain", 1)[0], frames=4)
    assert diagnose([video[[0, 0, 0]]], [video], steps=0).advice == "The model is not tuned: tune it."
    with pytest.raises(ValueError, match="at least one video"):
        diagnose([], [video])


def test_clips_that_flicker_by_themselves_hide_no_dissolving(toy):
    """Fire changes in ways that no motion explains; its own flicker must not pass for an allowance."""
    rng = np.random.default_rng(0)

    def noisy(video: np.ndarray, strength: float) -> np.ndarray:
        return np.clip(video + rng.normal(0, strength, video.shape), 0, 255).astype(np.uint8)

    videos, clips = toy
    fire = [noisy(clip, 12) for clip in clips]
    fire[0] = noisy(clips[0], 40)  # one odd clip decides nothing
    assert diagnose([noisy(video, 12) for video in videos], fire).verdict == "good"
    assert diagnose([noisy(video, 40) for video in videos], fire).verdict == "exploding"


def test_a_model_that_does_not_know_the_clips_is_never_called_good(toy):
    videos, clips = toy
    found = diagnose(videos, clips, familiar=False)
    assert found.verdict == "unclear"
    assert "does not know what the clips show" in found.reason
    still = [np.repeat(video[:1], FRAMES, axis=0) for video in videos]
    assert diagnose(still, clips, familiar=False).verdict == "static"
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert knows("tiny", clips)
    assert not knows("tiny", [noise, noise, clips[0]])
    assert knows("some/other", [noise])
