"""The edit command: tuned on one video, inverted, made again; what is done is not done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from omegaconf import OmegaConf
from PIL import Image

from lamp_lightning.data import decode_clip
from lamp_lightning.data.video import read_video, write_mp4
from lamp_lightning.diffusion import Conditions, denoise, invert, with_guidance
from lamp_lightning.diffusion.follow import Way, following
from lamp_lightning.diffusion.repaint import repaint
from lamp_lightning.edit import inversion as inverting
from lamp_lightning.edit.__main__ import main
from lamp_lightning.metrics import flow_correlation
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.__main__ import main as sample_main
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.toyworld import Scene, render_clip
from processes import start

PLACE = Path("videos") / "a_red_bird_flies_seed0"
REAL_CLIPS = Path(__file__).parents[3] / "shared" / "real_clips" / "single"


@pytest.fixture(scope="module")
def words(random_base, random_clip, clips) -> list[str]:
    """A new edit of a video of 6 frames at 8 a second, in seconds."""
    return [
        f"video={clips / 'my_dance' / 'clip_3.mp4'}",
        "source_prompt=a bird",
        "prompt=a red bird, flies",
        f"model.path={random_base}",
        f"model.clip={random_clip}",
        f"data.cache_dir={clips / 'cache'}",
        "data.size=[32,32]",
        "sampler.num_inference_steps=2",
        "sampler.paint_steps=2",
        "trainer.max_steps=2",
        "logger=none",
        "threads=1",
    ]


@pytest.fixture(scope="module")
def first_edit(words, tmp_path_factory) -> Path:
    """The folder of a finished edit."""
    folder = tmp_path_factory.mktemp("edit") / "run"
    assert main([*words, "logger=csv", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(first_edit, tmp_path, monkeypatch) -> Path:
    """A copy of it, beside which the test runs."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(first_edit, tmp_path / "run"))


def state(run: Path) -> dict[str, tuple[int, bytes]]:
    """The tuned state and all inversions: when they were written, and what."""
    files = [run / "adapter.safetensors", run / "checkpoints" / "last.ckpt", *(run / "inversion").iterdir()]
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def frames(folder: Path) -> np.ndarray:
    return read_video(folder / "edit.mp4")


def facts(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


# What an edit gives


def test_an_edit_gives_a_video_its_first_frame_a_sheet_and_numbers(first_edit):
    place = first_edit / PLACE
    clip = decode_clip(place / "edit.mp4")
    assert clip.frames.shape == (6, 256, 256, 3)  # as long as the video, 32x32 enlarged
    assert clip.fps == 8
    assert Image.open(place / "edit.gif").n_frames == 6
    assert Image.open(place / "first_frame.png").size == (32, 32)
    sheet = np.asarray(Image.open(place / "contact_sheet.png").convert("RGB"))
    assert sheet.shape[0] > 3 * 128  # three rows
    found = facts(place)
    assert (found["prompt"], found["source_prompt"]) == ("a red bird, flies", "a bird")
    both = {"clip_score", "clip_score_source_prompt", "frame_consistency", "motion_amount"}
    assert both <= found["source"].keys()
    for name in ("edit", "reconstruction"):
        assert both | {"flow_correlation"} <= found[name].keys()
        assert all(np.isfinite(value) for value in found[name].values())
    assert len(list((first_edit / "inversion").iterdir())) == 1
    table = (first_edit / "csv" / "metrics.csv").read_text()
    assert "train/loss" in table
    assert "edit/flow_correlation" in table


def test_the_first_frame_of_the_video_is_the_painted_one(first_edit):
    shown = frames(first_edit / PLACE)[0].reshape(32, 8, 32, 8, 3).mean((1, 3))
    painted = np.asarray(Image.open(first_edit / PLACE / "first_frame.png"), dtype=float)
    # Encoded and decoded once more, and compressed: alike, but not the same.
    assert np.corrcoef(shown.ravel(), painted.ravel())[0, 1] > 0.5


def test_the_tuned_state_also_samples(run):
    assert sample_main([f"run={run}", "prompt=a bird", "out=more.mp4", "threads=1"]) == 0
    assert decode_clip("more.mp4").frames.shape[0] == 6


def test_a_video_is_edited_from_its_beginning_as_long_as_asked_for(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "data.num_frames=3", "data.frame_stride=2", "hydra.run.dir=run", "out=here"]) == 0
    clip = decode_clip("here/edit.mp4")
    assert (len(clip.frames), clip.fps) == (3, 4)
    source = OmegaConf.load("run/config.yaml")
    assert (source.data.num_frames, source.out) == (3, str(tmp_path / "here"))


