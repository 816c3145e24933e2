"""Methods and ablations by the commands: train, resume, sample, each with what the config says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from lamp_lightning.benchmark.methods import load_method
from lamp_lightning.data.video import read_video
from lamp_lightning.models.adapter import header_of, inverted_clip, read_metadata
from lamp_lightning.models.registry import Variant
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.toyworld import motion_set_scenes, render_clip
from lamp_lightning.train.__main__ import main as train


@pytest.fixture
def plain(small):
    """A run of two steps that paints nothing and reports nowhere."""
    kept = [word for word in small if not word.startswith("samples.final")]
    return ["motion=waterfall", *kept, "samples.final=0", "logger=none", "trainer.precision=32-true"]


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter.safetensors")


def painted(folder: str, *words: str) -> np.ndarray:
    """What the sample command makes of a run."""
    out = Path(folder) / "painted.mp4"
    made = ["seed=1", "format=mp4", "prompt=a red lake", "overwrite=true", "precision=32-true", "threads=1"]
    assert sample([f"run={folder}", f"out={out}", *made, *words]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["finished"]
    return read_video(out)


def test_ablations_sweep_and_sample_as_they_were_tuned(plain, tmp_path):
    names = ["no_first_frame", "not_causal", "tuned_text_query"]
    experiments = ",".join(f"ablation/{name}" for name in names)
    words = [
        *plain,
        f"experiment={experiments}",
        "hydra.sweep.dir=sweep",
        "hydra.sweep.subdir=${hydra.job.num}",
    ]
    assert train(["-m", *words]) == 0
    wanted = [
        Variant(first_frame=False),
        Variant(causal=False),
        Variant(tuned=("conv1d", "conv_gate", "attn1.to_q", "attn_temp", "attn2.to_q")),
    ]
    for number, variant in enumerate(wanted):
        folder = f"sweep/{number}"
        method = load_method(folder)
        assert header_of(f"{folder}/adapter.safetensors").variant == variant
        assert method.pipeline.unet.variant == variant
        assert set(tensors(folder)) == set(method.pipeline.unet.names_of(variant.sets))
        assert len(painted(folder)) == 4


def test_a_stopped_ablation_goes_on_to_the_same_weights(plain, tmp_path):
    words = [
        *plain,
        "experiment=ablation/no_first_frame",
        "model.layers.gate=false",
        "tuner.schedule=constant",
    ]
    assert train([*words, "trainer.max_steps=3", "hydra.run.dir=whole"]) == 0
    assert train([*words, "trainer.max_steps=2", "hydra.run.dir=parts"]) == 0
    whole, before = tensors("whole"), tensors("parts")
    assert train(["resume=parts", "trainer.max_steps=3"]) == 0
    parts = tensors("parts")
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert not all(torch.equal(before[name], whole[name]) for name in whole)


def test_a_resumed_run_stays_the_variant_that_it_is(plain, capsys):
    assert train([*plain, "hydra.run.dir=run"]) == 0
    assert train(["resume=run", "model.layers.self_attention=own", "trainer.max_steps=3"]) == 1
    assert "differs in self_attention first_frame and own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.layers.gate=false", "model.layers.temporal_conv=false"], "give model.layers.gate=true"),
        (["tuner.tuned=[]"], "There is nothing to tune"),
        (["tuner.tuned=[conv2d]"], "'conv2d', which cannot be tuned"),
        (["model.layers.self_attention=last"], "one of first_frame, own, first_and_former"),
        (["data.max_clips=9"], "has 8 clips, and data.max_clips=9 are asked for"),
        (["data.max_clips=0"], "data.max_clips must be a whole number of at least 1 or null"),
        (["sampler.start=dream"], "sampler.start must be one of noise"),
        (["method=animatediff", "model.norm=joint"], "model.norm=per_frame"),
        (["method=nothing"], "tune_a_video"),
    ],
)
def test_what_does_not_go_together_ends_in_one_message(plain, words, message, capsys):
    assert train([*plain, *words, "hydra.run.dir=run"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("Error:") == 1


def test_tune_a_video_begins_at_the_noise_of_its_clip(plain, tmp_path):
    words = [*plain, "method=tune_a_video", "samples.every=1", "samples.while_training=1"]
    assert train([*words, "hydra.run.dir=run"]) == 0
    assert len(list(Path("run/samples/step_000001").glob("*.mp4"))) == 1
    metadata = read_metadata("run/adapter.safetensors")
    assert metadata["method"] == "tune_a_video"
    noise = inverted_clip("run/adapter.safetensors")
    assert noise.shape == (1, 4, 4, 8, 8)
    method = load_method("run")
    assert torch.equal(method.pipeline.inverted_clip, noise)
    seeds = [method.generate(["a lake"], seeds=[seed])[0] for seed in (0, 1)]
    assert np.array_equal(*seeds)  # nothing is drawn
    drawn = method.with_sampler(start="noise")
    assert not np.array_equal(drawn.generate("a lake", seeds=[0])[0], drawn.generate("a lake", seeds=[1])[0])
    assert len(painted("run")) == 4
    assert len(painted("run", "sampler.start=noise", "num_frames=6")) == 6
    assert sample(["run=run", "prompt=a lake", "num_frames=6", "out=long.mp4", "threads=1"]) == 1


def test_tune_a_video_leads_from_its_clips_noise_back_to_the_clip(plain):
    words = [*plain, "method=tune_a_video", "sampler.num_inference_steps=50", "hydra.run.dir=run"]
    assert train(words) == 0
    pipeline, cfg = load_method("run").pipeline, OmegaConf.load("run/config.yaml")
    frames = read_video(sorted(Path(cfg.data.folder).glob("*.mp4"))[0])[:4]
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    clip = pipeline.base.latents_from_pixels(pixels).transpose(0, 1)[None]
    settings = {"paint_guidance_scale": 1.0, "output_type": "latent", "seed": 0}
    back, other = (pipeline("", start=start, **settings).frames for start in ("inversion", "noise"))
    away = [float((latents - clip).norm() / clip.norm()) for latents in (back, other)]
    assert away[0] < 0.1 * away[1]


def test_animatediff_is_tuned_sampled_and_handed_to_diffusers(plain, tmp_path, random_base):
    assert train([*plain, "method=animatediff", "hydra.run.dir=run"]) == 0
    modules = dict(MotionAdapter.from_pretrained("run/motion_adapter").named_parameters())
    saved = tensors("run")
    assert modules.keys() == saved.keys()
    assert all(torch.equal(modules[name].half(), saved[name]) for name in saved)  # half precision in the file
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save("grey.png")
    given, made = painted("run", "first_frame=grey.png"), painted("run")
    assert len(given) == len(made) == 4
    assert not np.array_equal(given[0], made[0])


def test_frozen_stands_still(plain):
    assert train([*[w for w in plain if "max_steps" not in w], "method=frozen", "hydra.run.dir=run"]) == 0
    (video,) = load_method("run").generate(["a lake"])
    assert (video == video[:1]).all()
    assert tensors("run") == {}


def test_sixteen_clips_are_drawn_beside_the_usual_eight(plain, tmp_path):
    words = [
        word for word in plain if not word.startswith(("data.root", "data.cache_dir", "data.num_frames"))
    ]
    words += ["data.root=drawn", "data.cache_dir=cache", "data.num_frames=16", "trainer.max_steps=1"]
    assert train([*words, "experiment=ablation/clips_2", "hydra.run.dir=two"]) == 0
    assert train([*words, "experiment=ablation/clips_16", "hydra.run.dir=sixteen"]) == 0
    assert len(list(Path("drawn/waterfall").glob("*.mp4"))) == 8
    assert len(list(Path("drawn/waterfall_16").glob("*.mp4"))) == 16
    for name in ("waterfall_00.mp4", "waterfall_07.mp4"):  # the usual ones are among them
        assert Path("drawn/waterfall", name).read_bytes() == Path("drawn/waterfall_16", name).read_bytes()
    assert render_clip(motion_set_scenes("waterfall", 16)[15]).shape[0] == 24
