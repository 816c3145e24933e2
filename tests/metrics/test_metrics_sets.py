"""Diversity, first-frame fidelity, FID and FVD, and all measures at once: each must rank known orders."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lamp_lightning.metrics import (
    MEASURES,
    Diversity,
    FirstFrameFidelity,
    FrechetDistance,
    MotionFidelity,
    MovingPixelError,
    WarpingError,
    evaluate_videos,
    load_clip,
    load_extractor,
    measures,
    motion_signatures,
)
from lamp_lightning.metrics.frechet import FeatureExtractor
from lamp_lightning.metrics.registry import markdown_table
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.toyworld import Scene, held_out_scenes, motion_set_scenes, render_clip

FRAMES = 8


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny")


@pytest.fixture(scope="module")
def horse() -> np.ndarray:
    return render_clip(Scene("horse_run", "red", "meadow", "flat", 1), frames=FRAMES)


@pytest.fixture(scope="module")
def rain() -> np.ndarray:
    return render_clip(Scene("rain", "blue", "moon", "neon", 2), frames=FRAMES)


def frozen(video: np.ndarray) -> np.ndarray:
    return np.repeat(video[:1], len(video), axis=0)


def noise(video: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)


def diversity(clip, *videos: np.ndarray) -> float:
    metric = Diversity(clip)
    for video in videos:
        metric.update(video)
    return float(metric.compute())


def test_diversity_ranks_one_video_one_scene_many_scenes_or_subjects(clip, horse) -> None:
    meadow = [render_clip(Scene("horse_run", "red", "meadow", "flat", k), frames=FRAMES) for k in range(4)]
    horses = [render_clip(scene, frames=FRAMES) for scene in held_out_scenes("horse_run", 4)]
    subjects = [
        render_clip(Scene(motion, "red", "meadow", "flat", 1), frames=FRAMES)
        for motion in ("horse_run", "rain", "firework", "turn_to_smile")
    ]
    same, alike, places, others = (diversity(clip, *v) for v in ([horse] * 4, meadow, horses, subjects))
    assert same == pytest.approx(1, abs=1e-5)
    assert same > alike > max(places, others)
    assert Diversity.higher_is_better is False


def test_diversity_is_the_mean_cosine_of_mean_features_over_pairs(clip, horse, rain) -> None:
    videos = [horse, rain, noise(horse)]
    mean = [clip.image_features(video).mean(0) for video in videos]
    pairs = [
        float(torch.nn.functional.cosine_similarity(mean[i], mean[j], dim=0))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert diversity(clip, *videos) == pytest.approx(np.mean(pairs), abs=1e-5)
    assert np.isnan(diversity(clip, horse))


def first_frame(clip, video: np.ndarray, picture: np.ndarray) -> tuple[float, float]:
    metric = FirstFrameFidelity(clip)
    metric.update(video, picture)
    values = metric.compute()
    return float(values["first_frame_fidelity"]), float(values["first_frame_error"])


def test_first_frame_fidelity_ranks_frozen_true_drifting_wrong_noise(clip, horse, rain) -> None:
    share = np.linspace(0, 1, FRAMES)[:, None, None, None]
    drifting = (horse * (1 - share) + rain * share).astype(np.uint8)
    order = [first_frame(clip, v, horse[0])[0] for v in (frozen(horse), horse, drifting, rain)]
    assert order[0] == pytest.approx(1, abs=1e-5)
    assert order == sorted(order, reverse=True)
    assert order[1] > order[2] + 0.05
    assert order[1] > first_frame(clip, noise(horse), horse[0])[0] + 0.1


def test_first_frame_error_looks_at_the_beginning_only_and_forgives_size(clip, horse, rain) -> None:
    large = horse.repeat(4, axis=1).repeat(4, axis=2)
    assert first_frame(clip, horse, horse[0])[1] == 0
    assert first_frame(clip, large, horse[0])[1] == 0
    assert first_frame(clip, horse, large[0])[1] == 0
    tinted = (horse * 0.9).astype(np.uint8)
    errors = [first_frame(clip, video, horse[0])[1] for video in (horse, tinted, rain)]
    assert errors[0] < errors[1] < errors[2]
    assert first_frame(clip, np.concatenate([horse[:1], noise(horse)[1:]]), horse[0])[1] == 0


# -- FID and FVD ---------------------------------------------------------------------------------------------


def colours(pixels: torch.Tensor) -> torch.Tensor:
    """Mean colours: features of frames ``(n, 3, h, w)``."""
    return pixels.mean((2, 3))


def movement(pixels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """How much changes in the upper and the lower half: features of videos ``(n, 3, f, h, w)``."""
    changes = pixels.diff(dim=2).abs().mean((1, 2, 4))
    return scale * torch.stack([half.mean(1) for half in changes.chunk(2, dim=1)], 1)


class Pooled(torch.nn.Module):
    def forward(self, pixels: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return factor * pixels.flatten(3).std(3).flatten(1)[:, :4]


def distance(kind: str, function, videos, reference) -> float:
    extractor = FeatureExtractor(kind, function, "test")
    metric = FrechetDistance(extractor, extractor.of(reference[0]).shape[1])
    for real, group in ((True, reference), (False, videos)):
        for video in group:
            metric.update(video, real)
    return float(metric.compute())


@pytest.fixture(scope="module")
def horses() -> list[np.ndarray]:
    return [render_clip(scene, frames=FRAMES) for scene in motion_set_scenes("horse_run", 12)]


@pytest.fixture(scope="module")
def other_horses() -> list[np.ndarray]:
    return [render_clip(scene, frames=FRAMES) for scene in held_out_scenes("horse_run", 12)]


def test_fid_ranks_same_held_out_wrong_content_noise(clip, horses, other_horses) -> None:
    rains = [render_clip(scene, frames=FRAMES) for scene in held_out_scenes("rain", 12)]
    function = load_extractor("fid", "clip", clip).function
    groups = (horses, other_horses, rains, [noise(video) for video in horses])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        order = [distance("fid", function, group, horses) for group in groups]
    assert order[0] == pytest.approx(0, abs=1e-3)
    assert order == sorted(order)


def test_fvd_sees_the_order_of_frames_and_fid_does_not(horses, other_horses) -> None:
    shuffled = [video[np.random.default_rng(k).permutation(FRAMES)] for k, video in enumerate(horses)]
    order = [
        distance("fvd", movement, group, horses)
        for group in (horses, other_horses, shuffled, [frozen(v) for v in horses], [noise(v) for v in horses])
    ]
    assert order[0] == pytest.approx(0, abs=1e-4)
    assert order[0] < order[1] < min(order[2:])
    assert max(order) == order[4]
    assert distance("fid", colours, shuffled, horses) == pytest.approx(0, abs=1e-3)


def test_frechet_distance_is_the_known_formula() -> None:
    rng = np.random.default_rng(0)
    real, fake = (rng.integers(0, high, (40, 1, 4, 4, 3), dtype=np.uint8) for high in (256, 128))
    a, b = (video.mean((1, 2, 3)) for video in (real, fake))
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1])).real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * root
    assert distance("fid", colours, list(fake), list(real)) == pytest.approx(expected, rel=1e-4)


def test_few_videos_are_called_unreliable(clip, horses) -> None:
    with pytest.warns(UserWarning, match=r"FVD is unreliable here: 2 videos are too few for 2 features"):
        distance("fvd", movement, horses[:2], horses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance("fvd", movement, horses[:3], horses)


def test_extractors_come_from_files_and_callables(tmp_path: Path, monkeypatch, horses) -> None:
    file = tmp_path / "pooled.pt"
    torch.jit.script(Pooled()).save(file)
    plain = load_extractor("fvd", str(file)).of(horses[0])
    assert plain.shape == (1, 4)
    assert torch.equal(load_extractor("fvd", str(file), arguments={"factor": 2.0}).of(horses[0]), 2 * plain)
    assert load_extractor("fid", str(file)).of(horses[0]).shape == (FRAMES, 4)
    (tmp_path / "my_features.py").write_text("def means(pixels):\n    return pixels.mean((2, 3, 4))\n")
    monkeypatch.syspath_prepend(tmp_path)
    means = load_extractor("fvd", "my_features:means").of(horses[0])
    assert means[0].tolist() == pytest.approx(horses[0].mean((0, 1, 2)).tolist(), rel=1e-4)


def test_extractors_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch, clip, horses) -> None:
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "bad_features.py").write_text(
        "def one(pixels):\n    return pixels.mean()\n\n"
        "def refuses(pixels):\n    raise ValueError('too small')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for where, message in (
        (str(tmp_path / "broken.pt"), r"fvd=.*broken\.pt cannot be used"),
        ("nowhere.pt", "there is no such file"),
        ("no_such_module:f", "No module named"),
        ("bad_features:two", "has no attribute 'two'"),
        ("clip", "Give a TorchScript file"),
    ):
        with pytest.raises(UserError, match=message):
            load_extractor("fvd", where)
    with pytest.raises(UserError, match="name one with clip="):
        load_extractor("fid", "clip")
    with pytest.raises(UserError, match=r"bad_features:refuses cannot take videos.*too small"):
        load_extractor("fvd", "bad_features:refuses").of(horses[0])
    with pytest.raises(UserError, match=r"gave shape \(\) for videos"):
        load_extractor("fvd", "bad_features:one").of(horses[0])


# -- all at once ---------------------------------------------------------------------------------------------


def test_all_measures_agree_with_their_classes(clip, horse, rain, horses) -> None:
    videos, training = [horse, frozen(horse), rain], horses[:3]
    fvd = FeatureExtractor("fvd", movement, "test")
    fid = load_extractor("fid", "clip", clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = evaluate_videos(
            videos, ["a red horse"] * 3, clip, truth=[horse] * 3, training_clips=training,
            first_frames=[horse[0]] * 3, fid=fid, fvd=fvd,
        )  # fmt: skip
        assert values["fid"] == pytest.approx(distance("fid", fid.function, videos, training), rel=1e-3)
    assert set(values) - {"videos"} <= set(MEASURES)
    assert {name for name, m in MEASURES.items() if m.frames <= FRAMES} == set(values) - {"videos"}
    metrics = MotionFidelity(training), WarpingError(), Diversity(clip)
    error, first = MovingPixelError(), FirstFrameFidelity(clip)
    for video in videos:
        for metric in metrics:
            metric.update(video)
        error.update(video, horse)
        first.update(video, horse[0])
    names = ("motion_fidelity", "warping_error", "diversity")
    expected = {name: metric.compute() for name, metric in zip(names, metrics, strict=True)}
    for name, value in {**expected, **error.compute(), **first.compute()}.items():
        assert values[name] == pytest.approx(float(value), abs=1e-5), name
    assert values["videos"][0]["moving_error"] == 0
    assert values["videos"][1]["motion_fidelity"] == 0
    assert "diversity" not in values["videos"][0]


def test_signatures_of_training_clips_can_be_computed_beforehand(horse, horses) -> None:
    plain = evaluate_videos([horse], training_clips=horses[:2])
    assert evaluate_videos([horse], training_clips=motion_signatures(horses[:2])) == plain


def test_truth_of_another_size_and_length_is_compared_where_both_are(horse) -> None:
    large = horse.repeat(2, axis=1).repeat(2, axis=2)
    for video, true in ((large, horse), (horse, large), (horse[:5], horse), (large, horse[:5])):
        assert evaluate_videos([video], truth=[true])["moving_error"] == 0
    values = evaluate_videos([horse, frozen(horse)], truth=[None, horse])
    assert values["moving_error_ratio"] == pytest.approx(1)
    assert "moving_error" not in values["videos"][0]


def test_short_videos_have_the_measures_that_they_can_have(clip, horse, horses) -> None:
    def names(frames: int) -> set[str]:
        values = evaluate_videos(
            [horse[:frames]], ["a horse"], clip, training_clips=horses[:1], first_frames=[horse[0]]
        )
        return set(values["videos"][0])

    assert names(1) == {"clip_score", "first_frame_error"}
    assert names(2) == names(3) - {"motion_fidelity"}
    assert "motion_fidelity" in names(3)


def test_a_table_takes_headings_arrows_and_digits_from_the_list() -> None:
    rows = [
        ("ours | best", {"motion_fidelity": 0.81234, "clip_score": 31.0}),
        ("theirs", {"clip_score": 30.123}),
    ]
    assert markdown_table(rows, "method").splitlines() == [
        "| method | CLIP score ↑ | motion fidelity ↑ |",
        "| --- | ---: | ---: |",
        "| ours \\| best | 31.00 | 0.812 |",
        "| theirs | 30.12 | - |",
    ]
    labels = {measure.name: measure.label for measure in measures(MEASURES)}
    assert labels["motion_amount"] == "motion amount (% of width)"  # without a true video nothing is better
    assert labels["warping_error"] == "warping error (%) ↓"
