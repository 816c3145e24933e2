"""Photographs of every kind as first frames: right side up, whole or cropped, in their own colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.data.captions import prompt_of
from lamp_lightning.data.fit import fit_frame, inner_box, pad_frame, size_of_aspect
from lamp_lightning.data.images import EXIF_ORIENTATION, UPRIGHT, as_seen, pixels_from_image, read_image
from lamp_lightning.data.video import read_video
from lamp_lightning.diffusion.colours import match_colours
from lamp_lightning.sample.__main__ import main
from lamp_lightning.toyworld import held_out_scenes, render_still


@pytest.fixture(scope="module")
def scene():
    """A picture of the toy world that looks otherwise turned or mirrored, uint8 64x64."""
    return np.asarray(render_still(held_out_scenes("horse_run", 1)[0]))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of the tiny model that was never tuned."""
    file = tmp_path_factory.mktemp("adapter") / "still.safetensors"
    sampler = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 2, "size": [64, 64]}
    sampler |= {"adain": False, "histogram_matching": False}
    LAMPPipeline.from_pretrained("tiny").unet.save_motion(file, base_model="tiny", sampler=sampler)
    return file


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def enlarged(scene, width, height):
    """A photograph of this size: the scene in its middle, as large as it goes, its mirror image around."""
    return Image.fromarray(pad_frame(scene, (height, width)))


def turned(picture, orientation):
    """The picture as a camera held otherwise would store it, and its note how to hold it."""
    back = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    if orientation == 1:
        return picture, exif
    way = UPRIGHT[orientation]
    return picture.transpose(back.get(way, way)), exif


def distance(a, b):
    return np.abs(np.asarray(a).astype(float) - np.asarray(b)).mean()


def assert_upright(frame, picture, most=12):
    """The frame shows the picture, and no turned or mirrored picture half as well."""
    frame, picture = Image.fromarray(frame).resize((64, 64)), Image.fromarray(picture).resize((64, 64))
    assert distance(frame, picture) < most
    others = [distance(frame, picture.transpose(way)) for way in Image.Transpose]
    assert distance(frame, picture) < 0.5 * min(others)


def paint(adapter, *words):
    return main([f"run={adapter}", "threads=1", "precision=32-true", "format=png", *words])


def photographs(scene, folder):
    """One photograph of each kind that people have."""
    folder.mkdir()
    landscape = enlarged(scene, 4000, 3000)
    stored, exif = turned(landscape, 6)
    assert stored.size == (3000, 4000)
    stored.save(folder / "landscape_of_a_camera_held_upright.jpg", exif=exif, quality=90)
    enlarged(scene, 300, 400).save(folder / "portrait.png")
    enlarged(scene, 1200, 500).save(folder / "wide.webp", quality=95)
    cut_out = enlarged(scene, 200, 200).convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.pad(np.full((160, 160), 255, np.uint8), 20)))
    cut_out.save(folder / "cut_out.png")
    enlarged(scene, 200, 150).convert("L").save(folder / "grey.png")
    Image.fromarray(scene).resize((16, 16), Image.Resampling.BOX).save(folder / "icon.png")


def test_photographs_of_every_kind_give_videos_right_side_up(adapter, scene, tmp_path):
    photographs(scene, tmp_path / "photos")
    assert paint(adapter, "first_frame=photos", "out=videos") == 0
    videos = {
        path.name.removesuffix("_seed0_frames"): read_video(path) for path in Path("videos").glob("*_frames")
    }
    assert videos.keys() == {
        "portrait", "wide", "landscape_of_a_camera_held_upright", "cut_out", "grey", "icon"
    }  # fmt: skip
    for name, video in videos.items():
        assert video.shape == (2, 64, 64, 3)
        wanted = {"cut_out": white_border(scene), "grey": grey(scene)}.get(name, scene)
        assert_upright(video[0], wanted, most=20 if name == "icon" else 12)
        facts = json.loads(Path(f"videos/{name}_seed0.json").read_text())
        assert facts["prompt"] == name.replace("_", " ")
        assert facts["sampler"]["histogram_matching"] is True  # the motion has it off
    assert Path("videos/cut_out_seed0_and_5_more_sheet.png").is_file()


