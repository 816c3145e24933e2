"""Measure what motions of method=lamp_known make of several known frames: docs/known_frames.md.

    python benchmarks/known_frames.py runs/helicopter/<time> runs/birds_fly/<time>   # minutes for each run

Each run is shown true clips of held-out scenes with some of their frames left out. What is finished is kept
in ``--out`` and not done again; the page's tables are written anew after each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import fill, parser

from lamp_lightning.benchmark.methods import Method, load_method
from lamp_lightning.benchmark.trial import HeldOut, once, read_arrays, write_arrays
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.diffusion.known import nearest_known
from lamp_lightning.metrics.truth import moving_pixels
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.toyworld.scenes import motion_name

FRAMES, CHOSEN_ON = 16, 16  # scenes that had a part in choices are not measured
EVERY_SECOND = tuple(range(0, FRAMES, 2))
FOUR = tuple(range(4))
TASKS = {  # known frames, and the frames that are judged
    "every second frame": (EVERY_SECOND, tuple(range(1, FRAMES - 1, 2))),
    "first and last frame": ((0, FRAMES - 1), tuple(range(1, FRAMES - 1))),
    "a gap of eight": ((*range(4), *range(12, FRAMES)), tuple(range(4, 12))),
    "the first 4": (FOUR, tuple(range(4, FRAMES))),
    "the first 1": ((0,), tuple(range(4, FRAMES))),
}
LOOP = "loop"


def videos_of(method: Method, held_out: HeldOut, known: Sequence[int], loop: bool = False) -> np.ndarray:
    """The scenes' videos, uint8 `n f h w 3`, with these frames of the truth given."""
    truth = held_out.truth
    assert truth is not None
    further = {number: list(truth[:, number]) for number in known if number}
    made = method.generate(
        held_out.prompts, list(truth[:, 0]), range(len(truth)), known=further or None, loop=loop
    )
    return np.stack(made)


def errors(
    video: np.ndarray, true: np.ndarray, known: Sequence[int], judged: Sequence[int]
) -> dict[str, float]:
    """Squared errors over the pixels that truly move, of a video and of two that need no model."""
    before, after, way = map(list, nearest_known(tuple(known), len(true)))
    shares = np.array(way)[:, None, None, None]
    wanted = true / 255
    ways = {
        "painted": video / 255,
        "repeated": wanted[before],
        "cross-faded": (1 - shares) * wanted[before] + shares * wanted[after],
    }
    moving = moving_pixels(true)[list(judged)]
    return {name: float(((made - wanted)[list(judged)][moving] ** 2).sum()) for name, made in ways.items()}


def closing(video: np.ndarray) -> float:
    """The change from the last frame to the first beside the mean change between neighbours."""
    changes = np.abs(np.diff(np.concatenate([video, video[:1]]) / 255, axis=0)).mean((1, 2, 3))
    return float(changes[-1] / changes[:-1].mean())


def measure(run: Path, held_out: HeldOut, out: Path) -> dict[str, Any]:
    """All tasks by one run: sums of errors by task and way, and how loops close."""
    opened, cfg = RunFolder.open(run)
    name = str(cfg.motion.name)
    file = out / f"{name}_seed{cfg.seed}.json"

    def made() -> dict[str, Any]:
        method, found, videos = load_method(run), {}, {}
        for task, (known, judged) in TASKS.items():
            print(f"{name}: {task}", flush=True)
            videos[task] = videos_of(method, held_out, known)
            each = [
                errors(video, true, known, judged)
                for video, true in zip(videos[task], held_out.truth, strict=True)
            ]
            found[task] = {way: sum(error[way] for error in each) for way in each[0]}
        print(f"{name}: {LOOP}", flush=True)
        videos[LOOP] = videos_of(method, held_out, (0,), loop=True)
        loops = {
            "looped": [closing(video) for video in videos[LOOP]],
            "open": [closing(video) for video in videos["the first 1"]],
        }
        write_arrays(
            file.with_suffix(".npz"), **{task.replace(" ", "_"): video for task, video in videos.items()}
        )
        return {"motion": name, "tasks": found, "loops": loops}

    asked = {"scenes": len(held_out.prompts), "adapter": file_sha256(opened.adapter)}
    return {**once(file, asked, made), "videos": str(file.with_suffix(".npz"))}


def tables(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Errors as shares of repeating the known frame before; then loops."""
    heads = ("motion", "known", "painted", "cross-faded")
    rows = [f"| {' | '.join(heads)} |", "|---|---|---:|---:|"]
    for cell in cells:
        for task, ways in cell["tasks"].items():
            same = cell["tasks"]["the first 1" if task == "the first 4" else task]["repeated"]
            shares = [ways[way] / same for way in ("painted", "cross-faded")]
            rows.append(
                f"| {motion_name(cell['motion'])} | {task} | {' | '.join(f'{x:.2f}' for x in shares)} |"
            )
    rows += ["", "| motion | last to first frame, looped | not looped |", "|---|---:|---:|"]
    for cell in cells:
        means = [np.mean(cell["loops"][name]) for name in ("looped", "open")]
        rows.append(f"| {motion_name(cell['motion'])} | {' | '.join(f'{x:.2f}' for x in means)} |")
    return rows


def write_sheet(cells: Sequence[dict[str, Any]], scenes: dict[str, HeldOut], file: Path) -> None:
    """One scene of each motion: the truth, and what is made of its known frames."""
    rows = []
    for cell in cells:
        held_out, videos = scenes[cell["motion"]], read_arrays(Path(cell["videos"]))
        assert held_out.truth is not None
        rows.append((f"true: {held_out.prompts[0]}", held_out.truth[0]))
        rows += [(task, videos[task.replace(" ", "_")][0]) for task in (*TASKS, LOOP)]
    contact_sheet(rows, file, columns=FRAMES, cell=64, title="Several known frames")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="finished runs of method=lamp_known")
    options.add_argument("--out", type=Path, default=Path("runs/known_frames"), help="what is finished")
    options.add_argument("--scenes", type=int, default=8, help="held-out clips of each motion")
    args = options.parse_args()
    cells: list[dict[str, Any]] = []
    scenes: dict[str, HeldOut] = {}
    for run in args.runs:
        name = str(RunFolder.open(run)[1].motion.name)
        scenes[name] = HeldOut.drawn(name, args.scenes, FRAMES, skip=CHOSEN_ON)
        cells.append(measure(run, scenes[name], args.out))
        fill(args.docs / "known_frames.md", "several known frames", tables(cells))
    write_sheet(cells, scenes, args.docs / "images" / "known_frames.png")


if __name__ == "__main__":
    main()
