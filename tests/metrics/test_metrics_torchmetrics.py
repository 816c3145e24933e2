"""Habits of torchmetrics' users: batches and layouts, plots, devices, arithmetic, collections, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchmetrics import MetricCollection, MetricTracker

from lamp_lightning.metrics import (
    CLIPScore,
    Detail,
    Diversity,
    FirstFrameFidelity,
    FlowAgreement,
    FrameConsistency,
    FrechetDistance,
    MotionAmount,
    MotionFidelity,
    MovingPixelError,
    StillPixelError,
    WarpingError,
    evaluate_videos,
    load_clip,
    load_extractor,
)
from lamp_lightning.runtime.errors import UserError

FRAMES, SIZE = 5, 24
PROMPTS = ["rain", "a red horse"]


@pytest.fixture(autouse=True)
def closed_figures() -> Any:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clip(random_clip) -> Any:
    return load_clip(random_clip)


@pytest.fixture(scope="module")
def videos() -> np.ndarray:
    """Two videos of drifting noise, uint8 `b f h w c`."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, SIZE // 4, SIZE // 4, 3), dtype=np.uint8)
    still = coarse.repeat(4, 1).repeat(4, 2)
    return np.stack([np.roll(still, 2 * k, axis=2) for k in range(FRAMES)], axis=1)