def test_without_a_source_prompt_the_file_name_is_it(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = [word for word in words if not word.startswith("source_prompt")]
    assert main([*kept, "out=here"]) == 0
    assert facts(tmp_path / "here")["source_prompt"] == "clip 3"
    (run,) = Path("edits/clip_3").iterdir()  # where edits are by default
    assert (run / "adapter.safetensors").is_file()


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real footage at ../shared/real_clips")
def test_real_footage_is_edited_with_the_tiny_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip, change = "car-turn", "a red car"
    video = REAL_CLIPS / f"{clip}.mp4"
    few = [
        "trainer.max_steps=2",
        "sampler.num_inference_steps=2",
        "sampler.paint_steps=2",
        "data.num_frames=8",
    ]
    place = ["data.cache_dir=cache", "hydra.run.dir=run", "out=here", "logger=none", "threads=1"]
    assert main([f"video={video}", f"prompt={change}", *few, *place]) == 0
    made, source = decode_clip("here/edit.mp4"), decode_clip(video)
    assert made.frames.shape == (8, 256, 256, 3)
    assert made.fps == pytest.approx(source.fps, rel=0.01)
    found = facts(Path("here"))
    assert (found["prompt"], found["source_prompt"]) == (change, clip)
    assert -1 <= found["edit"]["flow_correlation"] <= 1
    assert found["source"]["motion_amount"] > 0


# Once more


def test_another_prompt_neither_tunes_nor_inverts_again(run, capsys):
    before = state(run)
    assert main(["run=run", "prompt=a blue bird: it's {here}, [really]"]) == 0
    assert state(run) == before
    out = capsys.readouterr().out
    assert "Tuned already" in out
    assert "Inverted already" in out
    place = run / "videos" / "a_blue_bird_it_s_here_really_seed0"
    assert facts(place)["prompt"] == "a blue bird: it's {here}, [really]"
    assert not np.array_equal(frames(place), frames(run / PLACE))
    assert facts(place)["reconstruction"].keys() == facts(run / PLACE)["reconstruction"].keys()


def test_the_same_prompt_and_seed_give_the_same_video_and_another_seed_another(run):
    assert main(["run=run", "out=again"]) == 0
    assert np.array_equal(frames(Path("again")), frames(run / PLACE))
    assert facts(Path("again"))["reconstruction"] == facts(run / PLACE)["reconstruction"]
    # Its noise is drawn only where the first frame is painted from noise.
    for seed in (1, 2):
        assert main(["run=run", f"seed={seed}", "paint_from=noise", f"out=seed{seed}"]) == 0
    assert not np.array_equal(frames(Path("seed1")), frames(Path("seed2")))


@pytest.mark.parametrize(
    "word", ["sampler.num_inference_steps=3", "source_prompt=a lake", "trainer.max_steps=3"]
)
def test_what_an_inversion_depends_on_makes_a_new_one(run, word):
    before = state(run)
    assert main(["run=run", word, "out=new"]) == 0
    after = state(run)
    assert len(after) == len(before) + 1
    tuned = {"adapter.safetensors", "last.ckpt"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == (tuned if word.startswith("trainer") else set())


def test_a_damaged_inversion_is_made_again(run, capsys):
    (file,) = (run / "inversion").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert main(["run=run", "out=again"]) == 0
    assert f"{file}: this cache file is damaged" in capsys.readouterr().err
    assert np.array_equal(frames(Path("again")), frames(run / PLACE))


# First frames


def test_a_given_picture_is_the_first_frame(run):
    picture = np.zeros((40, 60, 3), dtype=np.uint8)
    picture[:, :30] = (250, 30, 20)
    Image.fromarray(picture).save("red.png")
    assert main(["run=run", "prompt=a lake", "first_frame=red.png", "out=given"]) == 0
    first = np.asarray(Image.open("given/first_frame.png"))
    assert first.shape == (32, 32, 3)
    assert first[16, 4].tolist() == [250, 30, 20]
    assert first[16, 28].tolist() == [0, 0, 0]
    assert (facts(Path("given"))["first_frame"], facts(Path("given"))["strength"]) == (
        str(Path("red.png").absolute()),
        None,
    )
    # The next prompt has its own again.
    assert main(["run=run", "prompt=a forest", "out=painted"]) == 0
    assert facts(Path("painted"))["first_frame"] is None


def test_at_no_strength_the_first_frame_stays(run):
    sources = ["inversion", "noise"]
    for kind in sources:
        assert main(["run=run", "strength=0", f"paint_from={kind}", f"out={kind}"]) == 0
    one, two = (np.asarray(Image.open(f"{kind}/first_frame.png")) for kind in sources)
    assert np.array_equal(one, two)
    painted = np.asarray(Image.open(run / PLACE / "first_frame.png"))
    assert not np.array_equal(one, painted)


class OneNoise:
    """A UNet that believes in one noise, whatever it is shown; `seen` are the first frames."""

    def __init__(self, noise):
        self.noise, self.seen = noise, []

    def __call__(self, sample, timestep, text):
        self.seen.append(sample[:, :, 0])
        return self.noise.expand(len(sample), -1, -1, -1, -1)


@pytest.fixture
def scheduler():
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def test_inversion_can_keep_the_first_frame(scheduler):
    latents, noise = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 4, 3, 2, 2)
    text = torch.zeros(1, 2, 3)
    unet = OneNoise(noise)
    kept = invert(unet, scheduler, latents, text, 5, keep_first=True)
    assert torch.equal(kept[:, :, 0], latents[:, :, 0])
    assert len(unet.seen) == 5
    assert all(torch.equal(first, latents[:, :, 0]) for first in unet.seen)
    whole = invert(OneNoise(noise), scheduler, latents, text, 5)
    assert torch.equal(kept[:, :, 1:], whole[:, :, 1:])
    assert not torch.equal(whole[:, :, 0], latents[:, :, 0])


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_painting_over_leads_back_from_inversion_of_any_strength(scheduler, strength):
    picture, noise = torch.randn(2, 4, 1, 2, 2), torch.randn(1, 4, 1, 2, 2)
    unet, text, steps = OneNoise(noise), torch.zeros(2, 2, 3), 10
    noisy = invert(unet, scheduler, picture, text, steps, strength=strength)
    assert len(unet.seen) == round(strength * steps)
    assert torch.equal(noisy, picture) == (strength == 0)
    back = repaint(
        with_guidance(unet, text, scale=1),
        scheduler,
        picture,
        strength=strength,
        num_inference_steps=steps,
        noisy=noisy,
    )
    assert len(unet.seen) == 2 * round(strength * steps)
    torch.testing.assert_close(back, picture, rtol=1e-4, atol=1e-4)


def test_painting_over_drawn_noise_forgets_with_strength(scheduler):
    picture, unet = torch.randn(1, 4, 1, 8, 8), OneNoise(torch.zeros(1, 4, 1, 8, 8))
    distances = []
    for strength in (0.2, 0.6, 1.0):
        painted = [
            repaint(
                with_guidance(unet, torch.zeros(2, 2, 3), scale=3),
                scheduler,
                picture,
                strength=strength,
                num_inference_steps=10,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in (0, 0, 1)
        ]
        assert torch.equal(painted[0], painted[1])
        assert not torch.equal(painted[0], painted[2])
        distances.append(float((painted[0] - picture).norm()))
    assert distances == sorted(distances)
    with pytest.raises(ValueError, match="strength"):
        repaint(
            with_guidance(unet, torch.zeros(2, 2, 3), scale=3),
            scheduler,
            picture,
            strength=1.1,
            num_inference_steps=4,
        )


# Following the source


@pytest.fixture
def followed(random_base, scheduler):
    """A UNet, a clip, its way to noise in 4 steps, and three texts: none, the clip's and another."""
    pipeline = LAMPPipeline.from_pretrained(str(random_base))
    unet = pipeline.unet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in unet.tuned_parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        clip = torch.randn(1, unet.config.in_channels, 3, 8, 8)
    texts = [pipeline.conditions([t], None, 1, (32, 32)).text for t in ("", "a bird", "a car")]
    way = []
    keep = lambda step, steps, latents: way.append(latents[0])  # noqa: E731
    invert(unet, scheduler, clip, texts[1], 4, keep_first=True, callback=keep)
    return unet, clip, Way(torch.stack(way), Conditions(texts[1])), texts


def painted(followed, scheduler, share, *, first=None, text=2, guidance=1.0):
    """From the end of the way to a clip, with its own or another first frame, by the text of that number."""
    unet, clip, way, texts = followed
    words = torch.cat([texts[0], texts[text]])
    first = clip[:, :, 0] if first is None else first
    with following(unet, way, share):
        return denoise(
            unet,
            scheduler,
            way.latents[-1:],
            first,
            words,
            guidance_scale=guidance,
            num_inference_steps=4,
            shared_noise=0,
            adain=False,
        )


def test_who_follows_himself_stays_himself(followed, scheduler):
    own = painted(followed, scheduler, 0, text=1)
    # Beside the way of inversion, so only as near as that leads back: not to the bit.
    led = painted(followed, scheduler, 0.25, text=1)
    torch.testing.assert_close(led, own, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_following_takes_over_queries_and_keys_and_ends(followed, scheduler, guidance):
    unet, clip, _way, _texts = followed
    first = torch.randn(clip[:, :, 0].shape, generator=torch.Generator().manual_seed(1))
    seen = []
    block = next(m for m in unet.modules() if hasattr(m, "attn_temp"))
    handle = block.attn_temp.to_q.register_forward_hook(lambda *a: seen.append(a[2]))
    results = [painted(followed, scheduler, s, first=first, guidance=guidance) for s in (0, 0.5, 1)]
    handle.remove()
    assert all(torch.equal(result[:, :, :1], first.unsqueeze(2)) for result in results)
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[1], results[2])
    rows = 2 if guidance != 1 else 1  # of the edit, and one more while it follows
    frames = clip.shape[2]
    assert [len(s) // frames for s in seen] == [rows] * 4 + [rows + 1] * 2 + [rows] * 2 + [rows + 1] * 4
    # Afterwards the UNet is as before.
    assert torch.equal(painted(followed, scheduler, 0, first=first, guidance=guidance), results[0])


def test_where_frames_look_decides_and_not_what_is_there(followed):
    unet, clip, way, texts = followed
    sample = torch.randn(clip.shape, generator=torch.Generator().manual_seed(2))
    block = next(m for m in unet.modules() if hasattr(m, "attn_temp"))
    values, queries = [], []
    with following(unet, way, 1):
        after = [  # hooks that come after those of following
            block.attn1.to_q.register_forward_hook(lambda *a: queries.append(a[2])),
            block.attn1.to_v.register_forward_hook(lambda *a: values.append(a[2])),
        ]
        with torch.no_grad():
            unet(sample, torch.tensor(900), texts[2])
    for handle in after:
        handle.remove()
    source, edit = queries[0].chunk(2)
    assert torch.equal(source, edit)
    source, edit = values[0].chunk(2)
    assert not torch.allclose(source, edit)


def test_an_edit_follows_as_much_as_asked(run):
    videos = {}
    for words in (
        ("follow=0", "paint_follow=0"),
        ("follow=1", "paint_follow=0"),
        ("follow=0", "paint_follow=1"),
    ):
        assert main(["run=run", *words, "paint_from=inversion", "out=here", "overwrite=true"]) == 0
        found = facts(Path("here"))
        assert (f"follow={found['follow']}", f"paint_follow={found['paint_follow']}") == words
        videos[words] = (np.asarray(Image.open("here/first_frame.png")), frames(Path("here")))
    (first, plain), (same, led), (other, _) = videos.values()
    assert np.array_equal(first, same)
    assert not np.array_equal(plain, led)
    assert not np.array_equal(first, other)


def test_the_motion_is_as_strong_as_asked_while_painting_and_stays_as_it_was_tuned(run):
    tuned = (run / "adapter.safetensors").read_bytes()
    videos = {}
    for strength in ("1", "0.5", "0", "1"):
        words = [f"motion_strength={strength}", "follow=0", "out=here", "overwrite=true"]
        assert main(["run=run", *words]) == 0
        assert facts(Path("here"))["motion_strength"] == float(strength)
        made = frames(Path("here"))
        assert np.array_equal(videos.setdefault(strength, made), made)  # the last as the first
    assert (run / "adapter.safetensors").read_bytes() == tuned
    whole, half, none = videos.values()
    assert not np.array_equal(whole, half)
    assert not np.array_equal(half, none)


# What cannot be done


def prepared(folder: Path) -> None:
    """Bad inputs of all kinds."""
    (folder / "text.mp4").write_text("not a video")
    (folder / "text.png").write_text("not a picture")
    write_mp4(folder / "short.mp4", np.zeros((1, 32, 32, 3), np.uint8))
    (folder / "taken").mkdir()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("video=nothing.mp4", "nothing.mp4: no such clip"),
        ("video=text.mp4", "text.mp4"),
        ("video=short.mp4", "found 1 frame; editing with data.frame_stride=1 needs at least 2"),
        ("data.frame_stride=6", "found 6 frames; editing with data.frame_stride=6 needs at least 7"),
        ("first_frame=nothing.png", "nothing.png does not exist"),
        ("first_frame=text.png", "text.png cannot be read as an image"),
        ("prompt=[one,two]", "prompt must be one text"),
        ("prompt=null", "prompt must be one text"),
        ("strength=1.5", "strength must be a number from 0 to 1"),
        ("follow=2", "follow must be a number from 0 to 1"),
        ("motion_strength=-1", "motion_strength must be a number from 0 to 2"),
        ("paint_follow=-1", "paint_follow must be a number from 0 to 1"),
        ("paint_from=nowhere", "paint_from must be one of inversion, noise"),
        ("sampler.scheduler=EulerDiscreteScheduler", "needs sampler.scheduler=DDIMScheduler"),
        ("out=taken", "taken exists already"),
        ("out=text.png/deeper", "text.png"),
        ("data.size=[30,30]", "multiples of 4"),
        ("nothing=1", "There is no setting 'nothing'"),
    ],
)
def test_what_cannot_be_edited_is_said_before_tuning(words, tmp_path, monkeypatch, capsys, word, message):
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path)
    key = word.partition("=")[0]
    kept = [other for other in words if not other.startswith(f"{key}=")]
    assert main([*kept, word, "hydra.run.dir=run"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err + captured.out
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("key", ["video", "prompt"])
def test_what_must_be_given_is_named(words, tmp_path, monkeypatch, capsys, key):
    monkeypatch.chdir(tmp_path)
    assert main([word for word in words if not word.startswith(f"{key}=")] + ["hydra.run.dir=run"]) == 1
    assert f"The setting {key} has no value. Give it as {key}=<value>." in capsys.readouterr().err


def test_results_are_replaced_only_if_asked(run, capsys):
    before = (run / PLACE / "edit.mp4").stat().st_mtime_ns
    assert main(["run=run"]) == 0
    assert capsys.readouterr().out == f"Finished already: {Path('run') / PLACE}\n"
    assert main(["run=run", "follow=0.1"]) == 1
    assert f"{run / PLACE} exists already" in capsys.readouterr().err
    assert (run / PLACE / "edit.mp4").stat().st_mtime_ns == before
    assert main(["run=run", "overwrite=true"]) == 0
    assert (run / PLACE / "edit.mp4").stat().st_mtime_ns > before
    assert main(["run=run", "follow=0.1"]) == 1  # asked for once
    capsys.readouterr()
    # A folder of other things is never replaced.
    Path("mine").mkdir()
    assert main(["run=run", "out=mine", "overwrite=true"]) == 1
    assert "mine holds no edited video" in capsys.readouterr().err
    assert Path("mine").is_dir()


def test_only_an_edit_is_taken_up_again(run, tmp_path, capsys):
    RunFolder.create(tmp_path / "motion", composed("train", ["motion=rain"]))
    assert main(["run=motion", "prompt=a"]) == 1
    assert "holds the run of a motion, not an edit" in capsys.readouterr().err
    assert main(["run=nowhere", "prompt=a"]) == 1
    assert "There is no run at" in capsys.readouterr().err
    assert main([f"run={run / 'videos'}", "strength=3"]) == 1  # a file or folder in it will do
    assert "strength must be" in capsys.readouterr().err
    assert main(["run=run", "data.nothing=3"]) == 1
    assert "'data.nothing'" in capsys.readouterr().err


def test_another_video_or_other_frames_need_a_new_edit(run, clips, capsys):
    before = (run / "config.yaml").read_text()
    assert main(["run=run", "video=other.mp4"]) == 1
    assert "begin a new edit" in capsys.readouterr().err
    for word in (f"data.folder={clips / 'rain' / 'clip_1.mp4'}", "data.num_frames=4", "data.num_frames=9"):
        assert main(["run=run", word, "prompt=a lake"]) == 1
        assert "begin a new edit" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


# Interruptions


def test_a_stop_while_tuning_is_saved_and_gone_on_from(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many = [word for word in words if not word.startswith("trainer.max_steps")]
    many += ["trainer.max_steps=100000", "save_every=1", "hydra.run.dir=run", "out=here"]
    process = start("lamp_lightning.edit", many, tmp_path)
    checkpoint, end = Path("run/checkpoints/last.ckpt"), time.monotonic() + 200
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 143
    assert "python -m lamp_lightning.edit run=run out=here" in out
    assert "Traceback" not in out + err
    assert not Path("here").exists()
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert main(["run=run", "out=here", f"trainer.max_steps={step + 1}"]) == 0
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step + 1
    assert facts(Path("here"))["prompt"] == "a red bird, flies"


@pytest.mark.parametrize("stage", ["invert", "repaint", "generate_batch"])
def test_a_stop_after_tuning_keeps_what_is_done(run, monkeypatch, capsys, stage):
    shutil.rmtree(run / "inversion")
    work = getattr(inverting, stage)

    def stopped(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*args, **kwargs)

    tuned = (run / "adapter.safetensors").read_bytes()
    monkeypatch.setattr(inverting, stage, stopped)
    assert main(["run=run", "prompt=a lake"]) == 143
    assert "python -m lamp_lightning.edit run=run" in capsys.readouterr().out
    assert [path.name for path in (run / "videos").iterdir()] == [PLACE.name]  # nothing half done
    monkeypatch.setattr(inverting, stage, work)
    assert main(["run=run"]) == 0
    assert facts(run / "videos" / "a_lake_seed0")["prompt"] == "a lake"
    assert (run / "adapter.safetensors").read_bytes() == tuned


# The measure


def test_flow_correlation_knows_the_motion_in_another_look():
    def horse(colour: str, place: str, seed: int = 3) -> np.ndarray:
        return render_clip(Scene("horse_run", colour, place, "flat", seed), frames=5)

    source = horse("red", "beach")
    assert flow_correlation(source, source) == pytest.approx(1)
    assert flow_correlation(horse("blue", "meadow"), source) > 0.7
    assert flow_correlation(horse("red", "beach", seed=4), source) < 0.4
    birds = render_clip(Scene("birds_fly", "red", "beach", "flat", 3), frames=5)
    assert flow_correlation(birds, source) < 0.2
    assert flow_correlation(np.repeat(source[:1], 5, axis=0), source) == 0
    with pytest.raises(ValueError, match="as many"):
        flow_correlation(source[:4], source)
