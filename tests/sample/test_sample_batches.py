"""Many videos by the sample command: batches, records, what is there already, and interruptions."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lamp_lightning import LAMPPipeline
from lamp_lightning.data.video import read_video
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.runtime.command import readable
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample import generate
from lamp_lightning.sample import run as painting
from lamp_lightning.sample import write as writing
from lamp_lightning.sample.__main__ import main
from lamp_lightning.sample.motions import find_adapter
from lamp_lightning.sample.progress import GeneratingProgress
from lamp_lightning.train.samples import Studio
from processes import start

SAMPLER = {"num_inference_steps": 2, "guidance_scale": 2.0, "num_frames": 3, "size": [32, 32]}


@pytest.fixture(scope="module")
def adapter(random_base, tmp_path_factory):
    """An adapter file whose motion layers do something."""
    file = tmp_path_factory.mktemp("adapter") / "flow.safetensors"
    unet = LAMPPipeline.from_pretrained(random_base).unet
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    unet.save_motion(file, base_model=str(random_base), motion="flow", sampler=SAMPLER)
    return file


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def words(adapter, *more):
    return [f"run={adapter}", "threads=1", "precision=32-true", "format=[png]", *more]


def paint(adapter, *more):
    return main(words(adapter, *more))


def names(folder="samples"):
    return sorted(path.stem for path in Path(folder).glob("*.json"))


def written(folder="samples"):
    """When each video's record was written, and each frame."""
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in Path(folder).rglob("*") if f.is_file()}


def record(name, folder="samples"):
    return json.loads((Path(folder) / f"{name}.json").read_text())


def unchanged(before, *those, folder="samples"):
    """Whether the files of these videos are still those that were there."""
    now = written(folder)
    kept = [file for file in before if file.startswith(those) and "more" not in file]
    return kept and all(now[file] == before[file] for file in kept)


class Counted:
    """`generate_batch`, with the sizes of the batches that it painted."""

    def __init__(self, fits=99):
        self.sizes, self.fits = [], fits
        self.original = generate.generate_batch

    def __call__(self, pipeline, prompts, *args, **kwargs):
        if len(prompts) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        self.sizes.append(len(prompts))
        return self.original(pipeline, prompts, *args, **kwargs)


@pytest.fixture
def counted(monkeypatch):
    counter = Counted()
    monkeypatch.setattr(generate, "generate_batch", counter)
    return counter


# Batches


def test_a_batch_of_four_is_four_single_videos(adapter, counted):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    Path("photos").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).resize((40, 40)).save(f"photos/lake_{'abcd'[number]}.png")
    for source in ("prompt=[a lake,rain,a bird,a city]", "first_frame=photos"):
        for matching in ("true", "false"):
            extra = f"sampler.histogram_matching={matching}"
            videos = []
            for size in (4, 1):
                folder = f"{source[:6]}_{matching}_{size}"
                assert paint(adapter, source, extra, f"batch={size}", f"out={folder}") == 0
                videos.append(np.stack([read_video(f"{folder}/{name}_frames") for name in names(folder)]))
            assert videos[0].shape == (4, 3, 32, 32, 3)
            assert np.abs(videos[0].astype(int) - videos[1]).max() <= 1
    assert counted.sizes == [4, 1, 1, 1, 1] * 4


def test_batches_shrink_to_what_fits_and_nothing_is_lost(adapter, counted, capsys):
    assert paint(adapter, "count=5", "prompt=a", "batch=1", "out=alone") == 0
    counted.sizes, counted.fits = [], 2
    assert paint(adapter, "count=5", "prompt=a", "batch=5", "out=together") == 0
    assert counted.sizes == [2, 1, 2]  # 5 do not fit, nor 3
    assert "Out of memory: 3 videos at once" in capsys.readouterr().err
    for seed in range(5):
        alone, together = (read_video(f"{folder}/a_seed{seed}_frames") for folder in ("alone", "together"))
        assert np.abs(alone.astype(int) - together).max() <= 1
        assert record(f"a_seed{seed}", "together")["made"]["batch"] <= 2
    counted.fits = 0
    assert paint(adapter, "prompt=b", "batch=2") == 1
    err = capsys.readouterr().err
    assert "does not fit into memory (CUDA out of memory" in err
    assert "vae_tiling=true" in err


