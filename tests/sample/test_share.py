"""Motions on the hub: published with a card, and used from there on any machine. `hub_server` is the hub."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from hub_server import Commit, Hub, Repo, hub_server
from lamp_lightning import LAMPPipeline, UserError, share
from lamp_lightning.data.video import read_video
from lamp_lightning.models.adapter import copy_adapter, read_metadata
from lamp_lightning.runtime import hub as hub_room
from lamp_lightning.runtime.hub import HubMotion, fetch, publish
from lamp_lightning.sample import __main__ as sample
from lamp_lightning.sample.motions import find_motions
from lamp_lightning.train import __main__ as train

FEW = ["num_frames=3", "sampler.num_inference_steps=2", "format=mp4"]
NO_NETWORK = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the packaged tiny model, as short as a run can be."""
    home = tmp_path_factory.mktemp("ann")
    folder = home / "runs" / "rain" / "first"
    words = [
        "motion=rain", f"hydra.run.dir={folder}", f"data.root={home / 'data'}",
        f"data.cache_dir={home / 'cache'}",
        "trainer.max_steps=1", "data.num_frames=3", "data.batch_size=1", "sampler.num_inference_steps=2",
        "sampler.paint_steps=2", "motion.flip=false", "samples.every=null", "samples.final=2",
        "logger=none", "threads=1",
    ]  # fmt: skip
    assert train.main(words) == 0
    return folder


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does it before huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, with Ann logged in on a machine with an empty cache; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    with hub_server() as found:
        point_at(found.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", "hf_ann")
        yield found


@pytest.fixture
def shared(hub: Hub, run: Path) -> Hub:
    assert share.main([f"run={run}", "to=ann/rain"]) == 0
    return hub


def python(words: list[str], folder: Path, hub: Hub, home: Path, **env: str) -> str:
    """A command in a process of its own, with the hub's settings as a user gives them; what it prints."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **env}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env={**kept, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_motion_goes_to_the_hub_and_comes_back_on_another_machine(hub, run, tmp_path, monkeypatch, capsys):
    said = python(
        ["lamp_lightning.share", f"run={run}", "to=ann/rain"],
        tmp_path,
        hub,
        tmp_path / "anns",
        HF_TOKEN="hf_ann",
    )
    assert f"{hub.url}/ann/rain" in said
    assert "HTTP" not in said
    assert len(hub.repos["ann/rain"].commits) == 2  # the one of the hub, and ours
    files = hub.files("ann/rain")
    videos = sorted(each.name for each in (run / "videos").iterdir() if each.suffix in (".mp4", ".gif"))
    assert len(videos) == 4
    pictures = ["README.md", "adapter.safetensors", "clips.png", "contact_sheet.png"]
    assert sorted(files) == [".gitattributes", *pictures, *(f"videos/{name}" for name in videos)]
    assert files["adapter.safetensors"] == (run / "adapter.safetensors").read_bytes()
    assert files["contact_sheet.png"] == (run / "contact_sheet.png").read_bytes()

    other = tmp_path / "bobs"
    other.mkdir()
    words = ["lamp_lightning.sample", "prompt=a lake in the rain", *FEW, "threads=1"]
    said = python([*words, "run=ann/rain"], other, hub, other / "home")
    commit = hub.repos["ann/rain"].commits[-1].oid
    assert f"(ann/rain@{commit})" in said
    assert "HTTP" not in said
    assert read_video(other / "samples" / "a_lake_in_the_rain_seed0.mp4").shape == (3, 256, 256, 3)
    record = (other / "samples" / "a_lake_in_the_rain_seed0.json").read_text()
    assert f"ann/rain@{commit}:1.0" in record
    assert str(other / "home") not in record  # it means something on every machine

    # Without the hub, what is in the cache still loads: here the video is made again, from its record.
    hub.repos.clear()
    monkeypatch.chdir(other)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(other / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert sample.main(["again=samples/a_lake_in_the_rain_seed0.json"]) == 0
    assert "The same video, bit for bit." in capsys.readouterr().out


def test_the_card_says_what_is_so(shared, run):
    files = shared.files("ann/rain")
    card = files["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "lamp-lightning"
    assert facts["license"] == "apache-2.0"
    assert facts["pipeline_tag"] == "text-to-video"
    assert "base_model" not in facts  # the tiny model has no name on the hub
    assert {each["output"]["url"] for each in facts["widget"]} <= set(files)
    for name in ("contact_sheet.png", "clips.png", *(each["output"]["url"] for each in facts["widget"])):
        assert name.removesuffix(".mp4") in text  # of a video its gif
    assert 'LAMPPipeline.from_motion("ann/rain")' in text
    assert "sample run=ann/rain" in text
    assert "| steps | 1 |" in text
    assert "| CLIP score ↑ |" in text
    assert "which are too few" in text
    home = str(run.parents[3])
    assert not any(home.encode() in content for content in files.values())  # no path of Ann's machine


def test_a_published_motion_is_used_by_its_name_in_python(shared, run, tmp_path):
    pipe = LAMPPipeline.from_motion("ann/rain")
    file = run / "adapter.safetensors"
    name, tensor = max(load_file(file).items(), key=lambda each: each[1].abs().sum())
    assert (dict(pipe.unet.named_parameters())[name] == tensor).all()
    assert pipe.sampler.num_inference_steps == 2

    shared.repos["bob/rain"] = shared.repos["ann/rain"]
    pipe.unload_motion()
    assert pipe.load_motion("ann/rain", revision="main", token="hf_bob") == read_metadata(file)
    pipe.set_motions({"ann/rain": 0.5})
    assert pipe.unet.is_mixed
    with pytest.raises(UserError, match="named twice"):
        pipe.set_motions({"ann/rain": 0.5, "hf://ann/rain@main": 0.5})
    commit = shared.repos["ann/rain"].commits[-1].oid
    assert pipe.unet.load_motion(f"ann/rain@{commit}") == read_metadata(file)
    mixed = find_motions("ann/rain:0.7,hf://bob/rain@main:0.2")
    assert [each.origin for each in mixed.all] == [f"ann/rain@{commit}", f"bob/rain@{commit}"]


def test_pushing_from_python_is_one_commit_and_a_second_push_updates_it(hub, run, tmp_path):
    pipe = LAMPPipeline.from_pretrained("tiny")
    with pytest.raises(UserError, match="Which motion"):
        pipe.push_motion_to_hub("ann/rain")
    pipe.load_motion(run / "adapter.safetensors")
    pushed = pipe.push_motion_to_hub("rain", private=True, commit_message="Rain, softly", license="cc-by-4.0")
    assert pushed.repo_url.repo_id == "ann/rain"
    repo = hub.repos["ann/rain"]
    assert repo.private
    assert [each.message for each in repo.commits] == ["initial commit", "Rain, softly"]
    assert b"license: cc-by-4.0" in hub.files("ann/rain")["README.md"]
    assert "videos/" in str(sorted(hub.files("ann/rain")))  # of the run that the adapter lies in

    pipe.push_motion_to_hub("ann/rain", run, videos=1, clips=False)
    assert len(repo.commits) == 3
    now = hub.files("ann/rain")
    assert "clips.png" not in now
    assert sum(name.endswith(".mp4") for name in now) == 1
    assert b"apache-2.0" in now["README.md"]


@pytest.mark.parametrize(
    ("token", "refuse", "sentence"),
    [
        (None, {}, "no token of the hub is here"),
        ("hf_wrong", {}, "the hub does not accept the token (401)"),
        ("hf_reader", {}, "the token may not write there (403)"),
        ("hf_bob", {}, "the token may not write there (403)"),
        ("hf_ann", {"/commit/": 403}, "the token may not write there (403)"),
        ("hf_ann", {"/lfs/": 403}, "the token may not write there (403)"),
        ("hf_ann", {"/commit/": 503}, "the hub answered 503"),
        ("hf_ann", {"/commit/": 403, "delete": 403}, "could not be removed: look at"),
    ],
)
def test_without_rights_nothing_is_published_and_nothing_is_left(
    token, refuse, sentence, hub, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse = refuse
    assert share.main([f"run={run}", "to=ann/rain"]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    if "delete" not in refuse:
        assert hub.repos == {}
    assert [each.name for each in tmp_path.iterdir()] == []


def test_without_a_network_a_sentence_says_so(shared, run, tmp_path, monkeypatch, capsys):
    fetched = fetch(HubMotion("ann/rain")).file
    point_at(NO_NETWORK, monkeypatch)
    assert share.main([f"run={run}", "to=ann/snow"]) == 1
    assert f"ann/snow is not published: the hub ({NO_NETWORK}) cannot be reached" in capsys.readouterr().err
    assert sample.main(["run=ann/snow", "prompt=snow"]) == 1
    error = capsys.readouterr().err
    assert "run=ann/snow is no path here. ann/snow is not fetched: the hub" in error
    assert len(error.splitlines()) == 1
    assert fetch(HubMotion("ann/rain")).file == fetched  # the cache is enough
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(HubMotion("ann/rain")).file == fetched
    with pytest.raises(UserError, match=r"ann/snow is not in this machine's cache, .*HF_HUB_OFFLINE=1"):
        fetch(HubMotion("ann/snow"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids"):
        publish("ann/snow", {}, message="snow")


def test_what_is_on_the_hub_and_is_no_motion_is_named(shared, tmp_path, monkeypatch):
    shared.repos["bob/secret"] = Repo(True, [Commit("0" * 40, "", {})])
    shared.repos["bob/model"] = Repo(False, [Commit("1" * 40, "", {"config.json": b"{}"})])
    shared.repos["bob/text"] = Repo(False, [Commit("2" * 40, "", {"adapter.safetensors": b"import os"})])
    for name, sentence in (
        ("bob/nothing", "bob/nothing is not on the hub, or is private"),
        ("bob/secret", "bob/secret is not on the hub, or is private"),
        ("bob/model", "bob/model is on the hub, but has no adapter.safetensors"),
        ("ann/rain@v9", "ann/rain@v9: the repository is there, but not this version"),
        ("bob/text", "is not a readable safetensors file"),
    ):
        with pytest.raises(UserError) as error:
            find_motions(name)
        assert sentence in str(error.value)
    with pytest.raises(UserError, match="nothing else is loaded"):
        LAMPPipeline.from_pretrained("tiny").load_motion("ann/rain", weight_name="adapter.bin")
    monkeypatch.setattr(hub_room, "LARGEST", 1000)
    with pytest.raises(UserError, match="1,000 are the most that is fetched"):
        fetch(HubMotion("ann/rain"))


def test_a_download_that_breaks_off_is_no_motion(shared, run, tmp_path):
    shared.cut = 30_000
    with pytest.raises(UserError, match="ann/rain is not fetched"):
        fetch(HubMotion("ann/rain"))
    assert not list((tmp_path / "cache").rglob("snapshots/*/*"))
    shared.cut = None
    assert fetch(HubMotion("ann/rain")).file.read_bytes() == (run / "adapter.safetensors").read_bytes()


def test_a_local_path_always_wins(shared, run, tmp_path, capsys):
    shared.asked.clear()
    (tmp_path / "ann").mkdir()
    copy_adapter(run / "adapter.safetensors", tmp_path / "ann" / "rain", {"motion": "mine"})
    assert find_motions("ann/rain").motion == "mine"
    assert sample.main(["run=ann/rian", "prompt=rain"]) == 1  # a misspelt path is not asked of the hub
    error = capsys.readouterr().err
    assert "run=ann/rian does not exist" in error
    assert "If it is one of the hub, give run=hf://ann/rian." in error
    for text in (
        "runs/rain",
        "./ann/rain",
        "rain",
        "a/b/c",
        "ann/rain.safetensors",
        "ann/../rain",
        Path("a/b"),
    ):
        assert HubMotion.named(text) is None
    assert shared.asked == []
    assert find_motions("hf://ann/rain").motion == "rain"


def test_other_repositories_and_public_ones_are_left_alone(hub, run, capsys):
    hub.repos["ann/thesis"] = Repo(False, [Commit("0" * 40, "", {"thesis.pdf": b"%PDF"})])
    hub.repos["ann/rain"] = Repo(False, [Commit("1" * 40, "", {"README.md": b"soon"})])
    for words, sentence in (
        (["to=ann/thesis"], "ann/thesis is there and holds something else (thesis.pdf)"),
        (["to=ann/rain", "private=true"], "ann/rain is public, and private=true was asked for"),
        (["to=rain"], "to=rain is no name on the hub"),
        (["to=ann/rain", "base=folder"], "base=folder is no name of a model on the hub"),
    ):
        assert share.main([f"run={run}", *words]) == 1
        assert sentence in capsys.readouterr().err
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())


def test_a_base_model_of_this_machine_alone_has_to_be_named(hub, run, tmp_path, capsys):
    file = tmp_path / "mine.safetensors"
    paths = {
        "base_model": "/models/sd15.safetensors",
        "base_config": "/models/sd15",
        "painter": "../xl",
        "clip": "./clip",
    }
    copy_adapter(run / "adapter.safetensors", file, paths)
    assert share.main([f"run={file}", "to=ann/rain"]) == 1
    assert (
        "names /models/sd15.safetensors as its base model, which only this machine has"
        in capsys.readouterr().err
    )
    assert hub.repos == {}
    assert share.main([f"run={file}", "to=ann/rain", "base=somebody/model"]) == 0
    assert "Note: an adapter file alone has no pictures" in capsys.readouterr().out
    (tmp_path / "theirs.safetensors").write_bytes(hub.files("ann/rain")["adapter.safetensors"])
    header = read_metadata(tmp_path / "theirs.safetensors")
    assert header["base_model"] == "somebody/model"
    assert not header.keys() & {"base_config", "painter"}
    assert header["clip"] == ""
    ours, theirs = load_file(file), load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    front = yaml.safe_load(hub.files("ann/rain")["README.md"].decode().split("---\n")[1])
    assert front["base_model"] == "somebody/model"
    assert front["license"] == "other"
    assert front["license_link"] == "https://huggingface.co/somebody/model"


def test_a_look_before_publishing_asks_nobody(hub, run, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert share.main([f"run={run}", "to=ann/rain", "out=look"]) == 0
    assert hub.asked == []
    assert {each.name for each in (tmp_path / "look").iterdir()} == {
        "README.md", "adapter.safetensors", "clips.png", "contact_sheet.png", "videos",
    }  # fmt: skip
    assert Image.open(tmp_path / "look" / "clips.png").size == Image.open(run / "clips.png").size
    assert share.main([f"run={run}", "to=ann/rain", "out=look"]) == 1
    assert "out=look is there" in capsys.readouterr().err


def test_a_converted_checkpoint_stays_under_its_authors_licence(hub, run, tmp_path):
    file = tmp_path / "converted.safetensors"
    copy_adapter(run / "adapter.safetensors", file, {"official_config": "{}", "prompt": 'a|b <b>"$(x)`'})
    assert share.main([f"run={file}", "to=ann/rain", "license=mit"]) == 0
    card = hub.files("ann/rain")["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-nc-4.0"
    assert r"| prompt of the clips | a\|b \<b\>" in card
    assert 'prompt="a|b <b>(x)"' in card  # what a shell would run is not in the line to copy