def every_metric(clip: Any, videos: np.ndarray) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Each metric, and what its `update` takes after the videos."""
    colours = load_extractor("fid", "torch:mean", arguments={"dim": (2, 3)})
    return {
        "clip_score": (CLIPScore(clip), ("prompts",)),
        "consistency": (FrameConsistency(clip), ()),
        "diversity": (Diversity(clip), ()),
        "first_frame": (FirstFrameFidelity(clip), ("pictures",)),
        "amount": (MotionAmount(), ()),
        "fidelity": (MotionFidelity(videos), ()),
        "warping": (WarpingError(), ()),
        "error": (MovingPixelError(), ("truth",)),
        "flow": (FlowAgreement(), ("truth",)),
        "still": (StillPixelError(threshold=0.999), ("truth",)),
        "detail": (Detail(), ("truth",)),
        "fid": (FrechetDistance(colours, 3), ("real",)),
    }


NAMES = [
    "clip_score", "consistency", "diversity", "first_frame", "amount", "fidelity", "warping", "error", "flow",
    "still", "detail", "fid",
]  # fmt: skip


def numbers(value: Any) -> list[float]:
    return [float(each) for each in (value.values() if isinstance(value, dict) else [value])]


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:FID is unreliable")
def test_every_layout_of_a_batch_is_what_its_videos_are(clip, videos, name) -> None:
    truth, pictures = videos[:, ::-1].copy(), videos[:, 0].copy()
    forms: dict[str, Any] = {
        "uint8 b f h w c": lambda x: x,
        "float b f h w c": lambda x: x.astype(np.float32) / 255,
        "tensor b f c h w": channels_first,
        "float tensor b f c h w": lambda x: channels_first(x) / 255,
        "list of f c h w": lambda x: list(channels_first(x)),
        "one by one": None,
    }
    found = {}
    for form, shaped in forms.items():
        metric, needs = every_metric(clip, videos)[name]
        given = {"prompts": PROMPTS, "pictures": pictures, "truth": truth}
        if needs == ("real",):
            metric.update(truth, real=True)
        if shaped is None:
            for k in range(2):
                metric.update(videos[k], *(False if need == "real" else given[need][k] for need in needs))
        else:
            rest = [False if n == "real" else given[n] if n == "prompts" else shaped(given[n]) for n in needs]
            metric.update(shaped(videos), *rest)
        found[form] = numbers(metric.compute())
    for form, values in found.items():
        assert values == pytest.approx(found["one by one"], abs=1e-5), form


def test_pil_frames_and_bfloat16_are_videos(videos) -> None:
    pictures = [[Image.fromarray(frame) for frame in video] for video in videos]
    wanted = float(MotionAmount()(videos))
    assert float(MotionAmount()(pictures)) == pytest.approx(wanted)
    assert float(MotionAmount()(channels_first(videos).div(255).bfloat16())) == pytest.approx(wanted, rel=0.1)


def test_what_is_no_batch_is_refused_in_a_sentence(clip, videos) -> None:
    with pytest.raises(ValueError, match="2 videos do not go with 3 prompts: give one for each"):
        CLIPScore(clip).update(videos, ["rain"] * 3)
    with pytest.raises(ValueError, match="2 videos do not go with 1 true videos"):
        MovingPixelError().update(videos, videos[:1])
    with pytest.raises(ValueError, match=r"a video is \(frames, height, width, 3\) or"):
        MotionAmount().update(channels_first(videos).transpose(1, 2))
    with pytest.raises(UserError, match="at least 2 frames"):
        FrameConsistency(clip).update(videos[:, :1])


def test_one_prompt_or_picture_is_that_of_all(clip, videos) -> None:
    assert float(CLIPScore(clip)(videos, "rain")) == pytest.approx(
        float(CLIPScore(clip)(videos, ["rain"] * 2))
    )
    picture = Image.fromarray(videos[0, 0])
    FirstFrameFidelity(clip).update(videos, picture)


def test_an_evaluation_takes_batches(clip, videos) -> None:
    wanted = evaluate_videos(list(videos), PROMPTS, clip, truth=list(videos), first_frames=list(videos[:, 0]))
    batch = channels_first(videos) / 255
    found = evaluate_videos(batch, PROMPTS, clip, truth=batch, first_frames=batch[:, 0])
    assert found.pop("videos") == wanted.pop("videos")
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:FID is unreliable")
def test_every_metric_plots_copies_pickles_and_merges(clip, videos, name) -> None:
    pictures, truth = videos[:, 0], videos[:, ::-1]
    given = {"prompts": PROMPTS, "pictures": pictures, "truth": truth, "real": False}
    metric, needs = every_metric(clip, videos)[name]
    empty, half, rest = metric.clone(), metric.clone(), metric.clone()
    if needs == ("real",):
        half.update(truth, real=True)
        metric.update(truth, real=True)
    for k, part in enumerate((half, rest)):
        part.update(videos[k], *(given[need] if need == "real" else given[need][k] for need in needs))
    metric.update(videos, *(given[need] for need in needs))
    value = numbers(metric.compute())
    figure, _ = metric.plot()
    assert isinstance(figure, Figure)
    assert isinstance(metric.plot([metric.compute(), metric.compute()])[0], Figure)
    half.merge_state(rest)
    assert numbers(half.compute()) == pytest.approx(value, abs=1e-5, nan_ok=True)
    assert numbers(pickle.loads(pickle.dumps(metric)).compute()) == pytest.approx(value)
    assert copy.deepcopy(metric).compute() == metric.compute()
    assert not empty.update_called


def test_a_device_takes_clip_along_and_dtypes_do_not(random_clip, videos) -> None:
    metric = CLIPScore(load_clip(random_clip))
    assert metric.half().clip.model.dtype == torch.float32
    assert metric.to("cpu").clip.model.device.type == "cpu"
    assert np.isfinite(float(metric(videos, PROMPTS)))
    assert metric.to("meta").clip.model.device.type == "meta"
    clip = load_clip(random_clip)
    distance = FrechetDistance(load_extractor("fid", "clip", clip), 16)
    assert pickle.loads(pickle.dumps(distance)).extractor.kind == "fid"
    distance.to("meta")
    assert clip.model.device.type == "meta"
    MetricCollection({"consistency": FrameConsistency(fresh := load_clip(random_clip))}).to("meta")
    assert fresh.model.device.type == "meta"


def test_arithmetic_with_several_values_goes_by_name(videos) -> None:
    error = MovingPixelError()
    still = videos[:, :1].repeat(FRAMES, axis=1)
    error.update(still, videos)
    values = {name: float(value) for name, value in error.compute().items()}
    for made, wanted in (
        (error * 2 + 1, lambda x: 2 * x + 1),
        (1 - error, lambda x: 1 - x),
        (error / error, lambda x: 1.0),
        (abs(error - 1), lambda x: abs(x - 1)),
        (-error, lambda x: -x),
        (2**error, lambda x: 2**x),
    ):
        found = {name: float(value) for name, value in made.compute().items()}
        assert found == pytest.approx({name: wanted(value) for name, value in values.items()})
    assert float((100 * error["moving_error_ratio"]).compute()) == pytest.approx(100)
    percent = 100 * MovingPixelError()
    percent.update(still, videos)
    assert float(percent.compute()["moving_error_ratio"]) == pytest.approx(100)
    flow = FlowAgreement()
    flow.update(videos, videos)
    with pytest.raises(UserError, match=r"values of different names.*take one of each"):
        (error + flow).compute()


def test_a_collection_keeps_metrics_apart_that_begin_alike(videos) -> None:
    """torchmetrics updates only one of several metrics whose states are equal after the first update."""
    metrics = MetricCollection([MotionAmount(), WarpingError()])
    still = videos[0, :1].repeat(FRAMES, axis=0)
    for video in (still, videos[0]):
        metrics.update(frames=video)
    apart = MotionAmount(), WarpingError()
    for metric in apart:
        metric.update(still)
        metric.update(videos[0])
    assert numbers(metrics.compute()) == pytest.approx([float(each.compute()) for each in apart])


def test_a_collection_gives_each_metric_what_it_takes(clip, videos) -> None:
    metrics = MetricCollection(
        {"score": CLIPScore(clip), "amount": MotionAmount(), "first": FirstFrameFidelity(clip)}, prefix="val/"
    )
    values = metrics(frames=videos, prompt=PROMPTS, first_frame=videos[:, 0])
    names = {"val/score", "val/amount", "val/first_frame_fidelity", "val/first_frame_error"}
    assert set(values) == names
    assert isinstance(metrics.plot(together=True)[0], Figure)
    tracker = MetricTracker(MotionAmount(), maximize=False)
    tracker.increment()
    tracker.update(videos)
    assert float(tracker.best_metric()) == pytest.approx(float(MotionAmount()(videos)))
