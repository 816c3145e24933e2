"""The ordinary commands bear a model of Stable Diffusion's full size (minutes; `make test-slow`)."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from full_size import full_size_run

MOST_GIB = 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_stable_diffusion_1_4_trains_and_paints_on_a_cpu() -> None:
    with full_size_run() as (folder, train, sample):
        assert train.status == 0, train.output
        assert "253,935,834 of 1,101,091,358 parameters" in train.output
        with safe_open(folder / "run" / "adapter.safetensors", "pt") as adapter:
            names = list(adapter.keys())
            sizes = [math.prod(adapter.get_slice(name).get_shape()) for name in names]
        assert sum(sizes) == 253_935_834
        assert sample.status == 0, sample.output
        assert (folder / "video.mp4").stat().st_size > 0
        assert train.peak_gib < MOST_GIB
        assert sample.peak_gib < MOST_GIB
    assert not folder.exists()
