"""The convert command: the authors' checkpoints to motion adapters and back, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lamp_lightning import MotionUNet, UserError
from lamp_lightning.convert import main
from lamp_lightning.data import decode_clip
from lamp_lightning.models import load_base_model, read_metadata
from lamp_lightning.sample.__main__ import main as sample_main
from lamp_lightning.train.__main__ import main as train_main

GOLDEN = Path(__file__).parent / "golden"
CONFIG, BIN = "config.json", "diffusion_pytorch_model.bin"
SAFETENSORS = "diffusion_pytorch_model.safetensors"


def official_tensors(folder):
    return torch.load(folder / BIN, weights_only=True)


def save_base_of(official, folder, random_base):
    """The pipeline that an official UNet could have been tuned on: its frozen tensors, other `attn1.to_q`."""
    shutil.copytree(random_base, folder, ignore=shutil.ignore_patterns("unet"))
    config = json.loads((official / CONFIG).read_text().replace("3D", "2D"))
    torch.manual_seed(3)
    unet = UNet2DConditionModel.from_config(config)
    frozen = {name.replace("conv2d.", ""): tensor for name, tensor in official_tensors(official).items()}
    queries = {name for name in frozen if "attn1.to_q" in name}
    kept = unet.state_dict().keys() - queries
    assert not unet.load_state_dict({name: frozen[name] for name in kept}, strict=False).unexpected_keys
    unet.save_pretrained(folder / "unet")
    words = CLIPTextConfig.from_pretrained(folder / "text_encoder").to_dict()
    words |= {"hidden_size": unet.config.cross_attention_dim}
    CLIPTextModel(CLIPTextConfig(**words)).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def bases(random_base, tmp_path_factory):
    """Base models of the golden checkpoints, by case."""
    folder = tmp_path_factory.mktemp("bases")
    return {c: save_base_of(GOLDEN / c / "unet", folder / c, random_base) for c in ("sd1", "sd2")}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def official(tmp_path):
    """A copy of a golden checkpoint, kept as the authors keep theirs."""
    return Path(shutil.copytree(GOLDEN / "sd1" / "unet", tmp_path / "turn_to_smile" / "unet"))


def same(a, b):
    """Equal to the bit, in names, precision and values."""
    return a.keys() == b.keys() and all(
        t.dtype == b[name].dtype and torch.equal(t, b[name]) for name, t in a.items()
    )


def resave(folder, change):
    tensors = official_tensors(folder)
    torch.save(change(tensors) or tensors, folder / BIN)


def fails(capsys, *words):
    """Run the command, which must end in one message, and return that."""
    capsys.readouterr()
    assert main(list(words)) == 1
    captured = capsys.readouterr()
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err + captured.out
    message = captured.err[captured.err.index("Error:") :]
    assert message.count("\n") == 1
    return message


# As people type it


def test_the_command_in_a_process_of_its_own(official, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lamp_lightning.convert", "from=turn_to_smile", "out=smile.safetensors"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lamp_lightning.sample run=smile.safetensors base=<model>" in done.stdout
    assert (tmp_path / "smile.safetensors").is_file()


def test_help_names_the_command_and_its_settings(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "python -m lamp_lightning.convert" in shown
    assert "from=???" in shown


# There and back


@pytest.mark.parametrize("case", ["sd1", "sd2"])
def test_there_and_back_is_the_same_to_the_bit(bases, tmp_path, capsys, case):
    source = GOLDEN / case / "unet"
    words = [f"base={bases[case]}", "motion=rain", "num_frames=24"]
    assert main([f"from={source}", "out=rain.safetensors", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("CC BY-NC") == 1
    assert main(["from=rain.safetensors", "out=back"]) == 0
    assert same(official_tensors(tmp_path / "back" / "unet"), official_tensors(source))
    assert (tmp_path / "back" / "unet" / CONFIG).read_bytes() == (source / CONFIG).read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [CONFIG, BIN, "rain.safetensors"]


def test_a_converted_checkpoint_computes_what_the_authors_code_does(bases, tmp_path):
    assert main([f"from={GOLDEN / 'sd1'}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    unet = MotionUNet.from_unet(load_base_model(bases["sd1"]).unet)
    unet.load_motion("a.safetensors")
    golden = load_file(GOLDEN / "sd1" / "tensors.safetensors")
    with torch.no_grad():
        output = unet(*(golden[f"forward_{name}"] for name in ("sample", "timestep", "text")))
    torch.testing.assert_close(output, golden["forward_output"], rtol=1e-4, atol=1e-5)


def test_the_adapter_says_how_the_authors_sample(official, bases, monkeypatch, tmp_path):
    monkeypatch.chdir(bases["sd1"].parent)
    out = tmp_path / "deep" / "smile.safetensors"
    assert main([f"from={official.parent}", f"out={out}", "base=sd1"]) == 0
    facts = read_metadata(out)
    assert facts["motion"] == "turn_to_smile"  # the folder's name
    assert facts["prompt"] == "turn to smile"
    assert facts["base_model"] == str(bases["sd1"])  # usable from anywhere
    assert facts["norm"] == "joint"
    expected = {"num_inference_steps": 50, "guidance_scale": 12.5, "shared_noise": 0.2, "adain": True}
    expected |= {"histogram_matching": True, "num_frames": 16, "size": [320, 512]}
    assert expected.items() <= json.loads(facts["sampler"]).items()


def test_a_converted_checkpoint_paints(official, bases, tmp_path):
    words = [f"base={bases['sd1']}", "motion=rain", "prompt=a red bird", "num_frames=3", "size=[32,48]"]
    assert main([f"from={official}", "out=rain.safetensors", *words]) == 0
    words = ["sampler.num_inference_steps=2", "threads=1", "out=rain.mp4"]
    assert sample_main(["run=rain.safetensors", *words]) == 0
    assert len(decode_clip(tmp_path / "rain.mp4").frames) == 3


def test_without_a_base_it_is_said_and_needed_later(official, bases, tmp_path, capsys):
    assert main([f"from={official}", "out=a.safetensors"]) == 0
    assert "needs base=" in capsys.readouterr().err
    assert "base_model" not in read_metadata("a.safetensors")
    assert "base=<model>" in fails(capsys, "from=a.safetensors", "out=back")
    assert main(["from=a.safetensors", "out=back", f"base={bases['sd1']}"]) == 0
    assert same(official_tensors(tmp_path / "back" / "unet"), official_tensors(official))


def test_safetensors_and_settings_of_other_versions_come_back(official, bases, tmp_path):
    tensors = official_tensors(official)
    save_file(tensors, official / SAFETENSORS)
    (official / BIN).unlink()
    config = json.loads((official / CONFIG).read_text())
    config |= {"_name_or_path": "./my weight", "_diffusers_version": "0.10.2"}
    (official / CONFIG).write_text(json.dumps(config))
    assert main([f"from={official}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    assert main(["from=a.safetensors", "out=back"]) == 0
    assert same(official_tensors(tmp_path / "back" / "unet"), tensors)
    assert (tmp_path / "back" / "unet" / CONFIG).read_text() == json.dumps(config)


def test_settings_of_another_unet_are_not_written(official, bases, tmp_path):
    assert main([f"from={official}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    config = read_metadata("a.safetensors")["official_config"]
    for wrong in (config.replace('"silu"', '"gelu"'), "[]", "{"):
        facts = read_metadata("a.safetensors") | {"official_config": wrong}
        save_file(load_file("a.safetensors"), "b.safetensors", metadata=facts)
        assert main(["from=b.safetensors", "out=back", "overwrite=true"]) == 0
        assert json.loads((tmp_path / "back" / "unet" / CONFIG).read_text()) == json.loads(config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(official, bases, tmp_path, capsys, dtype):
    resave(official, lambda t: {name: tensor.to(dtype) for name, tensor in t.items()})
    (official / BIN).rename(official / "diffusion_pytorch_model.fp16.bin")
    assert main([f"from={official}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    assert f"is in {str(dtype)[6:]}" in capsys.readouterr().err
    found = load_file("a.safetensors")
    assert {tensor.dtype for name, tensor in found.items() if "attn1.to_q" not in name} == {dtype}
    assert main(["from=a.safetensors", "out=back"]) == 0
    theirs = torch.load(official / "diffusion_pytorch_model.fp16.bin", weights_only=True)
    assert same(official_tensors(tmp_path / "back" / "unet"), theirs)


def test_mixed_precision_comes_back_in_the_widest(official, bases, tmp_path, capsys):
    whole = official_tensors(official)
    resave(official, lambda t: {n: t[n] if "conv1d" in n else t[n].half() for n in t})
    assert main([f"from={official}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    assert "mixes float16 and float32" in capsys.readouterr().err
    assert main(["from=a.safetensors", "out=back"]) == 0
    back = official_tensors(tmp_path / "back" / "unet")
    assert {t.dtype for t in back.values()} == {torch.float32}
    assert torch.equal(back["conv_in.conv1d.weight"], whole["conv_in.conv1d.weight"])
    assert torch.equal(back["conv_in.conv2d.weight"], whole["conv_in.conv2d.weight"])  # the base's, unrounded


# Runs of ours


def test_a_run_becomes_a_checkpoint_and_an_adapter_again(random_base, random_clip, clips, tmp_path):
    words = ["motion=rain", "model.norm=joint", "logger=none", "data.size=[32,32]", "data.num_frames=4"]
    words += ["trainer.max_steps=2", "model.layers.gate=true", "adapter_dtype=float32"]
    words += ["samples.every=null", "samples.final=0", "threads=1", "tuner.learning_rate=0.01"]
    words += [f"model.path={random_base}", f"model.clip={random_clip}", f"data.root={clips}"]
    assert train_main([*words, f"data.cache_dir={clips / 'cache'}", "hydra.run.dir=run"]) == 0
    assert main(["from=run", "out=run/theirs"]) == 0
    unet = MotionUNet.from_official("run/theirs")
    expected = MotionUNet.from_pretrained(random_base)
    assert not same(unet.state_dict(), expected.state_dict())
    expected.load_motion("run/adapter.safetensors")
    assert same(unet.state_dict(), expected.state_dict())
    assert main(["from=run/theirs", "out=again.safetensors", f"base={random_base}"]) == 0
    assert same(load_file("again.safetensors"), load_file("run/adapter.safetensors"))
    assert main(["from=run", "out=run"]) == 0  # a run that holds a checkpoint is still a run
    assert main(["from=run", "out=once_more"]) == 0
    assert same(official_tensors(tmp_path / "once_more/unet"), official_tensors(tmp_path / "run/theirs/unet"))


def test_an_unfinished_run_says_how_to_go_on(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "lamp_lightning.train resume=" in fails(capsys, "from=run", "out=x")


# Is it the base model?


def test_a_base_that_is_equal_but_for_rounding_is_warned_of(official, bases, capsys):
    def rounded(tensors):
        return {n: t if "conv1d" in n else t.half().float() for n, t in tensors.items()}

    resave(official, rounded)
    assert main([f"from={official}", "out=a.safetensors", f"base={bases['sd1']}"]) == 0
    warning = capsys.readouterr().err
    assert "only in half precision" in warning
    assert "conv_in.conv2d.weight" in warning


@pytest.mark.parametrize("name", ["time_embedding.linear_1.bias", "conv_out.conv2d.weight"])
def test_one_other_number_tells_another_base(official, bases, tmp_path, capsys, name):
    def change(tensors):
        tensors[name].view(-1)[-1] += 0.01

    resave(official, change)
    message = fails(capsys, f"from={official}", "out=a.safetensors", f"base={bases['sd1']}")
    assert f"1 differ, the first is {name!r} (by up to 0.01)" in message
    assert not (tmp_path / "a.safetensors").exists()


def test_a_base_of_another_size_is_refused(official, bases, random_base, capsys):
    message = fails(capsys, f"from={official}", "out=a.safetensors", f"base={random_base}")
    assert "differ in shape" in message
    message = fails(capsys, f"from={official}", "out=a.safetensors", f"base={bases['sd2']}")
    assert "frozen tensors" in message  # other projections
    assert "nowhere" in fails(capsys, f"from={official}", "out=a.safetensors", "base=./nowhere")


def test_what_was_tuned_but_has_no_place_in_an_adapter_is_refused(official, tmp_path, capsys):
    name = "mid_block.attentions.0.transformer_blocks.0.norm_temp.bias"
    resave(official, lambda t: t | {name: t[name] + 0.5})
    message = fails(capsys, f"from={official}", "out=a.safetensors")
    assert name in message
    assert "trainable_modules" in message
    assert not (tmp_path / "a.safetensors").exists()


# Bad input


def explode(tensors):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (os.environ["BOMB"],))

    return {"a": Bomb()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: resave(f, lambda t: t.pop("conv_in.conv1d.bias") is None or t), "conv_in.conv1d.bias"),
        (lambda f: resave(f, lambda t: t | {"stray": torch.ones(1)}), "stray"),
        (lambda f: resave(f, lambda t: t | {"conv_in.conv1d.bias": torch.ones(3)}), "shape (3,)"),
        (lambda f: resave(f, lambda t: t | {"conv_in.conv1d.bias": torch.full((16,), torch.nan)}), "NaN"),
        (lambda f: resave(f, lambda t: t | {"conv_in.conv1d.bias": torch.ones(16).int()}), "floating point"),
        (lambda f: resave(f, explode), "would run code"),
        (lambda f: os.truncate(f / BIN, 5000), "damaged"),
        (lambda f: (f / BIN).write_bytes(b""), "damaged"),
        (lambda f: (f / BIN).rename(f / SAFETENSORS), "damaged"),
        (lambda f: (f / BIN).unlink(), "holds no weights"),
        (lambda f: (f / CONFIG).unlink(), "neither a checkpoint folder"),
        (lambda f: (f / CONFIG).write_text("[1]"), "not the configuration"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\xff"), "cannot be read"),
        (lambda f: change_config(f, down_block_types=["Nothing3D", "Nothing3D"]), "cannot be built"),
        (lambda f: change_config(f, block_out_channels="wide"), "'block_out_channels' is 'wide'"),
        (
            lambda f: change_config(f, block_out_channels=[10**9, 10**9]),
            "'block_out_channels.0' is 1000000000",
        ),
        (lambda f: change_config(f, layers_per_block=10**6), "'layers_per_block"),
        (lambda f: change_config(f, transformer_layers_per_block=10**6), "'transformer_layers_per_block"),
        (lambda f: change_config(f, down_block_types=["DownBlock3D"] * 10**4), "'down_block_types'"),
        (lambda f: change_config(f, sample_size=10**30), "'sample_size' is 1e+30"),
        (lambda f: change_config(f, attention_head_dim=0), "cannot be built"),
        (lambda f: change_config(f, norm_num_groups={"a": 1}), "cannot be built"),
        (lambda f: change_config(f, _class_name=["x"] * 10**4), "describes a ['x', 'x'"),
        (lambda f: (f / CONFIG).write_text("[" * 100_000), "nested more than"),
        (lambda f: (f / CONFIG).write_text(" " * (2 << 20)), "bytes"),
        (lambda f: change_config(f, _class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
    ],
)
def test_damaged_checkpoints_are_named(official, tmp_path, monkeypatch, capsys, damage, message):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    damage(official)
    assert message in (shown := fails(capsys, f"from={official.parent}", "out=new/a.safetensors"))
    assert str(official.parent) in shown
    assert [path.name for path in tmp_path.iterdir()] == ["turn_to_smile"]


def change_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def rewrite(file, change=None, **facts):
    tensors = load_file(file)
    if change is not None:
        change(tensors)
    save_file(tensors, file, metadata=read_metadata(file) | facts)


@pytest.fixture(scope="module")
def golden_adapter(bases, tmp_path_factory):
    file = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    assert main([f"from={GOLDEN / 'sd1'}", f"out={file}", f"base={bases['sd1']}"]) == 0
    return file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: rewrite(f, norm="per_frame"), "norm=per_frame"),
        (lambda f: rewrite(f, lambda t: t.pop("conv_in.conv1d.bias")), "conv_in.conv1d.bias"),
        (lambda f: rewrite(f, lambda t: t.update(stray=torch.ones(1))), "stray"),
        (lambda f: rewrite(f, lambda t: t["conv_in.conv1d.bias"].fill_(torch.nan)), "NaN"),
        (lambda f: rewrite(f, base_model="./gone"), "gone"),
        (lambda f: os.truncate(f, 5000), "not a readable safetensors"),
        (lambda f: save_file({"a": torch.ones(1)}, f), "not a motion adapter"),
        (lambda f: f.write_text("hello"), "not a readable safetensors"),
    ],
)
def test_damaged_adapters_are_named(golden_adapter, tmp_path, capsys, damage, message):
    shutil.copy(golden_adapter, tmp_path / "a.safetensors")
    damage(tmp_path / "a.safetensors")
    assert message in fails(capsys, "from=a.safetensors", "out=new/back")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_adapter_of_another_base_is_refused(golden_adapter, bases, random_base, tmp_path, capsys):
    other = Path(shutil.copytree(bases["sd1"], tmp_path / "other"))
    torch.manual_seed(4)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(other / "unet"))
    unet.save_pretrained(other / "unet")
    message = fails(capsys, f"from={golden_adapter}", "out=back", "base=other")
    assert "tuned on other weights" in message
    message = fails(capsys, f"from={golden_adapter}", "out=back", f"base={random_base}")
    assert str(bases["sd1"]) in message
    assert not (tmp_path / "back").exists()


def test_what_the_authors_code_cannot_hold_is_refused(random_model, tmp_path, capsys):
    unet = MotionUNet.from_pretrained(random_model("sdxl"))
    unet.save_motion("xl.safetensors", base_model=str(random_model("sdxl")))
    assert "The authors' UNet knows no" in fails(capsys, "from=xl.safetensors", "out=back")
    assert not (tmp_path / "back").exists()


def test_from_and_out_must_go_together(official, golden_adapter, random_base, tmp_path, capsys):
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["out=x"], "Give it as from="),
        ([f"from={official}"], "Give it as out="),
        (["from=nowhere", "out=x"], "from=nowhere does not exist"),
        ([f"from={official}", "out=a.safetensors", "size=auto"], "like [64,64]"),
        (["from=empty", "out=x"], "neither a checkpoint folder"),
        (["from=file.txt", "out=x"], "file.txt"),
        ([f"from={random_base}", "out=a.safetensors"], "UNet2DConditionModel"),
        ([f"from={official / BIN}", "out=a.safetensors"], f"give its folder, {official}"),
        ([f"from={official}", "out=folder"], "becomes a motion adapter"),
        ([f"from={official}", "out=empty"], "becomes a motion adapter"),
        ([f"from={official}", "out=file.txt/a.safetensors"], "file.txt"),
        ([f"from={golden_adapter}", f"out={golden_adapter}"], "the adapter itself"),
        ([f"from={golden_adapter}", "out=file.txt"], "must be a folder"),
        ([f"from={golden_adapter}", "out=file.txt/deeper"], "file.txt"),
        ([f"from={official}", "out=a.safetensors", "num_frames=1"], "num_frames"),
        ([f"from={official}", "out=a.safetensors", "size=[320]"], "size"),
    ):
        assert message in fails(capsys, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.txt", "turn_to_smile"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_nothing_is_overwritten_unless_asked_for(official, golden_adapter, bases, tmp_path, capsys):
    words = [f"from={official}", "out=a.safetensors"]
    assert main(words) == 0
    before = (tmp_path / "a.safetensors").read_bytes()
    assert "overwrite=true" in fails(capsys, *words, "motion=rain")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert main([*words, "motion=rain", "overwrite=true"]) == 0
    assert read_metadata("a.safetensors")["motion"] == "rain"

    (official / "notes.txt").write_text("mine")
    save_file({"a": torch.ones(1)}, official / SAFETENSORS)  # readers would prefer it
    words = [f"from={golden_adapter}", f"out={official.parent}"]
    assert "overwrite=true" in fails(capsys, *words)
    assert main([*words, "overwrite=true"]) == 0
    assert sorted(path.name for path in official.iterdir()) == [CONFIG, BIN, "notes.txt"]
    assert same(official_tensors(official), official_tensors(GOLDEN / "sd1" / "unet"))


def test_overwrite_spares_what_is_something_else(official, golden_adapter, bases, tmp_path, capsys):
    base = Path(shutil.copytree(bases["sd1"], tmp_path / "base"))
    message = fails(capsys, f"from={golden_adapter}", "out=base", "overwrite=true")
    assert "replaces only UNets of LAMP" in message
    weights = base / "unet" / SAFETENSORS
    message = fails(capsys, f"from={official}", f"out={weights}", "overwrite=true")
    assert "replaces only motion adapters" in message
    for part in ("unet", "vae"):
        assert (base / part / SAFETENSORS).read_bytes() == (bases["sd1"] / part / SAFETENSORS).read_bytes()


# Interruptions


@contextmanager
def full_disk(room):
    """A disk that takes no more than so many bytes a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing(official, golden_adapter, tmp_path, capsys):
    for words in ([f"from={official}", "out=a.safetensors"], [f"from={golden_adapter}", "out=new/back"]):
        with full_disk(100_000):
            message = fails(capsys, *words)
        assert "cannot be written" in message
        assert [path.name for path in tmp_path.iterdir()] == ["turn_to_smile"]


