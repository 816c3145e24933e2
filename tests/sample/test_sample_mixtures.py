"""Several motions in the sample command: named, weighted, told apart, and made again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.data.video import read_video
from lamp_lightning.runtime.config import conf_dir
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.__main__ import main
from lamp_lightning.sample.motions import find_motions, state_of
from method_models import motion_unet


@pytest.fixture(scope="module")
def adapters(random_base, tmp_path_factory):
    """Adapters of one base model: `fly` of 3 frames, `fall` of 4."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (motion, frames) in enumerate({"fly": 3, "fall": 4}.items()):
        unet = LAMPPipeline.from_pretrained(random_base).unet
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in unet.tuned_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        sampler = {"num_inference_steps": 2, "guidance_scale": 1.0, "histogram_matching": False}
        sampler |= {"num_frames": frames, "size": [32, 32]}
        unet.save_motion(
            folder / f"{motion}.safetensors",
            base_model=str(random_base),
            motion=motion,
            prompt=f"things {motion}",
            sampler=sampler,
        )
    return folder


@pytest.fixture(autouse=True)
def _beside_copies_of_the_adapters(adapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in adapters.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())


def paint(*words):
    return main([*words, "threads=1", "precision=32-true", "format=png"])


def record(file):
    return json.loads(Path(file).read_text())


def weights(adapter):
    return {each.motion: each.weight for each in adapter.all}


