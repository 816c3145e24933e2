"""Measure long videos and frames painted between frames on tuned toy motions: docs/long_videos.md.

    python benchmarks/long_videos.py     # a quarter of an hour on two cores, and the tuning if there is none

The motions are those that benchmarks/toy_motions.py tunes. What is finished is kept in ``--out`` and not done
again; the page's tables are written anew after each cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from pages import fill, parser
from samplers import CHOSEN_ON, Motion, preset
from torch import Tensor

from lamp_lightning.benchmark.trial import once, write_arrays
from lamp_lightning.data.images import pixels_from_image
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.diffusion import denoise
from lamp_lightning.metrics.truth import moving_pixels
from lamp_lightning.models.devices import evaluation, mixed_precision
from lamp_lightning.toyworld import Scene, held_out_scenes, render_clip
from lamp_lightning.toyworld.render import first_moment
from lamp_lightning.toyworld.scenes import motion_name

MOTIONS = ("helicopter", "horse_run", "play_the_guitar", "waterfall")
RANDOM_DETAILS = ("waterfall",)  # has more than one true continuation
LONGEST, BLOCK = 128, 16
METHODS = {  # frames, window, overlap
    "windows of 16, 8 known": (128, 16, 8),
    "at once, 128": (128, 128, 8),
    "windows of 16, 4 known": (128, 16, 4),
    "at once, 64": (64, 128, 8),
    "at once, 32": (32, 128, 8),
    "at once, 16": (16, 128, 8),
}
SHOWN = ("at once, 128", "windows of 16, 8 known")
BETWEEN = ("helicopter", "horse_run", "play_the_guitar", "birds_fly")
BETWEEN_FRAMES = 8  # known ones
FADED_FROM = 0.2  # share of the noise levels through which a cross-fade is painted over


# -- long videos ---------------------------------------------------------------------------------------------


def measure(motion: Motion, method: str, file: Path) -> dict[str, Any]:
    """Per scene and frame: errors, drift of the mean colour, change from the frame before."""
    frames, window, overlap = METHODS[method]

    scenes = len(motion.held_out.prompts)

    def made() -> dict[str, Any]:
        print(f"{motion.name}: {method}", flush=True)
        noise = torch.stack([gaussian(motion, LONGEST, seed=k) for k in range(scenes)])
        sampler = preset("ddim").changed({"num_frames": frames, "window": window, "overlap": overlap})
        ours = replace(motion.method, sampler=sampler)
        videos = motion.held_out.generate(ours, noise=noise[:, :, :frames])
        write_arrays(file.with_suffix(".npz"), video=videos[0])
        return per_frame(videos, motion.held_out.truth[:, :frames])

    asked = {"frames": frames, "window": window, "overlap": overlap, "scenes": scenes}
    return {**once(file, asked, made), "video": file.with_suffix(".npz")}


def gaussian(motion: Motion, frames: int, seed: int) -> Tensor:
    """Noise of one video's latents, `c f h w`; a shorter video has the beginning of a longer one's."""
    generator = torch.Generator().manual_seed(seed)
    unet = motion.method.pipeline.unet.config
    shape = (unet.in_channels, unet.sample_size, unet.sample_size)
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(frames)], dim=1)


def per_frame(made: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """uint8 `n f h w 3`, both, to lists of n lists of f numbers."""
    values: dict[str, list[list[float]]] = {}

    def add(name: str, numbers: np.ndarray) -> None:
        values.setdefault(name, []).append(numbers.astype(float).round(4).tolist())

    for video, wanted in zip(made, true, strict=True):
        a, b, moving = video / 255, wanted / 255, moving_pixels(wanted)[..., None]
        add("error", (moving * (a - b) ** 2).sum((1, 2, 3)))
        add("frozen", (moving * (b[:1] - b) ** 2).sum((1, 2, 3)))
        add("drift", 255 * np.abs(a.mean((1, 2)) - b.mean((1, 2))).mean(-1))
        for name, x in (("change", a), ("true_change", b)):
            add(name, 255 * np.abs(np.diff(x, axis=0, prepend=x[:1])).mean((1, 2, 3)))
    return values


def blocks(cell: dict[str, Any], name: str) -> np.ndarray:
    """Sums over scenes and each 16 frames, the first frame left out."""
    numbers = np.array(cell[name])
    numbers[:, 0] = 0
    return numbers.sum(0).reshape(-1, BLOCK).sum(1)


def counts(cell: dict[str, Any]) -> np.ndarray:
    """How many frames of all scenes each block of `blocks` has."""
    numbers = np.ones_like(np.array(cell["error"]))
    numbers[:, 0] = 0
    return numbers.sum(0).reshape(-1, BLOCK).sum(1)


def block_table(title: str, rows: dict[str, np.ndarray], digits: int) -> list[str]:
    heads = [f"{k} to {k + BLOCK - 1}" for k in range(0, LONGEST, BLOCK)]
    table = [f"| {title} | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for label, numbers in rows.items():
        texts = [f"{x:.{digits}f}" for x in numbers] + [""] * (len(heads) - len(numbers))
        table.append(f"| {label} | {' | '.join(texts)} |")
    return table


def ratio(cell: dict[str, Any]) -> np.ndarray:
    return blocks(cell, "error") / blocks(cell, "frozen")


def error_rows(cells: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Per method the mean over the motions with one true continuation; then the longest, motion by motion."""
    rows = {}
    for method, each in cells.items():
        rows[method] = np.mean([ratio(c) for name, c in each.items() if name not in RANDOM_DETAILS], axis=0)
    return rows | longest_rows(cells, ratio)


