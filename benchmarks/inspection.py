"""What the inspection finds in toy motion sets: `python benchmarks/inspection.py [motion ...] [--seed 1]`.

Of each motion 8 clips, as they are, and with one of them replaced: by its reversal, by a clip of each other
motion, by a still, or by a clip with a cut. The limits of `lamp_lightning.inspect.look` were chosen on
birds_fly, firework, rain and waterfall with seed 0.
"""

from __future__ import annotations

import argparse

import numpy as np

from lamp_lightning.inspect.look import Motion, compare, find_cuts, find_still_ends, thumbnails
from lamp_lightning.toyworld import MOTIONS, motion_set_scenes, render_clip

FRAMES, CLIPS = 16, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("motions", nargs="*", default=MOTIONS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    videos = {
        motion: [render_clip(scene, frames=FRAMES) for scene in motion_set_scenes(motion, CLIPS, asked.seed)]
        for motion in MOTIONS
    }
    moves = {motion: [Motion.of(video) for video in videos[motion]] for motion in MOTIONS}
    print("| motion | false alarms in clean clips | backwards | another motion | still | cut |")
    print("|---|---:|---:|---:|---:|---:|")
    for motion in asked.motions:
        print(f"| {motion.replace('_', ' ')} | {' | '.join(line(motion, videos, moves))} |", flush=True)


def line(motion: str, videos: dict[str, list[np.ndarray]], moves: dict[str, list[Motion]]) -> list[str]:
    """The figures of one motion."""
    clean, own = moves[motion], videos[motion]

    def found(place: int, instead: Motion) -> str | None:
        return compare([*clean[:place], instead, *clean[place + 1 :]], flip=False)[place][1]

    alarms = sum(finding is not None for _, finding in compare(clean, flip=False))
    alarms += sum(bool(find_cuts(thumbnails(video))) for video in own)
    alarms += sum(each.is_still for each in clean)
    alarms += sum(max(find_still_ends(thumbnails(video))) > FRAMES / 4 for video in own)
    backwards = sum(found(k, Motion.of(own[k][::-1])) == "backwards" for k in range(CLIPS))
    others = [found(k, moves[other][k]) for other in MOTIONS if other != motion for k in range(CLIPS)]
    stills = sum(Motion.of(video[[0] * FRAMES]).is_still for video in own)
    middle = FRAMES // 2
    joined = [np.concatenate([own[k][:middle], own[(k + 1) % CLIPS][middle:]]) for k in range(CLIPS)]
    cuts = sum(find_cuts(thumbnails(video)) == (middle,) for video in joined)
    named = sum(finding is not None for finding in others)
    return [
        str(alarms),
        f"{backwards}/{CLIPS}",
        f"{named}/{len(others)}",
        f"{stills}/{CLIPS}",
        f"{cuts}/{CLIPS}",
    ]


if __name__ == "__main__":
    main()
