"""The pictures of the artist's guide: what a motion of the tiny model does, in three small animations.

    python benchmarks/gallery.py                       # tunes birds_fly as the train command does
    python benchmarks/gallery.py trainer.max_steps=150   # with fewer steps
    python benchmarks/gallery.py --run runs/birds_fly/<time>

Prompts; pictures that the model never saw; one picture at several weights of the motion. What is tuned is
kept in `--out`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from toy_motions import tune

from lamp_lightning import LAMPPipeline
from lamp_lightning.data.sheet import draw_wall
from lamp_lightning.data.video import write_webp
from lamp_lightning.runtime.hub import megabytes
from lamp_lightning.toyworld.render import FPS
from lamp_lightning.toyworld.scenes import held_out_scenes

from pages import parser  # isort: skip

MOTION = "birds_fly"
PROMPTS = (
    "a red bird flies in the forest",
    "a blue bird flies over the sea",
    "a yellow bird flies in the mountains, ink drawing",
    "a green bird flies at the beach",
)
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
    scenes = held_out_scenes(MOTION, 4)
    from lamp_lightning.toyworld import continuation

    stills = [Image.fromarray(continuation(scene, 1)[0]) for scene in scenes]
    walls = {
        "prompts": [(prompt, video(pipe, prompt, None, seed)) for seed, prompt in enumerate(PROMPTS)],
        "pictures": [
            (scene.caption, video(pipe, scene.caption, still, seed))
            for seed, (scene, still) in enumerate(zip(scenes, stills, strict=True))
        ],
        "weights": [
            (f"weight {weight:g}", video(weighted(pipe, adapter, weight), scenes[0].caption, stills[0], 0))
            for weight in WEIGHTS
        ],
    }
    for name, rows in walls.items():
        file = args.docs / "images" / f"gallery_{name}.webp"
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
