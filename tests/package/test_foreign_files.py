"""Files of other people: what is refused before a library or a command does anything with them."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lamp_lightning import UserError
from lamp_lightning.benchmark.trial import read_arrays, write_arrays
from lamp_lightning.data.cache import Cache
from lamp_lightning.data.images import read_image
from lamp_lightning.evaluate.videos import list_videos, listed_prompts, read_prompts
from lamp_lightning.metrics import load_clip
from lamp_lightning.metrics.metrics_json import read_judged, read_metrics
from lamp_lightning.models.base.folder import make_scheduler
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.tensors import read_pickle
from lamp_lightning.runtime.files import check_links, inside
from lamp_lightning.runtime.reading import check_text
from lamp_lightning.runtime.sweeps import words_of
from lamp_lightning.sample.videos import find_pictures, find_prompts
from random_models import save_random_clip, save_random_model

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")


@pytest.fixture
def model(random_base, tmp_path):
    """A copy of a base model, to damage."""
    import shutil

    return Path(shutil.copytree(random_base, tmp_path / "model"))


@pytest.fixture
def clip(random_clip, tmp_path):
    """A copy of a CLIP model, to damage."""
    import shutil

    return Path(shutil.copytree(random_clip, tmp_path / "clip"))


def change(file, **values):
    """Write a JSON file with other values."""
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, **values}))


# -- pictures ------------------------------------------------------------------------------------------------


def png(width, height, colour=2):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(4096))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "of no picture format"),
        (b"SIMPLE  =                    T".ljust(80) * 40, "of no picture format"),
        (png(32, 32, colour=3), "it lacks its palette"),
        (png(30_000, 30_000), "it has more pixels"),
        (png(12_500, 12_500), "it has 12,500x12,500 pixels"),
        (b"P6 100000 100000 255\n", "it has more pixels"),
    ],
    ids=["PostScript", "FITS", "palette", "bomb", "large", "PPM"],
)  # fmt: skip
def test_pictures_are_opened_as_named_formats_within_limits(tmp_path, data, reason):
    file = tmp_path / "photo.png"
    file.write_bytes(data)
    with pytest.raises(UserError, match=rf"photo.png cannot be read as an image.*{reason}"):
        read_image(file)


@pipes
def test_pipes_among_pictures_and_videos_are_passed_over(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    for name in ("b.png", "c.mp4"):
        os.mkfifo(tmp_path / name)
    assert [picture.file.name for picture in find_pictures(str(tmp_path))] == ["a.png"]
    with pytest.raises(UserError, match=r"no video here, found only a\.png"):
        list_videos(tmp_path)
    with pytest.raises(UserError, match=r"b.png cannot be read as an image: it is no regular file"):
        read_image(tmp_path / "b.png")


# -- texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a" * 10_001, "10,001 characters"), ("a \x1b[2J lake", r"U\+001B"), ("a \ud83d lake", r"U\+D83D")],
)
def test_prompts_that_are_no_texts_are_refused(text, reason):
    with pytest.raises(UserError, match=f"p.txt: a prompt has .*{reason}"):
        check_text(text, file=Path("p.txt"), what="a prompt")


def test_a_prompt_becomes_one_line():
    assert check_text(" a\tred \n lake ", file=Path("p.txt"), what="a prompt") == "a red lake"


def test_files_of_prompts_are_read_within_limits(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("a lake\n" * 10_001)
    with pytest.raises(UserError, match="10,001 prompts, and 10,000 are the most"):
        find_prompts(None, file)
    deep = tmp_path / "p.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="nested more than 2 levels deep"):
        read_prompts(deep, [Path("a.mp4")])
    table = tmp_path / "p.csv"
    table.write_text(f'a.mp4,"{"x" * 140_000}"\n')
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_prompts(table, [Path("a.mp4")])


# -- measures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"clip_score": "high"}, "clip_score should be a number"),
        ({"clip_score": 10**40}, "clip_score should be at most"),
        ({"minutes": [1]}, "'minutes' is"),
        ({"videos": {"a": 1}}, "'videos' is"),
        ({"videos": [{"prompt": "a"}]}, r"lacks 'videos.0.file'"),
        ({"videos": [{"file": "../../a.mp4", "prompt": "a"}]}, "without folders"),
        ({"videos": [{"file": "a.mp4", "prompt": 3}]}, "'videos.0.prompt' is 3"),
        ([1], "it is"),
    ],
)
def test_metrics_of_wrong_types_are_named(tmp_path, content, reason):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"metrics.json cannot be used as the metrics of a run: .*{reason}"):
        read_metrics(file)
    assert listed_prompts(file) == {}


def test_measures_that_could_not_be_taken_are_left_out(tmp_path):
    file = tmp_path / "metrics.json"
    videos = [{"file": "a.mp4", "prompt": None, "clip_score": None, "new_measure": 2}]
    file.write_text(json.dumps({"clip_score": float("nan"), "loss": 1, "motion": "rain", "videos": videos}))
    found = read_metrics(file)
    assert found.numbers == {"loss": 1.0}
    assert found.videos[0].numbers == {"new_measure": 2.0}


def test_results_of_a_benchmark_of_wrong_types_are_named(tmp_path):
    file = tmp_path / "rain.json"
    file.write_text(json.dumps({"metrics": {"clip_score": "high"}}))
    with pytest.raises(UserError, match=r"rain.json cannot be used .*'metrics.clip_score' is 'high'"):
        read_judged(file)


def test_arrays_hold_no_code_and_no_bombs(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    write_arrays(file, videos=np.zeros((2, 3)))
    assert read_arrays(file)["videos"].shape == (2, 3)
    np.savez(file, videos=np.array([Path("a")], dtype=object))
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        read_arrays(file)
    write_arrays(file, videos=np.zeros(10_000))
    monkeypatch.setattr("lamp_lightning.benchmark.trial.LARGEST_ARRAYS", 9999)
    with pytest.raises(UserError, match="it unpacks to more"):
        read_arrays(file)


# -- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("unet", {"auto_map": {"AutoModel": "code.Net"}}, "code or formats that come with a model"),
        ("text_encoder", {"_attn_implementation_internal": "somebody/kernel"}, "is not used here"),
        ("text_encoder", {"quantization_config": {"quant_method": "evil"}}, "are not used here"),
        ("text_encoder", {"num_hidden_layers": 200}, "'num_hidden_layers' is 200, but its weights have"),
        ("text_encoder", {"intermediate_size": 10**8}, "describes a model of .* GiB"),
        ("unet", {"block_out_channels": [16_000, 32_000]}, "describes a model of .* GiB"),
        ("unet", {"in_channels": 10**30}, "'in_channels' is 1e.30, which no model has"),
        ("unet", {"sample_size": "large"}, "'sample_size"),
        ("vae", {"scaling_factor": 0}, "'scaling_factor' is 0"),
        ("vae", {"scaling_factor": None}, "'scaling_factor' is None"),
        ("vae", {"block_out_channels": []}, "'block_out_channels'"),
    ],
)  # fmt: skip
def test_configurations_are_checked_before_a_model_is_made(model, part, values, reason):
    change(model / part / "config.json", **values)
    with pytest.raises(UserError, match=rf"{part}.config.json.*{reason}"):
        load_base_model(model)


def test_code_beside_a_part_is_not_loaded(model, tmp_path):
    (model / "unet" / "my_code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Net: pass\n")
    change(model / "model_index.json", unet=["my_code", "Net"])
    with pytest.raises(UserError, match=r"its unet is a my_code.Net; only"):
        load_base_model(model)
    change(model / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    change(model / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])
    with pytest.raises(UserError, match=r"its tokenizer is a AutoTokenizer; LAMP works with CLIPTokenizer"):
        load_base_model(model)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"_class_name": 0.5}, "'_class_name' is 0.5"),
        ({"num_train_timesteps": 10**9}, "'num_train_timesteps'"),
        ({"beta_end": "x"}, "'beta_end' is 'x'"),
        ({"prediction_type": "guess"}, "'prediction_type' is 'guess'"),
    ],
)
def test_the_noise_schedule_of_a_model_is_checked(values, reason):
    config = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", **values}
    with pytest.raises(UserError, match=f"somewhere cannot be used .*{reason}"):
        make_scheduler(config, "somewhere")


def test_a_tokenizer_of_another_text_encoder_is_refused(model):
    file = model / "tokenizer" / "tokenizer.json"
    found = json.loads(file.read_text())
    found["model"]["vocab"]["a"] = 10**6
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match="numbers its words up to 1,000,000, but the text encoder knows"):
        load_base_model(model)


class Evil:
    """A pickle of it would make a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_pickles_hold_tensors_only_and_no_more_than_the_file(tmp_path):
    file = tmp_path / "model.bin"
    torch.save({"a": torch.ones(3), "state_dict": Evil(tmp_path / "mark")}, file)
    with pytest.raises(UserError, match=r"not a plain file of tensors .*would run code"):
        read_pickle(file)
    assert not (tmp_path / "mark").exists()
    torch.save({"a": torch.ones(1).expand(10**12)}, file)
    with pytest.raises(UserError, match="'a' has 1,000,000,000,000 numbers, more than the file has"):
        read_pickle(file)
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, file)
    assert read_pickle(file)["a"].shape == (1000,)
    with zipfile.ZipFile(file) as opened:
        entries = {entry.filename: opened.read(entry) for entry in opened.infolist()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in entries.items():
            writer.writestr(name, data)
    file.write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="is compressed"):
        read_pickle(file)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: change(f / "config.json", auto_map={"AutoModel": "code.Net"}), "that come with a model"),
        (lambda f: change(f / "config.json", text_config={"hidden_size": -1}), "text_config.hidden_size"),
        (lambda f: (f / "config.json").write_text("[" * 100_000 + "]" * 100_000), "levels deep"),
        (lambda f: change(f / "preprocessor_config.json", crop_size={"height": 10**6}), "crop_size"),
        (lambda f: as_pickle(f), "would run code"),
        (lambda f: os.truncate(f / "model.safetensors", 900), "invalid header"),
    ],
)  # fmt: skip
def test_a_clip_model_that_cannot_be_used_is_named(clip, damage, reason):
    damage(clip)
    with pytest.raises(UserError, match=rf"The CLIP model .*clip.* cannot be loaded: .*{reason}"):
        load_clip(clip)
    assert not (clip / "mark").exists()


