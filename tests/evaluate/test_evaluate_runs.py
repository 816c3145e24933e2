"""``python -m lamp_lightning.evaluate`` on runs: one, several in a table, unfinished and broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from conftest import full_config
from lamp_lightning.data.video import write_mp4
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.evaluate import __main__ as evaluate
from lamp_lightning.runtime.runs import RunFolder, write_json
from lamp_lightning.sample.record import FORMAT
from lamp_lightning.toyworld import held_out_scenes, motion_set_scenes, render_clip
from lamp_lightning.train.__main__ import main as train


def run(*words: str, status: int = 0) -> None:
    assert evaluate.main(["threads=1", *words]) == status


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    run(*words, status=1)
    return " ".join(capsys.readouterr().err.split())


def write_run(path: Path, videos: list[np.ndarray], clips: Path, *, flip: bool = False) -> None:
    """A finished run of the tiny model, as train leaves it, with these videos."""
    cfg = {
        "motion": {"name": "rain", "prompt": None},
        "model": {"name": "tiny", "clip": "tiny"},
        "data": {
            "folder": str(clips.absolute()),
            "size": [64, 64],
            "num_frames": 16,
            "frame_stride": 1,
            "flip": flip,
            "cache_dir": str((clips.parent / "cache").absolute()),
        },
    }
    made = RunFolder.create(path, OmegaConf.merge(full_config(), cfg))
    listed = []
    for k, (scene, video) in enumerate(zip(held_out_scenes("rain", len(videos)), videos, strict=True)):
        write_mp4(made.videos / f"v_seed{k}.mp4", video, min_size=256)
        listed.append({"prompt": scene.caption, "seed": k, "file": f"v_seed{k}.mp4"})
    write_json(made.metrics, {"motion": "rain", "videos": listed})


@pytest.fixture
def rain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Two true videos of rain; the training clips are in ``clips``."""
    monkeypatch.chdir(tmp_path)
    for k, scene in enumerate(motion_set_scenes("rain", 3)):
        write_mp4(f"clips/{k}.mp4", render_clip(scene, frames=16))
    return [render_clip(scene, frames=16) for scene in held_out_scenes("rain", 2)]


def frozen(videos: list[np.ndarray]) -> list[np.ndarray]:
    return [np.repeat(video[:1], len(video), axis=0) for video in videos]


def backwards(videos: list[np.ndarray]) -> list[np.ndarray]:
    return [video[::-1] for video in videos]


def test_a_run_of_the_train_command_is_measured_on_its_own_videos(
    small: list[str], random_clip: Path
) -> None:
    assert train(["motion=rain", "data.flip=true", "hydra.run.dir=run", "logger=none", *small]) == 0
    before = Path("run/metrics.json").read_bytes()
    run("run=run")
    found = json.loads(Path("run/evaluation/metrics.json").read_text())
    assert found["clip"] == str(random_clip)
    assert found["motion"] == "rain"
    trained = json.loads(before)
    assert [v["prompt"] for v in found["videos"]] == [v["prompt"] for v in trained["videos"]]
    assert found["motion_amount"] == pytest.approx(trained["motion_amount"], rel=0.5)
    assert 0 <= found["motion_fidelity"] < 1
    assert Path("run/metrics.json").read_bytes() == before


def test_several_runs_become_one_table(rain, capsys) -> None:
    for name, videos in (("true", rain), ("backwards", backwards(rain)), ("frozen", frozen(rain))):
        write_run(Path("sweep") / name, videos, Path("clips"))
    run("runs=sweep")
    found = json.loads(Path("evaluations/comparison/metrics.json").read_text())
    assert found["left_out"] == []
    runs = found["runs"]
    assert set(runs) == {"sweep/true", "sweep/backwards", "sweep/frozen"}
    fidelity = {name: values["motion_fidelity"] for name, values in runs.items()}
    assert fidelity["sweep/true"] > fidelity["sweep/backwards"] + 0.2 > fidelity["sweep/frozen"]
    assert fidelity["sweep/frozen"] == 0
    table = Path("evaluations/comparison/table.md").read_text()
    assert "| run | CLIP score ↑ |" in table
    assert f"| {fidelity['sweep/true']:.3f} |" in next(x for x in table.splitlines() if "sweep/true" in x)
    assert "| sweep/true |" in capsys.readouterr().out
    run("run=[sweep/true,sweep/frozen]", "out=two")
    two = json.loads(Path("two/metrics.json").read_text())["runs"]
    assert two == {name: runs[name] for name in ("sweep/true", "sweep/frozen")}


