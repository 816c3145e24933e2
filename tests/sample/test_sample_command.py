"""The sample command, from a run folder and from an adapter file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lamp_lightning import LAMPPipeline
from lamp_lightning.data import decode_clip
from lamp_lightning.data.video import read_video
from lamp_lightning.sample.__main__ import main
from lamp_lightning.train.__main__ import main as train_main


@pytest.fixture(scope="module")
def run(random_base, random_clip, clips, tmp_path_factory):
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    status = train_main(
        [
            "motion=waterfall",
            "logger=none",
            f"model.path={random_base}",
            f"model.clip={random_clip}",
            f"data.root={clips}",
            f"data.cache_dir={clips / 'cache'}",
            "data.size=[32,32]",
            "data.num_frames=4",
            "sampler.num_inference_steps=2",
            "sampler.paint_steps=2",
            "sampler.fps=4",
            "trainer.max_steps=2",
            "samples.every=null",
            "samples.final=0",
            "threads=1",
            f"hydra.run.dir={folder}",
        ]
    )
    assert status == 0
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frames(file):
    return read_video(file)


def names(folder, ending=""):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.endswith(ending))


def test_a_prompt_becomes_a_video_a_gif_a_record_and_a_contact_sheet(run, tmp_path, capsys):
    assert main([f"run={run}", "prompt=a red lake, flows", "out=here", "threads=1"]) == 0
    endings = (".gif", ".json", ".mp4", "_sheet.png")
    assert names("here") == [f"a_red_lake_flows_seed0{ending}" for ending in endings]
    clip = decode_clip(tmp_path / "here" / "a_red_lake_flows_seed0.mp4")
    assert clip.frames.shape == (4, 256, 256, 3)  # 32x32 enlarged, as many frames as the run's
    assert clip.fps == 4
    out = capsys.readouterr().out
    assert "here/a_red_lake_flows_seed0.mp4 (and .gif)" in out
    assert "motion amount" in out


def test_without_out_videos_go_to_the_run_folder(run):
    assert main([f"run={run}", "prompt=a lake", "seed=5", "threads=1"]) == 0
    assert (run / "samples" / "a_lake_seed5.mp4").is_file()


def test_the_adapter_file_alone_paints_the_same(run, tmp_path):
    words = ["prompt=a lake", "seed=3", "threads=1"]
    assert main([f"run={run}", "out=a.mp4", *words]) == 0
    assert main([f"run={run / 'adapter.safetensors'}", "out=b.mp4", *words]) == 0
    assert np.array_equal(frames(tmp_path / "a.mp4"), frames(tmp_path / "b.mp4"))


def test_seeds_differ_and_repeat(run, tmp_path):
    assert main([f"run={run}", "prompt=a", "count=2", "seed=1", "out=x", "threads=1"]) == 0
    assert main([f"run={run}", "prompt=a", "seed=2", "out=again.mp4", "threads=1"]) == 0
    one, two = frames(tmp_path / "x" / "a_seed1.mp4"), frames(tmp_path / "x" / "a_seed2.mp4")
    assert not np.array_equal(one, two)
    assert np.array_equal(two, frames(tmp_path / "again.mp4"))


def test_a_photograph_is_the_first_frame(run, tmp_path):
    pixels = np.zeros((90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dark.png")
    Image.fromarray(pixels + 255).save(tmp_path / "bright.png")
    for name in ("dark", "bright"):
        assert main([f"run={run}", f"first_frame={name}.png", f"out={name}.mp4", "threads=1"]) == 0
    # The random autoencoder garbles them, but differently: each video begins with its own picture.
    assert not np.array_equal(frames(tmp_path / "dark.mp4")[0], frames(tmp_path / "bright.mp4")[0])


def test_prompts_and_seeds_of_many_kinds(run, tmp_path, capsys):
    Path("prompts.txt").write_text("\ufeff# what to paint\na red lake\n\n  rain, falls \n# the end", "utf-8")
    for out, words, wanted in (
        ("file", ["prompts=prompts.txt", "count=2"], ["a_red_lake", "rain_falls"]),
        ("list", ["prompt=[a lake, 'b, c']", "seeds=[1,0,1]"], ["a_lake", "b_c"]),
        ("wall.mp4", ["prompt=[a,b]", "seeds=[0,1]"], ["wall_a", "wall_b"]),
        ("one.mp4", ["seeds=[1,0]"], ["one"]),
    ):
        assert main([f"run={run}", f"out={out}", "threads=1", "format=mp4", *words]) == 0
        folder = out if out.isalpha() else "."
        stem = "" if out.isalpha() else out.split(".")[0]
        found = [name[:-5] for name in names(folder, ".json") if name.startswith(stem)]
        assert found == [f"{name}_seed{seed}" for name in wanted for seed in (0, 1)]
    assert "file/a_red_lake_seed0_and_3_more.mp4" in capsys.readouterr().out
    assert frames("file/a_red_lake_seed0_and_3_more.mp4").shape[0] == 4
    assert Path("wall_all.mp4").is_file()
    assert Path("file/a_red_lake_seed0_and_3_more_sheet.png").is_file()


def test_all_formats_hold_the_same_frames(run):
    assert main([f"run={run}", "prompt=a", "out=v.webp", "format=[png,mp4,gif]", "threads=1"]) == 0
    assert names(".") == ["v.gif", "v.json", "v.mp4", "v.webp", "v_frames", "v_sheet.png"]
    assert names("v_frames") == ["0000.png", "0001.png", "0002.png", "0003.png"]
    exact = read_video("v_frames").repeat(8, 1).repeat(8, 2).astype(float)  # frames are not enlarged
    for kind, most in (("mp4", 12), ("gif", 12), ("webp", 12)):
        assert np.abs(read_video(f"v.{kind}") - exact).mean() < most
    assert Image.open("v.webp").info["loop"] == 0


def test_settings_can_be_changed(run, tmp_path):
    words = ["num_frames=6", "size=[16,24]", "sampler.num_inference_steps=1", "sampler.fps=2", "threads=1"]
    assert main([f"run={run}", "prompt=a", "out=v.mp4", *words]) == 0
    clip = decode_clip(tmp_path / "v.mp4")
    assert clip.frames.shape == (6, 256, 384, 3)
    assert clip.fps == 2


def test_memory_is_spared_where_asked_and_noted(run, monkeypatch):
    used = []
    for name in ("enable_attention_slicing", "enable_vae_slicing", "enable_vae_tiling"):
        original = getattr(LAMPPipeline, name)
        monkeypatch.setattr(
            LAMPPipeline, name, lambda self, name=name, of=original: used.append(name) or of(self)
        )
    videos = []
    for out, words in (("a", []), ("b", ["attention_slicing=true", "vae_slicing=true", "vae_tiling=true"])):
        assert main([f"run={run}", "prompt=a", "threads=1", "format=png", f"out={out}", *words]) == 0
        assert len(used) == len(words)
        noted = json.loads(Path(f"{out}/a_seed0.json").read_text())["made"]["memory"]
        assert set(noted.values()) == {bool(words)}
        videos.append(read_video(f"{out}/a_seed0_frames").astype(int))
    assert np.median(np.abs(videos[0] - videos[1])) <= 1


def test_a_preset_of_the_sampler_leaves_the_rest_as_tuned(run):
    settings = {}
    for name, words in (
        ("tuned", []),
        ("fast", ["sampler=fast"]),
        ("own", ["sampler=fast", "sampler.num_inference_steps=3"]),
        ("again", ["again=tuned/a_seed0.json", "sampler=fast", "sampler.guidance_scale=2"]),
    ):
        where = [] if name == "again" else [f"run={run}", "prompt=a"]
        assert main([*where, "format=png", f"out={name}", "threads=1", *words]) == 0
        settings[name] = json.loads(Path(f"{name}/a_seed0.json").read_text())["sampler"]
    fast = {
        "scheduler": "UniPCMultistepScheduler", "scheduler_options": {"timestep_spacing": "trailing"},
        "num_inference_steps": 6, "paint_steps": 20,
    }  # fmt: skip
    assert settings["tuned"]["num_inference_steps"] == 2
    assert settings["tuned"]["fps"] == 4
    assert settings["fast"] == settings["tuned"] | fast
    assert settings["own"] == settings["fast"] | {"num_inference_steps": 3}
    assert settings["again"] == settings["fast"] | {"guidance_scale": 2}


@pytest.mark.parametrize(
    "prompt", [" ".join(["waterfall"] * 500), '../../a/b\\c: d*?"<>|', "'quoted', [listed] {and} braced=yes"]
)
def test_any_prompt_is_painted_and_named(run, tmp_path, capsys, prompt):
    assert main([f"run={run}", f"prompt={prompt}", "out=odd", "threads=1"]) == 0
    files = list((tmp_path / "odd").iterdir())
    assert len(files) == 4
    assert {path.parent for path in tmp_path.rglob("*.mp4")} == {tmp_path / "odd"}
    assert all(len(path.name) <= 100 for path in files)
    assert "the model reads the first 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["first_frame=nothing.png"], "first_frame=nothing.png is no file"),
        (["first_frame=text.png"], "text.png cannot be read as an image"),
        (["first_frame=[photo.png,text.png]"], "text.png"),
        (["first_frame=empty"], "first_frame=empty has no pictures"),
        (["size=auto"], "first_frame=<file or folder>"),
        (["prompt=null", "prompts=empty.txt"], "prompts=empty.txt has no prompts"),
        (["prompt=null", "prompts=gone.txt"], "gone.txt cannot be read as prompts"),
        (["prompt=null", "prompts=photo.png"], "Save it as UTF-8"),
        (["prompts=empty.txt"], "not both"),
        (["prompt=[a,' ']"], "prompt must be a text, a list"),
        (["seed=9223372036854775807", "count=2"], "The seed 9223372036854775808 is too large"),
        (["count=1000000"], "These are 1,000,000 videos, and 100,000 are the most"),
        (
            ["size=[16384,16384]", "num_frames=10000"],
            "16384x16384 does not fit into memory (it needs at least",
        ),
        (["sampler.scheduler=RePaintScheduler"], "RePaintScheduler cannot use this model with"),
        (["first_frame=odd"], r"first_frame='odd/caf\udce9.png' has a name that is no UTF-8"),
        (["prompt=caf\udce9"], r"'prompt=caf\udce9' is no UTF-8 text"),
        (["first_frame=caf\udce9.png"], r"'first_frame=caf\udce9.png' is no UTF-8 text"),
        (["seeds=[]"], "seeds must be a list of whole numbers"),
        (["seeds=[1,-2]"], "seeds must be"),
        (["seed=99999999999999999999"], "seed must be a whole number from 0 to 9,223,372,036,854,775,807"),
        (["format=[mp4,avi]"], "format must be one or some of mp4, gif, webp, png"),
        (["format=[]"], "format must be"),
        (["fit=squeeze"], "fit must be one of crop, pad"),
        (["batch=0"], "batch must be auto or a whole number"),
        (["out=video.avi"], "out=video.avi: videos are written as .mp4, .gif or .webp"),
        (["out=empty.txt"], "out=empty.txt is a file that is there: videos are written"),
        (["num_frames=0"], "num_frames must be a whole number from 2"),
        (["num_frames=1"], "num_frames must be a whole number from 2"),
        (["size=[32,4]"], "size must be auto, or [height,width]"),
        (["sampler.num_inference_steps=0"], "sampler.num_inference_steps must be"),
        (["sampler=fast", "sampler.num_inference_steps=0"], "sampler.num_inference_steps must be"),
        (["sampler.paint_steps=0"], "sampler.paint_steps must be a whole number from 1"),
        (["sampler.guidance_scale=-1"], "sampler.guidance_scale must be a number from 0 to 1,000"),
        (
            ["sampler.paint_guidance_scale=-1"],
            "sampler.paint_guidance_scale must be a number from 0 to 1,000",
        ),
        (["again=text.png"], "text.png cannot be read as the record of a video"),
        (["again=other.json"], "other.json is no record of a video"),
        (["size=[0,32]"], "both from 8 to 16,384"),
        (["size=32"], "size must be auto, or [height,width]"),
        (["size=[30,30]"], "multiples of 4"),
        (["sampler.scheduler=Nothing"], "DPMSolverMultistepScheduler"),
        (["out=text.png/deeper"], "text.png/deeper"),
        (["device=tpu9"], "device=tpu9"),
        (["base=nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_be_used_ends_in_one_message(run, tmp_path, capsys, words, message):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "photo.png")
    (tmp_path / "odd").mkdir()
    Path(os.fsdecode(b"odd/caf\xe9.png")).write_bytes((tmp_path / "photo.png").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "other.json").write_text('{"name": 1}')
    assert main([f"run={run}", "prompt=a", "threads=1", *words]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err + captured.out


def test_a_damaged_adapter_is_named(run, tmp_path, capsys):
    (tmp_path / "adapter.safetensors").write_bytes((run / "adapter.safetensors").read_bytes()[:5000])
    assert main(["run=adapter.safetensors", "prompt=a", "threads=1"]) == 1
    assert "adapter.safetensors" in capsys.readouterr().err


def test_a_run_that_has_not_come_so_far_says_how_to_go_on(run, tmp_path, capsys):
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert main(["run=.", "prompt=a"]) == 1
    assert "lamp_lightning.train resume=" in capsys.readouterr().err
