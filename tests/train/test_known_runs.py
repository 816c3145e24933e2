"""Motions of any known frames by the commands: tuned, resumed, sampled; and the clips of a motion prior."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lamp_lightning.data.captions import read_captions
from lamp_lightning.data.motions import render_motion_set
from lamp_lightning.data.video import read_video
from lamp_lightning.models.adapter import header_of
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.toyworld import motion_set_scenes
from lamp_lightning.train.__main__ import main
from processes import assert_same_end


def test_a_run_of_any_known_frames_resumes_to_the_bit_and_is_sampled_between_pictures(small, tmp_path):
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    words = ["method=lamp_known", "motion=rain", "logger=none", "samples.final=0", *kept]
    words += ["tuner.schedule=constant", "tuner.warmup_steps=0"]
    assert main([*words, "hydra.run.dir=whole", "trainer.max_steps=4"]) == 0
    assert main([*words, "hydra.run.dir=parts", "trainer.max_steps=2"]) == 0
    assert main(["resume=parts", "trainer.max_steps=4"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    variant = header_of(tmp_path / "parts" / "adapter.safetensors").variant
    assert (variant.known, variant.causal, variant.conv_first) == ("any", False, True)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), colour).save(f"{name}.png")
    said = ["run=parts", "prompt=rain", "known={0:a.png,-1:b.png}", "threads=1", "format=png"]
    assert sample([*said, "out=between"]) == 0
    (record,) = Path("between").glob("*.json")
    assert [each["place"] for each in json.loads(record.read_text())["known"]] == [3]
    (frames,) = Path("between").glob("*_frames")
    video = read_video(frames)
    assert not np.array_equal(video[0], video[3])


def test_a_prior_is_drawn_from_several_motions_in_turn_with_their_captions(tmp_path):
    motions = ["rain", "firework"]
    clips = render_motion_set(motions, tmp_path, clips=5, size=16)
    assert [clip.stem.rpartition("_")[0] for clip in clips] == ["rain", "firework"] * 2 + ["rain"]
    scenes = {each: [scene.caption for scene in motion_set_scenes(each, 3)] for each in motions}
    wanted = [scenes[motions[k % 2]][k // 2] for k in range(5)]
    assert read_captions(clips, "many") == wanted


def test_a_motion_of_several_draws_its_folder_where_it_is_missing(small, tmp_path):
    words = [*small, "motion=many", "motion.drawn=[rain,firework]", "data.root=drawn", "data.max_clips=10"]
    assert main([*words, "logger=none", "trainer.max_steps=1", "samples.final=0", "model.name=tiny"]) == 0
    found = {file.name.rpartition("_")[0] for file in (tmp_path / "drawn" / "many").glob("*.mp4")}
    assert found == {"rain", "firework"}
    assert len(list((tmp_path / "drawn" / "many").glob("*.mp4"))) == 10
