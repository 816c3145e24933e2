"""Measure samplers, steps, shared noise and guidance on tuned toy motions: docs/samplers.md.

    python benchmarks/samplers.py     # half an hour on two cores, and the tuning where there is none yet

The motions are those that benchmarks/toy_motions.py tunes. What is finished is kept in ``--out`` and not done
again; the page is written anew after each line of a table.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pages import fill, parser
from toy_motions import tune

from lamp_lightning.benchmark.methods import Method, load_method
from lamp_lightning.benchmark.trial import HeldOut, once, write_arrays
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.metrics import MovingPixelError, load_clip
from lamp_lightning.runtime.config import composed
from lamp_lightning.toyworld.scenes import motion_name

MOTIONS = ("birds_fly", "helicopter", "horse_run", "turn_to_smile", "rain")
RANDOM_DETAILS = ("rain",)  # has more than one true continuation: judged by its flow
NAMES = {"ddim": "DDIM", "dpm": "DPM-Solver++", "unipc": "UniPC", "euler": "Euler", "fast": "`fast`"}
BATCH = 4  # videos at once where seconds are measured
CHOSEN_ON = 4  # the recipe was chosen on the first scenes of one motion: none of those is measured here
REFERENCE = "DDIM, 50"
STEPS_TABLE = "sampler, steps"
STEPS = (20, 12, 8, 4)
ALPHAS = (0.1, 0.2, 0.3, 0.5)
SHARINGS = {"authors": "authors'", "variance_preserving": "variance-preserving"}
SHOWN = ("DDIM, 50", "DDIM, 8", "DDIM, 4", "DPM-Solver++, 8", "DPM-Solver++, 4", "UniPC, 4", "Euler, 4")
COLUMNS = (  # measure, heading, digits
    ("clip_score", "CLIP score ↑", 1),
    ("frame_consistency", "consistency ↑", 3),
    ("motion_amount", "motion amount", 2),
    ("detail", "detail", 2),
)
ASKED = (
    "scheduler", "scheduler_options", "num_inference_steps", "guidance_scale", "guidance_rescale",
    "shared_noise", "noise_sharing", "adain", "histogram_matching", "num_frames",
)  # fmt: skip

Cells = dict[str, dict[str, Any]]  # of a table's line: what was measured of each motion


@dataclass(frozen=True)
class Motion:
    """A tuned motion, tuned now if it is not yet, and held-out scenes that had no part in any choice."""

    name: str
    method: Method
    held_out: HeldOut

    @classmethod
    def tuned(cls, name: str, runs: Path, scenes: int, frames: int = 16) -> Motion:
        method = load_method(tune(name, runs, [])[0], device="cpu")
        return cls(name, method, HeldOut.drawn(name, scenes, frames, skip=CHOSEN_ON))


def preset(name: str) -> Sampler:
    """The sampler config of that name with the tiny model's recipe."""
    return Sampler.from_config(composed("train", ["model=tiny", f"sampler={name}"]))


def line(name: str, sampler: Sampler) -> str:
    """The label of a preset's line."""
    return f"{NAMES[name]}, {sampler.num_inference_steps}"


def tables() -> dict[str, dict[str, Sampler]]:
    """Their lines; the first one of each is what the others are compared with."""
    presets = {name: preset(name) for name in NAMES}
    ddim, fast = presets["ddim"], presets.pop("fast")
    steps = {REFERENCE: ddim.changed({"num_inference_steps": 50}), line("fast", fast): fast}
    for count in STEPS:
        each = {name: sampler.changed({"num_inference_steps": count}) for name, sampler in presets.items()}
        steps |= {line(name, sampler): sampler for name, sampler in each.items()}
    noise = {"not shared": ddim.changed({"shared_noise": 0.0})}
    for alpha in ALPHAS:
        for sharing, label in SHARINGS.items():
            changed = ddim.changed({"shared_noise": alpha, "noise_sharing": sharing})
            noise[f"{alpha}, {label}"] = changed
    guidance = {"1": ddim, "4": ddim.changed({"guidance_scale": 4.0})}
    guidance["4, rescaled by 0.7"] = guidance["4"].changed({"guidance_rescale": 0.7})
    return {STEPS_TABLE: steps, "shared noise": noise, "guidance": guidance}


def kept_in(folder: Path, sampler: Sampler, scenes: int) -> tuple[Path, dict[str, Any]]:
    """The file of a cell, and what is asked for in it."""
    asked = {name: sampler.settings()[name] for name in ASKED} | {"scenes": scenes}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{digest}.json", asked


def measure(motion: Motion, sampler: Sampler, out: Path) -> dict[str, Any]:
    """One motion's cell of a line, with the video of its first scene."""
    file, asked = kept_in(out / motion.name, sampler, len(motion.held_out.prompts))

    def made() -> dict[str, Any]:
        print(f"{motion.name}: {sampler.scheduler}, {sampler.num_inference_steps} steps", flush=True)
        videos = motion.held_out.generate(replace(motion.method, sampler=sampler))
        write_arrays(file.with_suffix(".npz"), video=videos[0])
        return score(videos, motion.held_out)

    return {**once(file, asked, made), "video": file.with_suffix(".npz")}


def score(videos: np.ndarray, held_out: HeldOut) -> dict[str, list[float]]:
    """Measures of each video, uint8 `n f h w 3`.

    `error` and `frozen` are squared errors, summed over the pixels that truly move, of the video and of its
    standing first frame; `detail` is how rough the pictures are as a share of the true ones' roughness.
    """
    each = held_out.measure(videos, load_clip("tiny"))["videos"]
    for values, video, wanted in zip(each, videos, held_out.truth, strict=True):
        error = MovingPixelError()
        error.update(video, wanted)
        values |= {"error": float(error.error), "frozen": float(error.frozen)}
        values["detail"] = roughness(video[1:]) / roughness(wanted[1:])
    return {name: [values[name] for values in each if name in values] for name in each[0]}


