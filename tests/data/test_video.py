"""Files that people look at: mp4, gif, contact sheet, and their names."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from lamp_lightning.data.sheet import draw_wall, even_choice, wall_cell, wrap
from lamp_lightning.data.video import (
    FORMATS,
    as_frames,
    contact_sheet,
    read_video,
    safe_name,
    writable_folder,
    write_as,
    write_gif,
    write_mp4,
    write_webp,
)
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.videos import Picture, Video
from lamp_lightning.sample.write import labels


def moving_square(frames: int = 6, height: int = 64, width: int = 64) -> np.ndarray:
    """A red square that walks right by 4 px per frame over a blue-green gradient."""
    y, x = np.mgrid[:height, :width]
    still = np.stack([np.full_like(y, 30), y * 200 // height, x * 200 // width], -1).astype(np.uint8)
    video = np.repeat(still[None], frames, axis=0)
    for t, frame in enumerate(video):
        frame[20:36, 4 * t : 4 * t + 16] = (220, 40, 40)
    return video


def read_back(path: Path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), stream


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_mp4_holds_the_frames_in_a_form_that_browsers_play(tmp_path):
    video = moving_square()
    path = write_mp4(tmp_path / "new" / "a.mp4", video, fps=8, min_size=256)
    frames, stream = read_back(path)
    assert frames.shape == (6, 256, 256, 3)
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == 8
    assert psnr(frames, video.repeat(4, 1).repeat(4, 2)) > 32
    raw = path.read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat"), "the index comes first, so browsers start before the end"
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_mp4_keeps_colours_in_every_decoder(tmp_path):
    colours = [(220, 40, 40), (40, 200, 60), (50, 60, 220), (240, 240, 240), (10, 10, 10)]
    video = np.stack([np.full((64, 64, 3), c, np.uint8) for c in colours])
    path = write_mp4(tmp_path / "colours.mp4", video)
    assert np.abs(read_back(path)[0].astype(int) - video).max() <= 6
    capture = cv2.VideoCapture(str(path))
    frames = np.stack([capture.read()[1][..., ::-1] for _ in video])
    assert np.abs(frames.astype(int) - video).max() <= 6


@pytest.mark.parametrize(("height", "width"), [(63, 65), (1, 1), (64, 33)])
def test_mp4_of_odd_sizes_repeats_the_last_row_or_column(tmp_path, height, width):
    video = moving_square(2, height, width)
    frames, _ = read_back(write_mp4(tmp_path / "odd.mp4", video))
    assert frames.shape == (2, height + height % 2, width + width % 2, 3)


def test_mp4_with_one_frame_and_a_broken_rate(tmp_path):
    frames, stream = read_back(write_mp4(tmp_path / "one.mp4", moving_square(1), fps=23.976))
    assert len(frames) == 1
    assert float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e9])
def test_a_senseless_rate_is_refused(tmp_path, fps):
    with pytest.raises(UserError, match="frames per second"):
        write_mp4(tmp_path / "a.mp4", moving_square(), fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_gif_loops_with_its_colours_and_still_parts_do_not_flicker(tmp_path):
    video = moving_square(8)
    gif = Image.open(write_gif(tmp_path / "a.gif", video, fps=10, min_size=256))
    assert (gif.n_frames, gif.size, gif.info["loop"], gif.info["duration"]) == (8, (256, 256), 0, 100)
    frames = []
    for i in range(8):
        gif.seek(i)
        frames.append(np.asarray(gif.convert("RGB"))[::4, ::4])
    assert psnr(np.stack(frames), video) > 33
    assert all((f[40:] == frames[0][40:]).all() for f in frames)


def test_a_fast_gif_stays_at_a_speed_that_browsers_honour(tmp_path):
    assert Image.open(write_gif(tmp_path / "a.gif", moving_square(), fps=200)).info["duration"] == 20


def test_contact_sheet_shows_first_and_last_frame_sharp_and_in_place(tmp_path):
    video = moving_square(24)
    sheet = Image.open(
        contact_sheet([("truth", video), ("ours", video[::-1])], tmp_path / "s.png", columns=4)
    )
    pixels = np.asarray(sheet)
    first, last = video[0].repeat(2, 0).repeat(2, 1), video[-1].repeat(2, 0).repeat(2, 1)
    left = sheet.width - 10 - (4 * 132 - 4)
    bottom = sheet.height - 10
    assert (pixels[bottom - 128 : bottom, left : left + 128] == last).all()
    assert (pixels[bottom - 128 : bottom, sheet.width - 138 : sheet.width - 10] == first).all()
    assert (pixels[bottom - 260 : bottom - 132, left : left + 128] == first).all()
    assert pixels[bottom - 260 : bottom - 132, :left].min() < 60, "the label is drawn beside its row"


def test_contact_sheet_shows_photographs_of_all_shapes_about_as_large(tmp_path):
    for height, width in ((56, 72), (72, 56), (64, 64), (300, 200), (40, 40)):
        file = contact_sheet([("", np.zeros((1, height, width, 3), np.uint8))], tmp_path / "s.png")
        black = (np.asarray(Image.open(file)) < 30).all(axis=2)
        sides = black.any(axis=1).sum(), black.any(axis=0).sum()
        assert 120 <= max(sides) <= 128
        assert abs(sides[1] / sides[0] - width / height) < 0.02


def test_contact_sheet_takes_rows_of_different_lengths_and_sizes(tmp_path):
    rows = [
        ("one frame", moving_square(1)),
        ("wide " * 200, moving_square(30, 320, 512)),
        ("日本 / ü", moving_square()),
    ]
    sheet = Image.open(contact_sheet(rows, tmp_path / "s.png", columns=5, title="Mixed " * 60))
    assert sheet.width == 10 + 200 + 5 * 132 - 4 + 10


def test_even_choice_has_both_ends():
    assert even_choice(16, 8) == [0, 2, 4, 6, 9, 11, 13, 15]
    assert even_choice(3, 8) == [0, 1, 2]
    assert even_choice(5, 1) == [0]


def test_labels_wrap_at_words_and_shorten_when_too_long():
    font = ImageFont.load_default(15)
    lines = wrap("a red bird flies over the sea at night " * 3, font, 120, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert " ".join(lines).startswith("a red bird flies over")
    assert wrap("two words", font, 300, 3) == ["two words"]
    assert all(font.getlength(line) <= 120 for line in wrap("x" * 500, font, 120, 4))
    assert wrap("", font, 100, 3) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red bird, flying", "a_red_bird_flying"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", "untitled"),
        ("", "untitled"),
        ("a\\b:c*d?\n\x00e", "a_b_c_d_e"),
        ("éléphant über Straße", "elephant_uber_straße"),
        ("日本の滝", "日本の滝"),
        (".hidden.mp4", "hidden_mp4"),
        ("-rf", "rf"),
        ("NUL", "nul_"),
        ("🐎 running", "running"),
        ("\udc80 broken", "broken"),
    ],
)
def test_safe_names(text, name):
    assert safe_name(text) == name


def test_prompts_of_500_words_get_short_names_that_differ(tmp_path):
    long = "waterfall " * 500
    one, two = safe_name(long), safe_name(long + "at night")
    assert one != two
    assert one == safe_name(long)
    for name in (one, two, safe_name("滝" * 500)):
        assert len(name.encode()) <= 80
        (tmp_path / f"{name}.mp4").touch()


@pytest.mark.parametrize(
    "write", [write_mp4, write_gif, write_webp, lambda path, video: contact_sheet([("", video)], path)]
)
def test_an_unwritable_place_is_one_clear_error(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.* cannot be written: .*output folder"):
        write(tmp_path / "file" / "out", moving_square())
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "folder.mp4", moving_square())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_writable_folder(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="output folder"):
        writable_folder(tmp_path / "file")
    with pytest.raises(UserError, match="output folder"):
        writable_folder("/proc/no/such")


def test_as_frames_takes_the_common_forms_and_refuses_others():
    video = moving_square(3)
    for form in (torch.from_numpy(video), [Image.fromarray(f) for f in video], list(video), video / 255.0):
        assert (as_frames(form) == video).all()
    assert (as_frames(torch.from_numpy(video).permute(0, 3, 1, 2)) == video).all()
    for wrong in (video[0], video.transpose(0, 1, 3, 2), video / 127.5 - 1, video.astype(np.int64)):
        with pytest.raises(ValueError, match=r"frames, height|uint8"):
            as_frames(wrong)
    with pytest.raises(UserError, match="at least 2 frames"):
        as_frames(video[:1], min_frames=2)


def test_a_wall_shows_all_videos_side_by_side_and_short_ones_stay(tmp_path):
    short, wide = moving_square(2), moving_square(5, 32, 64)
    wall = draw_wall([("first", short), ("second", wide), ("", short)], 128)
    assert wall.shape[0] == 5
    cell = short[0].repeat(2, 0).repeat(2, 1)
    assert (wall[0, 4:132, 4:132] == cell).all()
    assert (wall[4, 4:132, 4:132] == short[1].repeat(2, 0).repeat(2, 1)).all()
    assert (wall[4, 36:100, 136:264] == wide[4].repeat(2, 0).repeat(2, 1)).all()  # in the middle of its place
    assert wall[0, 132:150, 4:132].min() < 60, "its label stands below"
    assert all(wall_cell(count) * count**0.5 <= 1700 for count in (1, 4, 30, 400))
    assert draw_wall([(str(i), short) for i in range(400)], wall_cell(400)).shape[2] < 2000


def test_labels_say_what_tells_videos_apart():
    frames = moving_square(1)
    for videos, wanted in (
        ([("a", 0, None), ("b", 1, None)], ["a", "b"]),
        ([("a", 0, None), ("a", 1, None)], ["seed 0, a", "seed 1, a"]),
        ([("a", 0, "x"), ("b", 0, "y")], ["a", "b"]),
        ([("a", 0, "x"), ("a", 0, "y")], ["x, a", "y, a"]),
        ([("a", 0, None)], ["a"]),
    ):
        shown = [
            Video(
                prompt, seed, picture=picture and Picture(Path(f"{picture}.png"), "", (1, 1)), frames=frames
            )
            for prompt, seed, picture in videos
        ]
        assert labels(shown) == wanted


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_back(tmp_path, kind):
    video = moving_square(5)
    file = write_as(kind, tmp_path, "v", video, 8)
    frames = read_video(file)
    factor = 1 if kind == "png" else 4
    assert frames.shape == (5, 64 * factor, 64 * factor, 3)
    if kind != "png":
        assert psnr(frames, video.repeat(factor, 1).repeat(factor, 2)) > 30
    if kind == "png":
        assert (frames == video).all()
        assert len(read_video(write_as(kind, tmp_path, "v", video[:2], 8))) == 2  # the others are gone
        next(file.glob("*.png")).write_text("damaged")
    else:
        file.write_text("damaged")
    with pytest.raises(UserError, match=r"cannot be read .*paint it again"):
        read_video(file)


def test_webp_loops_at_its_speed(tmp_path):
    image = Image.open(write_webp(tmp_path / "a.webp", moving_square(3), fps=5))
    image.load()
    assert (image.n_frames, image.info["loop"], image.info["duration"]) == (3, 0, 200)
