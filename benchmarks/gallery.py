"""A picture of the artist's guide: what the weight of a motion does, docs/images/gallery_weights.webp.

    python benchmarks/gallery.py                       # tunes birds_fly as the train command does
    python benchmarks/gallery.py trainer.max_steps=150   # with fewer steps
    python benchmarks/gallery.py --run runs/birds_fly/<time>

One picture that the model never saw, at several weights of the motion. What is tuned is kept in `--out`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pages import parser
from PIL import Image
from toy_motions import tune

from lamp_lightning import LAMPPipeline
from lamp_lightning.data.sheet import draw_wall
from lamp_lightning.data.video import write_webp
from lamp_lightning.runtime.hub import megabytes
from lamp_lightning.toyworld.render import FPS, continuation
from lamp_lightning.toyworld.scenes import held_out_scenes

MOTION = "birds_fly"
WEIGHTS = (0.0, 0.5, 1.0, 1.5)
CELL = 128  # pixels; the model's pictures have 64


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", type=Path, help="a finished run of the motion; else one is tuned")
    options.add_argument("--out", type=Path, default=Path("runs/gallery"))
    args, overrides = options.parse_known_args()
    run = args.run or tune(MOTION, args.out, overrides)[0]
    adapter = run / "adapter.safetensors"
    pipe = LAMPPipeline.from_motion(adapter)
    pipe.set_progress_bar_config(disable=True)
    scene = held_out_scenes(MOTION, 4)[0]
    still = Image.fromarray(continuation(scene, 1)[0])
    rows = [(f"weight {w:g}", video(weighted(pipe, adapter, w), scene.caption, still, 0)) for w in WEIGHTS]
    file = args.docs / "images" / "gallery_weights.webp"
    write_webp(file, wall(rows), fps=FPS, quality=80)
    print(f"{file} ({megabytes(file.stat().st_size)})")


def video(pipe: LAMPPipeline, prompt: str, picture: Image.Image | None, seed: int) -> np.ndarray:
    """A video, uint8 `(f, h, w, 3)`."""
    frames = pipe(prompt, picture, seed=seed).frames[0]
    return (frames * 255).round().astype(np.uint8)


def weighted(pipe: LAMPPipeline, adapter: Path, weight: float) -> LAMPPipeline:
    pipe.set_motions({adapter: weight})
    return pipe


def wall(rows: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """The videos in one row, with their labels below."""
    return np.concatenate([draw_wall([row], CELL) for row in rows], axis=2)


if __name__ == "__main__":
    main()