def longest_rows(
    cells: dict[str, dict[str, Any]], numbers: Callable[[dict[str, Any]], np.ndarray]
) -> dict[str, np.ndarray]:
    """A row for each motion and method that goes all the way."""
    return {
        f"{motion_name(name)}: {method}": numbers(each[name])
        for name in MOTIONS
        for method, each in cells.items()
        if METHODS[method][0] == LONGEST and name in each
    }


def mean_rows(cells: dict[str, dict[str, Any]], name: str) -> dict[str, np.ndarray]:
    return {
        method: np.mean([blocks(cell, name) / counts(cell) for cell in each.values()], axis=0)
        for method, each in cells.items()
    }


def borders(method: str) -> list[int]:
    """The first new frame of each window but the first."""
    frames, window, overlap = METHODS[method]
    return list(range(window, frames, window - 1 - overlap))


def steps_beside(cell: dict[str, Any], places: list[int]) -> list[float]:
    """Change into each of these frames, over the mean of the two changes before and the two after."""
    inside = [k for k in places if 3 <= k < len(cell["change"][0]) - 2]
    return [
        change[k] / change[[k - 2, k - 1, k + 1, k + 2]].mean()
        for change in np.array(cell["change"])
        for k in inside
    ]


def border_table(cells: dict[str, dict[str, Any]]) -> list[str]:
    """Changes at borders beside those elsewhere in the same videos."""
    table = [
        "| windows | change at borders | elsewhere | beside its neighbours: borders | elsewhere "
        "| largest tenth: borders | elsewhere |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, each in cells.items():
        at = borders(method)
        if not at:
            continue
        away = [k for k in range(1, METHODS[method][0]) if k not in at]
        both = (at, away)
        change = [np.mean([np.array(c["change"])[:, where] for c in each.values()]) for where in both]
        beside = [[x for c in each.values() for x in steps_beside(c, where)] for where in both]
        texts = [f"{x:.1f}" for x in change]
        texts += [f"{np.mean(x):.2f}" for x in beside] + [f"{np.quantile(x, 0.9):.2f}" for x in beside]
        table.append(f"| {method} | {' | '.join(texts)} |")
    return table


# -- frames between frames -----------------------------------------------------------------------------------


class LaterSteps(DDIMScheduler):
    """DDIM's last steps only, to paint over what is there already."""

    share = FADED_FROM

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device=device)
        self.timesteps = self.timesteps[-round(len(self.timesteps) * self.share) :]


def double_rate(scene: Scene) -> np.ndarray:
    """The true clip at twice the rate, uint8 `2n-1 h w 3`."""
    moments = [first_moment(scene) + k / 2 for k in range(2 * BETWEEN_FRAMES - 1)]
    return np.concatenate([render_clip(scene, frames=1, start=moment) for moment in moments])


def between(motion: Motion, file: Path) -> dict[str, Any]:
    """Per way and scene: squared error of the frames between, over pixels that move between known ones."""

    scenes = len(motion.held_out.prompts)

    def made() -> dict[str, Any]:
        errors: dict[str, list[float]] = {}
        for k, scene in enumerate(held_out_scenes(motion.name, CHOSEN_ON + scenes)[CHOSEN_ON:]):
            true = double_rate(scene) / 255
            before, wanted, after = true[:-1:2], true[1::2], true[2::2]
            moving = np.maximum(np.abs(after - before), np.abs(wanted - before)).max(-1) > 0.1
            videos = {"repeated": before, "cross-faded": (before + after) / 2}
            videos |= painted_between(motion, scene, true[::2], k)
            for way, video in videos.items():
                errors.setdefault(way, []).append(float(((video - wanted)[moving] ** 2).sum()))
        return errors

    return once(file, {"scenes": scenes, "frames": BETWEEN_FRAMES}, made)


