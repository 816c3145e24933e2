"""The tiny models say what they do not know: words, pictures and clips that are far from the toy world."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lamp_lightning.data import decode_clip, write_mp4
from lamp_lightning.metrics.familiar import doubts, strangeness
from lamp_lightning.toyworld import MOTIONS, held_out_prompts, held_out_scenes, render_clip, tiny_model_path
from lamp_lightning.toyworld.known import strange_words

ROOT = Path(__file__).parents[2]
REAL_CLIPS = ROOT.parent / "shared" / "real_clips"


def test_words_that_no_caption_has_are_named() -> None:
    assert strange_words("A panda plays the guitar") == ["panda"]
    assert strange_words("rain 0, rain 12") == []  # numbers of files
    known = [prompt for motion in MOTIONS for prompt in held_out_prompts(motion)]
    assert doubts("tiny", [*known, "play the guitar", "birds, at night"], [], advice="") is None
    said = doubts("tiny", ["one lake two lakes", "a dog on a skateboard"], [], advice="Take model=sd15.")
    assert said is not None
    assert "does not know 'one', 'lake', 'two', 'lakes', 'dog' and 1 more (" in said
    assert said.endswith("Take model=sd15.")
    assert doubts("runwayml/other", ["a lake"], [], advice="") is None  # nobody knows what it knows
    assert doubts(str(tiny_model_path()), ["a lake"], [], advice="") is not None


def test_held_out_scenes_are_near_and_other_pictures_far(tmp_path: Path) -> None:
    drawn = [render_clip(held_out_scenes(motion, 1, seed=3)[0], frames=4) for motion in MOTIONS]
    written = write_mp4(tmp_path / "a.mp4", drawn[0], min_size=256)  # enlarged and compressed
    assert max(strangeness([*drawn, decode_clip(written).frames])) < 1
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    gradient = np.linspace(0, 255, 48, dtype=np.uint8)[None, :, None, None].repeat(80, 2).repeat(3, 3)
    assert min(strangeness([noise, gradient])) > 1
    said = doubts("tiny", [], [*drawn, noise, gradient], advice="", what="picture")
    assert said is not None
    assert "nothing like 2 of 10 pictures" in said


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real footage at ../shared/real_clips")
def test_real_footage_is_far() -> None:
    files = [*sorted((REAL_CLIPS / "fire").glob("*.mp4"))[::3], *(REAL_CLIPS / "single").glob("*.mp4")]
    assert min(strangeness([decode_clip(file).frames[::8] for file in files])) > 1


def test_the_first_prompts_of_a_newcomer_are_known() -> None:
    """Commands of README and the first hour that name no other model have prompts that the tiny one knows."""
    for page in ("README.md", "docs/first_hour.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for line in re.findall(r"^.*prompt=.*$", text, re.MULTILINE):
            prompts = re.findall(r'prompt="([^".]+)"', line)
            if "model=" not in line:
                assert [word for prompt in prompts for word in strange_words(prompt)] == [], line
