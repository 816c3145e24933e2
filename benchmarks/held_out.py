"""What the measurements on tuned toy motions share: pipelines, held-out scenes, scores, finished cells."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from toy_motions import tune

from lamp_lightning.metrics import FlowAgreement, MovingPixelError, evaluate_videos
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.runtime.config import conf_dir
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.generate import Sampler, evaluation, generate_batch, mixed_precision
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.toyworld import continuation, held_out_scenes

BATCH = 4  # videos at once
CHOSEN_ON = 4  # the recipe was chosen on the first scenes of one motion: none of those is measured here


class Motion:
    """A tuned motion, tuned now if it is not yet, and held-out scenes that had no part in any choice."""

    def __init__(self, name: str, runs: Path, scenes: int, frames: int = 16) -> None:
        run, _ = tune(name, runs, [])
        _, cfg = RunFolder.open(run.path)
        self.name, self.precision = name, cfg.trainer.precision
        self.pipeline = LAMPPipeline.from_pretrained("tiny", norm=cfg.model.norm)
        self.pipeline.load_motion(run.adapter)
        self.pipeline.set_progress_bar_config(disable=True)
        self.scenes = held_out_scenes(name, CHOSEN_ON + scenes)[CHOSEN_ON:]
        self.prompts = [scene.caption for scene in self.scenes]
        self.true = np.stack([continuation(scene, frames) for scene in self.scenes])  # uint8 n f h w 3

    def paint(self, sampler: Sampler, noise: torch.Tensor | None = None) -> np.ndarray:
        """All scenes' videos, uint8 `n f h w 3`; scene k has seed k."""
        videos = []
        with evaluation(self.pipeline.unet), mixed_precision("cpu", self.precision):
            for k in range(0, len(self.scenes), BATCH):
                prompts = self.prompts[k : k + BATCH]
                videos += generate_batch(
                    self.pipeline,
                    prompts,
                    sampler,
                    seeds=range(k, k + len(prompts)),
                    first_frames=list(self.true[k : k + BATCH, 0]),
                    noise=None if noise is None else noise[k : k + BATCH],
                )
        return np.stack(videos)

    def seconds(self, sampler: Sampler, count: int = BATCH, rounds: int = 3) -> float:
        """Seconds per video of a batch, the fastest of some: what else the machine did does not count."""
        few, times = copy(self), []
        few.scenes, few.prompts, few.true = self.scenes[:count], self.prompts[:count], self.true[:count]
        for _ in range(rounds):
            begun = time.perf_counter()
            few.paint(sampler)
            times.append((time.perf_counter() - begun) / count)
        return min(times)


def preset(name: str) -> Sampler:
    """The sampler config of that name with the tiny model's recipe."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return Sampler.from_config(compose("train", overrides=["model=tiny", f"sampler={name}"]))


def score(made: np.ndarray, true: np.ndarray, prompts: list[str], clip: ClipJudge) -> dict[str, list[float]]:
    """Measures of each video: `made` and `true` are uint8 `n f h w 3`.

    `error` and `frozen` are squared errors, summed over the pixels that truly move, of the video and of its
    standing first frame; `detail` is how rough the pictures are as a share of the true ones' roughness.
    """
    each = evaluate_videos(list(made), prompts, clip)["videos"]
    for values, video, wanted in zip(each, made, true, strict=True):
        error, flow = MovingPixelError(), FlowAgreement()
        error.update(video, wanted)
        flow.update(video, wanted)
        values |= {"error": float(error.error), "frozen": float(error.frozen)}
        values |= {"detail": roughness(video[1:]) / roughness(wanted[1:])}
        values |= {name: float(value) for name, value in flow.compute().items()}
    return {name: [values[name] for values in each] for name in each[0]}


def roughness(video: np.ndarray) -> float:
    """Mean size of the brightness's second derivative: falls where pictures are blurred."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    return float(np.mean([np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean() for picture in grey]))


def kept(file: Path, asked: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives, from `file` where it was measured before for the same `asked`."""
    if file.exists():
        found = json.loads(file.read_text())
        if found["asked"] == json.loads(json.dumps(asked)):
            return found
    begun = time.perf_counter()
    found = {"asked": asked, **measure()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{file.parent.name}/{file.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def error_ratio(cells: list[dict[str, Any]]) -> float:
    """Mean over motions of the error's share of the frozen first frame's."""
    return float(np.mean([sum(cell["error"]) / sum(cell["frozen"]) for cell in cells]))


def error_difference(cells: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, float]:
    """`error_ratio` of some cells less that of others on the same scenes, and its standard error."""
    means, variances = [], []
    for cell, other in zip(cells, others, strict=True):
        each = (np.array(cell["error"]) - other["error"]) / np.mean(cell["frozen"])
        means.append(each.mean())
        variances.append(each.var(ddof=1) / len(each))
    return float(np.mean(means)), float(np.sqrt(np.sum(variances)) / len(means))


def fill(page: Path, part: str, rows: list[str]) -> None:
    """Write a table into a page, between its two markers; what stands around it is kept."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    if end not in rest:
        raise SystemExit(f"{page} has no place for the table: {begin} and {end}.")
    page.write_text(
        f"{head}{begin}\n" + "\n".join(rows) + f"\n{end}{rest.partition(end)[2]}", encoding="utf-8"
    )
