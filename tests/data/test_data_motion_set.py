"""Motion sets: cropping, captions, warnings, and the cache of decoded frames."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from data_fakes import draw_frames, write_clip, write_set
from lamp_lightning.data import MotionSet, load_motion_set
from lamp_lightning.data.captions import read_captions
from lamp_lightning.data.decoder_process import ClipDecoder
from lamp_lightning.data.fit import crop_box, fit_frame
from lamp_lightning.runtime.errors import UserError

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "real_clips"


@pytest.fixture
def load(tmp_path):
    def load(folder=None, **settings):
        settings = {"motion": "birds_fly", "size": (32, 32), "num_frames": 4, **settings}
        return load_motion_set(folder or tmp_path / "set", cache_dir=tmp_path / "cache", **settings)

    return load


def test_a_set_has_all_clips_at_the_models_size(tmp_path, load):
    write_set(tmp_path / "set", height=48, width=80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        motion_set = load(size=(24, 32))
    assert motion_set.name == "birds_fly"
    assert motion_set.prompts == ["birds fly"] * 8
    assert [clip.path.name for clip in motion_set.clips] == [f"clip_{n}.mp4" for n in range(8)]
    assert {clip.frames.shape for clip in motion_set.clips} == {(10, 24, 32, 3)}
    assert {clip.source_size for clip in motion_set.clips} == {(48, 80)}
    assert not motion_set.clips[0].frames.flags.writeable


def test_the_crop_is_centred_and_as_large_as_fits():
    assert crop_box(100, 300, (50, 50)) == (100, 0, 200, 100)
    assert crop_box(300, 100, (50, 50)) == (0, 100, 100, 200)
    assert crop_box(320, 512, (64, 64)) == (96, 0, 416, 320)
    frame = np.zeros((8, 24, 3), np.uint8)
    frame[:, 8:16] = 255
    fitted = fit_frame(frame, (4, 4)).astype(int)
    assert (fitted[:, 1:3] == 255).all()
    assert (fitted == fitted[:, ::-1]).all()


def test_a_fitting_frame_is_untouched_and_a_shrunk_one_is_averaged():
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert fit_frame(frame, (16, 16)) is frame
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    small = fit_frame(np.repeat(checkers[..., None], 3, 2).astype(np.uint8), (8, 8))
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    ("count", "found"), [(1, "found 1 clip;"), (3, "found 3 clips;"), (17, "found 17 clips;")]
)
def test_another_count_is_warned_of(tmp_path, load, count, found):
    write_set(tmp_path / "set", count)
    with pytest.warns(UserWarning, match=found):
        assert len(load().clips) == count


def test_different_sizes_are_warned_of(tmp_path, load):
    write_set(tmp_path / "set", 8)
    write_clip(tmp_path / "set" / "clip_3.mp4", draw_frames(10, 48, 64))
    with pytest.warns(UserWarning, match=r"2 different sizes: 32x32 \(7\), 64x48 \(1\)"):
        motion_set = load()
    assert {clip.frames.shape for clip in motion_set.clips} == {(10, 32, 32, 3)}


def test_frame_rates_are_kept_and_mixed_ones_warned_of(tmp_path, load):
    folder = write_set(tmp_path / "set", 8)
    assert load().fps == 10
    write_clip(folder / "clip_3.mp4", fps=25)
    with pytest.warns(UserWarning, match=r"different frame rates: 10 \(7\), 25 \(1\).* written at 10\."):
        assert load().fps == 10
    assert MotionSet("still", []).fps == 8


def test_m4v_is_read_and_other_videos_are_named(tmp_path, load):
    folder = write_set(tmp_path / "set", 8)
    (folder / "clip_7.mp4").rename(folder / "clip_7.m4v")
    for name in ("holiday.wmv", "camcorder.mts"):
        (folder / name).touch()
    with pytest.warns(UserWarning, match=r"camcorder\.mts.*holiday\.wmv not read: clips are mp4, m4v"):
        assert len(load().clips) == 8


def test_a_short_clip_says_what_it_lacks(tmp_path, load):
    write_set(tmp_path / "set")
    assert len(load(num_frames=4, frame_stride=3).clips) == 8  # exactly the 10 frames that are there
    write_clip(tmp_path / "set" / "clip_5.mp4", draw_frames(9, 32, 32))
    with pytest.raises(
        UserError, match=r"clip_5.mp4: this clip has 9 frames, but 4 frames at a stride of 3 need 10"
    ):
        load(num_frames=4, frame_stride=3)


def test_all_bad_clips_are_named_at_once(tmp_path, load):
    folder = write_set(tmp_path / "set")
    (folder / "clip_1.mp4").write_text("no video " * 100)
    data = (folder / "clip_4.mp4").read_bytes()
    (folder / "clip_4.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        load()
    first, second, third = str(error.value).splitlines()
    assert first.startswith("2 clips")
    assert "clip_1.mp4: not a video, found plain text" in second
    assert "clip_4.mp4: this clip is cut off" in third


def test_decoded_frames_are_read_back_without_decoding(tmp_path, load, monkeypatch):
    write_set(tmp_path / "set")
    before = [np.array(clip.frames) for clip in load().clips]
    monkeypatch.setattr(ClipDecoder, "decode", lambda *_: pytest.fail("decoded again"))
    after = load().clips
    assert all((a == b.frames).all() for a, b in zip(before, after, strict=True))
    assert after[0].fps == pytest.approx(10)


def test_a_changed_clip_or_size_is_decoded_anew(tmp_path, load):
    folder = write_set(tmp_path / "set")
    before = load().clips[2]
    os.replace(folder / "clip_7.mp4", folder / "clip_2.mp4")
    write_clip(folder / "clip_7.mp4", draw_frames(12, 32, 32))
    after = load().clips
    assert after[2].digest != before.digest
    assert len(after[7].frames) == 12
    assert load(size=(16, 16)).clips[0].frames.shape == (10, 16, 16, 3)


@pytest.mark.parametrize("damage", ["content", "length", "facts"])
def test_damaged_frames_in_the_cache_are_decoded_again(tmp_path, load, damage):
    write_set(tmp_path / "set")
    before = [clip.digest for clip in load().clips]
    file = sorted((tmp_path / "cache" / "frames").glob("*.rgb"))[0]
    data = bytearray(file.read_bytes())
    if damage == "facts":
        file.with_suffix(".json").write_text('{"shape": [1')
    elif damage == "length":
        file.write_bytes(data[:-100])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        assert [clip.digest for clip in load().clips] == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()


def test_a_cache_that_cannot_be_written(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/cache.* cannot be written: .*cache_dir"):
        load_motion_set(
            tmp_path / "set", motion="m", size=(32, 32), num_frames=4, cache_dir=tmp_path / "file" / "cache"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]


def test_a_full_disk_while_decoding(tmp_path, load, monkeypatch):
    write_set(tmp_path / "set")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(ClipDecoder, "decode", full)
    with pytest.raises(
        UserError, match=r"cannot be written: no space is left on the device\. Free some space"
    ):
        load()


def test_nothing_half_written_stays_behind(tmp_path, load):
    folder = write_set(tmp_path / "set")
    (folder / "clip_1.mp4").write_bytes(b"RIFF" + bytes(range(256)) * 8)
    with pytest.raises(UserError, match="cannot be decoded"):
        load()
    assert not list((tmp_path / "cache").rglob(".*.part"))


# Captions

CLIPS = ["a.mp4", "b.webm", "c 1.gif"]


@pytest.fixture
def captions(tmp_path):
    def captions(files: dict[str, str | bytes], given=None) -> list[str]:
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_captions([tmp_path / name for name in CLIPS], "turn_to_smile", given)

    return captions


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ["turn to smile"] * 3),
        ({"captions.txt": "a smile\n"}, ["a smile"] * 3),
        ({"captions.txt": "\ufeffone\n\ntwo\nthree"}, ["one", "two", "three"]),
        ({"captions.txt": "b.webm: two, 3:4\nc 1.gif\tthree\na.mp4:one"}, ["one", "two, 3:4", "three"]),
        ({"captions.json": '"a smile"'}, ["a smile"] * 3),
        ({"captions.json": '["one", "two", "three"]'}, ["one", "two", "three"]),
        (
            {"captions.json": json.dumps({"a": "one", "b.webm": "two", "c 1": "drei ß"})},
            ["one", "two", "drei ß"],
        ),
        ({"b.txt": "two\nlines\n"}, ["turn to smile", "two lines", "turn to smile"]),
    ],
)
def test_captions_are_read(captions, files, expected):
    assert captions(files) == expected


def test_a_caption_file_elsewhere(tmp_path, captions):
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "mine.txt"
    file.write_text("mine")
    assert captions({"captions.txt": "not this"}, given=file) == ["mine"] * 3
    with pytest.raises(UserError, match="does not exist"):
        captions({}, given=tmp_path / "none.txt")


def test_a_clip_without_a_caption_is_warned_of(captions):
    with pytest.warns(UserWarning, match="no caption for 2 of 3 clips"):
        assert captions({"captions.json": '{"b": "two"}'}) == ["turn to smile", "two", "turn to smile"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"captions.txt": b"\xff\xfe\xfa caf\xe9"},
            "captions.txt cannot be read as captions: byte 0 is no UTF-8",
        ),
        ({"captions.txt": "  \n"}, "captions.txt: this caption file is empty"),
        ({"captions.txt": "one\ntwo"}, "captions.txt: found 2 captions for 3 videos"),
        ({"captions.txt": "a.mp4: one\nd.mp4: four"}, "names 'd.mp4', which is no clip"),
        ({"captions.txt": "a.mp4:\nb.webm: b\nc 1.gif: c"}, "empty caption"),
        (
            {"captions.json": '{"a": "one",}'},
            "captions.json cannot be read as captions: it is not valid JSON .*line 1",
        ),
        ({"captions.json": '{"a": 1}'}, "captions must be texts"),
        ({"captions.json": "3"}, "captions must be texts"),
        ({"captions.json": '"a"', "captions.txt": "a"}, "Keep one"),
        ({"b.txt": b"\xe9t\xe9"}, "b.txt cannot be read as captions: byte 0 is no UTF-8"),
    ],
)
def test_unusable_caption_files(captions, files, message):
    with pytest.raises(UserError, match=message):
        captions(files)


def test_a_folder_in_a_caption_files_place(tmp_path, captions):
    (tmp_path / "captions.txt").mkdir()
    with pytest.raises(UserError, match=r"captions.txt cannot be read as captions"):
        captions({})


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason=f"needs the real footage in {REAL_CLIPS}")
def test_real_footage(load):
    motion_set = load(REAL_CLIPS / "fire", motion="fire", size=(64, 64), num_frames=16, frame_stride=2)
    assert {clip.frames.shape for clip in motion_set.clips} == {(32, 64, 64, 3)}
    assert motion_set.clips[0].fps == pytest.approx(25)
    assert all(clip.frames.std() > 10 for clip in motion_set.clips)
    assert len({clip.digest for clip in motion_set.clips}) == 8
