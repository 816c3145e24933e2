"""W&B's records of a run, read back from the offline files: steps, tables, and the parts of a resumed run."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from lamp_lightning.data.video import write_mp4
from lamp_lightning.runtime.loggers import close, log_media, log_picture, wandb_logger, where_to_look
from lamp_lightning.runtime.runs import RunFolder
from wandb_files import WandbRun, read_finished


def recorded(run: RunFolder, steps: range, video: Path, sheet: Path) -> list[tuple[str, str]]:
    """Log a run's steps as training does; returns where to look."""
    logger = wandb_logger(run)
    logger.trainer = trainer = SimpleNamespace(global_step=0)
    if steps.start == 1:
        log_picture(logger, sheet, name="clips", step=0)
    for step in steps:
        trainer.global_step = step
        facts = [{"prompt": "rain", "seed": 0, "file": video.name, "clip_score": 30.0 + step}]
        log_media(logger, {video: "rain (seed 0)"}, sheet, name="samples", step=step, facts=facts)
        logger.log_metrics({"train/loss": 1 / step}, step - 1)  # Lightning counts the steps before this one
    log_media(logger, {video: "rain (seed 0)"}, sheet, name="videos", step=steps[-1], facts=facts)
    logger.log_metrics({"metrics/clip_score": 31.0}, steps[-1])
    places = where_to_look(logger)
    close(logger)
    return places


def test_a_resumed_run_is_one_line_whose_step_is_the_training_step(tmp_path: Path) -> None:
    video, sheet = tmp_path / "rain.mp4", tmp_path / "sheet.png"
    write_mp4(video, np.full((4, 16, 16, 3), 90, np.uint8))
    Image.new("RGB", (16, 16)).save(sheet)
    run = RunFolder(tmp_path / "run", {"id": "abcd1234"})
    run.path.mkdir()
    before = recorded(run, range(1, 3), video, sheet)
    time.sleep(1.1)  # W&B names the folder of a part by the second in which it begins
    after = recorded(run, range(3, 5), video, sheet)
    files = sorted(run.path.rglob("offline-run-*/*.wandb"))
    parts: list[WandbRun] = [read_finished(file) for file in files]
    assert [part.id for part in parts] == ["abcd1234"] * 2
    losses = [[row["_step"] for row in part.history if "train/loss" in row] for part in parts]
    assert losses == [[1, 2], [3, 4]]
    for row in (row for part in parts for row in part.history):
        assert row["trainer/global_step"] == row["_step"]
    assert parts[0].history[0]["clips._type"] == "image-file"
    growing = [row for row in parts[0].history if row.get("samples/table._type") == "incremental-table-file"]
    assert [row["_step"] for row in growing] == [1, 2]
    assert growing[-1]["samples/0._type"] == "video-file"
    assert growing[-1]["videos/table._type"] == "table-file"
    assert growing[-1]["videos/table.ncols"] == 5
    assert dict(before)["W&B, upload"].split()[0].endswith("wandb")
    command, places = dict(after)["W&B, upload"].split(" sync ")
    assert command.startswith("WANDB_RESUME=allow ")
    assert len(places.split()) == 2
