"""Metrics under what generated videos really look like, and CLIP models that cannot be trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lamp_lightning.metrics import (
    CLIPScore,
    FlowAgreement,
    FrameConsistency,
    MotionAmount,
    evaluate_videos,
    load_clip,
)
from lamp_lightning.metrics.flow import optical_flow
from lamp_lightning.metrics.motion import drift, motion_amount
from lamp_lightning.runtime.errors import UserError

VELOCITIES = [(0.0, 2.0), (-0.8, 3.0), (1.2, 4.0), (0.4, 1.5)]  # pixels per frame, x then y


def streaks(velocity: tuple[float, float], seed: int, frames: int = 16, size: int = 64) -> np.ndarray:
    """Thin streaks that fall over a coloured still; each frame one in twelve starts anew elsewhere."""
    rng = np.random.default_rng(seed)
    step, fine, count, length = np.asarray(velocity), 4, 40, 6
    still = cv2.GaussianBlur(rng.uniform(0, 255, (size, size, 3)).astype(np.float32), (0, 0), 4)
    still = (still - still.mean()) * 6 + 110
    places = rng.uniform(0, size, (count, 2))
    video = []
    for _ in range(frames):
        ink = np.zeros((size * fine, size * fine), np.float32)
        for head in places:
            tail = head - step / np.linalg.norm(step) * length
            ends = [tuple(map(int, end * fine * 16)) for end in (head, tail)]
            cv2.line(ink, *ends, 1.0, 5, cv2.LINE_AA, 4)
        cover = 0.6 * cv2.resize(ink, (size, size), interpolation=cv2.INTER_AREA)[..., None]
        video.append(np.clip(still * (1 - cover) + 235 * cover, 0, 255))
        places = places + step
        gone = (places > size + length).any(1) | (places < 0).any(1) | (rng.uniform(size=count) < 1 / 12)
        places[gone] = rng.uniform(0, size, (gone.sum(), 2))
    return np.stack(video).round().astype(np.uint8)


def painted(video: np.ndarray, seed: int) -> np.ndarray:
    """The faults of a small painter: soft, flickering, noisy, slowly changing and unlike its first frame."""
    rng = np.random.default_rng(seed)

    def stain(softness: float) -> np.ndarray:
        picture = cv2.GaussianBlur(rng.normal(size=video.shape[1:]).astype(np.float32), (0, 0), softness)
        return 20 * picture / picture.std()

    soft = np.stack([cv2.GaussianBlur(f.astype(np.float32), (0, 0), 1.2) for f in video])
    soft *= rng.uniform(0.95, 1.05, (len(video), 1, 1, 3))
    soft += np.linspace(0, 1, len(video))[:, None, None, None] * stain(3)
    soft[1:] += stain(2)
    return np.clip(soft + rng.normal(size=soft.shape) * 6, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("velocity", VELOCITIES)
@pytest.mark.parametrize("fault", [lambda video, seed: video, painted], ids=["clean", "painted"])
def test_drift_is_the_velocity_of_streaks_also_in_poor_pictures(velocity, fault) -> None:
    found, wanted = drift(fault(streaks(velocity, seed=3), 3)), np.asarray(velocity)
    angle = np.degrees(np.arccos(found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)))
    assert angle < 10
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.2)


def test_drift_scales_with_the_picture() -> None:
    video = streaks((-0.8, 3.0), seed=1)
    small, large = drift(video), drift(video.repeat(4, 1).repeat(4, 2))
    assert large == pytest.approx(4 * small, abs=0.6)


def test_drift_of_few_frames_a_wide_picture_and_no_motion() -> None:
    video = streaks((0.0, 3.0), seed=2)
    for start in range(0, 12, 4):
        assert drift(video[start : start + 4]) == pytest.approx([0, 3], abs=0.5)
    with pytest.raises(UserError, match="at least 4 frames"):
        drift(video[:3])
    assert drift(video[:, 12:52]) == pytest.approx([0, 3], abs=0.3)
    assert drift(video[:1].repeat(5, 0)).tolist() == [0, 0]


def test_flow_agreement_tells_painted_rain_from_rain_that_blows_elsewhere() -> None:
    def agreement(*pairs) -> tuple[float, float]:
        metric = FlowAgreement()
        for video, true in pairs:
            metric.update(video, true)
        return tuple(float(metric.compute()[name]) for name in ("flow_angle", "flow_length"))

    true = streaks((-1.0, 3.0), seed=5)
    angle, length = agreement((painted(streaks((-1.0, 3.0), seed=6), 6), true))
    assert angle < 10
    assert length == pytest.approx(1, abs=0.2)
    angle, length = agreement((painted(streaks((3.0, 1.0), seed=6), 6), true))
    assert angle == pytest.approx(90, abs=10)
    angle, length = agreement((streaks((-0.5, 1.5), seed=6), true))
    assert (angle, length) == (pytest.approx(0, abs=10), pytest.approx(0.5, abs=0.1))


def test_a_truth_that_goes_nowhere_does_not_count() -> None:
    true, still = streaks((0.0, 3.0), seed=5), np.full((16, 64, 64, 3), 90, np.uint8)
    metric = FlowAgreement()
    metric.update(true, still)
    assert all(np.isnan(float(value)) for value in metric.compute().values())
    metric.update(true, true)
    assert {k: float(v) for k, v in metric.compute().items()} == {"flow_angle": 0, "flow_length": 1}


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_motion_amount_is_the_length_of_a_known_shift(shift) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    wide = cv2.resize(texture, (256, 64), interpolation=cv2.INTER_CUBIC)
    video = np.stack([wide[:, 30 - shift * k : 94 - shift * k] for k in range(4)])
    assert motion_amount(video) == pytest.approx(100 * shift / 64, rel=0.15)
    assert np.median(optical_flow(video)[..., 0]) == pytest.approx(shift, abs=0.1)
    assert float(MotionAmount()(video)) == pytest.approx(motion_amount(video))


@pytest.fixture(scope="module")
def clip(random_clip):
    return load_clip(random_clip)


def test_clip_score_and_consistency_are_cosines_of_clips_own_features(clip) -> None:
    video, prompt = streaks((0, 2), 0, frames=3), "a red horse"
    pixels = torch.stack([torch.from_numpy(cv2.resize(f, (32, 32))) for f in np.full_like(video, 100)])
    plain = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    ids = clip.tokenizer([prompt], padding="max_length", max_length=clip.max_tokens, return_tensors="pt")
    with torch.no_grad():
        output = clip.model(pixel_values=plain, **ids)
    score = CLIPScore(clip)
    score.update(np.full_like(video, 100), prompt)
    expected = 100 * (output.image_embeds @ output.text_embeds.T).mean()
    assert float(score.compute()) == pytest.approx(float(expected), abs=1e-3)


def test_a_prompt_beyond_clips_limit_is_cut_with_a_warning(clip) -> None:
    with pytest.warns(UserWarning, match=rf"CLIP reads {clip.max_tokens}.*beginning only"):
        long = clip.text_features(["red horse " * 500])
    with pytest.warns(UserWarning, match="beginning only"):
        assert torch.equal(long, clip.text_features(["red horse " * 499 + "blue bird"]))
    assert not torch.allclose(long, clip.text_features(["blue"]))


def test_evaluation_agrees_with_the_metric_classes(clip) -> None:
    videos, prompts = [streaks((0, 2), 0, 4), streaks((1, 3), 1, 4)], ["rain", "a red horse"]
    metrics = {
        "clip_score": CLIPScore(clip),
        "frame_consistency": FrameConsistency(clip),
        "frame_consistency_neighbours": FrameConsistency(clip, "neighbours"),
        "motion_amount": MotionAmount(),
    }
    for video, prompt in zip(videos, prompts, strict=True):
        for name, metric in metrics.items():
            metric.update(*((video, prompt) if name == "clip_score" else (video,)))
    result = evaluate_videos(videos, prompts, clip)
    for name, metric in metrics.items():
        assert result[name] == pytest.approx(float(metric.compute()), abs=1e-5), name
    json.dumps(result)


def test_a_single_picture_has_a_clip_score_only(clip) -> None:
    picture, video = streaks((0, 2), 0, 1), streaks((0, 2), 0, 4)
    assert set(evaluate_videos([picture], ["rain"], clip)) == {"clip_score", "videos"}
    both = evaluate_videos([picture, video], ["rain", "rain"], clip)
    assert both["motion_amount"] == both["videos"][1]["motion_amount"]


def test_copies_of_a_metric_share_the_clip_model(clip) -> None:
    assert CLIPScore(clip).clone().clip is clip
    assert not list(FrameConsistency(clip).parameters())


def test_a_folder_without_clip_or_with_half_of_it_is_refused(random_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_clip(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip(tmp_path / "empty")
    half = shutil.copytree(random_clip, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors, among them text_projection\.weight"):
        load_clip(half)
    (half / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip(half)
