"""Every kind of base model through the ordinary commands, and what is said to those that cannot be used."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lamp_lightning.data import decode_clip
from lamp_lightning.models import load_base_model
from lamp_lightning.models.registry import MotionUNet
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main as train
from random_models import KINDS, save_random_model, save_single_file

GROUPS = {"sd1": "sd14", "sd2": "sd21", "sdxl": "sdxl"}
BACKBONES = ("sd1", "sd2", "sdxl", "sd1 file", "sdxl file")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def single_file(random_model, tmp_path_factory) -> Callable[[str], Path]:
    """The checkpoint of a kind in one file, with all that shared files may hold besides."""
    folder = tmp_path_factory.mktemp("files")
    return cache(lambda k: save_single_file(random_model(k), folder / f"{k}.safetensors", k, extras=True))


@pytest.fixture(scope="module")
def words(random_model, single_file, random_clip, clips) -> Callable[..., list[str]]:
    """The words after `train` for a backbone: two quick steps and one video."""

    def words(backbone: str, **changes: Any) -> list[str]:
        kind, _, in_one_file = backbone.partition(" ")
        settings: dict[str, Any] = {
            "motion": "waterfall",
            "model": GROUPS[kind],
            "model.path": random_model(kind),
            "model.clip": random_clip,
            "data.root": clips,
            "data.cache_dir": clips / "cache",
            "data.size": "[32,32]",
            "data.num_frames": 4,
            "sampler.num_inference_steps": 2,
            "trainer.max_steps": 2,
            "samples.every": "null",
            "samples.final": 1,
            "logger": "none",
            "threads": 1,
            "hydra.run.dir": "run",
        }
        if in_one_file:
            settings |= {"model.path": single_file(kind), "model.config": random_model(kind)}
        return [f"{key}={value}" for key, value in (settings | changes).items()]

    return words


@pytest.fixture(scope="module")
def tuned(words, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a finished run of two steps on a backbone."""

    @cache
    def tuned(backbone: str) -> Path:
        folder = tmp_path_factory.mktemp("tuned") / "run"
        assert train(words(backbone, **{"hydra.run.dir": folder})) == 0
        return folder

    return tuned


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter.safetensors")