def test_auto_paints_as_many_at_once_as_fit(adapter, counted, monkeypatch):
    assert paint(adapter, "count=6", "prompt=a", "out=much") == 0
    assert counted.sizes == [4, 2]
    pipeline = LAMPPipeline.from_pretrained(find_adapter(adapter).base)
    from lamp_lightning.sample.videos import Video

    video = Video("a", 0, find_adapter(adapter).sampler, None, "crop", "a")
    need = generate.bytes_of_video(pipeline, video, "32-true")
    assert need == 2 * generate.bytes_of_video(pipeline, video, "bf16-mixed")
    counted.sizes.clear()
    monkeypatch.setattr(generate, "free_memory", lambda device: 2.6 * need)
    assert paint(adapter, "count=3", "prompt=a", "out=little") == 0
    assert counted.sizes == [2, 1]
    monkeypatch.setattr(generate, "free_memory", lambda device: 0)
    assert paint(adapter, "prompt=a", "out=none") == 0


def test_free_memory_is_what_the_system_says():
    free = generate.free_memory(torch.device("cpu"))
    assert free > 1 << 20
    if Path("/proc/meminfo").exists():
        assert free < float("inf")


# Records


def test_a_record_says_how_to_make_the_video_again(adapter, random_base, counted, capsys):
    Image.new("RGB", (50, 40), "red").save("red lake.png")
    assert paint(adapter, "first_frame=red lake.png", "count=3", "fit=pad", "out=x", "format=[mp4,png]") == 0
    facts = record("red_lake_seed1", "x")
    assert facts["finished"] is True
    assert (facts["prompt"], facts["negative_prompt"], facts["seed"]) == ("flow", None, 1)
    assert facts["sampler"].items() >= {"num_inference_steps": 2, "histogram_matching": True}.items()
    assert facts["first_frame"]["file"] == str(Path("red lake.png").absolute())
    assert facts["first_frame"]["fit"] == "pad"
    assert len(facts["first_frame"]["sha256"]) == len(facts["motions"][0]["sha256"]) == 64
    assert facts["base"]["model"] == str(random_base)
    assert facts["base"]["identity"].keys() == {"vae", "text_encoder"}
    assert facts["made"].items() >= {"device": "cpu", "threads": 1, "batch": 3, "place": 1}.items()
    assert facts["made"]["versions"]["torch"] == torch.__version__
    assert facts["measured"]["motion_amount"] >= 0

    counted.sizes.clear()
    assert main(["again=x/red_lake_seed1.json"]) == 0
    assert counted.sizes == [3]  # among copies of itself, for the same bits
    assert "bit for bit" in capsys.readouterr().out
    assert names("x/again") == ["red_lake_seed1"]
    assert np.array_equal(read_video("x/red_lake_seed1_frames"), read_video("x/again/red_lake_seed1_frames"))
    assert Path("x/red_lake_seed1.mp4").read_bytes() == Path("x/again/red_lake_seed1.mp4").read_bytes()
    assert record("red_lake_seed1", "x/again")["frames_sha256"] == facts["frames_sha256"]

    assert main(["again=x/red_lake_seed1.json", "seed=9", "format=png", "out=varied"]) == 0
    assert record("red_lake_flow_seed9", "varied")["sampler"] == facts["sampler"]
    assert "bit for bit" not in capsys.readouterr().out
    assert main(["again=x/red_lake_seed1.json", "batch=1", "out=alone"]) == 0
    assert counted.sizes[-1] == 1


def test_a_record_is_of_no_use_when_its_picture_or_adapter_has_changed(adapter, capsys):
    Path("own.safetensors").write_bytes(adapter.read_bytes())
    Image.new("RGB", (50, 40), "red").save("red.png")
    assert paint("own.safetensors", "first_frame=red.png", "out=x") == 0
    Image.new("RGB", (50, 40), "blue").save("red.png")
    assert main(["again=x/red_seed0.json"]) == 1
    assert "red.png has changed since the video was made" in capsys.readouterr().err
    assert main(["again=x/red_seed0.json", "first_frame=red.png"]) == 0
    Path("own.safetensors").unlink()
    assert main(["again=x/red_seed0.json"]) == 1
    assert "own.safetensors is not there any more: say where it is with run=" in capsys.readouterr().err
    assert main(["again=x/red_seed0.json", f"run={adapter}", "first_frame=red.png", "out=moved"]) == 0
    half = record("red_seed0", "x") | {"finished": False}
    Path("half.json").write_text(json.dumps(half))
    Path("damaged.json").write_text(json.dumps({"format": half["format"], "finished": True}))
    for file, message in (("half", "not finished"), ("damaged", "it lacks 'prompt'")):
        assert main([f"again={file}.json"]) == 1
        assert message in capsys.readouterr().err