def grey(scene):
    return np.asarray(Image.fromarray(scene).convert("L").convert("RGB"))


def white_border(scene):
    picture = np.asarray(enlarged(scene, 200, 200)).copy()
    inside = np.zeros((200, 200), bool)
    inside[20:180, 20:180] = True
    picture[~inside] = 255
    return np.asarray(Image.fromarray(picture).resize((64, 64)))


def test_size_auto_and_fit_pad_show_the_whole_picture(adapter, scene):
    picture = np.concatenate([np.full((64, 20, 3), (250, 20, 20), np.uint8), scene], axis=1)  # 84x64
    Image.fromarray(picture).resize((840, 640)).save("photo.jpg", quality=95)
    for words, shape in (
        (["size=auto"], (56, 72)),  # multiples of 8 at about the area of 64x64
        (["fit=pad"], (48, 64)),  # 64 / 84 * 64, even
        (["fit=pad", "size=[80,64]"], (48, 64)),
        ([], (64, 64)),
    ):
        assert paint(adapter, "first_frame=photo.jpg", f"out={len(words)}{words}.mp4", *words) == 0
        video = read_video(f"{len(words)}{words}_frames")
        assert video.shape == (2, *shape, 3)
        sky = video[0, 4]  # a row above the horse, after the red part
        red = ((sky[:, 0] > 150) & (sky[:, 1] < 110)).sum()
        assert abs(red - (20 / 84 * shape[1] if words else 10)) <= 2
        if words:
            assert_upright(video[0], np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]))), 16)


def test_colours_of_the_photograph_are_kept_unless_switched_off(adapter, scene):
    Image.fromarray(scene).save("photo.png")
    for matching in ("true", "false"):
        words = ["num_frames=3", f"sampler.histogram_matching={matching}", f"out={matching}.mp4"]
        assert paint(adapter, "first_frame=photo.png", *words) == 0
    assert paint(adapter, "first_frame=photo.png", "num_frames=3", "out=default.mp4") == 0
    matched, plain = read_video("true_frames"), read_video("false_frames")
    assert np.array_equal(read_video("default_frames"), matched)
    colours = [[np.sort(video[i].reshape(-1, 3), axis=0) for i in (0, 2)] for video in (matched, plain)]
    own = np.sort(scene.reshape(-1, 3), axis=0)
    assert distance(colours[0][0], own) < 3
    assert distance(colours[0][1], own) < 6
    assert distance(colours[0][1], own) < 0.5 * distance(colours[1][1], own)
    assert paint(adapter, "prompt=a horse", "out=painted") == 0
    assert (
        json.loads(Path("painted/a_horse_seed0.json").read_text())["sampler"]["histogram_matching"] is False
    )


def test_colours_are_matched_without_jumps():
    rng = np.random.default_rng(0)
    poster = np.zeros((16, 16, 3), np.uint8)
    poster[:8] = 220  # half light, half dark
    frame = np.where(poster > 0, 0.6, 0.4).astype(np.float32)[None]
    frame[0, 8, 0] = 0.6  # one pixel more is light
    matched = match_colours(frame, poster) * 255
    assert np.abs(matched[0] - np.where(frame[0] > 0.5, 220, 0)).max() < 2
    photo = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    frames = rng.random((2, 24, 24, 3), dtype=np.float32) * 0.4 + 0.3
    matched = match_colours(frames, photo)
    assert matched.shape == frames.shape
    assert matched.dtype == np.float32
    for channel in range(3):
        shares = np.linspace(0.05, 0.95, 19)
        found, wanted = (np.quantile(x[..., channel], shares) for x in (matched * 255, photo))
        assert np.abs(found - wanted).max() < 4
        order = np.argsort(frames[0, ..., channel], axis=None)
        assert (np.diff(matched[0, ..., channel].ravel()[order]) >= -1e-6).all()  # tones keep their order
    shaken = np.clip(frames + 1e-5 * rng.standard_normal(frames.shape), 0, 1).astype(np.float32)
    assert np.abs(match_colours(shaken, photo) - matched).max() < 1e-3
    assert np.abs(match_colours(photo[None] / 255, photo) - photo / 255).max() < 0.01


