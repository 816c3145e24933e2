"""Motion fidelity and warping error: each must rank videos whose order is known, of all eight toy motions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from lamp_lightning.metrics import MotionFidelity, WarpingError, motion_signatures
from lamp_lightning.metrics.fidelity import motion_signature
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.toyworld import MOTIONS, held_out_scenes, motion_set_scenes, render_clip

FRAMES = 12


def shuffled(video: np.ndarray) -> np.ndarray:
    return video[np.random.default_rng(3).permutation(len(video))]


def frozen(video: np.ndarray) -> np.ndarray:
    return np.repeat(video[:1], len(video), axis=0)


def noise(video: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)


def grainy(video: np.ndarray) -> np.ndarray:
    """Soft and a little noisy, as small painters paint."""
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in video]).astype(float)
    return np.clip(soft + np.random.default_rng(0).normal(size=soft.shape) * 5, 0, 255).astype(np.uint8)


def larger(video: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, (160, 160), interpolation=cv2.INTER_CUBIC) for frame in video])


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    """Two held-out clips of each motion: other places, colours and styles than in the training set."""
    return {
        motion: np.stack([render_clip(scene, frames=FRAMES) for scene in held_out_scenes(motion, 2)])
        for motion in MOTIONS
    }


@pytest.fixture(scope="module")
def training() -> dict[str, list]:
    return {
        motion: motion_signatures([render_clip(s, frames=FRAMES) for s in motion_set_scenes(motion, 8)])
        for motion in MOTIONS
    }


@pytest.fixture(scope="module")
def signatures(clips) -> dict[str, list]:
    return {motion: [motion_signature(video) for video in videos] for motion, videos in clips.items()}


def fidelity(training: list, *videos: np.ndarray) -> float:
    metric = MotionFidelity(training)
    for video in videos:
        metric.update(video)
    return float(metric.compute())


@pytest.mark.parametrize("motion", MOTIONS)
def test_same_motion_of_other_content_is_nearer_than_every_other_motion(motion, training, signatures) -> None:
    def likeness(signature) -> float:
        return max(signature.likeness(each) for each in training[motion])

    own = min(map(likeness, signatures[motion]))
    others = {other: max(map(likeness, found)) for other, found in signatures.items() if other != motion}
    assert own > max(others.values()) + 0.05, others


@pytest.mark.parametrize("motion", MOTIONS)
def test_true_motion_is_nearer_than_shuffled_noisy_or_no_motion(motion, training, clips) -> None:
    true = clips[motion][0]
    value = fidelity(training[motion], true)
    assert 0.7 < value <= 1
    poor = fidelity(training[motion], grainy(true))
    for wrong in (shuffled(true), noise(true), noise(frozen(true)) // 16 + frozen(true) // 16 * 15):
        assert min(value, poor) > fidelity(training[motion], wrong) + 0.05
    assert fidelity(training[motion], frozen(true)) == 0


@pytest.mark.parametrize("motion", ["rain", "waterfall", "turn_to_smile", "helicopter", "horse_run"])
def test_motion_fidelity_tells_backwards_where_the_motion_has_a_direction(motion, training, clips) -> None:
    true = clips[motion][0]
    assert fidelity(training[motion], true) > fidelity(training[motion], true[::-1]) + 0.2


@pytest.mark.parametrize("motion", ["rain", "horse_run"])
def test_motion_fidelity_survives_another_size_length_and_grain(motion, training, clips) -> None:
    true = clips[motion][0]
    wrong = fidelity(training[motion], shuffled(true))
    for other in (
        larger(true),
        true[:8],
        grainy(true),
        np.pad(true, ((0, 0), (0, 0), (16, 16), (0, 0)), "edge"),
    ):
        assert fidelity(training[motion], other) > wrong + 0.1


def test_motion_fidelity_is_a_mean_over_videos_and_takes_clips_as_they_are(training, clips) -> None:
    first, second = (fidelity(training["rain"], video) for video in clips["rain"])
    assert fidelity(training["rain"], *clips["rain"]) == pytest.approx((first + second) / 2)
    assert fidelity(list(clips["rain"][:1]), clips["rain"][0]) == pytest.approx(1, abs=1e-3)
    assert MotionFidelity.higher_is_better


def test_motion_fidelity_needs_motion_and_three_frames(clips) -> None:
    with pytest.raises(UserError, match="Nothing moves in the training clips"):
        MotionFidelity([frozen(clips["rain"][0])])
    with pytest.raises(UserError, match="from 3 frames on; this video has 2"):
        MotionFidelity(list(clips["rain"])).update(clips["rain"][0][:2])


def warping(video: np.ndarray) -> float:
    metric = WarpingError()
    metric.update(video)
    return float(metric.compute())


@pytest.mark.parametrize("motion", MOTIONS)
def test_warping_error_ranks_frozen_true_grain_noise(motion, clips) -> None:
    true = clips[motion][0]
    still, moving, grain, other = map(warping, (frozen(true), true, grainy(true), noise(true)))
    assert still == 0
    assert moving + 0.4 < grain
    assert moving < warping(shuffled(true))
    assert 5 * grain < other


def test_warping_error_finds_flicker_of_light_whatever_its_period(clips) -> None:
    true = clips["horse_run"][0]
    dim = (true * 0.9).astype(np.uint8)
    every_other = np.where((np.arange(FRAMES) % 2)[:, None, None, None] > 0, dim, true)
    in_pairs = np.where((np.arange(FRAMES) // 2 % 2)[:, None, None, None] > 0, dim, true)
    assert warping(true) + 1 < warping(in_pairs) < warping(every_other)


def test_warping_error_forgives_what_gets_hidden() -> None:
    """A square that glides over a texture hides a column of it each frame, and shows another."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3)).astype(np.float32), (0, 0), 3)
    square = cv2.GaussianBlur(rng.integers(0, 256, (24, 24, 3)).astype(np.float32), (0, 0), 2)
    ground, square = ((x - x.mean()) * 8 + 128 for x in (ground, square))
    video = np.repeat(ground[None], 12, axis=0)
    for t in range(12):
        video[t, 20:44, 4 + 2 * t : 28 + 2 * t] = square
    video = np.clip(video, 0, 255).astype(np.uint8)
    unmoved = 100 / 255 * np.abs(np.diff(video.astype(float), axis=0)).mean()
    assert warping(video) < unmoved / 2


def test_warping_error_of_two_frames(clips) -> None:
    true = clips["helicopter"][0]
    assert 0 < warping(true[:2]) < warping(np.stack([true[0], noise(true)[0]]))
    assert torch.equal(WarpingError()(true[:2]), WarpingError()(true[:2]))