def test_another_model_paints_the_first_frames(adapter, random_model, counted):
    painter = random_model("sdxl")
    for out, more in (("own", []), ("other", [f"painter={painter}"])):
        assert paint(adapter, "prompt=[a lake,rain]", f"out={out}", *more) == 0
    assert record("rain_seed0", "other")["painter"] == str(painter)
    firsts = [read_video(f"{out}/rain_seed0_frames")[0] for out in ("own", "other")]
    assert not np.array_equal(*firsts)
    assert main(["again=other/rain_seed0.json"]) == 0
    again = read_video("other/again/rain_seed0_frames")
    assert np.array_equal(again, read_video("other/rain_seed0_frames"))
    assert paint(adapter, "painter=no/such/model") == 1


def test_a_record_of_a_larger_batch_than_fits_is_painted_alone(adapter, counted, capsys, monkeypatch):
    assert paint(adapter, "prompt=a", "out=x", "batch=1") == 0
    facts = record("a_seed0", "x")
    facts["made"] |= {"batch": 1000, "place": 7}
    Path("many.json").write_text(json.dumps(facts))
    monkeypatch.setattr(generate, "free_memory", lambda device: 1 << 20)
    counted.sizes.clear()
    assert main(["again=many.json"]) == 0
    assert counted.sizes == [1]
    out = capsys.readouterr().out
    assert "one of 1000 that were generated at once" in out
    assert "bit for bit" in out


def test_an_adapter_file_paints_what_its_run_folder_paints(adapter, random_base, random_model, random_clip):
    """The file says base model, painter, sampler, CLIP and what saves memory, too."""
    tuned = LAMPPipeline.from_pretrained(random_base, norm="joint")
    tuned.load_motion(adapter)
    settings = [
        "motion=rain",
        "motion.prompt=a lake",
        f"model.path={random_base}",
        "model.norm=joint",
        "model.layers.gate=true",
        f"model.clip={random_clip}",
        f"model.painter={random_model('sdxl')}",
        "model.painter_variant=fp16",
        "model.vae_tiling=true",
        "data.size=[32,32]",
        "data.num_frames=3",
        "sampler.num_inference_steps=2",
        "sampler.paint_steps=2",
        "sampler.negative_prompt=rain",
        "sampler.fps=3",
    ]
    cfg = composed("train", settings)
    run = RunFolder.create(Path("run"), cfg)
    Studio(run, cfg, tuned, Sampler.from_config(cfg), None, None, None).save_adapter(5)
    Path("elsewhere").mkdir()
    file = shutil.copy(run.adapter, "elsewhere/rain.safetensors")
    of_run, of_file = find_adapter("run"), find_adapter(file)
    assert replace(of_file, file=of_run.file, run=of_run.run) == of_run
    assert (of_run.painter_variant, of_run.memory["vae_tiling"]) == ("fp16", True)
    hashes = []
    for number, where in enumerate(("run", file)):
        assert main([f"run={where}", "seed=4", "threads=1", "format=png", f"out=out_{number}"]) == 0
        facts = record("a_lake_seed4", f"out_{number}")
        assert facts["painter"] == str(random_model("sdxl"))
        assert facts["measured"].keys() >= {"clip_score", "motion_amount"}
        hashes.append(facts["frames_sha256"])
    assert hashes[0] == hashes[1]


# What is there already


