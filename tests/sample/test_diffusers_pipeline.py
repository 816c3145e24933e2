"""What users of diffusers' pipelines type, and what its own tests ask of every pipeline."""

from __future__ import annotations

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from diffusers.schedulers import KarrasDiffusionSchedulers
from test_pipeline import make

from lamp_lightning import LAMPPipeline, MotionUNet, UserError
from lamp_lightning.models import image_unet

FEW = {"num_frames": 3, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline(random_base):
    return make(random_base)


@pytest.fixture(scope="module")
def sdxl(random_model):
    return make(random_model("sdxl"))


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def stable_diffusion(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# -- a call --------------------------------------------------------------------------------------------------


def test_a_call_names_the_arguments_of_diffusers_pipelines():
    takes = inspect.signature(LAMPPipeline.__call__).parameters
    theirs = inspect.signature(diffusers.AnimateDiffPipeline.__call__).parameters
    ip_adapter = {"ip_adapter_image", "ip_adapter_image_embeds"}
    assert theirs.keys() - {"kwargs"} - ip_adapter <= takes.keys()
    optional = {name for name, each in takes.items() if each.default is not inspect.Parameter.empty}
    assert {"num_inference_steps", "generator", "latents", "output_type", "return_dict"} <= optional


def test_image_and_latents_are_other_names(pipeline, photo):
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    one = pipeline("a bird", photo, noise=noise, **FEW).frames
    assert torch.equal(pipeline("a bird", image=photo, latents=noise, **FEW).frames, one)


def test_several_videos_of_a_prompt_are_those_of_a_longer_list(pipeline, photo):
    prompts = ["a bird", "a lake"]
    listed = pipeline([prompt for prompt in prompts for _ in range(2)], photo, seed=3, **FEW).frames
    assert len(listed) == 4
    counted = pipeline(prompts, photo, seed=3, num_videos_per_prompt=2, **FEW).frames
    torch.testing.assert_close(counted, listed, atol=1e-5, rtol=0)
    other = [photo, photo[::-1].copy()]  # one for each prompt
    frames = pipeline(prompts, other, seed=3, num_videos_per_prompt=2, **FEW).frames[:, :, 0]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[1], frames[2])


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_embeddings_take_the_place_of_prompts(kind, pipeline, sdxl, photo):
    pipe = pipeline if kind == "sd1" else sdxl
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if kind == "sdxl" else []
    encoder = {name: part for name, part in pipe.components.items() if "text" in name or "token" in name}
    others = dict.fromkeys(("vae", "unet", "scheduler"))
    found = LAMPPipeline(**encoder, **others).encode_prompt(["a bird"], negative_prompt="rain")
    assert len(found) == len(names)
    without = LAMPPipeline(**(pipe.components | dict.fromkeys(encoder)))
    without.set_progress_bar_config(disable=True)
    wanted = pipe("a bird", photo, negative_prompt="rain", seed=0, **FEW).frames
    video = without(image=photo, seed=0, **dict(zip(names, found, strict=True)), **FEW).frames
    torch.testing.assert_close(video, wanted, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="no text encoder"):
        without("a bird", photo, **FEW)


def test_prompts_are_encoded_as_stable_diffusion_encodes_them(pipeline, random_base):
    theirs = stable_diffusion(random_base)
    wanted = theirs.encode_prompt("a bird", "cpu", 2, True, "rain")
    found = pipeline.encode_prompt("a bird", "cpu", 2, True, "rain")
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    (plain, _), (first, _) = (pipeline.encode_prompt("a bird", clip_skip=skip) for skip in (0, 1))
    torch.testing.assert_close(plain, pipeline.base.encode_prompts(["a bird"]).text)
    assert not torch.equal(first, plain)
    prompt_embeds, negative = pipeline.encode_prompt("a bird", do_classifier_free_guidance=False)
    assert (len(prompt_embeds), negative) == (1, None)


def test_clip_skip_and_chunks_of_decoding_reach_what_they_are_for(pipeline, photo):
    plain = pipeline("a bird", photo, seed=0, **FEW).frames
    assert not torch.equal(pipeline("a bird", photo, seed=0, clip_skip=1, **FEW).frames, plain)
    assert pipeline.clip_skip == 1
    sizes = []
    hook = pipeline.vae.decoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    pipeline("a bird", photo, seed=0, decode_chunk_size=2, **(FEW | {"output_type": "np"}))
    hook.remove()
    assert sizes == [2, 1]


def test_timesteps_and_eta_are_the_schedulers(pipeline, photo):
    plain = pipeline("a bird", photo, seed=0, **FEW).frames
    assert not torch.equal(pipeline("a bird", photo, seed=0, eta=1.0, **FEW).frames, plain)
    with pytest.raises(UserError, match="DDIMScheduler takes no timesteps"):
        pipeline("a bird", photo, timesteps=[900, 500, 1], **FEW)
    before = pipeline.scheduler
    try:
        pipeline.scheduler = EulerDiscreteScheduler.from_config(before.config)
        steps = []
        pipeline(
            "a bird", photo, seed=0, timesteps=[900, 500, 1],
            callback_on_step_end=lambda pipe, step, timestep, tensors: steps.append(int(timestep)), **FEW,
        )  # fmt: skip
        assert (steps, pipeline.num_timesteps) == ([900, 500, 1], 3)
    finally:
        pipeline.scheduler = before


def test_no_guidance_is_1_and_diffusers_0(pipeline, photo):
    one, zero = (
        pipeline("a bird", photo, seed=0, **(FEW | {"guidance_scale": scale})).frames for scale in (1, 0)
    )
    assert torch.equal(one, zero)


def test_all_of_diffusers_schedulers_for_stable_diffusion_work(pipeline, photo):
    before = pipeline.scheduler
    try:
        for each in KarrasDiffusionSchedulers:
            kind = getattr(diffusers, each.name)
            if getattr(kind, "_backends", ["torch"]) != ["torch"]:
                continue  # it needs scipy
            pipeline.scheduler = kind.from_config(before.config)
            steps = 5 if "KDPM2" in each.name else 2
            video = pipeline("a bird", photo, seed=0, **(FEW | {"num_inference_steps": steps})).frames
            assert video.shape == (1, 4, 3, 8, 8), each.name
    finally:
        pipeline.scheduler = before


# -- callbacks -----------------------------------------------------------------------------------------------


def test_a_callback_that_ends_the_guidance_ends_it(pipeline, photo):
    def video(prompts, **options):
        return pipeline(prompts, photo, seed=0, adain=False, shared_noise=0.2, **(FEW | options)).frames

    unguided = video("a bird", guidance_scale=1.0)
    seen = []

    def rows(pipe, step, timestep, tensors):
        seen.append((len(tensors["prompt_embeds"]), pipe.guidance_scale))
        return tensors

    rows.tensor_inputs = ["prompt_embeds"]  # type: ignore[attr-defined]
    ends = MultiPipelineCallbacks([SDCFGCutoffCallback(cutoff_step_ratio=0.0), rows])
    ended = video("a bird", callback_on_step_end=ends, num_inference_steps=3)
    assert seen == [(1, 0.0)] * 3
    assert ended.shape == unguided.shape
    latents = {}  # the second step is that of a call without guidance, from the same latents

    def keep(pipe, step, timestep, tensors):
        latents[step] = tensors["latents"]
        return SDCFGCutoffCallback(None, cutoff_step_index=0)(pipe, step, timestep, tensors)

    two = ["a bird", "a lake"]
    guided = video(
        two, callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]
    )
    with torch.no_grad():
        timestep = pipeline.scheduler.timesteps[1]
        text = pipeline.base.encode_prompts(two).text
        noise = pipeline.unet(latents[0], timestep, text)[:, :, 1:]
        wanted = pipeline.scheduler.step(noise, timestep, latents[0][:, :, 1:]).prev_sample
    torch.testing.assert_close(guided[:, :, 1:], wanted, atol=1e-5, rtol=0)


