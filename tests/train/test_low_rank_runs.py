"""Small files by the commands: tuned at a low rank, or compressed afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from lamp_lightning.convert import main as convert
from lamp_lightning.data.video import read_video
from lamp_lightning.models.adapter import header_of
from lamp_lightning.sample.__main__ import main as sample
from lamp_lightning.train.__main__ import main
from processes import assert_same_end


def test_a_run_of_low_rank_resumes_to_the_bit_and_is_sampled_from_its_small_file(small, tmp_path):
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    words = ["motion=rain", "logger=none", "tuner.schedule=constant", "tuner.warmup_steps=0", *kept]
    words += ["tuner.rank=2", "samples.final=0"]
    assert main([*words, "hydra.run.dir=whole", "trainer.max_steps=3"]) == 0
    assert main([*words, "hydra.run.dir=parts", "trainer.max_steps=1"]) == 0
    assert main(["resume=parts", "trainer.max_steps=3", "samples.final=1"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    adapter = tmp_path / "parts" / "adapter.safetensors"
    assert header_of(adapter).rank == 2
    tensors = load_file(adapter)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if name.endswith("conv1d.up"))
    # What the run shows at its end is what its file does.
    (shown,) = json.loads((tmp_path / "parts" / "metrics.json").read_text())["videos"]
    said = [f"prompt={shown['prompt']}", f"seed={shown['seed']}", "precision=32-true", "threads=1"]
    assert sample([f"run={adapter}", *said, "out=again.mp4"]) == 0
    assert np.array_equal(read_video("again.mp4"), read_video(tmp_path / "parts" / "videos" / shown["file"]))


def test_a_command_compresses_a_motion_and_says_what_it_costs(small, tmp_path, capsys):
    words = ["motion=rain", "logger=none", "adapter_dtype=float32", "samples.final=0"]
    assert (
        main([*(word for word in small if not word.startswith("samples.final")), *words, "hydra.run.dir=run"])
        == 0
    )
    capsys.readouterr()
    assert convert(["from=run", "out=small.safetensors", "rank=2"]) == 0
    out = capsys.readouterr().out
    for kind in ("conv1d", "attn1.to_q", "attn_temp", "all"):
        assert f"\n  {kind} " in out
    assert "relative error" in out
    before, after = Path("run/adapter.safetensors").stat().st_size, Path("small.safetensors").stat().st_size
    assert f"{round(after / 1e3)} kB, from {round(before / 1e3)} kB" in out
    assert after < before / 4
    videos = []
    for name in ("run/adapter.safetensors", "small.safetensors"):
        place = f"out={Path(name).stem}"
        assert (
            sample([f"run={name}", "prompt=a lake", "format=png", "precision=32-true", "threads=1", place])
            == 0
        )
        videos.append(read_video(f"{Path(name).stem}/a_lake_seed0_frames").astype(float))
    assert np.abs(videos[0] - videos[1]).mean() < 10
    assert convert(["from=run", "out=small.safetensors"]) == 1
    assert "small.safetensors exists already" in capsys.readouterr().err
    assert convert(["from=small.safetensors", "out=smaller.safetensors", "rank=1"]) == 1
    assert "small.safetensors is of rank 2 already" in capsys.readouterr().err
    assert convert(["from=run", "out=folder", "rank=1"]) == 1
    assert "out=folder must be <name>.safetensors" in capsys.readouterr().err
