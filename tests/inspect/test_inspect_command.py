"""The inspect command: it finds what is wrong with clips, and nothing where nothing is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lamp_lightning.data.video import write_mp4
from lamp_lightning.inspect.__main__ import main
from lamp_lightning.toyworld import motion_set_scenes, render_clip

FRAMES = 14
WORDS = ["data.num_frames=8"]


def drawn(motion: str, count: int, seed: int = 0) -> list[np.ndarray]:
    return [render_clip(scene, frames=FRAMES) for scene in motion_set_scenes(motion, count, seed)]


def write(folder: Path, videos: list[np.ndarray], fps: float = 8) -> Path:
    for number, video in enumerate(videos):
        write_mp4(folder / f"{number}.mp4", video, fps=fps)
    return folder


@pytest.fixture(scope="module")
def horses() -> list[np.ndarray]:
    return drawn("horse_run", 8)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMP_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_each_fault_of_a_folder_is_found_and_no_other(here, horses, capsys):
    folder = write(here / "horses", horses[:6])
    write_mp4(folder / "still.mp4", np.repeat(horses[6][:1], FRAMES, axis=0), fps=8)
    write_mp4(folder / "cut.mp4", np.concatenate([horses[6][:8], horses[7][:6]]), fps=8)
    write_mp4(folder / "backwards.mp4", horses[7][::-1], fps=8)
    write_mp4(folder / "other.mp4", drawn("waterfall", 1)[0], fps=8)
    write_mp4(folder / "fast.mp4", horses[7], fps=25)
    assert main([f"data.folder={folder}", *WORDS]) == 0
    out = here / "inspections" / "horses"
    facts = json.loads((out / "inspection.json").read_text())
    found = {clip["name"]: clip["findings"] for clip in facts["clips"]}
    assert found.pop("still.mp4") == ["still"]
    assert found.pop("cut.mp4") == ["cut"]
    assert found.pop("backwards.mp4") == ["backwards"]
    assert found.pop("other.mp4") == ["other_motion"]
    assert set(map(tuple, found.values())) == {()}
    assert [clip["cuts"] for clip in facts["clips"] if clip["name"] == "cut.mp4"] == [[8]]
    printed = capsys.readouterr().out
    for sentence in (
        "cut.mp4 (frame 8, at 1.00 s) has a cut",
        "still.mp4 stands still",
        "backwards.mp4 moves backwards",
        "other.mp4 moves unlike the others",
        "different frame rates: 8 (10), 25 (1)",
    ):
        assert sentence in printed
        assert any(sentence in line for line in facts["advice"])
    sheet = Image.open(out / "contact_sheet.png")
    assert sheet.height > 11 * 128


@pytest.mark.parametrize("motion", ["helicopter", "turn_to_smile"])
def test_clips_of_one_motion_need_no_advice(here, motion, capsys):
    folder = write(here / motion, drawn(motion, 8))
    assert main([f"data.folder={folder}", *WORDS]) == 0
    assert "Nothing has to be mended." in capsys.readouterr().out
    facts = json.loads((here / "inspections" / motion / "inspection.json").read_text())
    assert facts["advice"] == []
    assert all(clip["likeness"] > 0.5 and clip["motion"] > 0 for clip in facts["clips"])