def test_a_full_disk_leaves_the_old_checkpoint(official, golden_adapter, capsys):
    resave(official, lambda t: {name: tensor + 1 for name, tensor in t.items()})
    before = official_tensors(official)
    with full_disk(100_000):
        fails(capsys, f"from={golden_adapter}", f"out={official.parent}", "overwrite=true")
    assert same(official_tensors(official), before)
    assert sorted(path.name for path in official.iterdir()) == [CONFIG, BIN]


@pytest.mark.parametrize("moment", range(11))
def test_an_interrupted_write_never_looks_whole(official, tmp_path, monkeypatch, moment):
    """Ctrl-C before each of the eleven steps in which `save_official` touches files."""
    unet = MotionUNet.from_official(official)
    change_config(official, attention_head_dim=2)  # fits the same tensors, computes something else
    with torch.no_grad():
        unet.conv_in.conv1d.bias.fill_(1)

    def found(folder):
        unet = MotionUNet.from_official(folder)
        return unet.config["attention_head_dim"], unet.conv_in.conv1d.bias[0].item()

    old, new = found(official), (4, 1.0)
    for folder in (tmp_path / "fresh", official):
        steps = iter(range(100))

        def interruptible(real, steps=steps):
            def run(*args, **kwargs):
                if next(steps) == moment:
                    raise KeyboardInterrupt
                return real(*args, **kwargs)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", interruptible(torch.save))
            patch.setattr(os, "replace", interruptible(os.replace))
            patch.setattr(Path, "write_text", interruptible(Path.write_text))
            patch.setattr(Path, "unlink", interruptible(Path.unlink))
            with pytest.raises(KeyboardInterrupt):
                unet.save_official(folder)
        if moment < 2:  # nothing that was there is touched before both parts are written
            assert found(official) == old
        with suppress(UserError):
            assert found(folder) in (old, new)
