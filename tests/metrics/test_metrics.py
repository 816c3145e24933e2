"""Metrics: each must rank videos whose order is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from lamp_lightning.metrics import (
    CLIPScore,
    Detail,
    FlowAgreement,
    FrameConsistency,
    MotionAmount,
    MovingPixelError,
    StillPixelError,
    evaluate_videos,
    load_clip,
)
from lamp_lightning.metrics.clip import consistency
from lamp_lightning.metrics.flow import FollowedVideo, optical_flow
from lamp_lightning.metrics.motion import drift
from lamp_lightning.metrics.truth import error_over_frames
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.toyworld import Scene, held_out_scenes, render_clip
from lamp_lightning.toyworld.subjects import FALL


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny")


@pytest.fixture(scope="module")
def horse() -> np.ndarray:
    return render_clip(Scene("horse_run", "red", "meadow", "flat", 1), frames=12)


def frozen(video: np.ndarray) -> np.ndarray:
    return np.repeat(video[:1], len(video), axis=0)


def noise(video: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)


def shuffled(video: np.ndarray) -> np.ndarray:
    return video[np.random.default_rng(1).permutation(len(video))]


def value(metric, *update) -> float:
    metric.update(*update)
    return float(metric.compute())


def test_clip_score_prefers_the_right_prompt(clip, horse) -> None:
    right = value(CLIPScore(clip), horse, "a red horse runs on the meadow")
    for wrong in (
        "a red waterfall flows on the meadow",
        "a blue horse runs on the meadow",
        "a red horse runs on the moon",
    ):
        assert right > value(CLIPScore(clip), horse, wrong) + 3, wrong
    assert right > value(CLIPScore(clip), noise(horse), "a red horse runs on the meadow") + 10


def test_clip_score_is_the_mean_over_videos(clip, horse) -> None:
    metric = CLIPScore(clip)
    single = [value(CLIPScore(clip), video, "a red horse") for video in (horse, noise(horse))]
    for video in (horse, noise(horse)):
        metric.update(video, "a red horse")
    assert float(metric.compute()) == pytest.approx(np.mean(single), abs=1e-4)


def test_long_prompt_is_cut_to_clips_limit(clip, horse) -> None:
    assert np.isfinite(value(CLIPScore(clip), horse, "a red horse " * 300))


@pytest.mark.parametrize("pairs", ["all", "neighbours"])
def test_frame_consistency_ranks_frozen_true_mixed(clip, horse, pairs) -> None:
    other = render_clip(Scene("rain", "blue", "moon", "neon", 2), frames=12)
    mixed = horse.copy()
    mixed[::2] = other[::2]
    steady, moves, jumps = (value(FrameConsistency(clip, pairs), v) for v in (frozen(horse), horse, mixed))
    assert steady == pytest.approx(1, abs=1e-5)
    assert jumps + 0.1 < moves < 1


def test_neighbours_notice_shuffled_frames_and_all_pairs_do_not(clip, horse) -> None:
    night = render_clip(Scene("rain", "blue", "moon", "neon", 2), frames=12)
    share = np.linspace(0, 1, 12)[:, None, None, None]
    dissolve = (horse * (1 - share) + night * share).round().astype(np.uint8)  # a gallop comes round again
    pairs, neighbours = (
        [value(FrameConsistency(clip, which), v) for v in (dissolve, shuffled(dissolve))]
        for which in ("all", "neighbours")
    )
    assert pairs[0] == pytest.approx(pairs[1], abs=1e-5)
    assert neighbours[0] > neighbours[1] + 0.01


def test_consistency_of_all_pairs_is_the_mean_off_the_diagonal() -> None:
    features = torch.nn.functional.normalize(
        torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), dim=1
    )
    pairs = [float(features[i] @ features[j]) for i in range(5) for j in range(5) if i < j]
    assert float(consistency(features)) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_optical_flow_finds_a_known_shift() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    video = np.stack([np.roll(texture, 2 * k, axis=1) for k in range(4)])
    flow = np.median(optical_flow(video)[:, 16:-16, 24:-24], axis=(0, 1, 2))
    assert flow == pytest.approx([2, 0], abs=0.3)


@pytest.mark.parametrize(("height", "width"), [(9, 200), (60, 512), (1, 200), (12, 512), (1, 1), (512, 9)])
def test_flow_of_videos_of_any_shape_is_finite(height: int, width: int) -> None:
    """OpenCV's flow crashes, with all of Python, on pictures of few rows."""
    video = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    assert np.isfinite(optical_flow(video)).all()
    assert np.isfinite(FollowedVideo.of(video).backward).all()


def test_motion_amount_ranks_frozen_slow_fast(horse) -> None:
    slow = horse[:6].repeat(2, axis=0)
    still, slow_amount, true = (value(MotionAmount(), v) for v in (frozen(horse), slow, horse))
    assert still < 0.05
    assert still < slow_amount < true


@pytest.mark.parametrize("motion", ["rain", "waterfall"])
def test_drift_is_the_velocity_of_falling_streaks(motion: str) -> None:
    wanted = 64 * np.asarray(FALL[motion])
    for scene in held_out_scenes(motion, 4):
        found = drift(render_clip(scene, frames=16))
        angle = np.degrees(np.arccos(found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)))
        assert angle < 10
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.2)