# What works


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_run_leaves_an_adapter_a_video_and_numbers(tuned, random_model, backbone):
    run, kind = tuned(backbone), backbone.split()[0]
    assert sorted(adapter(run)) == MotionUNet.from_pretrained(random_model(kind)).trainable_names()
    assert any(tensor.any() for name, tensor in adapter(run).items() if "conv1d" in name)
    with safe_open(run / "adapter.safetensors", "pt") as file:
        facts = file.metadata()
    assert Path(facts["base_model"]).is_file() == backbone.endswith("file")
    assert len(list((run / "videos").glob("*.mp4"))) == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert math.isfinite(metrics["loss"])
    assert math.isfinite(metrics["clip_score"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_resumed_run_ends_as_one_that_went_through(tuned, words, tmp_path, backbone):
    shutil.copytree(tuned(backbone), tmp_path / "stopped")
    assert train(["resume=stopped", "trainer.max_steps=3", "samples.final=0"]) == 0
    assert train(words(backbone, **{"trainer.max_steps": 3, "samples.final": 0})) == 0
    assert same(adapter(tmp_path / "stopped"), adapter(tmp_path / "run"))
    assert not same(adapter(tmp_path / "run"), adapter(tuned(backbone)))
    states = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("stopped", "run")
    ]
    assert [state["global_step"] for state in states] == [3, 3]
    ours, theirs = (state["optimizer_states"][0]["state"] for state in states)
    assert all(same(moments, theirs[number]) for number, moments in ours.items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_run_folder_and_adapter_file_paint_the_same(tuned, tmp_path, backbone):
    run = tuned(backbone)
    for name, where in (("run", run), ("adapter", run / "adapter.safetensors")):
        assert sample([f"run={where}", "prompt=a red lake", "seed=3", f"out={name}.mp4", "threads=1"]) == 0
    videos = [decode_clip(tmp_path / f"{name}.mp4").frames for name in ("run", "adapter")]
    assert videos[0].shape == (4, 256, 256, 3)
    assert np.array_equal(*videos)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_single_file_is_tuned_as_its_folder(tuned, kind):
    assert same(adapter(tuned(kind)), adapter(tuned(f"{kind} file")))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_holds_what_its_folder_does(random_model, single_file, tmp_path, kind, suffix):
    folder, file = random_model(kind), single_file(kind)
    if suffix == ".ckpt":
        file = save_single_file(folder, tmp_path / "model.ckpt", kind)
    one, other = load_base_model(folder), load_base_model(file, config=folder)
    assert same(one.unet.state_dict(), other.unet.state_dict())
    assert one.identity == other.identity
    assert torch.equal(one.scheduler.betas, other.scheduler.betas)
    assert one.scheduler.config.prediction_type == other.scheduler.config.prediction_type
    assert one.zeros_for_no_prompt == other.zeros_for_no_prompt == (kind == "sdxl")


def test_plain_tensors_in_bin_files_are_read(random_model, tmp_path):
    folder = Path(shutil.copytree(random_model("sd1"), tmp_path / "model"))
    for file in folder.glob("*/*.safetensors"):
        name = "pytorch_model.bin" if file.parent.name == "text_encoder" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    one, other = load_base_model(random_model("sd1")), load_base_model(folder)
    assert same(one.unet.state_dict(), other.unet.state_dict())
    assert one.identity == other.identity


# What cannot be used: one message, status 1, and nothing is tuned, painted or run


@pytest.fixture
def refused(capsys) -> Callable[..., None]:
    """That the command failed as it should, in words that hold all of `said`."""

    def refused(status: int, *said: str) -> None:
        captured = capsys.readouterr()
        message = captured.err.strip()
        assert status == 1
        assert message.startswith("Error: ")
        assert len(message.splitlines()) == 1
        assert [word for word in said if word not in message] == []
        assert "Traceback" not in captured.out
        assert {path.name for path in Path("run").rglob("*.*")} <= {"config.yaml", "run.json"}

    return refused


class Bomb:
    """Unpickling it runs code, which leaves a trace."""

    def __reduce__(self):
        return (os.mkdir, (str(Path.cwd() / "exploded"),))


def change(file: Path, how: str) -> str:
    """Damage one tensor of a safetensors file; returns its name."""
    tensors = load_file(file)
    name = sorted(name for name in tensors if tensors[name].ndim >= 2)[-1]
    if how == "lacks":
        del tensors[name]
    if how == "extra":
        name = name.replace(".weight", ".strange")
        tensors[name] = torch.ones(2)
    if how == "shape":
        tensors[name] = tensors[name][:-1].clone()
    if how == "NaN":
        tensors[name][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("how", ["lacks", "extra", "shape", "NaN"])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_damaged_part_is_named(words, random_model, tmp_path, refused, part, how):
    kind = "sdxl" if part == "text_encoder_2" else "sd1"
    folder = Path(shutil.copytree(random_model(kind), tmp_path / "model"))
    (file,) = (folder / part).glob("*.safetensors")
    name = change(file, how)
    status = train(words(kind, **{"model.path": folder}))
    refused(status, str(folder), part, name.removeprefix("text_model."), how if how == "NaN" else "tensors")


@pytest.mark.parametrize(
    ("part", "how", "said"),
    [
        ("model.diffusion_model", "lacks", "lacks tensors"),
        ("model.diffusion_model", "extra", "1 more than such a model has"),
        ("model.diffusion_model", "shape", "expected shape"),
        ("model.diffusion_model", "NaN", "NaN"),
        ("first_stage_model", "lacks", "lacks tensors"),
        ("first_stage_model", "extra", "1 more than such a model has"),
        ("first_stage_model", "shape", "expected shape"),
        ("first_stage_model", "NaN", "NaN"),
        ("cond_stage_model", "lacks", "lacks tensors"),  # more than needed is usual here: see `extras`
        ("cond_stage_model", "shape", "expected shape"),
        ("cond_stage_model", "NaN", "NaN"),
    ],
)
def test_a_damaged_single_file_is_named(words, random_model, tmp_path, refused, part, how, said):
    file = save_single_file(random_model("sd1"), tmp_path / "model.safetensors")
    tensors = load_file(file)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(part)}
    save_file(own, tmp_path / "part.safetensors")
    change(tmp_path / "part.safetensors", how)
    rest = {name: tensor for name, tensor in tensors.items() if name not in own}
    save_file(rest | load_file(tmp_path / "part.safetensors"), file)
    (tmp_path / "part.safetensors").unlink()
    refused(train(words("sd1 file", **{"model.path": file})), str(file), said)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_bin_file_that_would_run_code_is_refused(words, random_model, tmp_path, refused, part):
    folder = Path(shutil.copytree(random_model("sd1"), tmp_path / "model"))
    (file,) = (folder / part).glob("*.safetensors")
    file.unlink()
    stem = "pytorch_model" if part == "text_encoder" else file.stem
    torch.save({"a": Bomb()}, folder / part / f"{stem}.bin")
    refused(train(words("sd1", **{"model.path": folder})), str(folder), part, "would run code")
    assert not (tmp_path / "exploded").exists()


def bomb(file: Path) -> Path:
    torch.save({"state_dict": {"model.diffusion_model.out.0.bias": Bomb()}}, file)
    return file


def noise(file: Path, *names: str) -> Path:
    save_file({name: torch.randn(4, 4) for name in names}, file)
    return file


def cut(file: Path, to: Path) -> Path:
    to.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return to


def text(file: Path) -> Path:
    file.write_text("not a model\n" * 100)
    return file


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model, here: bomb(here / "evil.ckpt"), "would run code"),
        (lambda model, here: cut(model, here / "half.safetensors"), "not a readable safetensors file"),
        (lambda model, here: text(here / "text.safetensors"), "not a readable safetensors file"),
        (lambda model, here: text(here / "text.ckpt"), "not a plain file of tensors"),
        (lambda model, here: text(here / "text.pt"), ".safetensors, .ckpt or .pth"),
        (lambda model, here: noise(here / "noise.safetensors", "a", "b"), "no Stable Diffusion checkpoint"),
        (
            lambda model, here: noise(
                here / "parts.safetensors", "model.diffusion_model.a", "first_stage_model.b"
            ),
            "no text encoder",
        ),
        (lambda model, here: here / "missing.safetensors", "does not exist"),
    ],
)
def test_a_file_that_is_no_model_is_named(words, single_file, tmp_path, refused, make, said):
    file = make(single_file("sd1"), tmp_path)
    refused(train(words("sd1 file", **{"model.path": file})), str(file), said)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_pickle_is_named(words, random_model, tmp_path, refused):
    file = save_single_file(random_model("sd1"), tmp_path / "whole.ckpt")
    half = cut(file, tmp_path / "half.ckpt")
    refused(train(words("sd1 file", **{"model.path": half})), str(half), "damaged")


