"""LTX-Video as a backbone: what it computes beside diffusers' own pipelines, its LoRA, its clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lamp_lightning import LAMPPipeline, MotionLTX, MotionTuner
from lamp_lightning.convert import main as convert
from lamp_lightning.diffusion import Conditions, first_frame_loss
from lamp_lightning.diffusion.flow import FlowLevels
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models import load_base_model
from lamp_lightning.models.adapter import copy_adapter
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from method_models import image_unet
from random_ltx import CHANNELS, TEXT, gaussian, random_ltx, save_random_ltx, tune_randomly

HOW: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 64}
PLAIN = Sampler().changed({"shared_noise": 0.0, "adain": False, "histogram_matching": False, "fps": 12})


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 64, 3), dtype=np.uint8))


def clips(frames: int = 3, count: int = 2, seed: int = 1) -> Tensor:
    return gaussian(count, CHANNELS, frames, 2, 3, seed=seed)


def words(count: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """Text embeddings, and which of their tokens count."""
    mask = torch.ones(count, 7)
    mask[1:, 4:] = 0
    return gaussian(count, 7, TEXT, seed=2), {"encoder_attention_mask": mask}


def motion(*, tuned: bool = True, rank: int = 2, seed: int = 5, **variant: Any) -> MotionLTX:
    model = MotionLTX.from_unet(random_ltx(), "per_frame", Variant(kind="image_to_video", **variant), rank)
    return tune_randomly(model, seed) if tuned else model


def predicted(model: Any, sample: Tensor | None = None, timestep: Any = 400.0, **how: Any) -> Tensor:
    sample = clips() if sample is None else sample
    with torch.no_grad():
        return model(sample, timestep, *words(len(sample)), **how)


def saved(model: MotionLTX, file: Path) -> Path:
    model.save_motion(file)
    return file


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(random_model) -> Path:
    return random_model("ltx")


# -- beside diffusers ----------------------------------------------------------------------------------------


def test_a_video_from_a_picture_is_that_of_diffusers_to_the_bit(folder):
    theirs: Any = quiet(diffusers.LTXImageToVideoPipeline.from_pretrained(folder))
    ours: Any = quiet(LAMPPipeline.from_pretrained(folder))
    assert isinstance(ours.unet, MotionLTX)
    noise, said = gaussian(1, CHANNELS, 3, 2, 4, seed=7), {"negative_prompt": "rain", "output_type": "latent"}
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].float() / 127.5 - 1
    first = theirs.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
    first = theirs._normalize_latents(first, theirs.vae.latents_mean, theirs.vae.latents_std)
    begun = theirs._pack_latents(torch.cat([first, noise[:, :, 1:]], dim=2))
    wanted = theirs(picture(), "A red bird", latents=begun, num_frames=9, frame_rate=12, **HOW, **said).frames
    found = ours("A red bird", picture(), noise=noise, sampler=PLAIN, **HOW, **said).frames
    assert torch.equal(found, theirs._unpack_latents(wanted, 3, 2, 4))
    assert torch.equal(ours.scheduler.timesteps, theirs.scheduler.timesteps)
    assert ours.scheduler.timesteps[-1] == pytest.approx(100)  # the level that the steps are stretched to


def test_frames_are_decoded_as_diffusers_decodes_them(folder):
    theirs: Any = quiet(diffusers.LTXImageToVideoPipeline.from_pretrained(folder))
    base = load_base_model(folder)
    latents = gaussian(1, CHANNELS, 2, 2, 4, seed=3)
    said = {"num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    begun = theirs._pack_latents(latents)
    kept = {"callback_on_step_end": lambda *_: {"latents": begun}}  # whatever it makes, this is decoded
    wanted = theirs(picture(), "a bird", latents=begun, height=32, width=64, **said, **kept).frames
    found = base.decode_clips(latents).transpose(1, 2) / 2 + 0.5
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.shape == (1, 5, 3, 32, 64)


def test_a_video_from_a_text_is_that_of_diffusers(folder):
    theirs: Any = quiet(diffusers.LTXPipeline.from_pretrained(folder))
    ours: Any = quiet(LAMPPipeline.from_pretrained(folder))
    noise, said = gaussian(1, CHANNELS, 3, 2, 4, seed=7), {"negative_prompt": "rain", "output_type": "latent"}
    begun = theirs._pack_latents(noise)
    wanted = theirs("A red bird", latents=begun, num_frames=9, frame_rate=12, **HOW, **said).frames
    sampler = PLAIN.changed({"paint_guidance_scale": 3.0})
    found = ours("A red bird", noise=noise, sampler=sampler, **HOW, **said).frames
    torch.testing.assert_close(found, theirs._unpack_latents(wanted, 3, 2, 4), atol=1e-5, rtol=1e-5)
    given = ours("A red bird", picture(), noise=noise, sampler=PLAIN, **HOW, **said).frames
    assert not torch.allclose(found, given, atol=1e-2)


def test_a_frame_by_itself_is_a_picture_of_the_model(folder):
    pipe: Any = quiet(LAMPPipeline.from_pretrained(folder))
    (image,) = pipe.paint("a bird", 32, 64, num_inference_steps=2, seed=0)
    assert image.size == (64, 32)
    assert pipe("a bird", num_frames=1, seed=0, paint_steps=2, **HOW).frames.shape == (1, 1, 32, 64, 3)


# -- the first frame -----------------------------------------------------------------------------------------


def test_a_given_frame_is_clean_whatever_noise_it_has():
    model, clean, noise, times = motion(), clips(), clips(seed=2), torch.tensor([300.0, 700.0])
    text, added = words()
    conditions = Conditions.of(text, added)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    other = torch.cat([noise[:, :, :1] + 5, noise[:, :, 1:]], dim=2)
    losses = [
        first_frame_loss(model, scheduler, clean, each, times, conditions)
        for each in (noise, other, noise + 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert all(parameter.grad is not None for parameter in model.tuned_parameters())


def test_noise_on_a_given_frame_changes_no_video(folder):
    pipe: Any = quiet(LAMPPipeline.from_pretrained(folder))
    noise = gaussian(1, CHANNELS, 2, 2, 4, seed=7)
    other = torch.cat([noise[:, :, :1] + 5, noise[:, :, 1:]], dim=2)
    said = {"sampler": PLAIN, "output_type": "latent", **HOW}
    videos = [pipe("a bird", picture(), noise=each, **said).frames for each in (noise, other)]
    assert torch.equal(*videos)


def test_only_a_given_frame_has_timestep_0():
    model, sample = motion(), clips()
    assert model.times_of_frames(400, 2, 3, (0,)).tolist() == [[0, 400, 400]] * 2
    own = torch.tensor([[0.0, 400.0, 400.0]] * 2)
    assert torch.equal(predicted(model, sample), predicted(model, sample, own))
    assert torch.equal(predicted(model, sample), predicted(model, sample, known=(0,)))
    none = predicted(model, sample, known=())
    assert not torch.allclose(none, predicted(model, sample), atol=1e-4)
    assert torch.equal(none, predicted(motion(first_frame=False), sample))
    with pytest.raises(ValueError, match=r"not from \[0, 2\]"):
        predicted(model, sample, known=(0, 2))


def test_it_is_told_how_far_latents_lie_apart():
    model, (text, added) = motion(), words()
    usual = {**added, "latent_spacing": torch.tensor([8 / 25, 32, 32]).expand(2, 3)}
    slow = {**added, "latent_spacing": torch.tensor([8 / 5, 32, 32]).expand(2, 3)}
    with torch.no_grad():
        found = [model(clips(), 400.0, text, each) for each in (added, usual, slow)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-5)


# -- the LoRA ------------------------------------------------------------------------------------------------


def test_untuned_it_is_the_model_of_diffusers():
    sample = clips()
    (text, added), model = words(), random_ltx()
    tokens = sample.flatten(2).transpose(1, 2)
    how = {"num_frames": 3, "height": 2, "width": 3, "rope_interpolation_scale": (8 / 25, 32, 32)}
    with torch.no_grad():
        wanted = model(
            tokens, text, torch.full((2, tokens.shape[1]), 400.0), added["encoder_attention_mask"],
            return_dict=False, **how,
        )[0]  # fmt: skip
    wanted = wanted.transpose(1, 2).unflatten(2, (3, 2, 3))
    assert torch.equal(predicted(motion(tuned=False), sample, known=()), wanted)
    tuned = motion()
    assert not torch.allclose(predicted(tuned, sample, known=()), wanted, atol=1e-4)
    with tuned.image_model():
        assert torch.equal(predicted(tuned, sample, known=()), wanted)


def test_only_factors_are_tuned():
    model = motion(rank=3)
    assert len(model.trainable_names()) == 2 * 2 * 4 * 2  # blocks, attentions, projections, factors
    assert {p.shape[0 if "down" in n else 1] for n, p in model.named_parameters() if p.requires_grad} == {3}
    assert model.rank == 3
    other = motion(tuned=False, rank=3)
    other.set_rank(5)
    assert other.rank == 5
    assert {p.shape[0 if "down" in n else 1] for n, p in other.named_parameters() if p.requires_grad} == {5}
    with pytest.raises(UserError, match="begins at an untuned one"):
        model.set_rank(5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_motion_comes_back_of_whatever_rank(tmp_path, dtype):
    file, tuned = tmp_path / "a.safetensors", motion(rank=3)
    tuned.save_motion(file, dtype=dtype)
    other = motion(rank=2, seed=9)
    before, params = predicted(other), {n: p.clone() for n, p in other.own_parameters().items()}
    other.load_motion(file)
    assert other.rank == 3
    error = (predicted(other) - predicted(tuned)).abs().max()
    assert error == 0 if dtype == torch.float32 else error < 1e-2
    other.unload_motion()
    assert other.rank == 2
    assert torch.equal(predicted(other), before)
    assert all(torch.equal(p, params[n]) for n, p in other.own_parameters().items())


def test_a_motion_of_another_rank_keeps_half_precision(tmp_path):
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    motion(rank=3).save_motion(one)
    motion(rank=2, seed=4).save_motion(two)
    model = motion(tuned=False, rank=5).to(torch.bfloat16)
    before = {n: p.clone() for n, p in model.own_parameters().items()}
    model.load_motion(one)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.set_motions({one: 0.5, two: 0.5})
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.unload_motion()
    assert all(torch.equal(p, before[n]) for n, p in model.own_parameters().items())


def test_motions_of_other_models_are_refused_and_change_nothing(tmp_path):
    file, tuned = tmp_path / "a.safetensors", motion()
    before = predicted(tuned)
    MotionLTX.from_unet(random_ltx(seed=1)).save_motion(file)
    with pytest.raises(UserError, match="tuned on other weights"):
        tuned.load_motion(file)
    inflated(image_unet()).save_motion(file)
    with pytest.raises(UserError, match="has motion layers of the kind 'lamp'"):
        tuned.load_motion(file)
    copy_adapter(saved(motion(rank=3), tmp_path / "three.safetensors"), file, {"rank": "2"})
    with pytest.raises(UserError, match=r"lora.*shape"):
        tuned.load_motion(file)
    with pytest.raises(UserError, match="rank 5000 cannot be made"):
        MotionLTX.from_unet(random_ltx(), rank=5000)
    tuned.save_motion(file)
    with pytest.raises(UserError, match="kind 'image_to_video'"):
        inflated(image_unet()).load_motion(file)
    assert torch.equal(predicted(tuned), before)


def test_motions_are_weighted_and_mixed(tmp_path):
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a, b = motion(rank=2, seed=5), motion(rank=3, seed=6)
    for model, file in zip((a, b), files, strict=True):
        model.save_motion(file)
    mixed, whole = motion(tuned=False), random_ltx()
    mixed.set_motions({files[0]: 0.5, files[1]: -2.0})
    with torch.no_grad():
        for weight, model in ((0.5, a), (-2.0, b)):
            for name, layer in model.named_modules():
                if hasattr(layer, "lora"):
                    change = layer.lora["up"].weight @ layer.lora["down"].weight
                    whole.get_submodule(name).weight.add_(weight * change)
    wanted = predicted(MotionLTX.from_unet(whole))
    torch.testing.assert_close(predicted(mixed), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="several motions are mixed"):
        mixed.save_motion(tmp_path / "c.safetensors")
    mixed.load_motion(files[0])
    assert torch.equal(predicted(mixed), predicted(a))
    mixed.set_motions({files[0]: 0.0})
    assert torch.equal(predicted(mixed), predicted(motion(tuned=False)))
    mixed.unload_motion()
    assert (mixed.rank, mixed.is_mixed) == (2, False)


def test_a_tuner_comes_back_from_its_checkpoint(folder, tmp_path):
    base = load_base_model(folder)
    tuner = MotionTuner(inflated(base.unet, None), base.scheduler, base_model=str(folder), rank=3)
    tune_randomly(tuner.unet)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(tuner)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    again = MotionTuner.load_from_checkpoint(tmp_path / "mine.ckpt")
    assert again.unet.rank == 3
    assert torch.equal(predicted(again.unet), predicted(tuner.unet))
    text, added = words()
    batch = {"latents": clips(), "text": text, "added_cond_kwargs": added, "index": torch.tensor([0, 1])}
    again.sampler = again.sampler.changed({"num_inference_steps": 2})
    made = again.predict_step(batch, 0)
    assert torch.equal(made[:, :, 0], batch["latents"][:, :, 0])
    assert not torch.equal(made[:, :, 1:], batch["latents"][:, :, 1:])


def test_tuned_without_a_first_frame_a_given_one_enters_with_noise(folder):
    base = load_base_model(folder)
    unet = inflated(base.unet, None, Variant(kind="image_to_video", first_frame=False))
    pipe: Any = quiet(LAMPPipeline.from_base(base, unet))
    said = {"num_frames": 5, "seed": 0, "sampler": PLAIN, "output_type": "latent", **HOW}
    given, made = pipe("a bird", picture(), **said).frames, pipe("a bird", **said).frames
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.equal(given[:, :, 0], base.latents_from_pixels(pixels))
    assert not torch.equal(given[:, :, 1], made[:, :, 1])


def test_diffusers_loads_the_motion_and_predicts_the_same(folder, tmp_path):
    ours: Any = quiet(LAMPPipeline.from_pretrained(folder))
    tune_randomly(ours.unet)
    file = tmp_path / "a.safetensors"
    ours.unet.save_motion(file, base_model=str(folder))
    assert convert([f"from={file}", f"out={tmp_path / 'theirs'}"]) == 0
    theirs: Any = quiet(diffusers.LTXImageToVideoPipeline.from_pretrained(folder))
    sample, (text, added) = clips(), words()
    tokens, times = sample.flatten(2).transpose(1, 2), torch.full((2, 18), 400.0)
    how = {"num_frames": 3, "height": 2, "width": 3, "rope_interpolation_scale": (8 / 25, 32, 32)}

    def of_theirs() -> Tensor:
        with torch.no_grad():
            made = theirs.transformer(
                tokens, text, times, added["encoder_attention_mask"], return_dict=False, **how
            )[0]
        return made.transpose(1, 2).unflatten(2, (3, 2, 3))

    untuned = of_theirs()
    theirs.load_lora_weights(tmp_path / "theirs")
    found = predicted(ours.unet, sample, known=())
    torch.testing.assert_close(found, of_theirs(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, untuned, atol=1e-3)
    again = quiet(LAMPPipeline.from_motion(file))
    assert torch.equal(predicted(again.unet, sample, known=()), found)


def test_a_saved_pipeline_is_the_same_again(folder, tmp_path):
    pipe: Any = quiet(LAMPPipeline.from_pretrained(folder))
    pipe.unet.set_rank(3)
    tune_randomly(pipe.unet)
    pipe.save_pretrained(tmp_path)
    again: Any = quiet(LAMPPipeline.from_pretrained(tmp_path))
    said = {"num_frames": 5, "seed": 0, "output_type": "latent", **HOW}
    videos = [each("a bird", picture(), **said).frames for each in (pipe, again)]
    assert torch.equal(*videos)


# -- what is refused -----------------------------------------------------------------------------------------


def test_other_models_and_settings_are_named(folder):
    base = load_base_model(folder)
    with pytest.raises(UserError, match="give model=ltx, or another method"):
        inflated(image_unet(), "per_frame", Variant(kind="image_to_video"))
    with pytest.raises(UserError, match="give method=image_to_video"):
        inflated(base.unet, "per_frame", Variant())
    pipe: Any = quiet(LAMPPipeline.from_base(base))
    for message, said in {
        "num_frames=6 cannot be used: this model has a latent": {"num_frames": 6},
        "Give 5 or 9": {"num_frames": 8},
        "multiples of 16": {"height": 40, "num_frames": 5},
        "take start=noise": {"start": "warp", "num_frames": 5},
        "goes on in no windows: give window=9": {"num_frames": 9, "window": 5, "overlap": 1},
        "goes on from its first frame alone": {"known": {4: picture()}, "num_frames": 5},
        "no loop": {"loop": True, "num_frames": 5},
        "clip_skip is about CLIP's layers": {"clip_skip": 1, "num_frames": 5},
        "is not for LTX-Video": {"cross_attention_kwargs": {"scale": 0.5}, "num_frames": 5},
        "num_inference_steps of at least 2": {"num_inference_steps": 1, "num_frames": 5},
    }.items():
        with pytest.raises(UserError, match=message):
            pipe("a bird", picture(), **{**HOW, **said})
    with pytest.raises(UserError, match="whose motion is one"):
        pipe.unet.load_lora_adapter({})
    with pytest.raises(UserError, match="go with a mask"):
        pipe.encode_prompt("a bird")
    with pytest.raises(UserError, match="cannot become an image-to-video backbone"):
        MotionLTX.from_unet(base.unet)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"num_layers": 10**6}, "num_layers"),
        ("transformer", {"patch_size": 2}, "patch_size"),
        ("transformer", {"in_channels": -1}, "in_channels"),
        ("transformer", {"cross_attention_dim": 16}, "mismatched|other shapes"),
        ("vae", {"latent_channels": 0}, "latent_channels"),
        ("vae", {"scaling_factor": 0.0}, "scaling_factor"),
        ("vae", {"temporal_compression_ratio": 0}, "temporal_compression_ratio"),
        ("vae", {"encoder_causal": False}, "encoder_causal"),
        ("scheduler", {"shift_terminal": 2.0}, "shift_terminal"),
        ("scheduler", {"_class_name": "DDIMScheduler", "shift": None}, "flow matching"),
    ],
)
def test_hostile_configurations_are_refused(tmp_path, part, changes, message):
    save_random_ltx(tmp_path)
    file = tmp_path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        load_base_model(tmp_path)


def test_parts_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(UserError, match="draws noise while it decodes"):
        load_base_model(save_random_ltx(tmp_path / "noisy", vae={"decoder_inject_noise": (True,) * 5}))
    with pytest.raises(UserError, match="its text encoders give 12"):
        load_base_model(save_random_ltx(tmp_path / "text", caption_channels=16))
    with pytest.raises(UserError, match="its autoencoder has 8"):
        load_base_model(save_random_ltx(tmp_path / "channels", in_channels=6, out_channels=6))


def test_a_decoder_that_is_told_the_noise_level_is_told_there_is_none(tmp_path):
    folder = save_random_ltx(tmp_path, vae={"timestep_conditioning": True})
    base = load_base_model(folder)
    theirs: Any = diffusers.AutoencoderKLLTXVideo.from_pretrained(folder / "vae")
    latents = gaussian(1, CHANNELS, 2, 2, 2, seed=3)
    with torch.no_grad():
        wanted = theirs.decode(base.unscale(latents), torch.zeros(1)).sample.clamp(-1, 1)
    assert torch.equal(base.decode_clips(latents), wanted)


def test_all_latents_of_a_clip_count_for_its_noise_levels():
    config = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
    levels = FlowLevels.of(
        {**config, "base_image_seq_len": 1024, "max_image_seq_len": 4096}, 1, of_clips=True
    )
    assert levels.mu((4, 16, 16)) == pytest.approx(0.95)
    assert levels.mu((16, 16, 16)) == pytest.approx(2.05)
    assert levels.terminal == 0.1


def test_a_style_is_fused_into_the_model_below(folder, tmp_path):
    tuned = tune_randomly(inflated(load_base_model(folder).unet, None))
    file = tmp_path / "a.safetensors"
    tuned.save_motion(file)
    assert convert([f"from={file}", f"out={tmp_path}"]) == 0
    styled = load_base_model(folder, lora=tmp_path / "pytorch_lora_weights.safetensors")
    model = inflated(styled.unet, None)
    torch.testing.assert_close(predicted(model), predicted(tuned), atol=1e-5, rtol=1e-5)
    assert all(".lora_" in name for name in load_file(tmp_path / "pytorch_lora_weights.safetensors"))


def test_the_real_model_has_as_many_parameters_as_the_docs_say():
    """diffusers' defaults are those of LTX-Video 2B; its text encoder is T5 XXL's."""
    from transformers import T5Config, T5EncoderModel

    t5 = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 32128}
    with torch.device("meta"):
        video, autoencoder = diffusers.LTXVideoTransformer3DModel(), diffusers.AutoencoderKLLTXVideo()
        text = T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu"))
        parts = [sum(p.numel() for p in part.parameters()) for part in (video, autoencoder, text)]
        tuned = sum(p.numel() for p in MotionLTX.from_unet(video).tuned_parameters())
    assert (tuned, *parts) == (29_360_128, 1_923_385_472, 419_193_649, 4_762_310_656)
