"""What people have below a motion: a style LoRA, or a fine-tuned checkpoint, in the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.data.video import read_video
from lamp_lightning.models.adapter import header_of, same_weights
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.base.style import lora_file
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.transformer.motion_transformer import MotionTransformer
from lamp_lightning.sample.__main__ import main
from lamp_lightning.sample.publish import without_paths
from lamp_lightning.train.__main__ import main as train_main
from lora_files import lora, lora_of_transformer

WORDS = ["prompt=a lake", "num_frames=2", "format=png", "threads=1", "precision=32-true"]


@pytest.fixture
def style(tmp_path):
    (tmp_path / "style").mkdir()
    save_file(lora(), tmp_path / "style" / "any_name.safetensors")
    return tmp_path / "style"


def video(name):
    return read_video(f"{name}/a_lake_seed0_frames")


def test_a_motion_is_tuned_on_a_styled_model_and_sampled_with_it_or_another(
    small, style, random_base, capsys
):
    words = [*(word for word in small if not word.startswith("samples.final")), "samples.final=0"]
    words += ["logger=none", "motion=rain", f"model.lora={style}", "model.lora_scale=0.5"]
    assert train_main([*words, "hydra.run.dir=run"]) == 0
    header = header_of("run/adapter.safetensors")
    assert (header.base_lora, header.base_lora_scale) == (str(style), 0.5)
    styled = LAMPPipeline.from_motion("run/adapter.safetensors").unet
    assert same_weights(styled.fingerprint(), header.base_fingerprint)
    plain = load_base_model(random_base).unet.get_parameter(
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"
    )
    ours = styled.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight")
    assert not torch.allclose(ours, plain, atol=1e-3)

    assert main(["run=run", "out=as_tuned", *WORDS]) == 0
    assert "other weights" not in capsys.readouterr().out
    assert main(["run=run", "out=plain", "lora=none", *WORDS]) == 0
    assert f"tuned on other weights than those of {random_base}." in capsys.readouterr().out
    assert (video("as_tuned") != video("plain")).any()
    record = json.loads(Path("as_tuned/a_lake_seed0.json").read_text())
    assert (record["base"]["lora"], record["base"]["lora_scale"]) == (str(style), 0.5)
    assert main(["again=as_tuned/a_lake_seed0.json", "out=again"]) == 0
    assert "The same video, bit for bit." in capsys.readouterr().out
    with pytest.raises(UserError, match="which only this machine has"):
        without_paths(header, "ann/base")


def test_a_fine_tuned_checkpoint_is_taken_where_the_user_says_so(random_base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(random_base, "fine")
    file = "fine/unet/diffusion_pytorch_model.safetensors"
    torch.manual_seed(0)
    save_file({name: t + 0.02 * torch.randn_like(t) for name, t in load_file(file).items()}, file)
    unet = LAMPPipeline.from_pretrained(random_base).unet
    sampler = {"num_inference_steps": 2, "guidance_scale": 1.0, "size": [32, 32]}
    unet.save_motion("motion.safetensors", base_model=str(random_base), motion="rain", sampler=sampler)
    words = ["run=motion.safetensors", "base=fine", *WORDS]
    assert main([*words, "out=refused"]) == 1
    assert "check_base=false" in capsys.readouterr().err
    assert main([*words, "out=taken", "check_base=false"]) == 0
    assert "motion.safetensors: tuned on other weights than those of fine." in capsys.readouterr().out
    assert main(["again=taken/a_lake_seed0.json", "out=again"]) == 0
    assert "The same video, bit for bit." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sana", "sd3"])
def test_a_lora_of_a_transformer_is_fused_as_by_diffusers(random_model, kind, tmp_path):
    folder, style = random_model(kind), tmp_path / "style.safetensors"
    save_file(lora_of_transformer(kind), style)
    theirs = DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    plain = {name: p.clone() for name, p in theirs.transformer.named_parameters()}
    theirs.load_lora_weights(str(tmp_path), weight_name=style.name)
    theirs.fuse_lora(lora_scale=0.5)
    theirs.unload_lora_weights()
    wanted = dict(theirs.transformer.named_parameters())
    assert any(not torch.equal(wanted[name], plain[name]) for name in plain)
    styled = load_base_model(folder, lora=style, lora_scale=0.5).unet
    assert all(torch.equal(p, wanted[name]) for name, p in styled.named_parameters())
    assert isinstance(inflated(styled, "per_frame"), MotionTransformer)


def test_what_is_no_lora_of_the_model_is_named(random_base, style, tmp_path):
    for name, tensors, message in (
        ("strange", {"unet.nowhere.lora_A.weight": torch.ones(2, 4)}, "is no LoRA of"),
        ("other", {"conv_in.weight": torch.ones(2, 4)}, "is no LoRA of"),
        ("wide", lora() | {next(iter(lora())): torch.ones(2, 99)}, "is no LoRA of"),
        ("broken", {name: tensor * torch.nan for name, tensor in lora().items()}, "NaN or infinite"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            load_base_model(random_base, lora=tmp_path / f"{name}.safetensors")
    (tmp_path / "style.ckpt").write_bytes(b"pickle")
    (style / "second.safetensors").write_bytes(b"")
    for where, message in (
        (tmp_path / "style.ckpt", "is no .safetensors file"),
        (style, "is a folder with 2 .safetensors files"),
        ("no/such/place", "does not exist"),
        ("nowhere.safetensors", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            lora_file(where)
