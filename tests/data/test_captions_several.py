"""Several captions of a clip: one of them is drawn for each sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_fakes import FakeBase, write_set
from lamp_lightning.data.captions import read_captions, read_captions_of_each
from lamp_lightning.data.datamodule import MotionSetDataModule
from lamp_lightning.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_set(tmp_path / "clips", count=3, frames=5)


def captions(folder: Path, name: str, text: str) -> list[tuple[str, ...]]:
    (folder / name).write_text(text)
    return read_captions_of_each(sorted(folder.glob("*.mp4")), "rain")


def module(folder: Path, seed: int = 0) -> MotionSetDataModule:
    made = MotionSetDataModule(
        folder, "rain", 4, size=32, cache_dir=folder.parent / "cache", seed=seed, validation=0.4
    )
    made.prepare(FakeBase())
    return made


def test_they_are_lists_in_json_and_lines_with_a_name(folder):
    wanted = [("a red one", "red rain"), ("blue",), ("rain",)]
    listed = {"clip_0": ["a red one", "red rain"], "clip_1.mp4": "blue"}
    with pytest.warns(UserWarning, match="no caption for 1 of 3"):
        assert captions(folder, "captions.json", json.dumps(listed)) == wanted
    assert captions(folder, "captions.json", '[["a", "b"], "c", ["d"]]') == [("a", "b"), ("c",), ("d",)]
    (folder / "captions.json").unlink()
    lines = "clip_0: a red one\nclip_1.mp4: blue\nclip_0: red rain\nclip_2: rain\n"
    assert captions(folder, "captions.txt", lines) == wanted
    assert read_captions(sorted(folder.glob("*.mp4")), "rain") == ["a red one", "blue", "rain"]


@pytest.mark.parametrize("text", ['{"clip_0": []}', '{"clip_0": ["a", 3]}', '{"clip_0": [["a"]]}'])
def test_lists_that_cannot_be_used_are_named(folder, text):
    with pytest.raises(UserError, match=r"captions\.json"):
        captions(folder, "captions.json", text)


def test_one_is_drawn_for_each_sample_and_always_the_same(folder):
    single = module(folder)
    listed = {"clip_0": ["a red one", "red rain"], "clip_1": "blue", "clip_2": ["held", "out"]}
    (folder / "captions.json").write_text(json.dumps(listed))
    several = module(folder)
    texts = {prompt: sum(map(ord, prompt)) for prompt in ("a red one", "red rain", "blue")}
    seen: dict[int, list[float]] = {0: [], 1: []}
    for number in range(40):
        item, plain = several.dataset[number], single.dataset[number]
        assert torch.equal(item["latents"], plain["latents"])  # all other choices stay
        seen[several.dataset.clip_of(number)].append(float(item["text"][0, 0]))
    assert set(seen[1]) == {texts["blue"]}
    assert set(seen[0]) == {texts["a red one"], texts["red rain"]}
    again = module(folder).dataset  # as a run that goes on would draw
    assert [float(again[n]["text"][0, 0]) for n in range(39, 19, -1)] == [
        float(several.dataset[n]["text"][0, 0]) for n in range(39, 19, -1)
    ]
    held_out = [float(item["text"][0, 0]) for batch in [several.val_dataloader().dataset] for item in batch]
    assert set(held_out) <= {float(sum(map(ord, prompt))) for prompt in ("held", "out")}
