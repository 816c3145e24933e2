"""Finding and decoding clips: every format, and every way in which a file can be no clip."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_fakes import CODECS, draw_frames, write_clip
from lamp_lightning.data import decode_clip, list_clips
from lamp_lightning.data.damage import find_truncation
from lamp_lightning.data.decoder_process import ClipDecoder, DecodeError
from lamp_lightning.data.video import write_webp
from lamp_lightning.runtime.errors import UserError

SUFFIXES = sorted(CODECS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_its_frames_in_order(tmp_path, suffix):
    frames = draw_frames()
    clip = decode_clip(write_clip(tmp_path / f"clip{suffix}", frames))
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == np.uint8
    assert clip.fps == pytest.approx(10)
    tolerance = 40 if suffix == ".gif" else 12  # a gif here has 8 levels of red
    error = np.abs(clip.frames.astype(int) - frames).mean(axis=(1, 2))
    assert error.max() < tolerance


def test_a_phones_portrait_clip_is_turned_upright(tmp_path):
    data = write_clip(tmp_path / "lying.mp4").read_bytes()
    one, minus = bytes.fromhex("00010000"), bytes.fromhex("ffff0000")
    upright = one + bytes(12) + one
    turned = bytes(4) + one + bytes(4) + minus + bytes(4)
    at = data.index(upright, data.index(b"tkhd"))
    path = tmp_path / "portrait.mp4"
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    clip = decode_clip(path)
    expected = np.rot90(draw_frames(), -1, axes=(1, 2))
    assert clip.frames.shape == expected.shape
    assert np.abs(clip.frames.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"these are not the frames you look for\n" * 40, "plain text"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
        (bytes(range(256)) * 9, "data of no video format"),
        (b"#EXTM3U\n\x01\n/etc/passwd\n", "data of no video format"),  # a playlist names other files
        (b"RIFF" + bytes(range(256)) * 9, "cannot be decoded"),
    ],
)
def test_a_file_that_is_no_video(tmp_path, content, found):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=found) as error:
        decode_clip(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_file_is_named(tmp_path, suffix):
    path = write_clip(tmp_path / f"clip{suffix}")
    assert find_truncation(path) is None
    whole = path.read_bytes()
    for share in (0.2, 0.6, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="cut off") as error:
            decode_clip(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_cut_file_whose_index_comes_first_is_named(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", movflags="faststart")
    whole = path.read_bytes()
    assert find_truncation(path) is None
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=rf"announces {len(whole):,} bytes, found {len(whole) * 2 // 3:,}"):
        decode_clip(path)


def test_a_live_recording_of_unknown_length_is_whole(tmp_path):
    path = write_clip(tmp_path / "clip.webm", live="1")
    assert find_truncation(path) is None
    assert len(decode_clip(path).frames) == 24


def test_a_file_with_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(UserError, match="no video stream"):
        decode_clip(path)


def test_a_damaged_middle_ends_in_frames_or_one_error(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (24, 48, 64, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "clip.mp4", frames)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = rng.bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    try:
        assert decode_clip(path).frames.shape[1:] == (48, 64, 3)
    except UserError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 either outcome is right


def test_a_missing_clip(tmp_path):
    with pytest.raises(UserError, match="no such clip"):
        decode_clip(tmp_path / "none.mp4")


# What a broken decoder does to the process, played by a stand-in for PyAV, for all files or those named bad.
_CHILD = """
import json, os, sys, time, types
sys.path[:] = json.loads({path!r})
import av
whole = av.open
def stub(path, *a, **k):
    if {always} or "bad" in path: {action}
    return whole(path, *a, **k)
