"""Measure samplers, steps, shared noise and guidance on tuned toy motions: docs/samplers.md.

    python benchmarks/samplers.py     # half an hour on two cores, and the tuning where there is none yet

The motions are those that benchmarks/toy_motions.py tunes. What is finished is kept in ``--out`` and not done
again; the page is written anew after each line of a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import BATCH, Motion, error_difference, error_ratio, fill, kept, preset, score

from lamp_lightning.data.video import contact_sheet
from lamp_lightning.metrics import load_clip
from lamp_lightning.sample.generate import Sampler
from lamp_lightning.toyworld import motion_name

MOTIONS = ("birds_fly", "helicopter", "horse_run", "turn_to_smile", "rain")
RANDOM_DETAILS = ("rain",)  # has more than one true continuation: judged by its flow
NAMES = {"ddim": "DDIM", "dpm": "DPM-Solver++", "unipc": "UniPC", "euler": "Euler", "fast": "`fast`"}
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

Result = dict[str, dict[str, Any]]  # a cell for each motion


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


def measure(motion: Motion, sampler: Sampler, out: Path, clip: Any) -> dict[str, Any]:
    """One motion's cell of a line, with the video of its first scene."""
    file, asked = kept_in(out / motion.name, sampler, len(motion.scenes))

    def painted() -> dict[str, Any]:
        made = motion.paint(sampler)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file.with_suffix(".npz"), video=made[0])
        return score(made, motion.true, motion.prompts, clip)

    return {**kept(file, asked, painted), "video": file.with_suffix(".npz")}


def duration(motion: Motion, sampler: Sampler, out: Path) -> float:
    """Seconds per video."""
    file, asked = kept_in(out / f"seconds_{torch.get_num_threads()}_threads", sampler, BATCH)
    return kept(file, asked, lambda: {"seconds": motion.seconds(sampler)})["seconds"]


def mean(result: Result, key: str) -> float:
    """Over all videos of all motions."""
    return float(np.mean([np.mean(cell[key]) for cell in result.values()]))


def judged(result: Result) -> list[dict[str, Any]]:
    """The cells of motions whose error counts."""
    return [cell for name, cell in result.items() if name not in RANDOM_DETAILS]


def above(result: Result, reference: Result) -> str:
    """The error's difference and its standard error."""
    return "{:+.3f} ± {:.3f}".format(*error_difference(judged(result), judged(reference)))


def table(title: str, results: dict[str, Result], true: Result, seconds: dict[str, float]) -> list[str]:
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


def presets_told(steps: dict[str, Result], seconds: dict[str, float]) -> list[str]:
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


def write_sheet(motion: Motion, results: dict[str, Result], file: Path) -> None:
    rows = [(f"true: {motion.prompts[0]}", motion.true[0])]
    rows += [(name, np.load(results[name][motion.name]["video"])["video"]) for name in SHOWN]
    contact_sheet(rows, file, title=motion_name(motion.name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/toy_motions"), help="the tuned motions")
    parser.add_argument("--out", type=Path, default=Path("runs/samplers"), help="what is finished")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where samplers.md is")
    parser.add_argument("--scenes", type=int, default=8, help="held-out first frames of each motion")
    options = parser.parse_args()
    clip = load_clip("tiny")
    motions = [Motion(name, options.runs, options.scenes) for name in MOTIONS]
    true = {m.name: score(m.true, m.true, m.prompts, clip) for m in motions}
    page = options.docs / "samplers.md"
    lines = tables()
    results: dict[str, dict[str, Result]] = {}
    for title in lines:
        results[title] = {}
        for name, sampler in lines[title].items():
            results[title][name] = {m.name: measure(m, sampler, options.out, clip) for m in motions}
            fill(page, title, table(title, results[title], true, {}))
    steps, seconds = results[STEPS_TABLE], {}
    for name, sampler in lines[STEPS_TABLE].items():
        seconds[name] = duration(motions[0], sampler, options.out)
        fill(page, STEPS_TABLE, table(STEPS_TABLE, steps, true, seconds))
        fill(page, "presets", presets_told(steps, seconds))
    write_sheet(motions[1], steps, options.docs / "images" / "samplers.png")


if __name__ == "__main__":
    main()
