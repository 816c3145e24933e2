"""Clips of mixed and variable frame rates, read at one rate by the times of their frames."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_fakes import FakeBase, draw_frames, write_clip
from lamp_lightning.data.clips import load_clip, load_motion_set
from lamp_lightning.data.datamodule import MotionSetDataModule
from lamp_lightning.data.decode import is_variable
from lamp_lightning.runtime.errors import UserError

SIZE = (32, 32)


def numbered(count: int) -> np.ndarray:
    """Frames whose brightness is 4 times their number."""
    return np.repeat(4 * np.arange(count, dtype=np.uint8), 3 * 32 * 32).reshape(count, 32, 32, 3)


def numbers(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 4) for frame in frames]


def read(path: Path, cache: Path, fps: float | None):
    return load_clip(path, "", size=SIZE, cache_dir=cache, fps=fps)


def write_timed(path: Path, milliseconds: list[int]) -> Path:
    """A clip whose frame i is shown from the i-th time on."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=1000, options={"crf": "8", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(numbered(len(milliseconds)), milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("own", "count", "rate", "wanted"),
    [
        (30, 30, 10, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),
        (25, 25, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),  # a tick between two frames: the earlier one
        (10, 6, 10, [0, 1, 2, 3, 4, 5]),
        (8, 4, 16, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_frames_are_those_that_are_shown_nearest_to_the_ticks(tmp_path, own, count, rate, wanted):
    clip = read(write_clip(tmp_path / "a.mp4", numbered(count), fps=own), tmp_path / "cache", rate)
    assert numbers(clip.frames) == wanted
    assert (clip.fps, clip.source_fps, clip.variable) == (rate, own, False)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_a_clip_at_its_own_rate_stays_as_it_is(tmp_path, suffix):
    path = write_clip(tmp_path / f"a{suffix}", draw_frames(24, 32, 32), fps=30)
    plain, same = (read(path, tmp_path / "cache", fps) for fps in (None, 30))
    assert np.array_equal(plain.frames, same.frames)


def test_variable_rates_are_read_by_the_times_of_the_frames(tmp_path):
    times = [0, 40, 80, 500, 540, 580, 1000, 1100]
    path = write_timed(tmp_path / "phone.mp4", times)
    plain, timed = (read(path, tmp_path / "cache", fps) for fps in (None, 10))
    assert numbers(plain.frames) == list(range(8))
    assert plain.variable
    assert numbers(timed.frames)[:12] == [0, 2, 2, 3, 3, 3, 5, 5, 6, 6, 6, 7]
    assert is_variable([0, 0.04, 0.5, 0.54, 1.0])
    assert not is_variable([0, 0.033, 0.067, 0.1, 0.133])  # milliseconds, rounded


def test_clips_of_mixed_rates_become_one_speed(tmp_path):
    for number, fps in enumerate((10, 20, 40)):
        write_clip(tmp_path / f"{number}.mp4", numbered(40)[:: 40 // fps][: fps + 1], fps=fps)
    asked = {"motion": "m", "size": SIZE, "num_frames": 4, "cache_dir": tmp_path / "cache"}
    with pytest.warns(UserWarning, match=r"different frame rates.*data\.fps=10 reads all at one rate"):
        load_motion_set(tmp_path, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*the method is made for")
        found = load_motion_set(tmp_path, **asked, fps=10)
    assert [numbers(clip.frames)[:10] for clip in found.clips] == [[*range(0, 40, 4)]] * 3
    assert found.fps == 10
    with pytest.warns(UserWarning, match=r"0\.mp4 \(10\) has fewer.*stutters.*data\.fps=10 suits most"):
        load_motion_set(tmp_path, **asked, fps=20)
    with pytest.raises(UserError, match=r"has 5 frames, but 8"):
        load_motion_set(tmp_path, **{**asked, "num_frames": 8}, fps=5)


def test_the_data_module_reads_and_plays_at_that_rate(tmp_path):
    for number in range(2):
        write_clip(tmp_path / f"{number}.mp4", numbered(20), fps=20)
    module = MotionSetDataModule(tmp_path, "m", 4, size=32, cache_dir=tmp_path / "cache", fps=10)
    module.prepare(FakeBase())
    assert module.fps == 10
    assert [moments.shape[1] for moments in module.latent_clips.moments] == [10, 10]
    with pytest.raises(UserError, match=r"data\.fps must be a number above 0"):
        MotionSetDataModule(tmp_path, "m", fps=0)