def test_the_same_words_paint_only_what_is_missing(adapter, counted, capsys):
    assert paint(adapter, "prompt=a", "count=2") == 0
    before = written()
    assert paint(adapter, "prompt=a", "count=4") == 0
    assert unchanged(before, "a_seed0", "a_seed1")
    assert counted.sizes == [2, 2]
    assert "2 of 4 videos are there already" in capsys.readouterr().out
    assert paint(adapter, "prompt=a", "count=4", "format=[png,gif]") == 0  # no gifs yet
    assert counted.sizes == [2, 2, 4]
    before = written()
    (Path("samples") / "a_seed2.gif").unlink()
    assert paint(adapter, "prompt=a", "count=4", "format=[png,gif]") == 0
    assert unchanged(before, "a_seed0", "a_seed1", "a_seed3")
    assert counted.sizes[3:] == [1]


def test_another_video_of_that_name_is_kept_unless_it_may_be_overwritten(adapter, capsys):
    Path("samples").mkdir()
    Path("samples/b_seed0.mp4").write_text("not ours")
    assert paint(adapter, "prompt=a") == paint(adapter, "prompt=b") == 0
    assert names() == ["a_seed0", "b_seed0_2"]
    assert Path("samples/b_seed0.mp4").read_text() == "not ours"
    assert "b_seed0 (.mp4) is there, and nothing says how it was made" in capsys.readouterr().out
    before = written()
    for _ in range(2):
        assert paint(adapter, "prompt=a", "sampler.guidance_scale=3") == 0
        assert names() == ["a_seed0", "a_seed0_2", "b_seed0_2"]
    assert unchanged(before, "a_seed0")
    out = capsys.readouterr().out
    assert "a_seed0 was made otherwise (sampler.guidance_scale 2.0 then, 3.0 now)" in out
    assert "1 of 1 videos are there already" in out
    assert paint(adapter, "prompt=a", "sampler.guidance_scale=4", "overwrite=true") == 0
    assert record("a_seed0")["sampler"]["guidance_scale"] == 4
    assert names() == ["a_seed0", "a_seed0_2", "b_seed0_2"]

    assert paint(adapter, "prompt=a", "out=own.gif") == 0
    kept = Path("own.gif").read_bytes()
    assert paint(adapter, "prompt=b", "out=own.gif") == 1
    assert "own was made otherwise (prompt a then, b now). Give overwrite=true" in capsys.readouterr().err
    assert Path("own.gif").read_bytes() == kept
    assert paint(adapter, "prompt=b", "out=own.gif", "overwrite=true") == 0
    assert Path("own.gif").read_bytes() != kept


def test_painted_nan_and_a_full_memory_end_in_one_message(adapter, random_base, monkeypatch, capsys):
    unet = LAMPPipeline.from_pretrained(random_base).unet
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.fill_(3e38)
    unet.save_motion("wild.safetensors", base_model=str(random_base), motion="wild", sampler=SAMPLER)
    assert paint("wild.safetensors") == 1
    assert "The model generated NaN" in capsys.readouterr().err
    full = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
    )
    for error in (full, MemoryError()):
        monkeypatch.setattr(generate, "generate_batch", failing(error))
        assert paint(adapter, "prompt=a") == 1
        err = capsys.readouterr().err
        assert "3 frames of 32x32 does not fit into memory" in err
        assert "Traceback" not in err
        assert "ran out of memory" in readable(error)
    assert not names()


def failing(error):
    def fails(*args, **kwargs):
        raise error

    return fails


def test_the_largest_seed_paints_with_a_painter_too(adapter, random_model):
    seed = 2**63 - 1
    assert paint(adapter, "prompt=a", f"seed={seed}", f"painter={random_model('sd1')}") == 0
    assert main([f"again=samples/a_seed{seed}.json"]) == 0
    assert record(f"a_seed{seed}")["seed"] == seed


def test_two_prompts_of_one_name_are_two_videos(adapter):
    for _ in range(2):
        assert paint(adapter, "prompt=[a lake,'A lake!',a lake]") == 0
        assert [record(name)["prompt"] for name in names()] == ["a lake", "A lake!"]
        assert names() == ["a_lake_seed0", "a_lake_seed0_2"]


