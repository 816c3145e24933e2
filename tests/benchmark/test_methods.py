"""The rivals' own parts, against diffusers where it ships them, and all methods behind one face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, MotionAdapter, TextToVideoZeroPipeline, UNetMotionModel
from diffusers.pipelines.deprecated.text_to_video_synthesis import pipeline_text_to_video_zero as zero

from lamp_lightning import LAMPPipeline, MotionUNet, UserError
from lamp_lightning.benchmark.methods import training_free
from lamp_lightning.diffusion import KnownFrames, with_guidance
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.diffusion.warp import denoise_warped, levels, translated
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import Variant, inflated
from lamp_lightning.models.unet.animatediff import AnimateDiffUNet
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import composed, conf_dir, options
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.train.run import variant_from
from method_models import image_unet, images_of, motion_unet, output, text, video
from random_models import KINDS, random_unet

ABLATIONS = sorted(path.stem for path in (conf_dir() / "experiment" / "ablation").glob("*.yaml"))


# -- configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_composes_and_differs_from_lamp_in_what_it_says(name):
    full, cfg = (composed("train", [f"experiment=ablation/{each}"]) for each in ("full", name))
    check_settings(Train, cfg)
    changed = {
        f"{group}.{key}"
        for group in ("model", "data", "tuner", "sampler", "motion")
        for key in cfg[group]
        if cfg[group][key] != full[group][key]
    }
    same_as_full = {"full", "noise_02", "per_frame_norm"}
    assert bool(changed) is (name not in same_as_full)
    assert len(changed - {"data.folder", "motion.folder"}) <= 1
    if changed & {"model.layers", "tuner.first_frame", "tuner.tuned"}:
        assert variant_from(cfg) != Variant()


def test_every_method_composes_with_every_kind_of_model():
    assert {"lamp", "frozen", "tune_a_video"} <= set(options("method"))
    for name in options("method"):
        for model in ("tiny", "sdxl"):
            cfg = composed("train", [f"method={name}", f"model={model}"])
            check_settings(Train, cfg)
            assert cfg.method.name == ("lamp" if name == "default" else name)
            assert bool(variant_from(cfg).sets) is (cfg.trainer.max_steps > 0)


def test_the_authors_recipe_on_any_model_is_theirs_but_for_size_and_length():
    cfg, paper = composed("train", ["method=lamp_paper"]), composed("train", ["experiment=paper"])
    assert cfg.model.norm == paper.model.norm == "joint"
    assert dict(cfg.tuner) == dict(paper.tuner)
    assert (cfg.data.batch_size, cfg.data.flip, cfg.data.use_captions) == (1, True, False)
    for key in ("num_inference_steps", "guidance_scale", "shared_noise", "adain", "histogram_matching"):
        assert cfg.sampler[key] == paper.sampler[key], key
    small = composed("train", ["experiment=paper", "model=tiny"])
    assert variant_from(cfg) == variant_from(paper) == variant_from(small) == Variant()  # with all parts
    ours = composed("train")
    assert cfg.trainer.max_steps == ours.trainer.max_steps * ours.data.batch_size  # as many clips are seen


def test_steps_that_would_tune_nothing_are_refused():
    with pytest.raises(UserError, match=r"trainer\.max_steps=0 to generate with the untuned model"):
        variant_from(composed("train", ["tuner.tuned=[]"]))


# -- Text2Video-Zero -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (40, 64)])
@pytest.mark.parametrize("strength", [12.0, 20.0, 50.0])
def test_latents_move_as_in_diffusers(size, strength):
    latents = video(5, clips=2, size=size)
    found = translated(latents, strength)
    for clip, moved in zip(latents, found, strict=True):
        wanted = zero.create_motion_field_and_warp_latents(
            strength, strength, list(range(1, 6)), clip.transpose(0, 1)
        )
        assert torch.equal(moved.transpose(0, 1), wanted)
        assert not torch.equal(moved, clip)


def test_levels_are_the_papers_in_proportion():
    assert levels(50) == (44, 47)
    for steps in range(3, 60):
        low, high = levels(steps)
        assert low in range(1, high)
        assert high in range(low + 1, steps)
        if steps >= 17:  # enough for all three to differ
            assert (low, high) == (round(44 / 50 * steps), round(47 / 50 * steps))
    with pytest.raises(ValueError, match="at least 3"):
        levels(2)


@pytest.mark.filterwarnings("ignore")
def test_text2video_zero_is_diffusers_pipeline(random_base, monkeypatch):
    noise, steps, guidance = video(4, clips=1), 50, 7.5
    theirs = TextToVideoZeroPipeline.from_pretrained(
        random_base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    monkeypatch.setattr(zero, "randn_tensor", lambda size, **_: noise[0, :, 1:].transpose(0, 1))
    wanted = theirs(
        "a red lake", video_length=4, latents=noise[:, :, 0], num_inference_steps=steps,
        guidance_scale=guidance, output_type="latent", height=32, width=32,
    ).images  # fmt: skip
    base = load_base_model(random_base)
    found = denoise_warped(
        with_guidance(
            MotionUNet.from_unet(base.unet, "per_frame"),
            base.encode_prompts(["", "a red lake"]).text,
            scale=guidance,
        ),
        DDIMScheduler.from_config(base.scheduler.config),
        noise,
        KnownFrames.none(),
        Sampler().changed({"num_inference_steps": steps}),
    )
    torch.testing.assert_close(found[0].transpose(0, 1), wanted, atol=2e-4, rtol=1e-3)


def test_a_given_first_frame_stays_and_the_others_come_from_its_moved_latents(random_base):
    base, seen = load_base_model(random_base), []

    def unet(sample, timestep, words):
        seen.append(sample)
        return torch.zeros_like(sample)

    scheduler, noise, first = base.scheduler, video(4, clips=1), video(1, clips=1, seed=8)
    found = denoise_warped(
        with_guidance(unet, text(1), scale=1.0),
        scheduler,
        noise,
        KnownFrames.first(first, noised=True),
        Sampler().changed({"num_inference_steps": 10, "warp_strength": 64.0}),
    )
    assert torch.equal(found[:, :, :1], first)
    after_t0, after_t1 = levels(10)
    low, high = scheduler.timesteps[-after_t0 - 1], scheduler.timesteps[-after_t1 - 1]
    assert len(seen) == after_t1 + 1  # frame 0 is not denoised by itself
    noisy = scheduler.add_noise(first, noise[:, :, :1], high.reshape(1))
    torch.testing.assert_close(seen[0][:, :, :1], noisy)
    kept = scheduler.alphas[int(low) : int(high)].prod()
    moved = translated(
        scheduler.add_noise(first, noise[:, :, :1], low.reshape(1)).expand(-1, -1, 3, -1, -1), 64.0
    )
    wanted = kept.sqrt() * moved + (1 - kept).sqrt() * noise[:, :, 1:]
    torch.testing.assert_close(seen[0][:, :, 1:], wanted, atol=1e-5, rtol=1e-4)


# -- AnimateDiff ---------------------------------------------------------------------------------------------


def animated(seed=3, tuned=True):
    unet = AnimateDiffUNet.from_unet(image_unet())
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            if tuned:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return unet.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_untuned_motion_modules_leave_the_image_model_of_each_frame(kind):
    unet, sample = AnimateDiffUNet.from_unet(random_unet(kind)).eval(), video(3, clips=1)
    words = torch.randn(1, 16, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.randn(1, 24), "time_ids": torch.ones(1, 6)} if kind == "sdxl" else {}
    each = {name: tensor.expand(3, -1) for name, tensor in added.items()}
    with torch.no_grad():
        found = unet(sample, 9, words, added_cond_kwargs=added or None)
        frames = sample[0].transpose(0, 1)
        wanted = random_unet(kind)(frames, 9, words.expand(3, -1, -1), added_cond_kwargs=each or None).sample
    torch.testing.assert_close(found[0].transpose(0, 1), wanted, atol=2e-6, rtol=0)
    assert {name for name, p in unet.named_parameters() if p.requires_grad} == set(unet.trainable_names())
    assert all("motion_modules" in name for name in unet.trainable_names())


def test_tuned_motion_modules_mix_frames_but_not_in_the_image_model():
    unet = animated()
    moving = output(unet)
    assert not torch.allclose(moving, images_of(video(), text()), atol=1e-3)
    with unet.image_model():
        torch.testing.assert_close(output(unet), images_of(video(), text()), atol=2e-6, rtol=0)
    assert torch.equal(output(unet), moving)


def test_motion_modules_go_through_an_adapter_and_to_diffusers(tmp_path):
    tuned, unet = animated(), animated(seed=4, tuned=False)
    untuned = output(unet)
    tuned.save_motion(tmp_path / "a.safetensors")
    unet.load_motion(tmp_path / "a.safetensors")
    assert torch.equal(output(unet), output(tuned))
    unet.unload_motion()
    assert torch.equal(output(unet), untuned)
    tuned.save_motion_modules(str(tmp_path / "modules"))
    adapter = MotionAdapter.from_pretrained(tmp_path / "modules")
    theirs = UNetMotionModel.from_unet2d(image_unet(), adapter).eval()
    with torch.no_grad():
        wanted = theirs(video(), 9, text().repeat_interleave(5, dim=0)).sample
    assert torch.equal(output(tuned), wanted)


def test_a_saved_pipeline_with_motion_modules_comes_back(random_base, tmp_path):
    base = load_base_model(random_base)
    pipeline = LAMPPipeline.from_base(base, inflated(base.unet, "per_frame", Variant(kind="animatediff")))
    with torch.no_grad():
        for parameter in pipeline.unet.tuned_parameters():
            parameter.add_(0.1)
    pipeline.save_pretrained(tmp_path)
    again = LAMPPipeline.from_pretrained(tmp_path)
    assert isinstance(again.unet, AnimateDiffUNet)
    assert again.unet.variant == pipeline.unet.variant
    assert torch.equal(output(again.unet), output(pipeline.unet))
    with again.unet.image_model():
        torch.testing.assert_close(output(again.unet), images_of(video(), text()), atol=2e-6, rtol=0)


def test_adapters_of_another_kind_are_refused_with_the_way_out(tmp_path):
    animated().save_motion(tmp_path / "modules.safetensors")
    motion_unet().save_motion(tmp_path / "lamp.safetensors")
    for unet, file in ((motion_unet(), "modules"), (animated(), "lamp")):
        before = output(unet)
        with pytest.raises(UserError, match=r"motion layers of the kind .* LAMPPipeline\.from_motion"):
            unet.load_motion(tmp_path / f"{file}.safetensors")
        assert torch.equal(output(unet), before)
    with pytest.raises(UserError, match=r"from_motion"):
        motion_unet().set_variant(Variant(kind="animatediff"))


def test_what_motion_modules_cannot_do_is_said(tmp_path):
    unet = animated()
    with pytest.raises(UserError, match="count to 32, and 33 frames"):
        output(unet, frames=33)
    with pytest.raises(UserError, match="per_frame"):
        inflated(image_unet(), "joint", Variant(kind="animatediff"))
    with pytest.raises(UserError, match="cannot be weighted or mixed"):
        unet.set_motions({tmp_path / "a": 0.5})


def test_a_pipeline_is_made_from_an_adapter_of_any_kind(random_base, tmp_path):
    for kind in ("lamp", "animatediff"):
        base = load_base_model(random_base)
        unet = inflated(base.unet, "per_frame", Variant(kind=kind, first_frame=False))
        with torch.no_grad():
            for parameter in unet.tuned_parameters():
                parameter.add_(0.1)
        file = tmp_path / f"{kind}.safetensors"
        unet.save_motion(file, base_model=str(random_base), sampler={"num_frames": 3})
        pipeline = LAMPPipeline.from_motion(file)
        assert torch.equal(output(pipeline.unet), output(unet))
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline("a lake", num_inference_steps=2, seed=0).frames.shape == (1, 3, 32, 32, 3)
    unet.save_motion(tmp_path / "nameless.safetensors")
    with pytest.raises(UserError, match="base=<model>"):
        LAMPPipeline.from_motion(tmp_path / "nameless.safetensors")


# -- one face ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(random_model):
    return [
        f"model.path={random_model('sd1')}", "data.size=[32,32]", "data.num_frames=4",
        "sampler.num_inference_steps=3", "sampler.paint_steps=2", "trainer.precision=32-true",
    ]  # fmt: skip


def pictures(count=2):
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["frozen", "untuned", "text2video_zero"])
def test_methods_without_training_make_videos_with_and_without_first_frames(words, name):
    method = training_free(name, words, device="cpu")
    given = method.generate(["a lake", "rain"], pictures(), [5, 6])
    assert [v.shape for v in given] == [(4, 32, 32, 3)] * 2
    still = method.pipeline("x", pictures(1)[0], num_frames=1, height=32, width=32, histogram_matching=False)
    assert np.abs(given[0][0] - (still.frames[0][0] * 255)).max() <= 1
    moves = [np.abs(v[1:].astype(int) - v[:1]).max() > 0 for v in given]
    assert moves == [name != "frozen"] * 2
    again = method.generate(["a lake", "rain"], pictures(), [5, 6], at_once=1)
    assert np.abs(np.stack(again).astype(int) - np.stack(given)).max() <= 2
    made = method.generate(["a lake", "rain"])
    assert not np.array_equal(made[0][0], given[0][0])
    assert method.with_sampler(num_frames=2).generate("a lake")[0].shape == (2, 32, 32, 3)


def test_methods_say_what_they_need(words):
    for name, message in (("lamp", "method=lamp, and load_method"), ("lmap", "no method 'lmap'")):
        with pytest.raises(UserError, match=message):
            training_free(name, words)
    method = training_free("text2video_zero", words, device="cpu")
    with pytest.raises(UserError, match="1 first frames do not go with 2 prompts"):
        method.generate(["a", "b"], pictures(1))
    for changes, message in (
        ({"num_inference_steps": 2}, "at least 3 steps"),
        ({"scheduler": "EulerDiscreteScheduler"}, "needs scheduler DDIMScheduler"),
        ({"start": "inversion"}, "none is loaded"),
        ({"start": "dream"}, "sampler.start must be one of noise"),
    ):
        with pytest.raises(UserError, match=message):
            method.with_sampler(**changes).generate("a lake", pictures(1))