def test_callbacks_change_guidance_prompts_and_latents(pipeline, photo):
    names = pipeline._callback_tensor_inputs

    def louder(pipe, step, timestep, tensors):
        assert set(tensors) == set(names)
        pipe._guidance_scale += 1.0
        return tensors

    options = {"callback_on_step_end": louder, "callback_on_step_end_tensor_inputs": names, "seed": 0, **FEW}
    louder_video = pipeline("a bird", photo, **options).frames
    assert pipeline.guidance_scale == 3.0 + pipeline.num_timesteps
    plain = pipeline("a bird", photo, seed=0, **FEW).frames
    assert not torch.equal(louder_video, plain)

    def other(pipe, step, timestep, tensors):
        return {name: torch.zeros_like(tensors[name]) for name in ("prompt_embeds",)}

    assert not torch.equal(
        pipeline("a bird", photo, **(options | {"callback_on_step_end": other})).frames, plain
    )
    with pytest.raises(UserError, match="without guidance"):
        pipeline("a bird", photo, **(options | {"guidance_scale": 1.0}))


def test_an_interrupted_call_decodes_what_there_is(pipeline, photo):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(step)
        pipe._interrupt = True
        return {"latents": tensors["latents"] * 0 + 7}

    steps = FEW | {"num_inference_steps": 4, "num_frames": 5, "window": 4, "overlap": 1}
    video = pipeline("a bird", photo, seed=0, callback_on_step_end=stop, **steps).frames
    assert (seen, pipeline.interrupt, pipeline.num_timesteps) == ([0], True, 8)
    assert (video[:, :, 1:4] == 7).all()
    pipeline("a bird", photo, seed=0, **FEW)
    assert not pipeline.interrupt


