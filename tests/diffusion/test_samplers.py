"""The configs of the group `sampler`: each paints with any model, and says what its scheduler cannot use."""

from __future__ import annotations

import json
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors import safe_open

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.data.video import read_video
from lamp_lightning.diffusion import denoise, shared_noise
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.runtime.config import conf_dir, options
from lamp_lightning.sample.__main__ import main as sample_main
from lamp_lightning.sample.generate import generate_batch
from lamp_lightning.train.__main__ import main as train_main
from method_models import motion_unet, text, video
from random_models import KINDS

PRESETS = options("sampler")


def preset(name, model="tiny"):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return Sampler.from_config(compose("train", overrides=[f"model={model}", f"sampler={name}"]))


@pytest.fixture(scope="module")
def pipelines(random_model):
    found = {kind: LAMPPipeline.from_pretrained(random_model(kind)) for kind in KINDS}
    for pipeline in found.values():
        pipeline.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def run(random_base, random_clip, clips, tmp_path_factory):
    """A finished run with `sampler=fast`, whose options the run and the adapter carry."""
    folder = tmp_path_factory.mktemp("samplers") / "run"
    words = [f"model.path={random_base}", f"model.clip={random_clip}", f"data.root={clips}"]
    words += [f"data.cache_dir={clips / 'cache'}", "data.size=[32,32]", "data.num_frames=3", "threads=1"]
    words += ["trainer.max_steps=1", "samples.every=null", "samples.final=1", "logger=none"]
    assert train_main(["motion=rain", "sampler=fast", *words, f"hydra.run.dir={folder}"]) == 0
    return folder


def photo():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_paints_the_same_finite_video_twice(pipelines, name):
    pipeline = pipelines["sd1"]
    sampler = preset(name).changed({"num_frames": 3, "size": (32, 32), "paint_steps": 2})
    once, again = (generate_batch(pipeline, ["a bird"], sampler, seeds=[4])[0] for _ in range(2))
    assert once.shape == (3, 32, 32, 3)
    assert np.array_equal(once, again)
    pipeline.scheduler, before = sampler.make_scheduler(pipeline.own_scheduler.config), pipeline.scheduler
    try:
        steps = {"num_inference_steps": sampler.num_inference_steps, "guidance_scale": 1.0}
        output = pipeline("a bird", photo(), num_frames=3, seed=4, output_type="latent", **steps)
    finally:
        pipeline.scheduler = before
    assert torch.isfinite(output.frames).all()
    assert output.frames[0, :, 1:].std() > 0.01


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("kind", "model"), [("sd1", "sd14"), ("sd2", "sd21"), ("sdxl", "sdxl")])
def test_every_preset_has_a_scheduler_for_every_model(pipelines, name, kind, model):
    own, sampler = pipelines[kind].own_scheduler, preset(name, model)
    scheduler = sampler.make_scheduler(own.config)
    assert type(scheduler).__name__ == sampler.scheduler
    assert torch.allclose(scheduler.alphas_cumprod, own.alphas_cumprod)
    assert scheduler.config.prediction_type == own.config.prediction_type
    scheduler.set_timesteps(sampler.num_inference_steps)
    assert len(scheduler.timesteps) == sampler.num_inference_steps
    for key, value in sampler.scheduler_options.items():
        assert scheduler.config[key] == value


def test_the_fast_preset_takes_eight_steps_or_fewer():
    assert preset("fast").num_inference_steps <= 8
    assert all(preset(name).num_inference_steps <= 20 for name in ("dpm", "unipc", "euler"))


def test_solvers_of_one_equation_agree_where_steps_are_many():
    """DDIM, Euler, DPM-Solver++ and UniPC solve the same differential equation."""
    unet, noise, first = motion_unet(), video(clips=1, frames=3), video(clips=1, frames=1, seed=8)
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
    config = diffusers.DDIMScheduler(**config, set_alpha_to_one=True, timestep_spacing="trailing").config

    def solved(name, steps):
        scheduler = preset(name).make_scheduler(config)
        return denoise(
            unet, scheduler, noise, first, text(clips=1), guidance_scale=1.0, num_inference_steps=steps,
            adain=False,
        )[:, :, 1:]  # fmt: skip

    reference = solved("dpm", 40)
    for name, tolerance in (("unipc", 0.01), ("euler", 0.05), ("ddim", 0.05)):
        near, far = ((solved(name, steps) - reference).norm() / reference.norm() for steps in (30, 3))
        assert near < tolerance < far


