"""Transformers that are shared as one file without text encoders: Sana, Stable Diffusion 3 and LTX-Video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamp_lightning.models import load_base_model
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train
from random_ltx import save_random_ltx
from random_transformers import save_random_transformer, save_transformer_file

KINDS = ("sana", "sd3", "ltx")
PREFIX = "model.diffusion_model."
PARTS = {
    "first_stage_model.encoder.conv_in.bias": torch.ones(3),
    "vae.per_channel_statistics.x": torch.ones(3),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A whole model of each kind in diffusers' format."""
    here = tmp_path_factory.mktemp("models")
    made = {kind: save_random_transformer(here / kind, kind) for kind in ("sana", "sd3")}
    return made | {"ltx": save_random_ltx(here / "ltx")}


@pytest.fixture(scope="module")
def tuned_models(tmp_path_factory) -> dict[str, Path]:
    """The same with other transformers, as fine-tuning leaves them."""
    here = tmp_path_factory.mktemp("tuned")
    made = {kind: save_random_transformer(here / kind, kind, seed=7) for kind in ("sana", "sd3")}
    return made | {"ltx": save_random_ltx(here / "ltx", seed=7)}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("suffix", "prefix"), [(".safetensors", ""), (".safetensors", PREFIX), (".pth", "")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_transformer_is_the_files_and_all_else_the_folders(
    models, tuned_models, tmp_path, kind, suffix, prefix
):
    file = save_transformer_file(
        tuned_models[kind], tmp_path / f"model{suffix}", kind, prefix, **(PARTS if prefix else {})
    )
    found, wanted = load_base_model(file, config=models[kind]), load_base_model(models[kind])
    assert equal(found.unet.state_dict(), load_base_model(tuned_models[kind]).unet.state_dict())
    assert not equal(found.unet.state_dict(), wanted.unet.state_dict())
    assert found.identity == wanted.identity
    assert found.scheduler.config == wanted.scheduler.config
    assert found.name == str(file)


def test_a_file_is_tuned_and_sampled_as_its_folder(models, small, tmp_path):
    file = save_transformer_file(models["sana"], tmp_path / "sana.safetensors", "sana")
    words = [word for word in small if not word.startswith(("model.path", "samples.final"))]
    words += ["model=sana", "motion=rain", "logger=none", "samples.final=0"]
    from_file = [f"model.path={file}", f"model.config={models['sana']}"]
    assert train([*words, *from_file, "hydra.run.dir=file"]) == 0
    assert train([*words, f"model.path={models['sana']}", "hydra.run.dir=folder"]) == 0
    assert equal(*(load_file(f"{run}/adapter.safetensors") for run in ("file", "folder")))
    assert sample(["run=file", "prompt=rain at night", "out=rain.mp4", "threads=1"]) == 0


def changed(file: Path, out: Path, **tensors: Any) -> Path:
    """The file with other tensors; None leaves one out."""
    found = load_file(file) | tensors
    save_file({name: x for name, x in found.items() if x is not None}, out)
    return out


def test_what_does_not_fit_is_named(models, tmp_path):
    files = {
        kind: save_transformer_file(models[kind], tmp_path / f"{kind}.safetensors", kind) for kind in KINDS
    }

    def refused(file: Path, config: Any, *said: str) -> None:
        with pytest.raises(UserError) as caught:
            load_base_model(file, config=config)
        assert all(word in str(caught.value) for word in (str(file), "model.config", *said)), caught.value

    refused(files["sd3"], None, "without its text encoders")
    refused(files["sana"], models["sd3"], "transformer of Sana", "is a Stable Diffusion 3")
    refused(files["ltx"], models["sana"], "transformer of LTX-Video", "is a Sana")
    less = {"sana": "blocks.1.attn.proj.weight", "sd3": "x_embedder.proj.bias", "ltx": "proj_out.weight"}
    for kind, name in less.items():
        file = changed(files[kind], tmp_path / f"less_{kind}.safetensors", **{name: None})
        refused(file, models[kind], "lacks")
        shape = changed(files[kind], tmp_path / f"shape_{kind}.safetensors", **{name: torch.ones(3, 3)})
        refused(shape, models[kind])
        more = changed(files[kind], tmp_path / f"more_{kind}.safetensors", another=torch.ones(2))
        refused(more, models[kind], "1 tensors more")
    larger = save_random_transformer(tmp_path / "larger", "sana", num_layers=3)
    file = save_transformer_file(larger, tmp_path / "larger.safetensors", "sana")
    refused(file, models["sana"], "more than such a transformer")
    smaller = save_random_transformer(tmp_path / "smaller", "sana", num_layers=1)
    refused(
        save_transformer_file(smaller, tmp_path / "smaller.safetensors", "sana"),
        models["sana"],
        "lacks tensors",
    )