@pytest.mark.parametrize(("kind", "config"), [("sd1", "sdxl"), ("sdxl", "sd1"), ("sd1", "sd2")])
def test_a_config_of_another_kind_is_named(words, random_model, single_file, refused, kind, config):
    changes = {"model.path": single_file(kind), "model.config": random_model(config)}
    refused(train(words(f"{kind} file", **changes)), str(single_file(kind)))


def test_a_config_that_is_no_folder_is_named(words, refused):
    refused(train(words("sd1 file", **{"model.config": "/no/such/folder"})), "config=/no/such/folder")


def test_a_config_without_a_single_file_is_refused(words, random_model, refused):
    refused(train(words("sd1", **{"model.config": random_model("sd1")})), "single-file checkpoints")


def test_models_for_other_ends_are_named(words, tmp_path, refused):
    folder = save_random_model(tmp_path / "inpainting", in_channels=9)
    refused(train(words("sd1", **{"model.path": folder})), "9 channels", "inpainting")
    file = save_single_file(folder, tmp_path / "inpainting.safetensors")
    other = {"model.path": file, "model.config": folder, "hydra.run.dir": "run/other"}
    refused(train(words("sd1", **other)), str(file), "9 channels")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"unet": ["diffusers", "FancyUNet"]}, "FancyUNet"),
        ({"unet": ["my_models", "FancyUNet"]}, "my_models.FancyUNet"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel"),
        ({"tokenizer": ["transformers", "FancyTokenizer"]}, "FancyTokenizer"),
        ({"vae": "AutoencoderKL"}, "vae"),
        ({"unet": None}, "unet"),
    ],
)
def test_unknown_classes_are_named(words, random_model, tmp_path, refused, entry, said):
    folder = Path(shutil.copytree(random_model("sd1"), tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | entry))
    refused(train(words("sd1", **{"model.path": folder})), str(folder), said)


@pytest.fixture
def no_network(monkeypatch):
    """The hub cannot be reached."""
    import huggingface_hub
    from diffusers.loaders import single_file

    def unreachable(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(single_file, "snapshot_download", unreachable)


@pytest.mark.usefixtures("no_network")
def test_a_hub_that_cannot_be_reached_is_one_message(words, single_file, refused):
    refused(train(words("sd1", **{"model.path": "someone/a-model"})), "someone/a-model", "no network")
    alone = {"model.path": single_file("sdxl"), "model.config": "null"}
    alone["hydra.run.dir"] = "run/alone"
    refused(train(words("sdxl file", **alone)), str(single_file("sdxl")), "no network", "model.config=")
    elsewhere = {"model.config": "someone/a-model", "hydra.run.dir": "run/elsewhere"}
    refused(train(words("sd1 file", **elsewhere)), str(single_file("sd1")), "no network")


@pytest.mark.parametrize("base", ["sdxl", "sd2", "sdxl file"])
def test_an_adapter_on_another_base_is_refused(tuned, single_file, tmp_path, refused, base):
    kind, _, in_one_file = base.partition(" ")
    folder = save_random_model(tmp_path / "model", kind, seed=7)
    words = [f"base={single_file(kind)}", f"base_config={folder}"] if in_one_file else [f"base={folder}"]
    status = sample([f"run={tuned('sd1')}", "prompt=a", "out=run", "threads=1", *words])
    refused(status, "adapter.safetensors", "another model" if kind == "sdxl" else "other weights")
