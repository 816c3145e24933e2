"""Tune all eight motions of the toy world and measure them against the true continuation.

    python benchmarks/toy_motions.py              # everything: docs/results.md and its pictures
    python benchmarks/toy_motions.py trainer.max_steps=100 --motions rain

Each motion is tuned by the ordinary command on its 8 clips, with logging and samples off. Then 16 held-out
first frames, which neither the painter nor the tuning has seen, are continued by the tuned model, by the
untuned one, and by standing still. What is finished is kept in ``--out`` and not done again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pages import fill, parser

from lamp_lightning.benchmark.methods import load_method
from lamp_lightning.benchmark.trial import HeldOut, once, write_arrays
from lamp_lightning.data.video import contact_sheet, write_gif
from lamp_lightning.metrics import load_clip
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.toyworld import MOTIONS
from lamp_lightning.toyworld.render import FPS
from lamp_lightning.toyworld.scenes import motion_name
from lamp_lightning.train import __main__ as train

RANDOM_DETAILS = ("rain", "waterfall")  # judged by flow; the others have one true continuation
SHOWN = ("tuned", "untuned")


def tune(motion: str, out: Path, overrides: list[str]) -> tuple[Path, float]:
    """Tune with the train command; returns the run folder and minutes, clip reading and saving included."""
    folder = out / "runs" / motion
    minutes = folder / "minutes.txt"
    if not minutes.exists():
        begun = time.perf_counter()
        words = [f"motion={motion}", f"hydra.run.dir={folder}", "logger=none", "samples.every=null"]
        words = [f"resume={folder}"] if (folder / "checkpoints").exists() else words
        status = train.main([*words, "samples.final=0", *overrides])
        if status:
            raise SystemExit(status)
        minutes.write_text(f"{(time.perf_counter() - begun) / 60:.2f}\n")
    return folder, float(minutes.read_text())


def measure(motion: str, out: Path, docs: Path, scenes: int, overrides: list[str]) -> dict[str, Any]:
    """What the tuned, the untuned and the frozen videos of a motion are worth, beside the true ones."""

    def found() -> dict[str, Any]:
        folder, minutes = tune(motion, out, overrides)
        _, cfg = RunFolder.open(folder)
        method = load_method(folder, device="cpu")
        held_out = HeldOut.drawn(motion, scenes, method.sampler.num_frames)
        result: dict[str, Any] = {"minutes": minutes, "config": OmegaConf.to_container(cfg, resolve=True)}
        result["sampler"] = method.sampler.settings()
        videos: dict[str, np.ndarray] = {}
        for name in ("tuned", "untuned"):
            begun = time.perf_counter()
            videos[name] = held_out.generate(method)
            result[f"{name}_seconds_per_video"] = (time.perf_counter() - begun) / scenes
            method.pipeline.unload_motion()
        true = videos["true"] = held_out.truth
        videos["frozen"] = np.repeat(true[:, :1], true.shape[1], axis=1)
        for name, made in videos.items():
            result[name] = held_out.measure(made, load_clip("tiny"))
        write_arrays(out / f"{motion}.npz", **videos)
        rows = []
        for k, prompt in enumerate(held_out.prompts[:4]):
            rows += [(f"true: {prompt}", true[k]), ("tuned", videos["tuned"][k])]
        rows.append(("untuned, for the last", videos["untuned"][k]))
        contact_sheet(rows, docs / "images" / f"{motion}.png", title=motion_name(motion))
        return result

    return once(out / f"{motion}.json", {"scenes": scenes, "overrides": overrides}, found)


def write_wall(motions: list[str], out: Path, file: Path, columns: int = 4, gap: int = 2) -> None:
    """One tuned video of each motion side by side, twice as large, as a gif: the next scene for each."""
    tuned = [np.load(out / f"{motion}.npz")["tuned"] for motion in motions]
    videos = [each[k % min(4, len(each))] for k, each in enumerate(tuned)]
    videos += [np.full_like(videos[0], 255)] * (-len(videos) % columns)
    padded = [np.pad(v, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for v in videos]
    rows = [np.concatenate(padded[k : k + columns], axis=2) for k in range(0, len(padded), columns)]
    write_gif(file, np.concatenate(rows, axis=1).repeat(2, axis=1).repeat(2, axis=2), fps=FPS)


def write_results(results: dict[str, dict[str, Any]], page: Path, scenes: int) -> None:
    """The tables of docs/results.md."""
    rows = [
        "| motion | tuned | untuned | frozen | flow angle | flow length | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for motion, r in results.items():
        ratio = [f"{r[name]['moving_error_ratio']:.2f}" for name in ("tuned", "untuned", "frozen")]
        flow = [f"{r['tuned']['flow_angle']:.0f}°", f"{r['tuned']['flow_length']:.2f}"]
        if motion in RANDOM_DETAILS:
            ratio = [f"({x})" for x in ratio]
        else:
            flow = [f"({x})" for x in flow]
        rows.append(f"| {' | '.join([motion_name(motion), *ratio, *flow])} | {r['minutes']:.1f} |")
    rows += [
        "",
        "| motion | CLIP score ↑ tuned / true | consistency ↑ tuned / true | motion amount tuned / true |",
        "|---|---:|---:|---:|",
    ]
    for motion, r in results.items():
        pairs = [
            f"{r['tuned'][key]:.{digits}f} / {r['true'][key]:.{digits}f}"
            for key, digits in (("clip_score", 1), ("frame_consistency", 3), ("motion_amount", 2))
        ]
        rows.append(f"| {motion_name(motion)} | {' | '.join(pairs)} |")
    rows += [
        "",
        f"{scenes} held-out first frames of each motion, {torch.get_num_threads()} processor threads.",
    ]
    fill(page, "tables", rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--motions", nargs="+", choices=MOTIONS, default=list(MOTIONS), metavar="MOTION")
    options.add_argument("--out", type=Path, default=Path("runs/toy_motions"))
    options.add_argument("--scenes", type=int, default=16, help="held-out first frames of each motion")
    args, overrides = options.parse_known_args()
    results = {}
    for motion in args.motions:
        results[motion] = measure(motion, args.out, args.docs, args.scenes, overrides)
        shown = {name: {k: v for k, v in results[motion][name].items() if k != "videos"} for name in SHOWN}
        print(motion, json.dumps({"minutes": results[motion]["minutes"], **shown}), flush=True)
        write_wall(list(results), args.out, args.docs / "images" / "motions.gif")
        write_results(results, args.docs / "results.md", args.scenes)


if __name__ == "__main__":
    main()
