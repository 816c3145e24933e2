"""The wheel: it has the configs and the tiny weights inside and works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "pyproject.toml").exists():
        pytest.fail("the tests run from a checkout")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_wheel_holds_configs_weights_and_licence(unpacked: Path) -> None:
    for name in (
        "conf/train.yaml",
        "conf/convert.yaml",
        "conf/collect.yaml",
        "report/page.html",
        "report/page.css",
        "report/page.js",
        "conf/model/shared/stable_diffusion.yaml",
        "conf/model/tiny.yaml",
        "conf/experiment/paper.yaml",
        "toyworld/weights/tiny/model_index.json",
        "toyworld/weights/tiny/unet/diffusion_pytorch_model.safetensors",
        "toyworld/weights/clip/model.safetensors",
        "py.typed",
    ):
        assert (unpacked / "lamp_lightning" / name).is_file(), name
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_train_command_of_the_wheel_works_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    """Tunes two steps and paints with the packaged model, outside of any checkout."""
    script = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); import lamp_lightning as package; "
        "print(package.__file__); from lamp_lightning.train.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["motion=rain", "trainer.max_steps=2", "logger=none", "samples.every=null", "samples.final=1"]
    words += ["data.num_frames=8", "sampler.num_inference_steps=2", "sampler.paint_steps=2"]
    words += [f"data.cache_dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(unpacked) in done.stdout
    (run,) = (tmp_path / "runs" / "rain").iterdir()
    for name in ("config.yaml", "adapter.safetensors", "contact_sheet.png", "metrics.json"):
        assert (run / name).is_file(), name
    assert list((tmp_path / "data" / "rain").glob("*.mp4"))
