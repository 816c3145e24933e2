"""The sample command, from a run folder and from an adapter file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lamp_lightning.data import decode_clip
from lamp_lightning.sample import main
from lamp_lightning.train import main as train_main


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
    return decode_clip(file).frames


def test_a_prompt_becomes_a_video_a_gif_and_a_contact_sheet(run, tmp_path, capsys):
    assert main([f"run={run}", "prompt=a red lake, flows", "out=here", "threads=1"]) == 0
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == [f"a_red_lake_flows_seed0.{kind}" for kind in ("gif", "mp4", "png")]
    clip = decode_clip(tmp_path / "here" / "a_red_lake_flows_seed0.mp4")
    assert clip.frames.shape == (4, 256, 256, 3)  # 32x32 enlarged, as many frames as the run's
    assert clip.fps == 4
    out = capsys.readouterr().out
    assert "here/a_red_lake_flows_seed0.mp4" in out
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


def test_settings_can_be_changed(run, tmp_path):
    words = ["num_frames=6", "size=[16,24]", "sampler.num_inference_steps=1", "sampler.fps=2", "threads=1"]
    assert main([f"run={run}", "prompt=a", "out=v.mp4", *words]) == 0
    clip = decode_clip(tmp_path / "v.mp4")
    assert clip.frames.shape == (6, 256, 384, 3)
    assert clip.fps == 2


@pytest.mark.parametrize(
    "prompt", [" ".join(["waterfall"] * 500), '../../a/b\\c: d*?"<>|', "'quoted', [listed] {and} braced=yes"]
)
def test_any_prompt_is_painted_and_named(run, tmp_path, capsys, prompt):
    assert main([f"run={run}", f"prompt={prompt}", "out=odd", "threads=1"]) == 0
    files = list((tmp_path / "odd").iterdir())
    assert len(files) == 3
    assert {path.parent for path in tmp_path.rglob("*.mp4")} == {tmp_path / "odd"}
    assert all(len(path.name) <= 100 for path in files)
    assert "the model reads the first 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["first_frame=nothing.png"], "first_frame=nothing.png is no file"),
        (["first_frame=text.png"], "text.png"),
        (["size=[30,30]"], "multiples of 4"),
        (["sampler.scheduler=Nothing"], "DPMSolverMultistepScheduler"),
        (["out=text.png/deeper"], "text.png/deeper"),
        (["device=tpu9"], "device=tpu9"),
        (["base=nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_be_used_ends_in_one_message(run, tmp_path, capsys, words, message):
    (tmp_path / "text.png").write_text("not a picture")
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
