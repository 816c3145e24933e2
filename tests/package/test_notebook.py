"""The quickstart notebook runs from its first cell to its last, and what it shows is true."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from lamp_lightning import LAMPPipeline
from lamp_lightning.models import load_base_model, read_metadata
from lamp_lightning.runtime.config import composed

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
pytestmark = pytest.mark.timeout(600)  # one fixture runs it all
SMALL = {"steps": 2, "num_frames": 4, "sampling_steps": 2, "scenes": 2}

# A last cell, which hands the notebook's pictures to the tests.
KEEP = """
np.savez(folder / "kept.npz", first=np.stack(first_frames), true=np.stack(true), painted=painted,
         videos=np.stack(videos), untuned=np.stack(untuned))
(folder / "kept.json").write_text(json.dumps({"prompts": prompts, "settings": settings}))
"""


def read_notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def with_parameters(notebook: Any, **values: Any) -> Any:
    """The notebook with a cell that sets other values after its first one, as papermill does it."""
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    known = notebook.cells[tagged[0]].source
    assert all(f"\n{name} = " in f"\n{known}" for name in values), known
    lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(lines))
    return notebook


def execute(work: Path, **values: Any) -> Any:
    """Run the notebook in the folder ``work`` with small settings; raises where a cell does."""
    notebook = with_parameters(read_notebook(), **{**SMALL, **values})
    notebook.cells.append(nbformat.v4.new_code_cell(KEEP))
    own = {"LAMP_LIGHTNING_CACHE": "cache", "IPYTHONDIR": "ipython", "JUPYTER_DATA_DIR": "jupyter"}
    env = {**os.environ, **{name: str(work / value) for name, value in own.items()}}
    env["CUDA_VISIBLE_DEVICES"] = ""
    env["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's wish for ipywidgets: see extra "notebook"
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(work)}})
    return client.execute(env=env)


@dataclass
class Run:
    notebook: Any
    folder: Path  # where the notebook wrote
    kept: dict[str, np.ndarray]
    settings: dict[str, Any]
    prompts: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    work = tmp_path_factory.mktemp("notebook")
    notebook = execute(work)
    folder = work / "runs" / "quickstart"
    with np.load(folder / "kept.npz") as kept:
        arrays = dict(kept)
    return Run(notebook, folder, arrays, **json.loads((folder / "kept.json").read_text()))


def outputs(notebook: Any) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from ((cell.source, output) for output in cell.outputs)


def test_notebook_is_clean() -> None:
    """No outputs, counts or paths of whoever edited it last; and it is a valid notebook."""
    notebook = read_notebook()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for begin in ("/home/", "/Users/", "/root/", "/tmp/", ":\\\\"):
        assert begin not in NOTEBOOK.read_text(encoding="utf-8")


def test_every_cell_ran_without_error_or_warning(run: Run) -> None:
    counts = [cell.execution_count for cell in run.notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for source, output in outputs(run.notebook):
        assert output.output_type != "error", source
        assert output.get("name") != "stderr", f"{source}\n{output.text}"


def test_pictures_are_shown_and_kept(run: Run) -> None:
    shown = [key for _, output in outputs(run.notebook) for key in output.get("data", {})]
    assert shown.count("image/gif") == 3
    assert shown.count("image/png") == 2
    assert shown.count("text/markdown") == 1
    frames = {"world": 24, "from_prompt": 4, "from_first_frame": 4}
    for name, count in frames.items():
        with Image.open(run.folder / f"{name}.gif") as gif:
            assert getattr(gif, "n_frames", 1) == count, name
    for name in ("clips.png", "contact_sheet.png"):
        with Image.open(run.folder / name) as sheet:
            assert min(sheet.size) > 200
    assert len(list((run.folder / "clips" / "birds_fly").glob("*.mp4"))) == 8


def test_given_first_frames_stay_as_the_autoencoder_renders_them(run: Run) -> None:
    base = load_base_model("tiny")
    pixels = torch.from_numpy(run.kept["first"]).permute(0, 3, 1, 2) / 255 * 2 - 1
    decoded = base.decode_latents(base.latents_from_pixels(pixels)) / 2 + 0.5
    decoded = (decoded * 255).round().byte().permute(0, 2, 3, 1).numpy()
    videos = run.kept["videos"]
    assert videos.shape == (2, 4, 64, 64, 3)
    np.testing.assert_allclose(videos[:, 0].astype(int), decoded.astype(int), atol=1)
    assert np.array_equal(run.kept["first"], run.kept["true"][:, 0])
    assert all(not np.array_equal(video[0], frame) for video in videos for frame in video[1:])


def test_saved_adapter_holds_the_motion(run: Run) -> None:
    """Loaded into a fresh model it paints the notebook's videos; without it they are others."""
    adapter = run.folder / "birds_fly.safetensors"
    metadata = read_metadata(adapter)
    assert {name: metadata[name] for name in ("base_model", "motion", "prompt", "num_frames")} == {
        "base_model": "tiny",
        "motion": "birds_fly",
        "prompt": "birds fly",
        "num_frames": "4",
    }
    recipe = composed("train", ["model=tiny"]).model  # the command's layers and norm
    assert metadata["norm"] == recipe.norm
    layers = json.loads(metadata["variant"])
    assert {name: layers[name] for name in recipe.layers} == dict(recipe.layers)
    pipeline = LAMPPipeline.from_base(load_base_model("tiny"))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_motion(adapter)
    again = pipeline(run.prompts, first_frame=list(run.kept["first"]), **run.settings).frames
    np.testing.assert_allclose(again, run.kept["videos"] / 255, atol=0.02)
    assert np.abs(again - run.kept["untuned"] / 255).max() > 0.02


def test_measurements_make_sense(run: Run) -> None:
    measured = json.loads((run.folder / "metrics.json").read_text())
    assert list(measured) == ["true", "tuned", "untuned", "frozen"]
    for name, values in measured.items():
        assert len(values["videos"]) == 2
        for key in ("clip_score", "frame_consistency", "motion_amount", "error"):
            assert math.isfinite(values[key]), (name, key)
    assert measured["true"]["error"] == 0
    assert measured["frozen"]["error"] == pytest.approx(1)
    assert measured["frozen"]["motion_amount"] == pytest.approx(0, abs=1e-6)
    assert measured["frozen"]["frame_consistency"] == pytest.approx(1, abs=1e-5)
    assert measured["true"]["motion_amount"] > 0.1
    assert measured["tuned"]["error"] > 0
    (table,) = [
        o.data["text/markdown"] for _, o in outputs(run.notebook) if "text/markdown" in o.get("data", {})
    ]
    assert f"| tuned | {measured['tuned']['clip_score']:.1f} |" in table
