"""A small comparison with known numbers, for the tests of tables, plots and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lamp_lightning.metrics import Measure
from lamp_lightning.report import Claim, Comparison, Entry, HeldOutScene, Result, SceneVideo, VideoFile

SIZE, FRAMES = 32, 10
# error, consistency and motion of each method by motion and seed
NUMBERS = {
    "ours": {
        "rain": [(0.30, 0.95, 1.1), (0.40, 0.96, 1.3)],
        "birds_fly": [(0.50, 0.97, 0.9), (0.60, 0.98, 1.0)],
    },
    "rival": {"rain": 2 * [(0.70, 0.90, 2.1)], "birds_fly": 2 * [(0.90, 0.92, 2.0)]},
    "sleepy": {"rain": 2 * [(0.95, 0.999, 0.1)], "birds_fly": 2 * [(0.97, 0.999, 0.1)]},
    "frozen": {"rain": [(1.0, 1.0, 0.0)], "birds_fly": [(1.0, 1.0, 0.0)]},
    "truth": {"rain": [(0.0, 0.98, 1.0)], "birds_fly": [(0.0, 0.98, 1.0)]},
}
MEASURES = (
    Measure("error", "error to truth", "lower", 2, help="how far from the true clip"),
    Measure("consistency", "frame consistency", "higher", 3, only_moving=True),
    Measure("amount", "motion amount", "truth", 2, "% of width"),
)
ENTRIES = (
    Entry("ours", "LAMP_1 & co", "All parts, 100% of them.", "ours"),
    Entry("rival", "rival <b>", "Another method."),
    Entry("sleepy", "sleepy", "Barely moves."),
    Entry("frozen", "frozen", kind="reference"),
    Entry("truth", "truth", kind="reference"),
)


def frames(number: int, size: int = SIZE, count: int = FRAMES) -> np.ndarray:
    """A square that moves over a plain ground, another for each number."""
    video = np.full((count, size, size, 3), 40 + 11 * number % 160, np.uint8)
    for f in range(count):
        video[f, 4 + number % 8 : 12 + number % 8, 2 * f : 2 * f + 8] = (250, 200, 20 * number % 255)
    return video


def comparison(folder: Path, **changes: object) -> Comparison:
    """Two motions and seeds, three methods, the truth and a frozen frame, each with videos of two scenes."""
    results = []
    for k, (entry, motions) in enumerate(NUMBERS.items()):
        array = np.stack([frames(k + 5 * scene) for scene in range(2)])
        np.savez_compressed(folder / f"{entry}.npz", videos=array)
        for motion, seeds in motions.items():
            for seed, (error, consistency, amount) in enumerate(seeds):
                values = {"error": error, "consistency": consistency, "amount": amount}
                videos = tuple(
                    SceneVideo(
                        f"s{i}", VideoFile(str(folder / f"{entry}.npz"), "videos", i), {"error": error}
                    )
                    for i in range(2)
                )
                number = seed if len(seeds) > 1 else None
                minutes = 3.5 if entry == "ours" else None
                results.append(Result(entry, motion, number, values, videos, minutes))
    scenes = [
        HeldOutScene(motion, f"s{i}", f"{motion} <{i}>") for motion in ("rain", "birds_fly") for i in range(2)
    ]
    made = {
        "title": "Known numbers",
        "question": "Does everything come out?",
        "measures": MEASURES,
        "entries": ENTRIES,
        "motions": ("rain", "birds_fly"),
        "results": tuple(results),
        "scenes": tuple(scenes),
        "settings": {"command": "python -m something | tee log"},
        "deciding": ("error",),
        "moves_by": "amount",
        "claims": (
            Claim("Ours is nearer to the truth.", "error", "ours", ("rival", "sleepy")),
            Claim("The rival is nearer to the truth.", "error", "rival", ("ours",)),
            Claim("Ours is as consistent as a sleeper.", "consistency", "ours", ("sleepy",), "no_worse"),
        ),
    }
    return Comparison(**{**made, **changes})  # type: ignore[arg-type]
