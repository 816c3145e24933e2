"""The shipped tiny models: what they are, and how well they know the toy world (held-out scenes only)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from lamp_lightning.toyworld import render_still, tiny_clip_path, tiny_model_path
from lamp_lightning.toyworld.known import KNOWN_FILE
from lamp_lightning.toyworld.pretraining.autoencoder import psnr, reconstruct
from lamp_lightning.toyworld.pretraining.judge import judged_right
from lamp_lightning.toyworld.pretraining.painter import Painter, paint_latents
from lamp_lightning.toyworld.pretraining.stages import decode, held_out_pictures
from lamp_lightning.toyworld.pretraining.stills import Stills, draw_scenes


@pytest.fixture(scope="module")
def held_out() -> Stills:
    scenes, times = draw_scenes(("held_out",), 240, 3)
    return Stills(
        np.stack([render_still(scene, t=t) for scene, t in zip(scenes, times, strict=True)]), scenes
    )


@pytest.fixture(scope="module")
def clip() -> tuple[CLIPModel, CLIPTokenizer]:
    return CLIPModel.from_pretrained(tiny_clip_path()).float().eval(), CLIPTokenizer.from_pretrained(
        tiny_clip_path()
    )


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model_path(), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_weights_are_half_precision_and_small() -> None:
    folder = tiny_model_path().parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    of_transformer = [path for path in files if path.is_relative_to(folder / "tiny_dit")]
    assert sum(path.stat().st_size for path in of_transformer) <= 20 * 2**20
    assert sum(path.stat().st_size for path in files) <= 44 * 2**20
    weights = [path for path in files if path.suffix == ".safetensors" and path.name != KNOWN_FILE]
    assert len(weights) == 4 + 3
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                assert tensors.get_tensor(name).dtype in (torch.float16, torch.int64), (path, name)


def test_tokenizer_is_clips_and_has_both_file_formats() -> None:
    folder = tiny_model_path() / "tokenizer"
    assert {"vocab.json", "merges.txt"} <= {path.name for path in folder.iterdir()}
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    words = tokenizer.convert_ids_to_tokens(tokenizer("A red horse runs")["input_ids"])
    assert words == ["<|startoftext|>", "a</w>", "red</w>", "horse</w>", "runs</w>", "<|endoftext|>"]


def test_autoencoder_keeps_held_out_stills(held_out: Stills) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_model_path() / "vae").float().eval()
    pixels = held_out.pixels(range(96))
    assert float(psnr(reconstruct(vae, pixels), pixels).mean()) >= 30
    latents = vae.encode(pixels[:48]).latent_dist.mode() * vae.config.scaling_factor
    assert float(latents.detach().std()) == pytest.approx(1, abs=0.1)


def test_clip_names_subject_place_and_colour_of_held_out_stills(held_out: Stills, clip) -> None:
    shares = judged_right(*clip, held_out.pixels(range(240)), held_out.scenes)
    assert shares["motion"] >= 0.95
    assert shares["place"] >= 0.95
    assert shares["colour"] >= 0.90


def test_every_part_loads_in_full_precision(pipeline: StableDiffusionPipeline) -> None:
    """The files are half precision; a processor is to compute in float32 without being asked."""
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}


def test_diffusers_own_pipeline_paints_with_it(pipeline: StableDiffusionPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    image = pipeline("a red horse runs on the meadow", num_inference_steps=4, generator=generator).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 10


def painted_right(pipeline: StableDiffusionPipeline, clip, count: int, steps: int) -> dict[str, float]:
    painter = Painter(pipeline.unet, pipeline.text_encoder).eval()
    scenes = held_out_pictures(count)
    captions = [scene.caption for scene in scenes]
    latents = paint_latents(painter, pipeline.tokenizer, captions, steps=steps, batch=32)
    return judged_right(*clip, decode(pipeline.vae, latents), scenes)


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (64, 6),  # a few steps do: eight pictures of each motion
        pytest.param(200, 30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),  # as it was measured
    ],
)
def test_painter_paints_held_out_captions_as_asked(
    pipeline: StableDiffusionPipeline, clip, count: int, steps: int
) -> None:
    shares = painted_right(pipeline, clip, count, steps)
    assert shares["motion"] >= 0.9
    assert shares["place"] >= 0.9
    assert shares["colour"] >= 0.8


def test_pretraining_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Two steps, then two more from the saved state, end as four steps in one go."""
    from lamp_lightning.toyworld.pretraining.training import fit

    def trained(folder: Path, *parts: int) -> torch.Tensor:
        for steps in parts:
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 1)

            def loss_of(step: int, generator: torch.Generator, model=model) -> torch.Tensor:
                return model(torch.randn(4, 3, generator=generator)).square().mean()

            class Killed(Exception):
                pass

            def kill(_: torch.nn.Module, step: int, last=steps) -> None:
                if step == last < 4:
                    raise Killed

            try:
                fit("model", model, loss_of, steps=4, rate=0.1, folder=folder, save_every=1, on_save=kill)
            except Killed:
                continue
        return model.weight.detach()

    assert torch.equal(trained(tmp_path / "a", 4), trained(tmp_path / "b", 2, 4))