# Files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_pictures_are_held_as_the_camera_was(scene, kind, orientation):
    stored, exif = turned(Image.fromarray(scene[:, :48]), orientation)
    stored.save(f"photo.{kind}", exif=exif, **({"quality": 95} if kind in ("jpg", "webp") else {}))
    seen = read_image(f"photo.{kind}")
    assert seen.shape == (64, 48, 3)
    assert distance(seen, scene[:, :48]) < 6
    pixels = pixels_from_image(Image.open(f"photo.{kind}"), (64, 48))
    assert np.allclose((pixels.permute(1, 2, 0).numpy() + 1) * 127.5, seen, atol=1e-3)


def test_pictures_of_every_mode_look_as_in_a_viewer(scene):
    picture = Image.fromarray(scene)
    shades = np.asarray(picture.convert("L"))
    half = Image.new("L", picture.size, 255)
    half.paste(0, (0, 0, 32, 64))
    see_through = picture.copy()
    see_through.putalpha(half)
    on_white = np.where(np.asarray(half)[..., None] > 0, scene, 255)
    sixteen = Image.fromarray(shades.astype(np.uint16) * 257)
    few = picture.quantize(32)
    clear = few.copy()
    clear.info["transparency"] = 0
    clear_on_white = np.where(np.asarray(few)[..., None] == 0, 255, np.asarray(few.convert("RGB")))
    floats = Image.fromarray(shades.astype(np.float32) / 255)
    cases = {
        "rgba.png": (see_through, on_white, 0),
        "la.png": (see_through.convert("LA"), np.where(np.asarray(half)[..., None] > 0, grey(scene), 255), 2),
        "grey.png": (picture.convert("L"), grey(scene), 0),
        "grey16.png": (sixteen, grey(scene), 1),
        "grey16.tif": (sixteen, grey(scene), 1),
        "float.tif": (floats, grey(scene), 1),
        "bits.png": (picture.convert("1"), np.asarray(picture.convert("1").convert("RGB")), 0),
        "palette.png": (few, np.asarray(few.convert("RGB")), 0),
        "clear.gif": (clear, clear_on_white, 0),
        "cmyk.tif": (picture.convert("CMYK"), scene, 1),
        "cmyk.jpg": (picture.convert("CMYK"), scene, 12),
        "ycbcr.tif": (picture.convert("YCbCr"), scene, 3),
    }
    for name, (image, wanted, most) in cases.items():
        # Pillow 12.3 does not read the YCbCr TIFF without compression that it writes.
        image.save(name, **({"compression": "tiff_lzw"} if name == "ycbcr.tif" else {}))
        seen = read_image(name)
        assert seen.dtype == np.uint8, name
        assert distance(seen, wanted) <= most, name