def test_windows_of_a_long_video_call_back_with_their_own_timesteps(pipeline, photo):
    seen = []
    steps = FEW | {"num_frames": 5, "window": 4, "overlap": 1}
    pipeline(
        "a bird",
        photo,
        callback_on_step_end=lambda pipe, step, t, tensors: seen.append((step, int(t))),
        **steps,
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t in seen[:2]] == [t for _, t in seen[2:]]


# -- components ----------------------------------------------------------------------------------------------


def test_pipelines_of_diffusers_share_their_components_both_ways(random_base, photo):
    theirs = stable_diffusion(random_base)
    settings = {"num_inference_steps": 2, "output_type": "latent"}

    def image(pipe):
        return pipe("a bird", generator=torch.Generator().manual_seed(0), **settings).images

    wanted = image(theirs)
    ours = LAMPPipeline.from_pipe(theirs)
    ours.set_progress_bar_config(disable=True)
    assert type(theirs.unet).__name__ == "UNet2DConditionModel"
    assert ours.unet.conv_out.conv2d.weight is theirs.unet.conv_out.weight
    with torch.no_grad():
        for parameter in ours.unet.tuned_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.equal(image(theirs), wanted)
    video = ours("a bird", photo, seed=0, **FEW).frames
    again = LAMPPipeline(**ours.components)
    again.set_progress_bar_config(disable=True)
    assert again.unet is ours.unet
    assert torch.equal(again("a bird", photo, seed=0, **FEW).frames, video)
    back = StableDiffusionPipeline.from_pipe(ours, unet=image_unet(ours.unet))
    back.set_progress_bar_config(disable=True)
    assert torch.equal(image(back), wanted)
    public = [{k: v for k, v in pipe.config.items() if k[0] != "_"} for pipe in (theirs, back)]
    assert public[0] == public[1]
    of_parts = LAMPPipeline(**theirs.components)
    assert isinstance(of_parts.unet, MotionUNet)
    theirs.unet.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="other layers than its configuration"):
        LAMPPipeline.from_pipe(theirs)


