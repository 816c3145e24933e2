"""Painter: first frames from any text-to-image pipeline of diffusers."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lamp_lightning import UserError
from lamp_lightning.data.fit import fit_frame
from lamp_lightning.sample.first_frames import Painter, native_size
from random_models import KINDS, TOKENS, save_random_model, save_single_file, save_tokenizer

FAST = {"seed": 3, "num_inference_steps": 2}
UNET = Path("unet", "diffusion_pytorch_model.safetensors")
VAE = Path("vae", "diffusion_pytorch_model.safetensors")
TEXT = Path("text_encoder", "model.safetensors")


def save_sd3(folder: Path) -> Path:
    """A transformer that matches flows: Stable Diffusion 3 without its T5, 32x32 pixels."""
    torch.manual_seed(0)
    tokenizer = save_tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=16,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        shift_factor=0.1,
    )
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=32,
    )
    diffusers.StableDiffusion3Pipeline(
        vae=vae,
        transformer=transformer,
        text_encoder=CLIPTextModelWithProjection(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("painters")
    made = {kind: save_random_model(root / kind, kind) for kind in KINDS}
    return made | {"sd3": save_sd3(root / "sd3")}


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of an SD pipeline, to be damaged."""
    return Path(shutil.copytree(folders["sd1"], tmp_path / "model"))


def pixels(image):
    return np.asarray(image)


def diffusers_own(folder, height, width, prompt="a bird", seed=3, **settings):
    """What diffusers' pipeline paints, uint8."""
    without = ("text_encoder_3", "tokenizer_3") if "sd3" in folder.name else ()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(without))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pixels(pipeline(prompt, height=height, width=width, generator=generator, **settings).images[0])


def change_index(folder, **entries):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


# What is painted


@pytest.mark.parametrize("kind", [*KINDS, "sd3"])
def test_paints_what_diffusers_own_pipeline_paints(folders, kind):
    painter = Painter(folders[kind])
    for height, width in ((32, 32), (16, 64)):  # both of the area that these models are made for
        image = painter.paint("a bird", (height, width), **FAST)
        assert isinstance(image, Image.Image)
        wanted = diffusers_own(folders[kind], height, width, num_inference_steps=2)
        assert np.array_equal(pixels(image), wanted)


def test_other_sizes_are_painted_at_the_models_own_area_and_scaled(folders):
    image = Painter(folders["sdxl"]).paint("a bird", (64, 120), **FAST)
    assert image.size == (120, 64)
    painted = diffusers_own(folders["sdxl"], 24, 40, num_inference_steps=2)
    assert np.array_equal(pixels(image), fit_frame(painted, (64, 120)))


def pipeline_of(backbone="unet", factor=8, parts=("vae",), height=None, width=None, **facts):
    """Just what `native_size` reads of a pipeline."""

    class Pipeline:
        components = dict.fromkeys((*parts, backbone))

        def __call__(self, prompt, height=height, width=width):
            raise AssertionError("sizes are known before painting")

    pipeline = Pipeline()
    setattr(pipeline, backbone, SimpleNamespace(config=facts.pop("config", {})))
    if factor:
        pipeline.vae_scale_factor = factor
    for name, value in facts.items():
        setattr(pipeline, name, value)
    return pipeline


@pytest.mark.parametrize(
    ("pipeline", "wanted", "square"),
    [
        # Stable Diffusion 1: 512x512 and four levels, so multiples of 64
        (pipeline_of(config={"sample_size": 64, "down_block_types": [""] * 4}), (384, 640), 512),
        # SDXL: 1024x1024, three levels
        (pipeline_of(config={"sample_size": 128, "down_block_types": [""] * 3}), (800, 1280), 1024),
        # a UNet of a size that is not square
        (pipeline_of(config={"sample_size": [40, 64], "down_block_types": [""] * 4}), (320, 512), 384),
        # Flux: the size is the pipeline's, which makes patches of two
        (pipeline_of("transformer", config={"patch_size": 1}, default_sample_size=128), (816, 1296), 1024),
        # PixArt: 1024x1024
        (pipeline_of("transformer", config={"sample_size": 128, "patch_size": 2}), (816, 1296), 1024),
        # Kandinsky: an autoencoder of its own, the size is in the signature
        (pipeline_of(factor=None, parts=("movq",), height=512, width=512), (384, 640), 512),
        # DeepFloyd IF paints pixels, 64x64
        (
            pipeline_of(factor=None, parts=(), config={"sample_size": 64, "down_block_types": [""] * 4}),
            (48, 80),
            64,
        ),
        # nothing known: the video's own size
        (pipeline_of("decoder", factor=None), (320, 512), 512),
    ],
)
def test_native_size(pipeline, wanted, square):
    assert native_size(pipeline, (320, 512)) == wanted
    assert native_size(pipeline, (512, 512)) == (square, square)


