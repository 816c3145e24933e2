"""Records of videos as files of anybody: checked whole before anything is done with them."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lamp_lightning import UserError
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.runtime.command import shell_overrides
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.sample.__main__ import main
from lamp_lightning.sample.record import FORMAT, differences, find_places, read_record, say_again
from lamp_lightning.sample.videos import Video
from method_models import motion_unet

HASH = "0" * 64


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    file = tmp_path_factory.mktemp("adapter") / "fly.safetensors"
    motion_unet().save_motion(file, base_model="no/such", motion="fly")
    return file


def sound(adapter):
    """A record as the sample command writes it."""
    file = str(adapter)
    return {
        "format": FORMAT,
        "finished": True,
        "prompt": "a lake",
        "negative_prompt": None,
        "seed": 3,
        "first_frame": None,
        "sampler": Sampler(num_frames=3, size=(32, 32)).settings(),
        "precision": "32-true",
        "motions": [{"file": file, "sha256": file_sha256(adapter), "motion": "fly", "weight": 1.0}],
        "base": {"model": "no/such", "config": None, "variant": None, "dtype": "float32", "identity": {}},
        "painter": None,
        "words": {"run": [f"{file}:1.0"], "base": None, "painter": None, "painter_config": None},
        "frames_sha256": HASH,
        "formats": ["mp4"],
        "measured": {"motion_amount": 1.5},
        "made": {
            "device": "cpu",
            "threads": 1,
            "memory": {"attention_slicing": None, "vae_slicing": None, "vae_tiling": True},
            "versions": {"torch": "2"},
            "batch": 4,
            "place": 1,
        },
    }  # fmt: skip


def changed(record, part, value):
    """A copy with another value at a place like "made.batch"."""
    record = json.loads(json.dumps(record))
    *way, last = part.split(".")
    node = record
    for key in way:
        node = node[int(key) if isinstance(node, list) else key]
    node[last] = value
    return record


def write(record, file="video.json"):
    Path(file).write_text(json.dumps(record))
    return Path(file)


def read_or_none(file):
    try:
        return read_record(file)
    except UserError:
        return None


def test_a_sound_record_sets_what_it_says_and_nothing_else(adapter):
    cfg = composed("sample", ["run=x", "out=mine"])
    record = sound(adapter)
    assert say_again(cfg, write(record), ["out"]) == record
    assert (cfg.prompt, cfg.seed, cfg.num_frames, list(cfg.size)) == ("a lake", 3, 3, [32, 32])
    assert (cfg.vae_tiling, cfg.attention_slicing, cfg.threads) == (True, None, 1)
    assert list(cfg.run) == record["words"]["run"]
    assert (cfg.out, cfg.overwrite, cfg.again, cfg.batch) == ("mine", False, None, "auto")
    begun = {key: value for key, value in record.items() if key not in ("frames_sha256", "formats", "made")}
    assert read_record(write(begun | {"finished": False}))["finished"] is False


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("words.out", "elsewhere.mp4", "'words.out', which is not known"),
        ("words.overwrite", True, "'words.overwrite', which is not known"),
        ("made.memory.out", "elsewhere.mp4", "'made.memory.out', which is not known"),
        ("made.memory.overwrite", True, "'made.memory.overwrite', which is not known"),
        ("made.memory.vae_tiling", "yes", "'made.memory.vae_tiling' is 'yes'"),
        ("sampler.out", "x", "'sampler.out', which is not known"),
        ("out", "elsewhere", "'out', which is not known"),
        ("made.batch", 10**9, "'made.batch' is 1000000000"),
        ("made.batch", 0, "'made.batch' is 0"),
        ("made.place", 4, "'made.place' is 4: a batch has places"),
        ("made.place", -1, "'made.place' is -1"),
        ("made.threads", 10**6, "'made.threads' is 1000000"),
        ("made.device", "cpu; rm", "'made.device' is 'cpu; rm'"),
        ("made", None, "it is of a finished video and lacks 'made'"),
        ("made", [], "'made' is"),
        ("seed", 2**63, "'seed' is 9223372036854775808"),
        ("seed", -1, "'seed' is -1"),
        ("seed", 1.5, "'seed' is 1.5"),
        ("prompt", 7, "'prompt' is 7"),
        ("prompt", "\ud800", "no valid JSON|no UTF-8|[Ii]nvalid JSON"),
        ("sampler", "ddim", "'sampler' is 'ddim'"),
        ("sampler.num_frames", 10**6, "'sampler.num_frames' is 1000000"),
        ("sampler.size", [10**5, 64], "'sampler.size.0' is 100000"),
        ("sampler.guidance_scale", float("nan"), "'sampler.guidance_scale' is nan"),
        ("precision", "64-true", "'precision' is '64-true'"),
        ("motions", [], "'motions' is"),
        ("motions", {"file": "x"}, "'motions' is"),
        ("motions.0.weight", "heavy", "'motions.0.weight' is 'heavy'"),
        ("motions.0.sha256", "abc", "'motions.0.sha256' is 'abc'"),
        ("first_frame", {"file": "x.png"}, "lacks 'first_frame.sha256'"),
        ("base", None, "'base' is None"),
        ("formats", ["exe"], "'formats.0' is 'exe'"),
        ("formats", [], "'formats' is"),
        ("words.run", "x", "'words.run' is 'x'"),
        ("measured", {"a": "b"}, "'measured.a' is 'b'"),
        ("format", "lamp-lightning video 1", "by an earlier version"),
        ("format", "lamp-lightning video 9", "is no record of a video"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_named(adapter, capsys, part, value, message):
    file = write(changed(sound(adapter), part, value))
    with pytest.raises(UserError, match=message) as error:
        read_record(file)
    assert str(file) in str(error.value)
    assert len(str(error.value)) < 600


def test_every_part_of_a_wrong_type_ends_in_one_message(adapter):
    """Seeded: each part of a record, and each part within, is replaced by values of other types."""
    record, chance = sound(adapter), random.Random(0)
    parts = [key for key in record if key not in ("format", "measured")]
    parts += [f"{key}.{inner}" for key in parts if isinstance(record[key], dict) for inner in record[key]]
    values = [[], {}, "x", -5, 1.5, [[[]]], {"a": {"b": []}}, [None], "${oc.env:HOME}", "9" * 50, 10**40]
    refused = 0
    for part in parts:
        for value in chance.sample(values, 4):
            found = read_or_none(write(changed(record, part, value)))
            refused += found is None
            if found is not None:
                differences(record, found)
                say_again(composed("sample", ["run=x"]), write(found), ["run", "first_frame"])
    assert refused > 2 * len(parts)


def test_deep_and_large_and_binary_records_end_in_one_message(adapter):
    for content, message in (
        (b"[" * 100_000, "nested more than"),
        (b'{"a":' * 100_000, "nested more than|not valid JSON"),
        (b"\xff\xfe", "no UTF-8"),
        (b"", "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (b" " * (17 << 20), "bytes"),
    ):
        Path("video.json").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_record(Path("video.json"))


def test_a_record_never_says_where_to_write(adapter, capsys):
    Path("kept.mp4").write_text("mine")
    record = changed(sound(adapter), "words.out", str(Path("kept.mp4").absolute()))
    assert main([f"again={write(changed(record, 'words.overwrite', True))}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err
    assert Path("kept.mp4").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["kept.mp4", "video.json"]


def test_broken_records_in_the_folder_are_kept_and_never_end_a_command(adapter):
    record, said = sound(adapter), []
    video = Video(record["prompt"], record["seed"], Sampler(num_frames=3, size=(32, 32)), None, "crop", "a")
    broken = [b"", b"[" * 50_000, b"\xff", b"{}", b"null", json.dumps({**record, "motions": 3}).encode()]
    broken += [json.dumps({**record, part: [[]]}).encode() for part in ("sampler", "base", "made", "words")]
    for content in broken:
        Path("a.json").write_bytes(content)
        (place,) = find_places(
            [video], Path(), ["mp4"], lambda video: record, named=False, overwrite=False, say=said.append
        )
        assert (place.name, place.record) == ("a_2", None)
        assert said.pop().startswith("a is there, but a.json ")
        assert Path("a.json").read_bytes() == content
    write(record, "a.json")
    Path("a.mp4").touch()
    (place,) = find_places([video], Path(), ["mp4"], lambda video: record, named=False, overwrite=False)
    assert (place.name, place.record) == ("a", record)


def test_nothing_in_a_record_is_interpolated(adapter, monkeypatch):
    monkeypatch.setenv("SECRET_OF_MINE", "leaked")
    for before in ("", "\\", "\\\\", "\\\\\\", "${oc.env:SECRET_OF_MINE}\\", "$", "'\\"):
        text = f"a lake {before}${{oc.env:SECRET_OF_MINE}}"
        record = changed(sound(adapter), "prompt", text)
        record["sampler"]["negative_prompt"] = text
        record["sampler"]["scheduler_options"] = {"name": text, "names": [text]}
        record["words"]["painter"] = text
        cfg = composed("sample", ["run=x"])
        say_again(cfg, write(record), [])
        found = OmegaConf.to_container(cfg, resolve=True)
        assert (found["prompt"], found["painter"]) == (text, text)
        assert found["sampler"]["negative_prompt"] == text
        assert found["sampler"]["scheduler_options"] == {"name": text, "names": [text]}
        assert "leaked" not in json.dumps(found)


def test_every_prompt_reaches_its_command_as_it_was_typed():
    """Backslashes, braces, dollars and quotes in all orders: nothing is interpolated or lost."""
    prompts = ["".join(signs) for n in (2, 3) for signs in itertools.product("\\${}'", repeat=n)]
    prompts += [
        f"{slashes}${{oc.env:HOME}}{end}" for slashes in ("a", "\\", "\\\\", "\\\\\\") for end in ("", "\\")
    ]
    parser, seen = OverridesParser.create(), 0
    for prompt in prompts:
        (word,) = shell_overrides([f"prompt={prompt}"])
        if word == f"prompt={prompt}":
            continue  # quoted, or an interpolation, by the user
        cfg = OmegaConf.create({"prompt": parser.parse_override(word).value()})
        assert cfg.prompt == prompt
        seen += 1
    assert seen > 100