def make_run(folder, motion, adapter=None, when=None):
    """A run folder as training leaves it, with a copy of the adapter; `when` it was written."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"motion={motion}", "model.norm=joint", "hydra.run.dir=x"])
    run = RunFolder.create(Path(folder), cfg)
    if adapter is not None:
        run.adapter.write_bytes(Path(adapter).read_bytes())
        os.utime(run.adapter, (when, when))


def test_two_motions_are_painted_recorded_and_made_again(capsys):
    assert paint("motion=fall.safetensors:0.5,fly.safetensors:0.7", "prompt=[a,b]", "out=x") == 0
    assert "0.7 fly + 0.5 fall (fly.safetensors, fall.safetensors)" in capsys.readouterr().out
    facts = record("x/b_seed0.json")
    assert [(m["motion"], m["weight"]) for m in facts["motions"]] == [("fly", 0.7), ("fall", 0.5)]
    assert len({m["sha256"] for m in facts["motions"]}) == 2
    assert read_video("x/b_seed0_frames").shape == (3, 32, 32, 3)  # the heaviest motion's frames

    assert main(["again=x/b_seed0.json"]) == 0
    assert "The same video, bit for bit." in capsys.readouterr().out
    assert np.array_equal(read_video("x/again/b_seed0_frames"), read_video("x/b_seed0_frames"))
    assert main(["again=x/b_seed0.json", "run=fly.safetensors:0.1", "out=weak"]) == 0
    assert record("weak/b_seed0.json")["motions"][0]["weight"] == 0.1
    Path("fall.safetensors").unlink()
    assert main(["again=x/b_seed0.json"]) == 1
    assert "fall.safetensors is not there any more" in capsys.readouterr().err


def test_mixtures_of_other_weights_are_other_videos(capsys):
    made = {}
    for name, run in (
        ("a_seed0", "fly.safetensors"),
        ("a_seed0", "[fly.safetensors:1]"),
        ("a_seed0_2", "fly.safetensors:0.5"),
        ("a_seed0_3", "fly.safetensors:1,fall.safetensors:0.5"),
        ("a_seed0_3", "[fall.safetensors:.5,fly.safetensors]"),
    ):
        assert paint(f"run={run}", "prompt=a", "num_frames=3") == 0
        said = capsys.readouterr().out
        assert ("1 of 1 videos are there already" in said) == (name in made)
        made[name] = read_video(f"samples/{name}_frames")
        assert len(list(Path("samples").glob("*.json"))) == len(made)
        if name == "a_seed0_2":
            assert "a_seed0 was made otherwise (motion 1.0 fly then, 0.5 fly now)" in said
    assert not np.array_equal(made["a_seed0"], made["a_seed0_2"])
    assert not np.array_equal(made["a_seed0"], made["a_seed0_3"])
    # As the pipeline mixes them.
    pipeline = LAMPPipeline.from_pretrained(record("samples/a_seed0_3.json")["base"]["model"])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.set_motions({"fly.safetensors": 1, "fall.safetensors": 0.5})
    wanted = pipeline("a", seed=0).frames[0] * 255
    assert np.abs(made["a_seed0_3"] - wanted).max() <= 1


def test_the_heaviest_motion_says_how_to_paint():
    for where, title, prompt, frames in (
        ("fall.safetensors:0.2,fly.safetensors:0.3", "0.3 fly + 0.2 fall", "things fly", 3),
        ("fall.safetensors,fly.safetensors", "1 fall + 1 fly", "things fall", 4),  # of equals the first
        ("fly.safetensors:-1,fall.safetensors:0", "0 fall + -1 fly", "things fall", 4),
        ("fall.safetensors", "fall", "things fall", 4),
    ):
        adapter = find_motions(where)
        assert (adapter.title, adapter.prompt, adapter.sampler.num_frames) == (title, prompt, frames)


def test_a_motion_is_named_by_folder_file_or_name_of_its_newest_run(tmp_path):
    make_run("runs/rain/a", "rain", "fly.safetensors", when=2000)
    make_run("runs/rain/b", "rain", "fly.safetensors", when=1000)
    make_run("runs/rain/c", "rain")  # has not come so far
    make_run("one, of two:0.5", "waterfall", "fall.safetensors", when=1000)
    newest = tmp_path / "runs/rain/a/adapter.safetensors"
    for where in ("rain", "runs/rain", "runs/rain/", "runs/rain/a", str(newest), str(newest.parent)):
        for weight in ("", ":0.25"):
            adapter = find_motions(where + weight)
            assert adapter.file.absolute() == newest
            assert adapter.run is None or adapter.run.path == newest.parent
            assert weights(adapter) == {"fly" if adapter.run is None else "rain": 0.25 if weight else 1}
    for where in ("one, of two:0.5", tmp_path / "one, of two:0.5"):  # all of it the folder's name
        assert weights(find_motions(where)) == {"waterfall": 1}
        assert weights(find_motions(f"{where}:2e-1")) == {"waterfall": 0.2}
    assert weights(find_motions(" rain : 0.5 , fall.safetensors")) == {"fall": 1, "rain": 0.5}


def test_a_motion_that_is_spelt_almost_right_is_recognised():
    make_run("runs/waterfall/a", "waterfall", "fall.safetensors", when=1000)
    make_run("runs/waterfalls/a", "waterfall")  # has no adapter yet
    with pytest.raises(UserError, match=r"run=waterfal does not exist.* Did you mean waterfall\? runs has"):
        find_motions("waterfal")


def test_commas_sweep_over_motions_where_a_sweep_is_asked_for():
    assert paint("-m", "run=fly.safetensors:0.5,[fly.safetensors:0.2,fall.safetensors:0.3]", "prompt=a") == 0
    found = [
        [m["weight"] for m in record(f"samples/{name}.json")["motions"]] for name in ("a_seed0", "a_seed0_2")
    ]
    assert found == [[0.5], [0.3, 0.2]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("run=nothing:0.5,fly.safetensors", "run=nothing does not exist"),
        ("run=nowhere/at/all", "run=nowhere/at/all does not exist"),
        ("motion=rain", "motion=rain does not exist. Give a run folder"),
        ("run=fly.safetensors:much", "the weight of a motion must be a number, like 0.7, not 'much'"),
        ("run=fly.safetensors:", "the weight of a motion must be a number, like 0.7, not ''"),
        ("run=fly.safetensors:nan", "must be a number"),
        ("run=fly.safetensors:1,./fly.safetensors:2", "named twice"),
        ("run=fly.safetensors,,fall.safetensors", "lacks a motion"),
        ("run=null", "run must be a run folder"),
        ("run=[]", "run must be a run folder"),
        ("run=[fly.safetensors,[fall.safetensors]]", "run must be a run folder"),
        ("run=fly.safetensors,frames.safetensors", "tuned with different norms (joint and per_frame)"),
        ("run=fly.safetensors,stranger.safetensors", "tuned on different base models"),
        ("run=fly.safetensors,text.safetensors", "text.safetensors is not a readable safetensors file"),
    ],
)
def test_what_cannot_be_mixed_ends_in_one_message(random_base, capsys, word, message):
    LAMPPipeline.from_pretrained(random_base, norm="per_frame").unet.save_motion("frames.safetensors")
    motion_unet(1).save_motion("stranger.safetensors", base_model="the/other")
    Path("text.safetensors").write_text("text")
    assert paint(word, "prompt=a") == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err + captured.out
    assert not Path("samples").exists()


def test_two_words_for_the_motion_are_one_too_many(capsys):
    assert paint("run=fly.safetensors", "motion=fall.safetensors", "prompt=a") == 1
    said = capsys.readouterr().err
    assert "The motion is given twice. Name several motions by motion=<motion>:<weight>" in said


def test_a_run_without_an_adapter_says_how_to_go_on():
    make_run("runs/rain/c", "rain")
    with pytest.raises(UserError, match=r"has no adapter yet.*lamp_lightning.train resume="):
        find_motions("runs/rain/c:0.5,fly.safetensors")


def test_a_finished_tuned_run_is_taken_before_others_and_said(tmp_path, capsys):
    assert main([]) == 1
    assert "There is no run in runs yet" in capsys.readouterr().err
    unet = motion_unet()
    for name, steps, when in (("done", 5, 1000), ("half", 3, 2000), ("raw", 0, 3000)):
        unet.save_motion("x.safetensors", motion="rain", steps=steps, norm="joint")
        make_run(f"runs/rain/{name}", "rain", "x.safetensors", when)
        if name != "half":
            RunFolder(Path(f"runs/rain/{name}")).metrics.write_text("{}")
    found = find_motions("rain").run
    assert found is not None
    assert found.path == tmp_path / "runs/rain/done"
    assert (
        state_of(found) == "5 steps, finished, the newest finished one of 3 runs; run=<folder> takes another"
    )
    found = find_motions("runs/rain/raw").run
    assert found is not None
    assert state_of(found).startswith("untuned, finished, one of 3 runs")
    assert main([]) == 1
    assert "Give it as motion=<name>. runs has rain (3 runs)." in capsys.readouterr().err
    assert main(["motion=rainn"]) == 1
    assert "runs has rain (3 runs)" in capsys.readouterr().err