def test_settings_reach_the_pipeline_and_none_leaves_its_defaults(folders):
    painter = Painter(folders["sdxl"])
    seen = []
    for settings in (
        {"num_inference_steps": 3},
        {"num_inference_steps": 2, "guidance_scale": 2.0},
        {"num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": "a red lake"},
    ):
        image = pixels(painter.paint("a bird", (32, 32), seed=5, **settings))
        assert np.array_equal(image, diffusers_own(folders["sdxl"], 32, 32, seed=5, **settings))
        seen.append(image.tobytes())
    assert len(set(seen)) == 3


def test_default_steps_are_the_pipelines(folders):
    wanted = diffusers_own(folders["sd1"], 32, 32)
    assert np.array_equal(pixels(Painter(folders["sd1"]).paint("a bird", (32, 32), seed=3)), wanted)


def test_precision_and_random_state_are_the_painters_own(folders):
    wanted = pixels(Painter(folders["sd1"]).paint("a bird", (32, 32), **FAST))
    painter = Painter(folders["sd1"])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(pixels(painter.paint("a bird", (32, 32), **FAST)), wanted)
    assert torch.equal(torch.get_rng_state(), before)


def test_dtype(folders):
    full = pixels(Painter(folders["sdxl"]).paint("a bird", (32, 32), **FAST)).astype(int)
    half = pixels(Painter(folders["sdxl"], dtype="bfloat16").paint("a bird", (32, 32), **FAST)).astype(int)
    assert 0 < np.abs(half - full).mean() < 16
    with pytest.raises(UserError, match="dtype=int8 is unknown"):
        Painter(folders["sdxl"], dtype="int8")


def test_the_packaged_model_paints():
    image = Painter("tiny").paint("a red bird", (16, 16), seed=0, num_inference_steps=1, guidance_scale=1.0)
    assert image.size == (16, 16)


# Remembering and freeing


def test_the_same_request_is_painted_once(folder):
    with Painter(folder) as painter:
        first = painter.paint("a bird", (32, 32), **FAST)
        others = [
            painter.paint("a lake", (32, 32), **FAST),
            painter.paint("a bird", (32, 48), **FAST),
            painter.paint("a bird", (32, 32), **(FAST | {"seed": 4})),
            painter.paint("a bird", (32, 32), guidance_scale=2.0, **FAST),
            painter.paint("a bird", (32, 32), negative_prompt="rain", **FAST),
        ]
        assert all(other.tobytes() != first.tobytes() for other in others)
    (folder / "model_index.json").unlink()  # the model is freed, and cannot be loaded again
    again = painter.paint("a bird", (32, 32), **FAST)
    assert np.array_equal(pixels(again), pixels(first))
    again.paste(0, (0, 0, 32, 32))  # what is done to an image is not remembered
    assert np.array_equal(pixels(painter.paint("a bird", (32, 32), **FAST)), pixels(first))
    with pytest.raises(UserError, match="holds no model_index"):
        painter.paint("a bird", (32, 32), seed=99)


def test_a_closed_painter_paints_on(folders):
    painter = Painter(folders["sd1"])
    painter.paint("a bird", (32, 32), **FAST)
    painter.close()
    wanted = Painter(folders["sd1"]).paint("a lake", (32, 32), **FAST)
    assert painter.paint("a lake", (32, 32), **FAST).tobytes() == wanted.tobytes()


# What loads


@pytest.mark.parametrize(("kind", "suffix"), [(k, ".safetensors") for k in KINDS] + [("sd1", ".ckpt")])
def test_single_files(folders, tmp_path, kind, suffix):
    file = save_single_file(folders[kind], tmp_path / f"model{suffix}", kind, extras=True)
    image = Painter(file, config=folders[kind]).paint("a bird", (32, 32), **FAST)
    assert image.tobytes() == Painter(folders[kind]).paint("a bird", (32, 32), **FAST).tobytes()