def test_a_base_model_is_loaded_with_diffusers_options(random_base):
    scheduler = EulerDiscreteScheduler()
    options = {
        "scheduler": scheduler,
        "safety_checker": None,
        "local_files_only": True,
        "use_safetensors": True,
    }
    loaded = LAMPPipeline.from_pretrained(random_base, dtype=torch.bfloat16, **options)
    assert loaded.scheduler is scheduler
    assert loaded.unet.dtype == torch.bfloat16
    of_parts = {"text_encoder": torch.bfloat16, "default": torch.float16}
    loaded = LAMPPipeline.from_pretrained(random_base, dtype=of_parts)
    assert (loaded.text_encoder.dtype, loaded.unet.dtype) == (torch.bfloat16, torch.float16)
    with pytest.raises(UserError, match="dtype and torch_dtype are the same"):
        LAMPPipeline.from_pretrained(random_base, dtype=torch.float16, torch_dtype=torch.float16)
    with pytest.raises(UserError, match=r"\['colour'\] cannot be given for the base model"):
        LAMPPipeline.from_pretrained(random_base, colour="red")
    with pytest.raises(UserError, match="cannot be fetched from the hub"):
        LAMPPipeline.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_saved_pipeline_is_loaded_by_diffusers_too(pipeline, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusers.utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipeline.save_pretrained(tmp_path / "saved", variant="fp16", max_shard_size="100KB")
    files = {file.name for file in (tmp_path / "saved" / "unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in files
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "LAMPPipeline"]
    wanted = pipeline("a bird", photo, seed=0, **FEW).frames
    for load, options in (
        (LAMPPipeline.from_pretrained, {}),
        (DiffusionPipeline.from_pretrained, {"trust_remote_code": True}),
    ):
        loaded = load(tmp_path / "saved", variant="fp16", **options)
        loaded.set_progress_bar_config(disable=True)
        assert isinstance(loaded, LAMPPipeline)
        assert torch.equal(loaded("a bird", photo, seed=0, **FEW).frames, wanted)
    dtypes = {"vae": torch.bfloat16, "default": torch.float16}
    loaded = LAMPPipeline.from_pretrained(tmp_path / "saved", variant="fp16", dtype=dtypes)
    assert (loaded.vae.dtype, loaded.unet.dtype) == (torch.bfloat16, torch.float16)
    pipeline.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="variant=fp16"):
        LAMPPipeline.from_pretrained(tmp_path / "plain", variant="fp16")
    # The code of a folder is not run unless diffusers is told to.
    (tmp_path / "plain" / "pipeline.py").write_text("raise SystemExit")
    LAMPPipeline.from_pretrained(tmp_path / "plain")


# -- autoencoders and first frames ---------------------------------------------------------------------------


def test_other_autoencoders_take_a_first_frame(pipeline, photo):
    channels = {"block_out_channels": (8, 8, 8)}
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3,
    )  # fmt: skip
    asymmetric = AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, down_block_out_channels=(8,) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, up_block_out_channels=(8,) * 3, norm_num_groups=4,
        scaling_factor=0.2,
    )  # fmt: skip
    asymmetric.register_to_config(**channels)
    for vae in (tiny, asymmetric):
        pipe = LAMPPipeline(**(pipeline.components | {"vae": vae}))
        pipe.set_progress_bar_config(disable=True)
        video = pipe("a bird", photo, seed=0, **(FEW | {"output_type": "np"})).frames
        assert video.shape == (1, 3, 32, 32, 3)
        assert np.isfinite(video).all()


def test_latents_are_first_frames(pipeline, photo):
    video = pipeline("a bird", photo, seed=0, **FEW).frames
    for given in (video, video[:, :, 0], video[0, :, 0], video[:, :, 0].numpy()):
        assert torch.equal(pipeline("a bird", image=given, seed=0, **FEW).frames, video)
    both = pipeline(["a bird", "a lake"], image=video, seed=0, **FEW).frames
    assert torch.equal(both[:, :, 0], video[:, :, 0].expand(2, -1, -1, -1))
    with pytest.raises(UserError, match="give height=32, width=32"):
        pipeline("a bird", image=video, height=16, **FEW)


def test_weights_in_float8_take_a_first_frame(random_base, photo):
    pipe = make(random_base).to(torch.bfloat16)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    video = pipe("a bird", photo, seed=0, **(FEW | {"output_type": "np"})).frames
    assert np.isfinite(video).all()


def test_freeu_changes_the_picture_and_can_be_switched_off(pipeline, photo):
    plain = pipeline("a bird", photo, seed=0, **FEW).frames
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    try:
        assert not torch.equal(pipeline("a bird", photo, seed=0, **FEW).frames, plain)
    finally:
        pipeline.disable_freeu()
    assert torch.equal(pipeline("a bird", photo, seed=0, **FEW).frames, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((32, 32, 3)), "first_frame": "a.png"}, "first_frame and image are the same"),
        ({"latents": torch.zeros(1), "noise": torch.zeros(1)}, "noise and latents are the same"),
        ({"latents": torch.zeros(2, 4, 3, 8, 8)}, "latents must be"),
        ({"prompt_embeds": torch.zeros(1, 16, 16)}, "prompt or prompt_embeds"),
        ({"prompt": None}, "prompt or prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(16, 16)}, "prompt_embeds must be"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 16, 16)}, "not both"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt"),
        ({"clip_skip": 9}, "clip_skip must be a whole number from 0 to 1"),
        ({"eta": 2.0}, "eta must be a number from 0 to 1"),
        ({"callback_on_step_end_tensor_inputs": ["mask"]}, "mask"),
    ],
)
def test_arguments_of_diffusers_that_cannot_work_are_explained(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**({"prompt": "a bird"} | FEW | arguments))
    assert isinstance(pipeline.base.scheduler, DDIMScheduler)