@pytest.mark.parametrize(("sharing", "variance"), [("authors", 0.68), ("variance_preserving", 1.0)])
def test_the_variance_of_shared_noise(sharing, variance):
    noise = video(frames=3, size=(128, 128))
    shared = shared_noise(noise, 0.2, sharing)
    assert shared[:, :, 1:].var().item() == pytest.approx(variance, abs=0.01)
    assert torch.equal(shared[:, :, 0], noise[:, :, 0])
    # What two frames share is the first frame's part, whatever the formula.
    a, b = shared[:, :, 1].flatten(), shared[:, :, 2].flatten()
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].item() == pytest.approx(0.04 / 0.68, abs=0.02)


def test_a_preset_goes_with_the_motion(run, random_base):
    fast = preset("fast")
    with safe_open(run / "adapter.safetensors", "pt") as file:
        told = json.loads(file.metadata()["sampler"])
    assert told["scheduler_options"] == fast.scheduler_options
    assert len(list((run / "videos").rglob("*.mp4"))) == 1
    pipeline = LAMPPipeline.from_pretrained(random_base)
    own = pipeline.scheduler
    pipeline.load_motion(run / "adapter.safetensors")
    assert type(pipeline.scheduler).__name__ == fast.scheduler
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    plain = Sampler().make_scheduler(pipeline.own_scheduler.config)
    assert plain.config.timestep_spacing == own.config.timestep_spacing == "leading"
    pipeline.unload_motion()
    assert pipeline.scheduler is own


def painted(run, folder, *words):
    """The frames of a video by the sample command."""
    assert sample_main([f"run={run}", "prompt=a lake", "threads=1", f"out={folder}", *words]) == 0
    return read_video(next(folder.glob("*.mp4")))


def test_another_scheduler_by_the_sample_command_leaves_the_options_behind(run, tmp_path):
    fast = painted(run, tmp_path / "a")
    assert np.array_equal(fast, painted(run, tmp_path / "b"))
    euler = painted(run, tmp_path / "c", "sampler.scheduler=EulerDiscreteScheduler")
    trailing = painted(
        run, tmp_path / "d", "sampler.scheduler=EulerDiscreteScheduler",
        "sampler.scheduler_options={timestep_spacing: trailing}",
    )  # fmt: skip
    assert not any(np.array_equal(a, b) for a, b in combinations([fast, euler, trailing], 2))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["scheduler_options={spacing: trailing}"],
            ["has spacing,", "UniPCMultistepScheduler does not know", "solver_order"],
        ),
        (["scheduler_options={timestep_spacing: sideways}"], ["cannot use", "sideways"]),
        (["scheduler_options=trailing"], ["must be options like", "'trailing'"]),
        (
            ["scheduler=DDIMScheduler", "scheduler_options={use_karras_sigmas: true}"],
            ["use_karras_sigmas", "DDIMScheduler does not know", "timestep_spacing"],
        ),
    ],
)
def test_options_that_a_scheduler_cannot_use_are_named(run, tmp_path, capsys, words, told):
    words = [f"sampler.{word}" for word in words]
    assert sample_main([f"run={run}", "prompt=a lake", "threads=1", f"out={tmp_path / 'x'}", *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: ")
    for word in told:
        assert word in err


def test_options_are_checked_before_a_motion_is_tuned(small, tmp_path, capsys):
    words = ["motion=rain", "logger=none", "sampler.scheduler_options={spacing: trailing}", *small]
    assert train_main([*words, "hydra.run.dir=run"]) == 1
    assert (
        "sampler.scheduler_options has spacing, which DDIMScheduler does not know" in capsys.readouterr().err
    )
    assert not list(tmp_path.rglob("*.safetensors"))


def test_options_of_another_scheduler_do_not_stay():
    sampler = Sampler().changed(
        {"scheduler": "UniPCMultistepScheduler", "scheduler_options": {"solver_order": 3}}
    )
    assert sampler.changed({"num_inference_steps": 9}).scheduler_options == {"solver_order": 3}
    assert sampler.changed({"scheduler": "DDIMScheduler"}).scheduler_options == {}
    assert sampler.changed({"scheduler_options": {}}).scheduler_options == {}
    with pytest.raises(UserError, match="scheduler_options must be options"):
        sampler.changed({"scheduler_options": 7})
