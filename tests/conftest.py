"""Shared fixtures: models of the real kinds, so small and random that a command takes seconds."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf

# Tests run side by side, one to a core, and their pictures are small: further threads would only wait for
# each other. OpenCV reads this when it is imported, here and in the processes that tests start.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")

# The files whose tests take longest, the longest first: workers get whole files, so that what a file's tests
# share is made once, and small files at the end keep all of them busy.
LONGEST_FIRST = (
    "test_app_page", "test_benchmark", "test_edit_command", "test_sweeps", "test_backbones",
    "test_train_resume",
    "test_tiny_models", "test_metrics_motion", "test_memory_table", "test_sample_batches",
    "test_convert", "test_sample_command", "test_hostile_files", "test_train_command",
    "test_evaluate_runs", "test_precision", "test_methods_commands", "test_evaluate_command",
    "test_samplers", "test_hardware", "test_notebook", "test_wheel",
)  # fmt: skip


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """What is imported by now stays for good: searching it for garbage again and again takes seconds."""
    gc.collect()
    gc.freeze()


def _compose_quickly() -> None:
    """Half of the time that Hydra takes for a command, by two things that do not change while tests run.

    It reads each file of the package's configs once, not for every command. And it does not compose the
    config twice, the first time only to find ``hydra.mode``, which no file of ours sets.
    """
    load, mode = ConfigRepository.load_config, Hydra.get_mode
    read: dict[tuple[str, ...], Any] = {}

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        if not {source.provider for source in self.sources} <= {"hydra", "main", "schema"}:
            return load(self, config_path)  # a test's own configs, too
        key = (*(str(source.path) for source in self.sources), config_path)
        if key not in read:
            read[key] = load(self, config_path)
        return deepcopy(read[key])

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return mode(self, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    Hydra.get_mode = get_mode  # type: ignore[method-assign]


_compose_quickly()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The pipeline folder of a kind ("sd1", "sd2", "sdxl", "sana", "sd3", "ltx"), saved on first use."""
    import random_ltx
    import random_transformers
    from random_models import save_random_model

    def save(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(f"random_{kind}")
        if kind in random_transformers.KINDS:
            return random_transformers.save_random_transformer(folder, kind)
        if kind == "ltx":
            return random_ltx.save_random_ltx(folder)
        return save_random_model(folder, kind)

    return cache(save)


@pytest.fixture(scope="session")
def random_base(random_model: Callable[[str], Path]) -> Path:
    """A Stable Diffusion 1 pipeline folder."""
    return random_model("sd1")


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder: model, tokenizer, image processor."""
    from random_models import save_random_clip

    return save_random_clip(tmp_path_factory.mktemp("random_clip"))


def write_clips(folder: Path, count: int = 8, frames: int = 6, size: int = 32) -> Path:
    """``count`` mp4 clips of a bright square that moves to the right over noise."""
    from lamp_lightning.data.video import write_mp4

    rng = np.random.default_rng(0)
    for k in range(count):
        video = np.repeat(rng.integers(0, 120, (1, size, size, 3), dtype=np.uint8), frames, axis=0)
        for f in range(frames):
            video[f, 4 + k : 12 + k, 2 * f : 2 * f + 8] = 250
        write_mp4(folder / f"clip_{k}.mp4", video, fps=8)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the motions ``waterfall``, ``rain`` and ``my_dance``: 8 clips of 6 frames each."""
    root = tmp_path_factory.mktemp("clips")
    for motion in ("waterfall", "rain", "my_dance"):
        write_clips(root / motion)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, which `.ci/run` installs; pages cannot be tried where it is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test talks to W&B's servers, whoever runs it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no_netrc"))


@pytest.fixture
def small(
    random_base: Path, random_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Overrides that make a training run of seconds; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return [
        f"model.path={random_base}",
        f"model.clip={random_clip}",
        f"data.root={clips}",
        f"data.cache_dir={clips / 'cache'}",
        "data.size=[32,32]",
        "data.num_frames=4",
        "sampler.num_inference_steps=2",
        "sampler.paint_steps=2",
        "trainer.max_steps=2",
        "samples.every=null",
        "samples.final=1",
        "threads=1",
    ]


@cache
def full_config() -> DictConfig:
    """The config of the train command with its defaults, resolved; not to be changed."""
    from lamp_lightning.runtime.config import composed

    return OmegaConf.create(OmegaConf.to_container(composed("train"), resolve=True))