@torch.no_grad()
def painted_between(motion: Motion, scene: Scene, known: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Frames between the known ones, `n h w 3` in 0..1, by the motion model with the known ones pinned."""
    pipeline, sampler = motion.method.pipeline, motion.method.sampler
    pictures = [(255 * frame).round().astype(np.uint8) for frame in known]
    pixels = torch.stack([pixels_from_image(picture, picture.shape[:2]) for picture in pictures])
    with evaluation(pipeline.unet), mixed_precision("cpu", motion.method.precision):
        latents = pipeline.base.latents_from_pixels(pixels)
        words = pipeline.base.encode_prompts([scene.caption]).text
        noise = gaussian(motion, 2 * len(known) - 1, seed)[None]

        def paint(scheduler: Any, begin: Tensor, steps: int, shared: float) -> np.ndarray:
            video = denoise(
                pipeline.unet, scheduler, begin, latents[:1].unsqueeze(2), words, guidance_scale=1.0,
                num_inference_steps=steps, shared_noise=shared, adain=False,
                known={2 * k: latents[k : k + 1] for k in range(1, len(latents))},
            )  # fmt: skip
            decoded = pipeline.base.decode_latents(video[0].transpose(0, 1))
            return (decoded.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()[1::2]

        later = LaterSteps.from_config(pipeline.own_scheduler.config, timestep_spacing="trailing")
        steps = 20
        later.set_timesteps(steps)
        faded = noise.clone()
        halfway = ((latents[:-1] + latents[1:]) / 2).transpose(0, 1)[None]
        faded[:, :, 1::2] = later.add_noise(halfway, noise[:, :, 1::2], later.timesteps[:1])
        return {
            "painted": paint(pipeline.scheduler, noise, sampler.num_inference_steps, sampler.shared_noise),
            "cross-faded, painted over": paint(later, faded, steps, 0.0),
        }


def between_table(cells: dict[str, dict[str, Any]]) -> list[str]:
    ways = ("repeated", "cross-faded", "painted", "cross-faded, painted over")
    table = [f"| motion | {' | '.join(ways)} |", "|---|" + "---:|" * len(ways)]
    for name, cell in cells.items():
        shares = [sum(cell[way]) / sum(cell["repeated"]) for way in ways]
        table.append(f"| {motion_name(name)} | {' | '.join(f'{x:.2f}' for x in shares)} |")
    return table


# -- the page ------------------------------------------------------------------------------------------------


def write_sheet(motions: list[Motion], cells: dict[str, dict[str, Any]], file: Path) -> None:
    rows = []
    for motion in motions:
        rows.append((f"true: {motion.held_out.prompts[0]}", motion.held_out.truth[0]))
        shown = {method: cells[method][motion.name] for method in SHOWN}
        rows += [(method, np.load(cell["video"])["video"]) for method, cell in shown.items()]
    contact_sheet(rows, file, columns=9, cell=96, title=f"{LONGEST} frames")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=Path, default=Path("runs/toy_motions"), help="the tuned motions")
    options.add_argument("--out", type=Path, default=Path("runs/long_videos"), help="what is finished")
    options.add_argument("--scenes", type=int, default=3, help="held-out first frames of each motion")
    args = options.parse_args()
    page = args.docs / "long_videos.md"
    few = {}
    for name in BETWEEN:
        file = args.out / "between" / f"{name}.json"
        few[name] = between(Motion.tuned(name, args.runs, args.scenes), file)
        fill(page, "frames between frames", between_table(few))
    motions = [Motion.tuned(name, args.runs, args.scenes, LONGEST) for name in MOTIONS]
    cells: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        folder = args.out / method.replace(" ", "_").replace(",", "")
        cells[method] = {m.name: measure(m, method, folder / f"{m.name}.json") for m in motions}
        shown = {name: cells[name] for name in sorted(cells, key=list(METHODS).index, reverse=True)}
        fill(page, "error", block_table("frames", error_rows(shown), 2))
        drift = longest_rows(shown, lambda cell: blocks(cell, "drift") / counts(cell))
        fill(page, "drift", block_table("frames", drift, 1))
        truth = {"the truth": next(iter(mean_rows(cells, "true_change").values()))}
        fill(page, "change", block_table("frames", mean_rows(shown, "change") | truth, 1))
        fill(page, "borders", border_table(shown))
    write_sheet(motions, cells, args.docs / "images" / "long_videos.png")


if __name__ == "__main__":
    main()