def roughness(video: np.ndarray) -> float:
    """Mean size of the brightness's second derivative: falls where pictures are blurred."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    return float(np.mean([np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean() for picture in grey]))


def duration(motion: Motion, sampler: Sampler, out: Path, rounds: int = 3) -> float:
    """Seconds per video of a batch, the fastest of some: what else the machine did does not count."""
    file, asked = kept_in(out / f"seconds_{torch.get_num_threads()}_threads", sampler, BATCH)

    def timed() -> dict[str, Any]:
        few, times = HeldOut.drawn(motion.name, BATCH, 16, skip=CHOSEN_ON), []
        for _ in range(rounds):
            begun = time.perf_counter()
            few.generate(replace(motion.method, sampler=sampler))
            times.append((time.perf_counter() - begun) / BATCH)
        return {"seconds": min(times)}

    return once(file, asked, timed)["seconds"]


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


def mean(result: Cells, key: str) -> float:
    """Over all videos of all motions."""
    return float(np.mean([np.mean(cell[key]) for cell in result.values()]))


def judged(result: Cells) -> list[dict[str, Any]]:
    """The cells of motions whose error counts."""
    return [cell for name, cell in result.items() if name not in RANDOM_DETAILS]


def above(result: Cells, reference: Cells) -> str:
    """The error's difference and its standard error."""
    return "{:+.3f} ± {:.3f}".format(*error_difference(judged(result), judged(reference)))


def table(title: str, results: dict[str, Cells], true: Cells, seconds: dict[str, float]) -> list[str]:
    """The lines that are finished, each compared with the first, and the truth."""
    names = list(results)
    heads = ["error ↓", "of each motion", f"above {names[0]}", *(label for _, label, _ in COLUMNS), "rain ↓"]
    rows = ["| " + " | ".join([title, *heads, *["seconds"] * bool(seconds)]) + " |"]
    rows.append("|---|" + (len(heads) + bool(seconds)) * "---:|")
    for name, result in {**results, "the truth": true}.items():
        errors = [error_ratio([cell]) for cell in judged(result)]
        texts = [name, f"{np.mean(errors):.3f}", f"{min(errors):.2f} to {max(errors):.2f}"]
        texts.append("" if name in (names[0], "the truth") else above(result, results[names[0]]))
        texts += [f"{mean(result, key):.{digits}f}" for key, _, digits in COLUMNS]
        texts.append(f"{np.mean([np.mean(result[motion]['flow_angle']) for motion in RANDOM_DETAILS]):.0f}°")
        if seconds:
            texts.append(f"{seconds[name]:.2f}" if name in seconds else "")
        rows.append(f"| {' | '.join(texts)} |")
    return rows


def presets_told(steps: dict[str, Cells], seconds: dict[str, float]) -> list[str]:
    """The presets, and what they cost beside 50 steps of DDIM."""
    rows = [
        f"| config | scheduler | options | steps | above {REFERENCE} | CLIP score | consistency "
        "| motion amount | detail | times as fast |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    other = steps[REFERENCE]
    for name in NAMES:
        sampler = preset(name)
        result = steps.get(line(name, sampler))
        if result is None:
            continue
        options = ", ".join(f"{key}: {value}" for key, value in sampler.scheduler_options.items())
        texts = [f"`sampler={name}`", sampler.scheduler, options or "none", str(sampler.num_inference_steps)]
        texts += [above(result, other)]
        for key, _, digits in COLUMNS:
            texts.append(f"{mean(result, key) - mean(other, key):+.{digits}f}")
        times = [seconds.get(label) for label in (REFERENCE, line(name, sampler))]
        texts.append(f"{times[0] / times[1]:.1f}" if times[0] and times[1] else "")
        rows.append(f"| {' | '.join(texts)} |")
    return rows


def write_sheet(motion: Motion, results: dict[str, Cells], file: Path) -> None:
    rows = [(f"true: {motion.held_out.prompts[0]}", motion.held_out.truth[0])]
    rows += [(name, np.load(results[name][motion.name]["video"])["video"]) for name in SHOWN]
    contact_sheet(rows, file, title=motion_name(motion.name))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=Path, default=Path("runs/toy_motions"), help="the tuned motions")
    options.add_argument("--out", type=Path, default=Path("runs/samplers"), help="what is finished")
    options.add_argument("--scenes", type=int, default=8, help="held-out first frames of each motion")
    args = options.parse_args()
    motions = [Motion.tuned(name, args.runs, args.scenes) for name in MOTIONS]
    true = {m.name: score(m.held_out.truth, m.held_out) for m in motions}
    page = args.docs / "samplers.md"
    lines = tables()
    results: dict[str, dict[str, Cells]] = {}
    for title in lines:
        results[title] = {}
        for name, sampler in lines[title].items():
            results[title][name] = {m.name: measure(m, sampler, args.out) for m in motions}
            fill(page, title, table(title, results[title], true, {}))
    steps, seconds = results[STEPS_TABLE], {}
    for name, sampler in lines[STEPS_TABLE].items():
        seconds[name] = duration(motions[0], sampler, args.out)
        fill(page, STEPS_TABLE, table(STEPS_TABLE, steps, true, seconds))
        fill(page, "presets", presets_told(steps, seconds))
    write_sheet(motions[1], steps, args.docs / "images" / "samplers.png")


if __name__ == "__main__":
    main()
