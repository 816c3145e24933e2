"""A run whose first frames another model paints: model.painter."""

from __future__ import annotations

import numpy as np
import pytest

from lamp_lightning.data import decode_clip
from lamp_lightning.train.__main__ import main
from random_models import save_random_model


@pytest.fixture(scope="module")
def painter_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("painter"), "sdxl", seed=7)


def test_a_run_paints_its_first_frames_with_the_configs_painter(small, painter_folder, tmp_path):
    words = ["motion=waterfall", "logger=none", "motion.prompts=[a lake]", "sampler.histogram_matching=false"]
    words += ["sampler.paint_steps=2", *small]
    assert main([*words, "hydra.run.dir=own"]) == 0
    assert main([*words, "hydra.run.dir=other", f"model.painter={painter_folder}"]) == 0
    own, other = (
        decode_clip(tmp_path / run / "videos" / "a_lake_seed0.mp4").frames for run in ("own", "other")
    )
    assert own.shape == other.shape
    assert not np.array_equal(own[0], other[0])


def test_a_painter_that_is_not_there_is_named_before_training(small, tmp_path, capsys):
    words = ["motion=waterfall", "logger=none", "hydra.run.dir=run", *small]
    assert main([*words, "model.painter=./no/such/model"]) == 1
    captured = capsys.readouterr()
    assert "no/such/model" in captured.err
    assert captured.err.count("Error:") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