# Interruptions


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_batch_goes_on_where_it_stopped(adapter, monkeypatch, capsys, counted, signum, status):
    original = painting.GeneratingProgress.advance

    def advance(self, videos):
        original(self, videos)
        if self.finished == 4:
            os.kill(os.getpid(), signum)

    more = ["prompt=a", "count=7", "batch=2"]
    with monkeypatch.context() as patch:
        patch.setattr(painting.GeneratingProgress, "advance", advance)
        assert paint(adapter, *more) == status
    assert "4 of 7 videos are finished. The same command generates the rest." in capsys.readouterr().out
    assert len(names()) == 4
    before = written()
    counted.sizes.clear()
    assert paint(adapter, *more) == 0
    assert len(names()) == 7
    assert counted.sizes == [2, 1]
    assert unchanged(before, *(f"a_seed{seed}" for seed in range(4)))
    assert Path("samples/a_seed0_and_6_more_sheet.png").is_file()


def test_a_video_whose_files_are_not_whole_is_painted_again_in_its_place(adapter, monkeypatch, counted):
    def write_two_frames(kind, folder, name, frames, fps):
        if name == "a_seed1":
            original(kind, folder, name, frames[:2], fps)
            raise KeyboardInterrupt
        return original(kind, folder, name, frames, fps)

    original = writing.write_as
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_as", write_two_frames)
        assert paint(adapter, "prompt=a", "count=3", "batch=2") == 130
    assert [record(name)["finished"] for name in names()] == [True, False]
    before = written()
    assert paint(adapter, "prompt=a", "count=3", "batch=2") == 0
    assert unchanged(before, "a_seed0")
    assert names() == ["a_seed0", "a_seed1", "a_seed2"]
    assert all(record(name)["finished"] for name in names())
    assert [len(read_video(f"samples/a_seed{seed}_frames")) for seed in range(3)] == [3, 3, 3]
    assert counted.sizes == [2, 2, 1]


def test_a_batch_that_was_cut_off_while_it_was_written_is_painted_again_as_a_whole(
    adapter, counted, monkeypatch
):
    assert paint(adapter, "prompt=a", "count=3", "out=whole") == 0
    write = writing.write_as

    def cut_off(kind, folder, name, *args):
        if name == "a_seed1":
            raise KeyboardInterrupt
        return write(kind, folder, name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_as", cut_off)
        assert paint(adapter, "prompt=a", "count=3", "out=cut_off") == 130
    before = written("cut_off")
    assert paint(adapter, "prompt=a", "count=3", "out=cut_off") == 0
    assert counted.sizes == [3, 3, 3]
    assert unchanged(before, "a_seed0", folder="cut_off")
    for name in names("whole"):
        assert record(name, "whole") == record(name, "cut_off")


def test_a_killed_process_loses_nothing_that_was_finished(adapter):
    more = ["prompt=a", "count=40", "batch=1", "format=mp4"]
    process = start("lamp_lightning.sample", words(adapter, *more), Path.cwd())
    until = time.monotonic() + 240
    while len(names()) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    finished = [name for name in names() if record(name)["finished"]]
    assert 2 <= len(finished) < 40
    before = written()
    assert paint(adapter, *more[:1], f"count={len(finished) + 1}", *more[2:]) == 0
    assert unchanged(before, *(f"{name}." for name in finished))
    assert all(record(name)["finished"] for name in names())


# Progress


def test_progress_at_a_terminal_and_without_one():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with GeneratingProgress(3, console=terminal) as progress:
        for stage in ("painting", "denoising", "decoding"):
            progress(stage, 1, 2)
        bars = {task.description: (task.completed, task.total) for task in progress._progress.tasks}
        assert bars == {
            "videos": (0, 3), "painting first frames": (1, 2), "denoising": (1, 2), "decoding": (1, 2)
        }  # fmt: skip
        progress.advance(2)
        assert [(task.description, task.completed) for task in progress._progress.tasks] == [("videos", 2)]
        progress.say("a file")
    assert "a file" in terminal.file.getvalue()

    plain = Console(file=io.StringIO(), force_terminal=False)
    clock = itertools.count(0, 4).__next__
    with GeneratingProgress(3, console=plain, every=10, clock=clock) as progress:
        for step in range(1, 9):
            progress("denoising", step, 8)
    lines = plain.file.getvalue().splitlines()
    assert lines[0] == "  denoising 3/8, 0 of 3 videos finished"
    assert len(lines) == 2