def test_the_first_frame_of_an_animation_counts(scene):
    frames = [Image.fromarray(f) for f in (scene, 255 - scene, 0 * scene)]
    for name in ("a.gif", "a.webp", "a.png"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(name, save_all=True, append_images=frames[1:], duration=100, **lossless)
        assert distance(read_image(name), scene) < 6


def test_colours_of_a_profile_are_converted(scene):
    """A file whose profile says that it is written in Lab colours' XYZ primaries is not shown as sRGB."""
    picture = Image.fromarray(scene)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    picture.save("srgb.png", icc_profile=srgb.tobytes())
    assert distance(read_image("srgb.png"), scene) < 1
    swapped = bytearray(srgb.tobytes())
    # The same profile with the red and green primaries exchanged.
    swapped = swapped.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    picture.save("swapped.png", icc_profile=bytes(swapped))
    assert distance(read_image("swapped.png"), scene[..., [1, 0, 2]]) < 3
    picture.save("damaged.png", icc_profile=b"no profile")
    assert np.array_equal(read_image("damaged.png"), scene)


def test_damaged_and_huge_files_are_named(scene, monkeypatch):
    Image.fromarray(scene).save("whole.png")
    Path("half.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    Path("empty.jpg").touch()
    for name in ("half.png", "empty.jpg"):
        with pytest.raises(UserError, match=f"{name} cannot be read as an image"):
            read_image(name)
    monkeypatch.setattr("lamp_lightning.data.pictures.MOST_PIXELS", 100)
    with pytest.raises(
        UserError, match=r"whole.png cannot be read as an image: it has .* and 100 are the most"
    ):
        read_image("whole.png")


def test_a_damaged_note_on_orientation_is_ignored(scene, monkeypatch):
    def fail(self):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert np.array_equal(np.asarray(as_seen(Image.fromarray(scene))), scene)


# Shapes


def test_padding_shows_the_whole_picture_and_its_mirror_image(scene):
    wide = scene[:32]
    padded = pad_frame(wide, (64, 64))
    rows, columns = inner_box(32, 64, (64, 64))
    assert (rows, columns) == (slice(16, 48), slice(0, 64))
    assert np.array_equal(padded[rows, columns], wide)
    assert np.array_equal(padded[:16], wide[:16][::-1])
    assert np.array_equal(padded[48:], wide[16:][::-1])
    for shape in ((1, 1000), (1000, 1), (7, 9), (3000, 4000), (16, 16)):
        frame = pad_frame(np.full((*shape, 3), 99, np.uint8), (48, 64))
        rows, columns = inner_box(*shape, (48, 64))
        assert frame.shape == (48, 64, 3)
        assert (frame == 99).all()
        assert all((s.stop - s.start) % 2 == 0 and s.stop > s.start for s in (rows, columns))
        assert rows.stop - rows.start == 48 or columns.stop - columns.start == 64


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1000, 1000), (384, 384)),
        ((2000, 3000), (320, 512)),  # 3:2
        ((3000, 4000), (384, 512)),
        ((4000, 3000), (512, 384)),
        ((1080, 1920), (320, 576)),
        ((100, 5000), (256, 640)),  # a panorama is cut
        ((5000, 100), (640, 256)),
        ((16, 16), (384, 384)),
    ],
)
def test_auto_size_keeps_aspect_and_area(shape, size):
    assert size_of_aspect(*shape, (320, 512), 64) == size


def test_small_icons_are_enlarged_smoothly():
    icon = np.zeros((16, 16, 3), np.uint8)
    icon[:, 8:] = 200
    large = fit_frame(icon, (512, 512)).astype(int)
    assert np.abs(np.diff(large[..., 0], axis=1)).max() < 20  # no blocks
    assert (np.ptp(large, axis=0) == 0).all()
    assert large[:, :200].max() < 10
    assert large[:, 312:].min() > 190


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("a_red_horse_runs_in_the_sky.png", "a red horse runs in the sky"),
        ("horse_2.jpg", "horse 2"),
        ("Sunset at sea.jpeg", "Sunset at sea"),
        ("people.png", "people"),
        ("IMG_0815.JPG", None),
        ("DSC00042.jpg", None),
        ("PXL_20240101_123456789.jpg", None),
        ("20240101-101112(1).png", None),
        ("0007.png", None),
        ("photo (3).webp", None),
    ],
)
def test_names_of_pictures_are_prompts_unless_cameras_gave_them(name, prompt):
    assert prompt_of(Path(name)) == prompt


def test_other_files_in_the_folder_do_not_matter(adapter, scene):
    Path("photos").mkdir()
    Path("photos/notes.txt").write_text("x")
    Path("photos/._hidden.png").write_bytes(b"x")
    Path("photos/deeper").mkdir()
    Image.fromarray(scene).save("photos/IMG_1.PNG")
    Image.fromarray(scene).save("photos/a_horse.bmp")
    assert paint(adapter, "first_frame=photos", "out=x") == 0
    prompts = {p.stem: json.loads(p.read_text())["prompt"] for p in Path("x").glob("*.json")}
    assert prompts == {
        "img_1_seed0": "still",
        "a_horse_seed0": "a horse",
    }  # the motion's prompt for the first
