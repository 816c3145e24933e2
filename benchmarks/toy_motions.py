"""Tune all eight motions of the toy world and measure them against the true continuation.

    python benchmarks/toy_motions.py              # everything: docs/results.md and its pictures
    python benchmarks/toy_motions.py --motions rain trainer.max_steps=100

Each motion is tuned by the ordinary command on its 8 clips, with logging and samples off. Then 16 held-out
first frames, which neither the painter nor the tuning has seen, are continued by the tuned model, by the
untuned one, and by standing still. What is finished is kept in ``--out`` and not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from lamp_lightning.data.video import contact_sheet, write_gif
from lamp_lightning.metrics import FlowAgreement, MovingPixelError, evaluate_videos, load_clip
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.families import MotionUNet
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.generate import Sampler, mixed_precision
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.toyworld import FPS, MOTIONS, Scene, continuation, held_out_scenes, motion_name
from lamp_lightning.train import __main__ as train

RANDOM_DETAILS = ("rain", "waterfall")  # judged by flow; the others have one true continuation


def tune(motion: str, out: Path, overrides: list[str]) -> tuple[RunFolder, float]:
    """Tune with the train command; returns the run and its minutes, clip reading and saving included."""
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
    run, _ = RunFolder.open(folder)
    return run, float(minutes.read_text())


def continue_frames(
    pipeline: LAMPPipeline, scenes: list[Scene], first: np.ndarray, sampler: Sampler, precision: str
) -> np.ndarray:
    """Videos of ``scenes`` from their first frames ``(n, h, w, 3)``: uint8 ``(n, f, h, w, 3)``."""
    pipeline.scheduler = sampler.make_scheduler(pipeline.scheduler.config)
    videos = []
    with mixed_precision("cpu", precision):
        for k in range(0, len(scenes), 4):
            part = scenes[k : k + 4]
            output = pipeline(
                [scene.caption for scene in part],
                first_frame=list(first[k : k + 4]),
                num_frames=sampler.num_frames,
                num_inference_steps=sampler.num_inference_steps,
                guidance_scale=sampler.guidance_scale,
                seed=k,
                shared_noise=sampler.shared_noise,
                adain=sampler.adain,
                histogram_matching=sampler.histogram_matching,
            )
            videos.append((output.frames * 255).round().astype(np.uint8))
    return np.concatenate(videos)


def score(motion: str, made: np.ndarray, true: np.ndarray, prompts: list[str], clip: Any) -> dict[str, float]:
    error, flow = MovingPixelError(), FlowAgreement()
    for video, wanted in zip(made, true, strict=True):
        error.update(video, wanted)
        flow.update(video, wanted)
    values = {k: float(v) for k, v in {**error.compute(), **flow.compute()}.items()}
    measured = evaluate_videos(list(made), prompts, clip)
    return values | {k: float(v) for k, v in measured.items() if np.ndim(v) == 0}


def measure(
    motion: str, out: Path, docs: Path, scenes: int, overrides: list[str], clip: Any
) -> dict[str, Any]:
    result_file = out / f"{motion}.json"
    if result_file.exists():
        return json.loads(result_file.read_text())
    run, minutes = tune(motion, out, overrides)
    _, cfg = RunFolder.open(run.path)
    sampler = Sampler.from_config(cfg)
    chosen = held_out_scenes(motion, scenes)
    true = np.stack([continuation(scene, sampler.num_frames) for scene in chosen])
    prompts = [scene.caption for scene in chosen]
    result: dict[str, Any] = {"minutes": minutes, "config": OmegaConf.to_container(cfg, resolve=True)}
    result["sampler"] = sampler.settings()
    sheets: dict[str, np.ndarray] = {}
    for name in ("tuned", "untuned"):
        base = load_base_model("tiny")
        pipeline = LAMPPipeline.from_base(base, MotionUNet.from_unet(base.unet, norm=cfg.model.norm))
        pipeline.set_progress_bar_config(disable=True)
        if name == "tuned":
            pipeline.load_motion(run.adapter)
        begun = time.perf_counter()
        made = continue_frames(pipeline, chosen, true[:, 0], sampler, cfg.trainer.precision)
        result[f"{name}_seconds_per_video"] = (time.perf_counter() - begun) / len(chosen)
        result[name] = score(motion, made, true, prompts, clip)
        sheets[name] = made
    frozen = np.repeat(true[:, :1], sampler.num_frames, axis=1)
    result["frozen"] = score(motion, frozen, true, prompts, clip)
    result["true"] = score(motion, true, true, prompts, clip)
    np.savez_compressed(out / f"{motion}.npz", true=true, **sheets)
    rows = []
    for k in range(min(4, len(chosen))):
        rows.append((f"true: {prompts[k]}", true[k]))
        rows.append(("tuned", sheets["tuned"][k]))
    rows.append(("untuned, for the last", sheets["untuned"][k]))
    contact_sheet(rows, docs / "images" / f"{motion}.png", title=motion_name(motion))
    result_file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def write_wall(motions: list[str], out: Path, file: Path, columns: int = 4, gap: int = 2) -> None:
    """One tuned video of each motion side by side, twice as large, as a gif: the next scene for each."""
    tuned = [np.load(out / f"{motion}.npz")["tuned"] for motion in motions]
    videos = [each[k % min(4, len(each))] for k, each in enumerate(tuned)]
    videos += [np.full_like(videos[0], 255)] * (-len(videos) % columns)
    padded = [np.pad(v, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for v in videos]
    rows = [np.concatenate(padded[k : k + columns], axis=2) for k in range(0, len(padded), columns)]
    write_gif(file, np.concatenate(rows, axis=1).repeat(2, axis=1).repeat(2, axis=2), fps=FPS)


def write_results(results: dict[str, dict[str, Any]], file: Path, scenes: int, threads: int) -> None:
    """The tables of docs/results.md between its two markers; what stands around them is kept."""
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
    rows += ["", f"{scenes} held-out first frames of each motion, {threads} processor threads."]
    begin, end = "<!-- tables -->", "<!-- end of tables -->"
    text = file.read_text(encoding="utf-8") if file.exists() else f"# Results\n\n{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    file.write_text(f"{head}{begin}\n" + "\n".join(rows) + f"\n{end}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=list(MOTIONS), metavar="MOTION")
    parser.add_argument("--out", type=Path, default=Path("runs/toy_motions"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where results.md and pictures go")
    parser.add_argument("--scenes", type=int, default=16, help="held-out first frames of each motion")
    options, overrides = parser.parse_known_args()
    clip = load_clip("tiny")
    (options.docs / "images").mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for motion in options.motions:
        results[motion] = measure(motion, options.out, options.docs, options.scenes, overrides, clip)
        print(
            motion, json.dumps({k: results[motion][k] for k in ("minutes", "tuned", "untuned")}), flush=True
        )
        write_wall(list(results), options.out, options.docs / "images" / "motions.gif")
        write_results(results, options.docs / "results.md", options.scenes, torch.get_num_threads())


if __name__ == "__main__":
    main()
