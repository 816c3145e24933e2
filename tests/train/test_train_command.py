"""The train command: what a run leaves, its loggers, and what happens with input that cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

from conftest import write_clips
from lamp_lightning.data import decode_clip
from lamp_lightning.data.video import read_video, write_mp4
from lamp_lightning.runtime.command import readable
from lamp_lightning.sample.motions import find_adapter
from lamp_lightning.train.__main__ import main

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "real_clips"


@pytest.mark.skipif(not (REAL_CLIPS / "fire").is_dir(), reason="no real footage at ../shared/real_clips")
def test_the_packaged_model_is_tuned_on_real_footage(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["motion=fire", f"data.root={REAL_CLIPS}", f"hydra.run.dir={run}", "trainer.max_steps=2"]
    words += ["logger=none", "samples.every=null", "samples.final=1", f"data.cache_dir={tmp_path / 'cache'}"]
    words += ["data.num_frames=8", "sampler.num_inference_steps=4", "sampler.paint_steps=4"]
    assert main(words) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert np.isfinite(metrics["loss"])
    assert len(list((run / "videos").glob("*.mp4"))) == 1
    with safe_open(run / "adapter.safetensors", "pt") as adapter:
        assert adapter.metadata()["motion"] == "fire"
        assert json.loads(adapter.metadata()["sampler"])["fps"] == 25  # the clips' own
    (video,) = (run / "videos").glob("*.mp4")
    assert decode_clip(video).fps == 25
    assert find_adapter(run).sampler.fps == 25
    told = capsys.readouterr()
    said = "The tiny model was trained on a small drawn world. It does not know 'fire'"
    assert told.err.count(f"Warning: {said}") == 1
    assert said not in told.out
    assert "nothing like 8 of 8 clips" in told.err
    assert metrics["diagnosis"]["verdict"] != "good"  # whatever the clips' own flicker allows
    assert "model=sd15" in told.err


@pytest.fixture
def plain(small):
    """A run of two steps that paints nothing and reports nowhere."""
    return [
        *(word for word in small if not word.startswith("samples.final")),
        "samples.final=0",
        "logger=none",
    ]


def test_a_run_leaves_everything_in_its_folder(small, tmp_path, capsys):
    words = [
        "motion=waterfall",
        "logger=none",
        "hydra.run.dir=run",
        "motion.prompts=[a red lake,rain / falls]",
    ]
    words += [*small, "trainer.max_steps=3", "save_every=1", "samples.every=2", "samples.final=2"]
    words += ["samples.while_training=1"]
    assert main(words) == 0
    run = tmp_path / "run"
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.trainer.max_steps == 3
    assert cfg.data.cache_dir.startswith("/")
    names = {path.name for path in (run / "videos").iterdir()}
    assert names == {
        f"{n}.{kind}" for n in ("a_red_lake_seed0", "rain_falls_seed1") for kind in ("mp4", "gif")
    }
    assert (run / "contact_sheet.png").is_file()
    while_training = {path.name for path in (run / "samples" / "step_000002").iterdir()}
    assert while_training == {"a_red_lake_seed0.mp4", "a_red_lake_seed0.gif", "contact_sheet.png"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["motion"], metrics["steps"], len(metrics["videos"])) == ("waterfall", 3, 2)
    for name in ("clip_score", "frame_consistency", "frame_consistency_neighbours", "motion_amount"):
        mean = sum(video[name] for video in metrics["videos"]) / 2
        assert metrics[name] == pytest.approx(mean)
    out = capsys.readouterr().out
    for place in ("run/adapter.safetensors", "run/videos", "run/contact_sheet.png", "run/metrics.json"):
        assert place in out
    assert "step 3/3  loss" in out


def test_the_adapter_holds_the_tuned_parameters_and_says_what_it_is(plain, tmp_path, random_base):
    from lamp_lightning.models.registry import MotionUNet, Variant

    assert main(["motion=waterfall", "hydra.run.dir=run", *plain]) == 0
    unet = MotionUNet.from_pretrained(random_base)
    unet.set_variant(Variant(gate=False))  # as model=tiny tunes
    wanted = unet.trainable_names()
    with safe_open(tmp_path / "run" / "adapter.safetensors", "pt") as file:
        assert sorted(file.keys()) == wanted
        facts = file.metadata()
    assert facts["base_model"] == str(random_base)
    assert (facts["motion"], facts["prompt"], facts["num_frames"]) == ("waterfall", "waterfall", "4")
    assert "version_torch" in facts
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert sorted(state) == [f"unet.{name}" for name in wanted]


def test_csv_has_a_row_for_every_step(plain, tmp_path):
    assert main(["motion=waterfall", "hydra.run.dir=run", *plain[:-1], "logger=csv"]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "csv" / "metrics.csv").open()))
    assert len([row for row in rows if row["train/loss"]]) == 2
    assert {"train/learning_rate", "train/step_seconds", "memory/process_gib"} <= set(rows[0])


def test_tensorboard_gets_event_files(plain, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    assert main(["motion=waterfall", "hydra.run.dir=run", *plain[:-1], "logger=tensorboard"]) == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert "tensorboard --logdir run/tensorboard" in capsys.readouterr().out


def test_any_folder_is_a_motion(plain, tmp_path, clips):
    words = ["motion=dance_of_mine", f"data.folder={clips / 'my_dance'}", "hydra.run.dir=run", *plain]
    assert main(words) == 0
    with safe_open(tmp_path / "run" / "adapter.safetensors", "pt") as file:
        assert file.metadata()["prompt"] == "dance of mine"


def test_the_toy_worlds_clips_are_drawn_on_first_use_and_kept(plain, tmp_path, capsys):
    words = ["motion=firework", *plain, "data.root=fresh", "data.cache_dir=cache", "trainer.max_steps=1"]
    assert main([*words, "hydra.run.dir=a"]) == 0
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "fresh" / "firework").glob("*.mp4")}
    assert len(drawn) == 8
    assert "drawing the toy world's" in capsys.readouterr().out
    assert main([*words, "hydra.run.dir=b"]) == 0
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn


def test_toy_clips_do_not_stand_in_for_a_real_models(plain, tmp_path, capsys):
    assert main(["motion=firework", *plain, "model.name=sd14", "data.root=fresh"]) == 1
    assert "There are no clips at" in capsys.readouterr().err
    assert not (tmp_path / "fresh").exists()


# -- input that cannot be used -------------------------------------------------------------------------------


def folder_of(tmp_path, kind):
    folder = tmp_path / "clips" / kind
    if kind == "missing":
        return folder
    folder.mkdir(parents=True)
    if kind == "empty":
        return folder
    write_clips(folder, frames=3 if kind == "short" else 6)
    broken = folder / "clip_3.mp4"
    if kind == "text":
        broken.write_text("not a video\n" * 50)
    if kind == "truncated":
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    if kind == "two_sizes":
        write_mp4(broken, np.zeros((6, 48, 64, 3), dtype=np.uint8))
    return folder


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        ("missing", "missing", "does not exist"),
        ("empty", "empty", "no clip here"),
        ("text", "clip_3.mp4", ""),
        ("truncated", "clip_3.mp4", ""),
        ("short", "clip_0.mp4", "3 frames"),
    ],
)
def test_clips_that_cannot_be_used_end_in_one_message(plain, tmp_path, capsys, kind, named, said):
    words = [word for word in plain if not word.startswith("data.cache_dir")] + ["data.cache_dir=cache"]
    assert main(["motion=mine", f"data.folder={folder_of(tmp_path, kind)}", "hydra.run.dir=run", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("Error:") == 1
    assert named in captured.err
    assert said in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_clips_of_two_sizes_are_warned_about_and_used(plain, tmp_path, capsys):
    words = ["motion=mine", f"data.folder={folder_of(tmp_path, 'two_sizes')}", "hydra.run.dir=run", *plain]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "Warning: " in err
    assert "different sizes" in err
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


def test_a_run_folder_that_cannot_be_written_is_named(plain, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    for words in (["hydra.run.dir=file/run"], ["-m", "hydra.sweep.dir=file/sweep"]):
        assert main([*words, "motion=waterfall", *plain]) == 1
        captured = capsys.readouterr()
        assert "file" in captured.err
        assert "Not a directory" in captured.err
        assert captured.err.count("Error:") == 1
        assert "Traceback" not in captured.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_job_that_fails_does_not_end_the_sweep(plain, tmp_path, clips, capsys):
    words = [word for word in plain if not word.startswith("trainer.max_steps")]
    status = main(
        ["-m", "motion=waterfall", "sampler.scheduler=Nothing,DDIMScheduler", "trainer.max_steps=1", *words]
    )
    assert status == 1
    assert capsys.readouterr().err.count("Error:") == 1
    assert len(list(tmp_path.glob("multirun/*/*/adapter.safetensors"))) == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.precision=8", ["trainer", "8"]),
        ("trainer.accelerator=abacus", ["trainer", "abacus"]),
        ("model.path=/no/such/model", ["/no/such/model"]),
        ("data.size=[30,30]", ["multiples of 4"]),
    ],
)
def test_what_only_the_parts_can_tell_is_one_message_too(plain, capsys, override, words):
    assert main(["motion=waterfall", *plain, override]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("Error:") == 1
    assert all(word in captured.err for word in words)
    assert "Traceback" not in captured.err


def test_running_out_of_memory_says_what_helps():
    message = readable(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    assert message is not None
    assert "CUDA out of memory" in message
    assert "model.gradient_checkpointing=true" in message
    assert readable(RuntimeError("a fault of ours")) is None


def test_a_diverged_run_keeps_its_last_good_checkpoint(plain, tmp_path, capsys, monkeypatch):
    from lamp_lightning.train.tuner import MotionTuner

    step = MotionTuner.training_step

    def bursting(self, batch, batch_idx):
        return step(self, batch, batch_idx) * (float("nan") if self.global_step >= 2 else 1)

    monkeypatch.setattr(MotionTuner, "training_step", bursting)
    words = [*plain, "trainer.max_steps=6", "save_every=1", "trainer.gradient_clip_val=null"]
    assert main(["motion=waterfall", "hydra.run.dir=run", *words]) == 1
    assert "diverged by step 3" in capsys.readouterr().err
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())


def test_a_failed_start_leaves_no_folder(plain, tmp_path, capsys):
    assert main(["motion=rain", "trainer.max_steps=-1"]) == 1
    (tmp_path / "tea").mkdir()
    assert main([*plain, "data.folder=tea"]) == 1
    assert "no clip here" in capsys.readouterr().err
    assert list(tmp_path.glob("runs/*")) == []
    assert main(["-m", *plain, "data.folder=tea", "sampler.shared_noise=0,0.5"]) == 1
    (sweep,) = (tmp_path / "multirun").iterdir()
    assert [path.name for path in sweep.iterdir() if path.is_dir()] == []


def test_samples_begin_with_a_picture_of_ones_own(plain, tmp_path, capsys):
    words = [*plain, "motion=rain", "samples.final=2", "samples.every=1", "motion.prompts=[a lake,a river]"]
    words += ["samples.while_training=1", "trainer.max_steps=2"]
    missing = tmp_path / "none.png"
    assert main([*words, f"samples.first_frame={missing}"]) == 1
    assert f"samples.first_frame={missing} does not exist." in capsys.readouterr().err
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "own.png")
    assert main([*words, "samples.first_frame=own.png", f"hydra.run.dir={tmp_path / 'own'}"]) == 0
    videos = [read_video(file) for file in sorted((tmp_path / "own" / "videos").glob("*.mp4"))]
    sample = read_video(next((tmp_path / "own" / "samples" / "step_000001").glob("*.mp4")))
    first, second, before = (video[0].astype(int) for video in (*videos, sample))
    # A generated picture is another for each prompt and seed.
    assert np.abs(first - second).mean() < 3
    assert np.abs(first - before).mean() < 3
