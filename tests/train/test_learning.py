"""What tuning is for: the ordinary command learns a motion from 8 clips (minutes; `make test-slow`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.metrics import FlowAgreement, MovingPixelError
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.devices import mixed_precision
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.toyworld import held_out_scenes, render_clip
from lamp_lightning.train.__main__ import main


def tuned_and_true(motion: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Eight held-out first frames, continued by the tuned model and by the toy world."""
    words = [f"motion={motion}", f"hydra.run.dir={folder / 'run'}", f"data.root={folder}", "logger=none"]
    assert main([*words, "samples.every=null", "samples.final=0", f"data.cache_dir={folder / 'cache'}"]) == 0
    run, cfg = RunFolder.open(folder / "run")
    sampler = Sampler.from_config(cfg)
    pipeline = LAMPPipeline.from_base(load_base_model("tiny"))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_motion(run.adapter)
    scenes = held_out_scenes(motion, 8, seed=1)
    true = np.stack([render_clip(scene, frames=16, start=3) for scene in scenes])
    with torch.no_grad(), mixed_precision("cpu", cfg.trainer.precision):
        made = pipeline(
            [scene.caption for scene in scenes],
            first_frame=list(true[:, 0]),
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=sampler.guidance_scale,
            shared_noise=sampler.shared_noise,
            adain=sampler.adain,
            histogram_matching=sampler.histogram_matching,
            seed=0,
        ).frames
    return made, true


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("motion", ["helicopter", "waterfall"])
def test_tuned_videos_move_as_the_truth_does(motion: str, tmp_path: Path) -> None:
    error, flow = MovingPixelError(), FlowAgreement()
    for video, wanted in zip(*tuned_and_true(motion, tmp_path), strict=True):
        error.update(video, wanted)
        flow.update(video, wanted)
    if motion == "waterfall":  # single streaks are random, their fall is not
        assert float(flow.compute()["flow_angle"]) < 35
        assert 0.5 < float(flow.compute()["flow_length"]) < 2
    else:
        assert float(error.compute()["moving_error_ratio"]) < 0.7