def test_runs_that_cannot_be_measured_are_named_and_the_others_are(rain, capsys) -> None:
    for name in ("good", "unfinished", "broken", "partly"):
        write_run(Path("sweep") / name, rain, Path("clips"))
    shutil.rmtree("sweep/unfinished/videos")
    Path("sweep/broken/config.yaml").write_text("[")
    Path("sweep/partly/videos/v_seed1.mp4").write_bytes(b"")
    run("runs=sweep/*", status=3)
    found = json.loads(Path("evaluations/comparison/metrics.json").read_text())
    assert {name: each["count"] for name, each in found["runs"].items()} == {
        "sweep/good": 2,
        "sweep/partly": 1,
    }
    assert [Path(each["run"]).name for each in found["left_out"]] == ["broken", "unfinished"]
    assert "config.yaml cannot be read" in found["left_out"][0]["reason"]
    assert "has no videos: it is not finished" in found["left_out"][1]["reason"]
    table = Path("evaluations/comparison/table.md").read_text()
    assert "sweep/unfinished: " in table
    assert "v_seed1.mp4: not a video, found an empty file" in table
    assert "left out" in capsys.readouterr().err


def test_single_runs_that_cannot_be_measured_say_what_to_do(rain, capsys) -> None:
    write_run(Path("run"), rain, Path("clips"))
    shutil.rmtree("run/videos")
    assert "lamp_lightning.sample run=run" in fails(capsys, "run=run")
    assert "There is no run at" in fails(capsys, "run=nowhere")
    assert "None of the 2 runs could be measured" in fails(capsys, "run=[run,nowhere]")


def test_without_its_training_clips_a_run_has_no_motion_fidelity_until_they_are_named(rain, capsys) -> None:
    write_run(Path("run"), rain, Path("clips"))
    Path("clips").rename("moved")
    run("run=run")
    found = json.loads(Path("run/evaluation/metrics.json").read_text())
    assert "motion_fidelity" not in found
    assert "Name the clips with reference=<folder>" in capsys.readouterr().err
    run("run=run", "reference=moved")
    assert json.loads(Path("run/evaluation/metrics.json").read_text())["motion_fidelity"] > 0.8


def test_mirrored_motion_counts_where_the_run_was_tuned_with_flips(rain) -> None:
    mirrored = [video[:, :, ::-1] for video in rain]
    write_run(Path("runs/rain/plain"), mirrored, Path("clips"))
    write_run(Path("runs/rain/flipped"), mirrored, Path("clips"), flip=True)
    run("runs=runs")
    runs = json.loads(Path("evaluations/comparison/metrics.json").read_text())["runs"]
    assert runs["rain/flipped"]["motion_fidelity"] > runs["rain/plain"]["motion_fidelity"] + 0.05


def test_the_folder_of_a_runs_videos_is_measured_as_the_run_is(rain) -> None:
    write_run(Path("run"), rain, Path("clips"))
    run("run=run")
    for k, video in enumerate(rain):
        write_mp4(f"truth/v_seed{k}.mp4", video)
    run("folder=run/videos", "truth=truth")
    own, folder = (
        json.loads(Path(f"{at}/evaluation/metrics.json").read_text()) for at in ("run", "run/videos")
    )
    assert folder["clip"] == "tiny"
    assert [v["prompt"] for v in folder["videos"]] == [v["prompt"] for v in own["videos"]]
    assert folder["motion_fidelity"] == pytest.approx(own["motion_fidelity"], abs=0.03)
    assert folder["moving_error_ratio"] < 0.1


def test_samples_of_a_run_without_final_videos_are_measured_by_their_records(rain) -> None:
    write_run(Path("run"), rain, Path("clips"))
    Path("run/videos").rename("run/samples")
    for k, scene in enumerate(held_out_scenes("rain", 2)):
        record = {
            "format": FORMAT,
            "finished": False,
            "prompt": scene.caption,
            "negative_prompt": None,
            "seed": k,
            "first_frame": None,
            "sampler": Sampler(size=(64, 64)).settings(),
            "precision": "32-true",
            "motions": [{"file": "a.safetensors", "sha256": "0" * 64, "motion": "rain", "weight": 1.0}],
            "base": {"model": "tiny", "config": None, "variant": None, "dtype": "float32"},
            "painter": None,
            "words": {"run": ["a.safetensors:1.0"]},
        }
        write_json(Path(f"run/samples/v_seed{k}.json"), record)
    write_mp4("run/samples/wall.mp4", rain[0])
    run("run=run")
    found = json.loads(Path("run/evaluation/metrics.json").read_text())
    assert [video["prompt"] for video in found["videos"]] == [s.caption for s in held_out_scenes("rain", 2)]
    assert found["clip_score"] > 40


def test_runs_of_one_name_are_told_apart_and_each_is_measured_once(rain) -> None:
    for suite in ("first", "second"):
        write_run(Path(suite, "lamp", "rain_seed0"), rain[:1], Path("clips"))
    write_run(Path("first", "untuned", "rain_seed0"), rain[:1], Path("clips"))
    run("runs=[first,second]", "run=null", "out=all")
    found = json.loads(Path("all/metrics.json").read_text())
    assert set(found["runs"]) == {"first/lamp/rain_seed0", "second/lamp/rain_seed0", "untuned/rain_seed0"}
    run("run=[first/lamp/rain_seed0,./first/lamp/rain_seed0]", "out=one")
    assert json.loads(Path("one/metrics.json").read_text())["count"] == 1