def test_a_folder_that_has_the_fp16_variant_only(folder, tmp_path):
    wanted = Painter(folder, dtype="bfloat16").paint("a bird", (32, 32), **FAST)
    for file in list(folder.rglob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    for variant in (None, "fp16"):
        image = Painter(folder, dtype="bfloat16", variant=variant).paint("a bird", (32, 32), **FAST)
        assert image.tobytes() == wanted.tobytes()


def test_a_safety_checker_is_left_out_without_a_word(folders, folder, capfd, caplog):
    change_index(
        folder,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        requires_safety_checker=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = Painter(folder).paint("a bird", (32, 32), **FAST)
    assert image.tobytes() == Painter(folders["sd1"]).paint("a bird", (32, 32), **FAST).tobytes()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_pipeline_for_images_is_used_for_text(folders, folder):
    change_index(folder, _class_name="StableDiffusionImg2ImgPipeline")
    image = Painter(folder).paint("a bird", (32, 32), **FAST)
    assert image.tobytes() == Painter(folders["sd1"]).paint("a bird", (32, 32), **FAST).tobytes()


def test_what_a_pipeline_does_not_take(tmp_path):
    folder = save_random_model(tmp_path / "lcm", time_cond_proj_dim=8)
    change_index(
        folder, _class_name="LatentConsistencyModelPipeline", scheduler=["diffusers", "LCMScheduler"]
    )
    painter = Painter(folder)
    plain = painter.paint("a bird", (32, 32), **FAST)
    with pytest.warns(UserWarning, match="takes no negative prompt"):
        image = painter.paint("a bird", (32, 32), negative_prompt="rain", **FAST)
    assert image.tobytes() == plain.tobytes()


def test_a_setting_that_a_pipeline_does_not_take(folders, monkeypatch):
    def paints(self, prompt, generator=None, output_type="pil"):
        return SimpleNamespace(images=np.zeros((1, 32, 32, 3)))

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", paints)
    assert Painter(folders["sd1"]).paint("a bird", (16, 16), seed=0).size == (16, 16)
    with pytest.raises(UserError, match="takes no guidance_scale"):
        Painter(folders["sd1"]).paint("a bird", (16, 16), seed=0, guidance_scale=2.0)


# From the hub


def test_a_hub_id_is_downloaded(folders, monkeypatch):
    asked = []

    def download(cls, name, variant=None):
        asked.append((cls.__name__, name, variant))
        return folders["sd1"]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: folders["sd1"] / file)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
    image = Painter("someone/some-model", variant="fp16").paint("a bird", (32, 32), **FAST)
    assert image.tobytes() == Painter(folders["sd1"]).paint("a bird", (32, 32), **FAST).tobytes()
    assert asked == [("StableDiffusionPipeline", "someone/some-model", "fp16")]


def test_a_hub_that_cannot_be_reached(folders, tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(UserError, match="someone/some-model cannot be fetched from the hub: no network"):
        Painter("someone/some-model").paint("a bird", (32, 32), **FAST)
    file = save_single_file(folders["sd1"], tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="tokenizers are not in the file") as error:
        Painter(file).paint("a bird", (32, 32), **FAST)
    assert str(file) in str(error.value)
    with pytest.raises(UserError, match="other/configs cannot be fetched"):
        Painter(file, config="other/configs").paint("a bird", (32, 32), **FAST)


# What is refused


def without_tensor(folder, file):
    tensors = load_file(folder / file)
    tensors.popitem()
    save_file(tensors, folder / file, metadata={"format": "pt"})


class Dangerous:
    """A pickle of it makes a folder when it is loaded by the rules of pickle."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def as_pickle(folder, file, name):
    (folder / file).unlink()
    torch.save({"weight": Dangerous(folder / "hacked")}, folder / file.parent / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "model_index.json").write_text("[1]"), "is not the index of a diffusers pipeline"),
        (lambda f: change_index(f, _class_name="DDPMPipeline"), "generates no images from text"),
        (lambda f: change_index(f, _class_name="AnimateDiffPipeline"), "generates no images from text"),
        (lambda f: change_index(f, _class_name="AudioLDMPipeline"), "generates no images from text"),
        (lambda f: change_index(f, _class_name="StableDiffusionUpscalePipeline"), "generates no images"),
        (lambda f: change_index(f, _class_name="LAMPPipeline"), "no pipeline of the installed diffusers"),
        (lambda f: change_index(f, _class_name=["my", "Code"]), "no pipeline of the installed diffusers"),
        (lambda f: change_index(f, unet=["my_code", "Net"]), "code that comes with a model is never run"),
        (lambda f: shutil.rmtree(f / "vae"), "lacks the folder vae"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "lacks the folder tokenizer"),
        (lambda f: [f.unlink() for f in (f / "tokenizer").iterdir() if "config" not in f.name], "no vocab"),
        (lambda f: shutil.rmtree(f / "scheduler"), "lacks the folder scheduler"),
        (lambda f: (f / UNET).unlink(), "unet cannot be loaded"),
        (lambda f: os.truncate(f / VAE, 900), "vae cannot be loaded"),
        (lambda f: os.truncate(f / TEXT, 900), "text_encoder cannot be loaded"),
        (lambda f: without_tensor(f, UNET), "unet lacks tensors"),
        (lambda f: without_tensor(f, VAE), "vae lacks tensors"),
        (lambda f: without_tensor(f, TEXT), "text_encoder lacks tensors"),
        (lambda f: as_pickle(f, UNET, "diffusion_pytorch_model.bin"), "unet.* not a plain file of tensors"),
        (lambda f: as_pickle(f, TEXT, "pytorch_model.bin"), "text_encoder.* not a plain file of tensors"),
    ],
)
def test_damaged_folders_and_other_pipelines_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        Painter(folder).paint("a bird", (32, 32), **FAST)
    assert str(folder) in str(error.value)
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    "lost",
    ["model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.bias", "final_layer_norm.bias"],
)
def test_single_files_that_lack_tensors(folders, tmp_path, lost):
    file = save_single_file(folders["sd1"], tmp_path / "model.safetensors")
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(lost)}
    assert len(kept) == len(tensors) - 1
    save_file(kept, file)
    with pytest.raises(UserError, match=r"lacks (the )?tensor") as error:
        Painter(file, config=folders["sd1"]).paint("a bird", (32, 32), **FAST)
    assert str(file) in str(error.value)


def test_single_files_that_are_none(folders, tmp_path):
    pickle = tmp_path / "model.ckpt"
    torch.save({"state_dict": Dangerous(tmp_path / "hacked")}, pickle)
    for config in (folders["sd1"], None):
        with pytest.raises(UserError, match=r"model\.ckpt"):
            Painter(pickle, config=config).paint("a bird", (32, 32), **FAST)
    assert not (tmp_path / "hacked").exists()
    file = save_single_file(folders["sd1"], tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="cannot be loaded with the configuration of"):
        Painter(file, config=folders["sdxl"]).paint("a bird", (32, 32), **FAST)
    pixart = Path(shutil.copytree(folders["sd1"], tmp_path / "pixart"))
    change_index(pixart, _class_name="PixArtAlphaPipeline")
    with pytest.raises(UserError, match="has no single files"):
        Painter(file, config=pixart).paint("a bird", (32, 32), **FAST)
    with pytest.raises(UserError, match="neither a diffusers folder nor a hub id"):
        Painter(file, config="nowhere").paint("a bird", (32, 32), **FAST)
    os.truncate(file, 900)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Painter(file, config=folders["sd1"]).paint("a bird", (32, 32), **FAST)


def test_what_cannot_be_a_painter_is_said_at_once(folders, tmp_path):
    (tmp_path / "notes.txt").write_text("a bird")
    for name, message in (
        (tmp_path / "missing", "does not exist"),
        ("./missing/model", "does not exist"),
        ("missing.safetensors", "does not exist"),
        (tmp_path / "notes.txt", "is no model"),
    ):
        with pytest.raises(UserError, match=message):
            Painter(name)
    with pytest.raises(UserError, match="is for single-file checkpoints"):
        Painter(folders["sd1"], config=folders["sd1"])
    with pytest.raises(UserError, match="device=nonsense cannot be used"):
        Painter(folders["sd1"], device="nonsense")


def test_a_model_for_inpainting_is_refused(tmp_path):
    folder = save_random_model(tmp_path / "inpaint", in_channels=9)
    change_index(folder, _class_name="StableDiffusionInpaintPipeline")
    with pytest.raises(
        UserError, match=r"cannot generate an image from a text alone.*not one for inpainting"
    ):
        Painter(folder).paint("a bird", (32, 32), **FAST)


@pytest.mark.parametrize(("dtype", "advice"), [("float32", "fetch the model"), ("bfloat16", "another dtype")])
def test_nan_is_not_painted_black(folder, dtype, advice):
    tensors = load_file(folder / VAE)
    tensors["decoder.conv_out.bias"][0] = float("nan")
    save_file(tensors, folder / VAE, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"generated NaN.*{advice}"):
        Painter(folder, dtype=dtype).paint("a bird", (32, 32), **FAST)


# On an accelerator


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(folders):
    with pytest.raises(UserError, match="device=cuda cannot be used"):
        Painter(folders["sd1"], device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [*KINDS, "sd3"])
def test_on_a_gpu_the_painter_rests_in_memory(folders, kind):
    state = torch.cuda.get_rng_state()
    with Painter(folders[kind], device="cuda") as painter:
        image = pixels(painter.paint("a bird", (32, 32), **FAST)).astype(int)
        models = [part for part in painter._pipeline.components.values() if isinstance(part, torch.nn.Module)]
        assert {weight.device.type for model in models for weight in model.parameters()} == {"cpu"}
    assert torch.equal(torch.cuda.get_rng_state(), state)
    wanted = pixels(Painter(folders[kind]).paint("a bird", (32, 32), **FAST)).astype(int)
    assert np.abs(image - wanted).mean() < 2