av.open = stub
from lamp_lightning.data.decode import main
main()
"""


def _broken(action: str, always: bool = False) -> list[str]:
    program = _CHILD.format(path=json.dumps(sys.path), action=action, always=always)
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("action", "found"),
    [
        ("os.abort()", "died"),
        ("os._exit(0)", "died"),
        ("time.sleep(600)", r"took longer than 5 s .* and was stopped"),
        pytest.param(
            "bytearray(9 << 30)",
            "more than 8 GiB of memory",
            marks=pytest.mark.skipif(
                sys.platform != "linux", reason="the memory limit is kept by Linux only"
            ),
        ),
    ],
)
def test_a_clip_that_kills_or_hangs_the_decoder_ends_in_an_error_and_the_next_is_decoded(
    tmp_path, action, found
):
    bad, good = write_clip(tmp_path / "bad.mp4"), write_clip(tmp_path / "good.mp4")
    with ClipDecoder(timeout_s=5, command=_broken(action)) as decoder:
        with pytest.raises(DecodeError, match=found):
            decoder.decode(bad, tmp_path / "out")
        assert decoder._process is None
        assert decoder.decode(good, tmp_path / "out").shape == (24, 48, 64, 3)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs POSIX alarms")
@pytest.mark.parametrize("gone", [False, True])
def test_a_hanging_child_ends_by_itself_at_its_limit_and_at_once_when_its_parent_is_gone(tmp_path, gone):
    path = write_clip(tmp_path / "clip.mp4")
    child = subprocess.Popen(
        _broken("time.sleep(600)", always=True), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    request = {"path": str(path), "out": str(tmp_path / "out"), "size": None}
    request |= {"limit_s": 90 if gone else -4}  # the system's limit is 5 s later
    child.stdin.write(json.dumps(request).encode() + b"\n")
    child.stdin.close() if gone else child.stdin.flush()
    assert child.wait(timeout=60) == (0 if gone else -signal.SIGALRM)


def test_a_failing_clip_leaves_the_process_alive(tmp_path):
    bad, good = write_clip(tmp_path / "bad.mp4"), write_clip(tmp_path / "good.mp4")
    with ClipDecoder(command=_broken('raise RuntimeError("no")')) as decoder:
        decoder.decode(good, tmp_path / "out")
        first = decoder._process
        with pytest.raises(DecodeError, match="no"):
            decoder.decode(bad, tmp_path / "out")
        decoder.decode(good, tmp_path / "out")
        assert decoder._process is first


def test_decoding_fits_frames_to_a_size(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    with ClipDecoder() as decoder:
        decoded = decoder.decode(path, tmp_path / "out", (24, 24))
    assert decoded.shape == (24, 24, 24, 3)
    assert decoded.source_size == (48, 64)
    assert (tmp_path / "out").stat().st_size == 24 * 24 * 24 * 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the always full device /dev/full")
def test_a_full_disk_is_not_blamed_on_the_clip(tmp_path):
    with ClipDecoder() as decoder, pytest.raises(OSError, match="No space left"):
        decoder.decode(write_clip(tmp_path / "clip.mp4"), Path("/dev/full"))


def test_the_decoding_process_loads_no_torch():
    code = "import sys, lamp_lightning.data.decode as d; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_clips_are_listed_in_natural_order(tmp_path):
    for name in ("clip10.mp4", "clip2.MP4", "Clip1.webm", ".hidden.mp4", "notes.txt", "b.gif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    assert [path.name for path in list_clips(tmp_path)] == ["b.gif", "Clip1.webm", "clip2.MP4", "clip10.mp4"]


def test_one_clip_is_a_set_of_one(tmp_path):
    path = tmp_path / "one.mp4"
    path.write_bytes(b"x")
    assert list_clips(path) == [path]


def test_folders_without_clips(tmp_path):
    with pytest.raises(UserError, match=r"none: this motion folder does not exist.*Create it"):
        list_clips(tmp_path / "none")
    with pytest.raises(UserError, match=r"no clip here, found nothing.*Put 8-16 clips"):
        list_clips(tmp_path)
    for name in ("a.wmv", "b.jpg", "c.txt", "d.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"found only a.wmv, b.jpg, c.txt and 1 more"):
        list_clips(tmp_path)
    with pytest.raises(UserError, match="expected a folder of clips, found a file"):
        list_clips(tmp_path / "c.txt")


def test_animated_webp_are_clips_and_pictures_are_not(tmp_path):
    frames = draw_frames(5, 32, 32)
    write_webp(tmp_path / "a.webp", frames, fps=5)
    Image.fromarray(frames[0]).save(tmp_path / "still.webp")
    assert [path.name for path in list_clips(tmp_path)] == ["a.webp"]
    clip = decode_clip(tmp_path / "a.webp")
    assert (clip.frames.shape, clip.fps, clip.variable) == ((5, 32, 32, 3), 5, False)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 6
    whole = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cut off or damaged: its header announces"):
        decode_clip(tmp_path / "a.webp")
    (tmp_path / "a.webp").write_bytes(whole[:40] + bytes(len(whole) - 40))
    with pytest.raises(UserError, match="cannot be decoded"):
        decode_clip(tmp_path / "a.webp")


def test_the_times_of_an_animated_webp_are_its_own(tmp_path):
    images = [Image.fromarray(frame) for frame in draw_frames(6, 16, 16)]
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 40, 40, 400, 40, 40])
    clip = decode_clip(path)
    assert len(clip.frames) == 6
    assert clip.variable
    assert clip.fps == pytest.approx(10)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p10le"])
def test_clips_of_10_bit_have_their_colours(tmp_path, pixels):
    frames = draw_frames(6, 48, 64)
    path = tmp_path / "ten.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    clip = decode_clip(path)
    assert clip.frames.dtype == np.uint8
    assert np.abs(clip.frames.astype(int) - frames).mean() < 6
