"""What each metric says of videos whose order is known: the table of docs/metrics.md.

    python benchmarks/metrics.py

Held-out clips of the eight toy motions, and the same clips spoilt in known ways, are measured with everything
that there is to compare with: prompt, truth, first frame, and the eight training clips of the motion.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from pages import fill, parser

from lamp_lightning.metrics import MEASURES, evaluate_videos, load_clip, motion_signatures
from lamp_lightning.metrics.registry import markdown_table
from lamp_lightning.toyworld import MOTIONS, Scene, held_out_scenes, motion_set_scenes, render_clip

FRAMES = 16
Video = np.ndarray


def noise(video: Video) -> Video:
    return np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)


def grainy(video: Video) -> Video:
    grain = np.random.default_rng(0).normal(size=video.shape) * 5
    return np.clip(video + grain, 0, 255).round().astype(np.uint8)


def flickering(video: Video) -> Video:
    light = np.random.default_rng(0).uniform(0.85, 1, (len(video), 1, 1, 1))
    return (video * light).round().astype(np.uint8)


SPOILT: dict[str, Callable[[Video], Video]] = {
    "true": lambda video: video,
    "with grain": grainy,
    "with flickering light": flickering,
    "backwards": lambda video: video[::-1],
    "frames shuffled": lambda video: video[np.random.default_rng(3).permutation(len(video))],
    "frozen first frame": lambda video: np.repeat(video[:1], len(video), axis=0),
    "noise": noise,
}
OTHERS = ("another motion", "another scene")


def another(case: str, scene: Scene, index: int) -> Video:
    """A video that is right in itself: of the next motion, or of the same motion in another scene."""
    step = 1 if case == "another motion" else 0
    motion = MOTIONS[(MOTIONS.index(scene.motion) + step) % len(MOTIONS)]
    return render_clip(held_out_scenes(motion, 8)[7 - index], frames=FRAMES)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--scenes", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(1)
    clip = load_clip("tiny")
    rows: dict[str, list[dict[str, float]]] = {case: [] for case in (*SPOILT, *OTHERS)}
    seconds = 0.0
    for motion in MOTIONS:
        training = motion_signatures([render_clip(s, frames=FRAMES) for s in motion_set_scenes(motion, 8)])
        scenes = held_out_scenes(motion, args.scenes)
        truth = [render_clip(scene, frames=FRAMES) for scene in scenes]
        for case, measured in rows.items():
            if case in SPOILT:
                videos = [SPOILT[case](video) for video in truth]
            else:
                videos = [another(case, scene, k) for k, scene in enumerate(scenes)]
            begun = time.process_time()
            measured += evaluate_videos(
                videos, [scene.caption for scene in scenes], clip,
                truth=truth, training_clips=training, first_frames=[video[0] for video in truth],
            )["videos"]  # fmt: skip
            seconds += time.process_time() - begun
    names = [name for name in MEASURES if any(name in values for each in rows.values() for values in each)]
    means = [
        (case, {name: float(np.mean([v[name] for v in each if name in v] or [np.nan])) for name in names})
        for case, each in rows.items()
    ]
    count = sum(map(len, rows.values()))
    text = (
        f"{markdown_table(means, 'video')}\n\nMeans over {args.scenes} held-out scenes of each of the "
        f"{len(MOTIONS)} toy motions, {FRAMES} frames of 64x64. All measures of a video together took "
        f"{seconds / count:.2f} seconds of one processor core."
    )
    print(text)
    fill(args.docs / "metrics.md", "tables", f"\n{text}\n")


if __name__ == "__main__":
    main()
