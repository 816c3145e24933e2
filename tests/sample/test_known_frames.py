"""Videos from several known frames by the command: between pictures, on from a clip, and in a loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lamp_lightning import LAMPPipeline, MotionUNet
from lamp_lightning.data.video import read_video, write_mp4
from lamp_lightning.models import load_base_model
from lamp_lightning.models.variant import Variant
from lamp_lightning.sample.__main__ import main
from lamp_lightning.toyworld import held_out_scenes, render_clip

SAMPLER = {"num_inference_steps": 2, "guidance_scale": 1.0, "num_frames": 5, "size": [64, 64], "adain": False}


def motion(file: Path, variant: Variant) -> Path:
    """An adapter of the tiny model whose layers are filled, as training would."""
    unet = MotionUNet.from_unet(load_base_model("tiny").unet, "per_frame", variant)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    unet.save_motion(file, base_model="tiny", sampler={**SAMPLER, "histogram_matching": False})
    return file


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    file = tmp_path_factory.mktemp("adapter") / "known.safetensors"
    return motion(file, Variant(gate=False, known="any", conv_first=True, causal=False))


@pytest.fixture(scope="module")
def clip():
    return render_clip(held_out_scenes("helicopter", 1)[0], frames=5)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(f"{number}.png")
    write_mp4("clip.mp4", clip[:3])


def sample(adapter, *overrides):
    return main([f"run={adapter}", "threads=1", "precision=32-true", "format=png", "prompt=rain", *overrides])


def video_of(folder):
    (found,) = Path(folder).glob("*_frames")
    return read_video(found)


def record_of(folder):
    (found,) = Path(folder).glob("*.json")
    return found


def as_decoded(adapter, *pictures):
    """Pictures as the model's autoencoder gives them back, uint8."""
    pipe = LAMPPipeline.from_motion(adapter)
    images = [Image.fromarray(each) for each in pictures]
    found = pipe(["rain"] * len(images), images, num_frames=1).frames[:, 0]
    return [(frame * 255).round().astype(np.uint8) for frame in found]


def assert_alike(frame, wanted):
    assert np.abs(frame.astype(int) - wanted).max() <= 1


def test_a_video_between_two_pictures_has_both(adapter, clip):
    assert sample(adapter, "known={0:0.png,-1:4.png}", "out=between") == 0
    video = video_of("between")
    first, last = as_decoded(adapter, clip[0], clip[4])
    assert len(video) == 5
    assert_alike(video[0], first)
    assert_alike(video[4], last)
    assert sample(adapter, "first_frame=0.png", "out=alone") == 0
    assert not np.array_equal(video_of("alone")[1:4], video[1:4]), "what comes between depends on the end"


def test_the_ways_to_name_the_same_frames_give_the_same_video(adapter):
    assert sample(adapter, "known={0:0.png,2:2.png}", "out=a") == 0
    assert sample(adapter, "first_frame=0.png", "known={2:2.png}", "out=b") == 0
    assert sample(adapter, "known=[0.png,2.png]", "known_every=2", "out=c") == 0
    assert np.array_equal(video_of("a"), video_of("b"))
    assert np.array_equal(video_of("a"), video_of("c"))


def test_a_clip_is_gone_on_from_and_made_again_from_its_record(adapter, capsys):
    assert sample(adapter, "known=clip.mp4", "out=on") == 0
    video, record = video_of("on"), json.loads(record_of("on").read_text())
    assert record["first_frame"]["frame"] == 0
    assert [(each["place"], each["frame"]) for each in record["known"]] == [(1, 1), (2, 2)]
    wanted = as_decoded(adapter, *read_video("clip.mp4"))
    for number in range(3):
        assert_alike(video[number], wanted[number])
    capsys.readouterr()
    assert main([f"again={record_of('on')}", "out=twice"]) == 0
    assert "The same video, bit for bit." in capsys.readouterr().out
    assert sample(adapter, "known={0:clip.mp4@2,1:clip.mp4@1}", "out=back") == 0
    assert_alike(video_of("back")[0], wanted[2])


def test_a_loop_is_another_video_and_as_long(adapter):
    assert sample(adapter, "first_frame=0.png", "loop=true", "out=loop") == 0
    assert sample(adapter, "first_frame=0.png", "out=open") == 0
    loop, plain = video_of("loop"), video_of("open")
    assert loop.shape == plain.shape
    assert np.array_equal(loop[0], plain[0])
    assert not np.array_equal(loop[-1], plain[-1])
    assert json.loads(record_of("loop").read_text())["loop"] is True


def test_a_loop_is_the_video_between_a_picture_and_itself(adapter):
    pipe = LAMPPipeline.from_motion(adapter)
    how = {"first_frame": "0.png", "output_type": "latent", "num_inference_steps": 2}
    noise = torch.randn(
        1, pipe.unet.config.in_channels, 4, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    loop = pipe("rain", latents=noise, loop=True, **how).frames
    again = torch.cat([noise, noise[:, :, :1]], dim=2)
    wanted = pipe("rain", latents=again, known={4: "0.png"}, **how).frames
    assert torch.equal(loop, wanted[:, :, :4])


def test_known_frames_are_kept_through_windows(adapter, clip):
    words = ["num_frames=9", "sampler.window=5", "sampler.overlap=2", "known={0:0.png,7:4.png}"]
    assert sample(adapter, *words, "out=long") == 0
    video = video_of("long")
    assert len(video) == 9
    assert_alike(video[7], as_decoded(adapter, clip[4])[0])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["known={0:0.png,5:1.png}"], "known has frame 5, and can have frames 1 to 4 of this video"),
        (["known={0:0.png,1:none.png}"], "known=none.png is no file and no folder"),
        (["known={0:0.png,1:clip.mp4@3}"], "clip.mp4 has frames 0 to 2"),
        (["known={0:0.png,first:1.png}"], "known has 'first', and needs the numbers of frames"),
        (["known=[0.png,1.png]", "first_frame=2.png"], "known gives frame 0, and so does first_frame"),
        (["known=[0.png,1.png,2.png,3.png,4.png]"], "known has all 5 frames of the video"),
        (["known={0:0.png,1:broken.png}"], "broken.png"),
        (["known={0:0.png,1:wide.png}", "fit=pad"], "those of one video differ in size"),
        (["known=1:1.png"], "a shell takes braces apart. Put them in quotes"),
        (["known={}"], "known must be a file, a folder, a list of files"),
    ],
)
def test_known_frames_that_cannot_be_used_are_refused_before_the_model_is_loaded(
    adapter, overrides, said, capsys
):
    Path("broken.png").write_bytes(b"no picture")
    Image.new("RGB", (96, 64)).save("wide.png")
    assert sample(adapter, *overrides, "out=x") == 1
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not Path("x").exists()


def test_a_motion_of_the_first_frame_alone_says_what_to_tune(tmp_path, capsys):
    plain = motion(tmp_path / "plain.safetensors", Variant(gate=False))
    for override in ("known={0:0.png,2:2.png}", "loop=true"):
        assert sample(plain, override) == 1
        assert "Tune one with method=lamp_known" in capsys.readouterr().err.replace("\n", " ")
