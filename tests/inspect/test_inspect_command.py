"""The inspect command: it finds what is wrong with clips, and nothing where nothing is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lamp_lightning.data.video import write_mp4
from lamp_lightning.inspect import ClipFacts, Inspection
from lamp_lightning.inspect.__main__ import main
from lamp_lightning.inspect.inspection import _advice
from lamp_lightning.toyworld import motion_set_scenes, render_clip

FRAMES = 12
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
    write_mp4(folder / "cut.mp4", np.concatenate([horses[6][:8], horses[7][:4]]), fps=8)
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


@pytest.mark.parametrize("motion", ["turn_to_smile"])
def test_clips_of_one_motion_need_no_advice(here, motion, capsys):
    folder = write(here / motion, drawn(motion, 8))
    assert main([f"data.folder={folder}", *WORDS]) == 0
    assert "Nothing has to be mended." in capsys.readouterr().out
    facts = json.loads((here / "inspections" / motion / "inspection.json").read_text())
    assert facts["advice"] == []
    assert all(clip["likeness"] > 0.5 and clip["motion"] > 0 for clip in facts["clips"])


def facts_of(name: str, frames: int, fps: float) -> ClipFacts:
    return ClipFacts(name, fps, frames, frames / fps, (64, 64), motion=1.0)


def advice_of(*clips: ClipFacts, num_frames: int = 16, fps: float | None = None) -> str:
    short = [replace(c, findings=("too_short",)) if c.frames < num_frames else c for c in clips]
    look = Inspection(Path("clips"), (64, 64), num_frames, 1, fps, short, {}, [], [])
    return " ".join(_advice(look, num_frames))


def test_one_odd_clip_does_not_decide_for_all():
    usual = [facts_of(f"{k}.mp4", 32, 25) for k in range(7)]
    said = advice_of(*usual, facts_of("short.mp4", 10, 25))
    assert "short.mp4 (10) has fewer frames than the 16 of a sample: take a longer one" in said
    assert "data.num_frames" not in said
    said = advice_of(*[facts_of(f"{k}.mp4", 12, 25) for k in range(7)], facts_of("short.mp4", 5, 25))
    assert "data.num_frames=12 fits all but short.mp4" in said
    said = advice_of(*usual, facts_of("slow.mp4", 32, 12))
    assert "data.fps=25 reads all at one rate; slow.mp4 (12) is too slow for that: leave it out." in said
    said = advice_of(*usual, facts_of("slow.mp4", 32, 12), fps=25)
    assert "slow.mp4 (12) has fewer frames per second than data.fps=25" in said
    assert "Leave it out." in said
    assert "data.fps=12 suits most clips" in advice_of(
        *[facts_of(f"{k}.mp4", 32, 12) for k in range(8)], fps=25
    )


def test_it_says_how_far_it_is_and_what_the_tiny_model_does_not_know(here, monkeypatch, capsys):
    monkeypatch.setattr("lamp_lightning.inspect.__main__.EVERY", 0.0)
    noise = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64, 3), dtype=np.uint8)
    folder = write(here / "a lake", list(noise))
    assert main([f"data.folder={folder}", "data.num_frames=4"]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.index("Looking at the clips") < printed.index("1 of 2 clips") < printed.index("contact sheet")
    )
    assert "has seen nothing like 2 of 2 clips" in printed
    assert main([f"data.folder={folder}", "data.num_frames=4", "model=sd15"]) == 0
    assert "has seen nothing" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A BLIP of random weights in a folder, with its processor."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "horse", "runs"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    kind = getattr(transformers, "BlipImageProcessorPil", None) or transformers.BlipImageProcessor
    transformers.BlipProcessor(kind(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = transformers.BlipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        text_config={**sizes, **tokens, "vocab_size": len(words), "encoder_hidden_size": 16},
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_captioner_writes_captions_for_clips_that_have_none(here, horses, blip, capsys):
    folder = write(here / "clips", [video[:4] for video in horses[:3]])
    (folder / "1.txt").write_text("mine\n")
    words = [f"data.folder={folder}", "data.num_frames=4"]
    assert main([*words, f"captioner={blip}"]) == 0
    assert (folder / "1.txt").read_text() == "mine\n"
    written = {name: (folder / name).read_text() for name in ("0.txt", "2.txt")}
    assert all(text.strip() for text in written.values())
    assert f"0.txt: {written['0.txt'].strip()}" in capsys.readouterr().out
    assert main([*words, "captioner=no/such/model"]) == 0, "all clips have captions: it is not needed"
    (folder / "2.txt").unlink()
    assert main([*words, f"captioner={here / 'none'}"]) == 1
    assert "there is no folder" in (said := capsys.readouterr().err)
    assert "Salesforce/blip-image-captioning-base" in said
    (folder / "captions.txt").write_text("one\n")
    assert main([*words, f"captioner={blip}"]) == 1
    assert "nothing that is there is changed" in capsys.readouterr().err
    assert not (folder / "2.txt").exists()


def test_what_cannot_be_looked_at_is_named(here, horses, capsys):
    assert main([f"data.folder={here / 'none'}"]) == 1
    assert "this motion folder does not exist" in capsys.readouterr().err
    folder = write(here / "clips", [horses[0][:4]])
    (folder / "bad.mp4").write_text("no video")
    assert main([f"data.folder={folder}", "data.num_frames=8", "out=look"]) == 0
    printed = capsys.readouterr().out
    assert "bad.mp4: not a video, found plain text" in printed
    assert "0.mp4 (4) has fewer frames than the 8 of a sample: data.num_frames=4 fits all" in printed
    assert sorted(file.name for file in (here / "look").iterdir()) == ["contact_sheet.png", "inspection.json"]
    (folder / "0.mp4").unlink()
    assert main([f"data.folder={folder}"]) == 1
    assert "No clip can be used" in capsys.readouterr().err
    assert main([f"data.folder={folder}", "data.fps=0"]) == 1
    assert "data.fps must be a number above 0" in capsys.readouterr().err