def test_flow_agreement_ranks_true_other_scene_backwards_frozen() -> None:
    scene, other = held_out_scenes("rain", 2)
    true, twin = render_clip(scene, frames=12), render_clip(other, frames=12)

    def agreement(video: np.ndarray) -> tuple[float, float]:
        metric = FlowAgreement()
        metric.update(video, true)
        values = metric.compute()
        return float(values["flow_angle"]), float(values["flow_length"])

    assert agreement(true) == pytest.approx((0, 1), abs=1e-3)
    assert agreement(twin)[0] < 10
    assert agreement(true[::-1])[0] > 150
    assert agreement(frozen(true)) == (180, 0)
    assert agreement(true[::2].repeat(2, 0)[:12]) != agreement(true)


def test_moving_pixel_error_ranks_true_shuffled_frozen_noise(horse) -> None:
    def ratio(video: np.ndarray) -> float:
        metric = MovingPixelError()
        metric.update(video, horse)
        return float(metric.compute()["moving_error_ratio"])

    assert ratio(horse) == 0
    assert ratio(frozen(horse)) == pytest.approx(1)
    later = np.concatenate([horse[:1], horse[:-1]])  # one frame late
    assert 0 < ratio(later) < ratio(shuffled(horse)) < ratio(noise(horse))


def test_moving_pixel_error_looks_only_where_the_truth_moves(horse) -> None:
    moved = (np.abs(horse.astype(int) - horse[:1]).max(-1) > 25.5).any(0)
    spoiled = horse.copy()
    spoiled[:, ~moved] = 0
    metric = MovingPixelError()
    metric.update(spoiled, horse)
    assert float(metric.compute()["moving_error"]) == 0


def test_still_pixel_error_looks_only_where_the_truth_never_moves(horse) -> None:
    def error(video: np.ndarray) -> float:
        metric = StillPixelError()
        metric.update(video, horse)
        return float(metric.compute())

    moved = (np.abs(horse.astype(int) - horse[:1]).max(-1) > 25.5).any(0)
    spoiled = horse.copy()
    spoiled[:, moved] = 255 - spoiled[:, moved]
    spoiled[0] = 0  # frame 0 is given
    assert error(spoiled) == 0
    trembling = horse.copy()
    trembling[1:, ~moved] ^= 16  # each colour 16 of 255 off
    assert error(trembling) == pytest.approx((16 / 255) ** 2)


def test_detail_is_lost_by_blurring_and_not_by_where_things_are(horse) -> None:
    def detail(video: np.ndarray) -> float:
        metric = Detail()
        metric.update(video, horse)
        return float(metric.compute())

    assert detail(horse) == 1
    blurred = [np.stack([cv2.GaussianBlur(f, (0, 0), s) for f in horse]) for s in (0.7, 1.5, 3)]
    sharp = [detail(video) for video in (horse, *blurred)]
    assert sharp == sorted(set(sharp), reverse=True), "each blur takes some"
    assert sharp[-1] < 0.5 * sharp[0]
    assert detail(noise(horse)) > 1


def test_the_error_over_frames_takes_the_error_apart(horse) -> None:
    videos = [horse[::-1].copy(), frozen(horse)]
    metric = MovingPixelError()
    for video in videos:
        metric.update(video, horse)
    curve = error_over_frames(videos, [horse, horse])
    assert curve.shape == (len(horse),)
    assert curve.mean() == pytest.approx(float(metric.compute()["moving_error_ratio"]))
    assert (error_over_frames([horse], [horse]) == 0).all()
    standing = error_over_frames([frozen(horse)], [horse])
    assert standing[0] == 0
    assert standing[1:4].mean() < standing.mean() < standing[-4:].mean()
    with pytest.raises(ValueError, match="must be the same"):
        error_over_frames([horse[:4]], [horse])


def test_videos_are_measured_together_and_each(clip, horse) -> None:
    result = evaluate_videos([horse, frozen(horse)], ["a red horse"] * 2, clip)
    assert set(result) == {
        "clip_score",
        "frame_consistency",
        "frame_consistency_neighbours",
        "diversity",
        "motion_amount",
        "warping_error",
        "videos",
    }
    assert result["motion_amount"] == pytest.approx(np.mean([v["motion_amount"] for v in result["videos"]]))
    assert set(evaluate_videos([horse], ["x"])) == {"motion_amount", "warping_error", "videos"}
    with pytest.raises(ValueError, match="one for each"):
        evaluate_videos([horse], [])
    with pytest.raises(ValueError, match="no videos to measure"):
        evaluate_videos([])


def test_single_frame_and_wrong_shapes_are_refused(clip, horse) -> None:
    with pytest.raises(UserError, match="at least 2 frames"):
        FrameConsistency(clip).update(horse[:1])
    with pytest.raises(ValueError, match="must be the same"):
        MovingPixelError().update(horse[:5], horse)


def test_missing_clip_model_says_what_to_do(tmp_path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded.*model\.clip=null"):
        load_clip(tmp_path / "nothing")