def as_pickle(folder):
    """The weights as a pickle with code."""
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil(folder / "mark")}, folder / "pytorch_model.bin")


def test_sound_models_pass(tmp_path):
    load_clip(save_random_clip(tmp_path / "clip"))
    folder = save_random_model(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    load_base_model(folder)
    save_file(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"), weights)
    with pytest.raises(UserError, match="unet"):  # the autoencoder's
        load_base_model(folder)


# -- sweeps and the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["seed=range(0,1000000000)", "seed=range(0,1,0)", "seed=shuffle(range(99999))"]
)
@pytest.mark.parametrize("kind", ["task", "hydra"])
def test_a_sweep_of_somebody_else_has_a_bounded_number_of_jobs(tmp_path, word, kind):
    overrides = {"task": ["motion=rain"], "hydra": ["hydra.mode=MULTIRUN"]}
    overrides[kind].append(word)
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": overrides}}))
    with pytest.raises(UserError, match=r"multirun.yaml asks for .* jobs, and 10,000 are the most"):
        words_of(tmp_path)
    overrides[kind][-1] = "seed=range(0,5)"
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": overrides}}))
    assert "seed=range(0,5)" in words_of(tmp_path)


def test_entries_of_the_cache_that_cannot_be_used_are_none(tmp_path):
    cache = Cache(tmp_path)
    entry = cache.path("frames", {"clip": "a"}, ".rgb")
    entry.parent.mkdir(parents=True)
    facts = {"shape": [1, 2, 2, 3], "source_size": [2, 2], "fps": 8.0, "sha256": "0" * 64}
    for content in (facts, {**facts, "shape": [2**40]}, {**facts, "fps": "x"}, [[[[1]]]]):
        entry.write_bytes(bytes(12))
        entry.with_suffix(".json").write_text(json.dumps(content))
        with pytest.warns(UserWarning, match="this cache file is damaged"):
            assert cache.load_frames(entry) is None
    if hasattr(os, "mkfifo"):
        entry.unlink()
        os.mkfifo(entry)
        entry.with_suffix(".json").write_text(json.dumps(facts))
        with pytest.warns(UserWarning, match="its size is wrong"):
            assert cache.load_frames(entry) is None


# -- links ---------------------------------------------------------------------------------------------------


def test_nothing_is_written_through_a_link_out_of_a_folder(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (run / "kept").mkdir(parents=True)
    elsewhere.mkdir()
    (run / "samples").symlink_to(run / "kept")
    check_links(run)
    assert inside(run / "new", run) == run / "new"
    (run / "kept" / "videos").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"videos is a link that leads out of .*run, to .*elsewhere"):
        check_links(run)
    whole = tmp_path / "link"
    whole.symlink_to(run)
    assert inside(whole / "new", whole) == whole / "new"  # a run folder may lie anywhere
