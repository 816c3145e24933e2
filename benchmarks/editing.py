"""Edit held-out videos of the toy world, which also knows how the edited scene would truly move.

    python benchmarks/editing.py                  # docs/editing.md and its pictures
    python benchmarks/editing.py --motions birds_fly --scenes 1

Each video is edited by the ordinary command: tuned on once, then edited with three prompts (another colour,
another place, both) and, with both, in other ways that are compared. What is finished is kept in `--out`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import fill, parser
from PIL import Image

from lamp_lightning.data import decode_clip
from lamp_lightning.data.video import contact_sheet, write_mp4
from lamp_lightning.edit import __main__ as edit
from lamp_lightning.metrics import MovingPixelError, flow_correlation, load_clip
from lamp_lightning.metrics.clip import ClipJudge
from lamp_lightning.toyworld import Scene, held_out_scenes, render_clip
from lamp_lightning.toyworld.pretraining.judge import questions
from lamp_lightning.toyworld.render import FPS
from lamp_lightning.toyworld.scenes import COLOURS, PLACES, motion_name

MOTIONS = ("birds_fly", "helicopter", "horse_run", "turn_to_smile")
CHOSEN_ON = 2  # the recipe was chosen on the first scenes of each motion: none of those is measured here
FRAMES, SIZE = 16, 64
EDITS = {"colour": ("colour",), "place": ("place",), "both": ("colour", "place")}
ASKED = ("motion", "colour", "place")
FOLLOWING = ("follow", "paint_follow", "motion_strength")
# What else is tried with both changes, and what it is called in the table.
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "given": ("first frame given: the true one of the edited scene", []),
    "alone": (
        "neither (`follow=0 paint_follow=0 motion_strength=1`)",
        ["follow=0", "paint_follow=0", "motion_strength=1"],
    ),
}


class Judge:
    """The tiny CLIP as a judge of toy-world videos."""

    def __init__(self) -> None:
        self.clip: ClipJudge = load_clip("tiny")
        self.answers = {
            name: (values, self.clip.text_features(t)) for name, (values, t) in questions().items()
        }

    def names(self, video: np.ndarray) -> dict[str, str]:
        """Which motion, colour, place and style it sees in the video as a whole."""
        seen = self.clip.image_features(video).mean(0)
        return {name: values[int((texts @ seen).argmax())] for name, (values, texts) in self.answers.items()}


def wanted(scene: Scene) -> dict[str, Scene]:
    """The scenes that the edits ask for: another colour and place, chosen by the scene's seed."""
    rng = np.random.default_rng(scene.seed)
    other = {
        "colour": str(rng.choice([c for c in COLOURS if c != scene.colour])),
        "place": str(rng.choice([p for p in PLACES if p != scene.place])),
    }
    return {name: replace(scene, **{part: other[part] for part in parts}) for name, parts in EDITS.items()}


def clip_of(scene: Scene) -> np.ndarray:
    """Its video from some moment on, uint8 `(f, h, w, 3)`; the same moment for all edits of a scene."""
    start = int(np.random.default_rng(scene.seed).integers(0, 9))
    return render_clip(scene, frames=FRAMES, start=start)


def small(file: Path) -> np.ndarray:
    """A written video at the model's size: it was enlarged by a whole factor."""
    frames = decode_clip(file).frames
    factor = frames.shape[1] // SIZE
    blocks = frames.reshape(len(frames), SIZE, factor, SIZE, factor, 3)
    return blocks.mean((2, 4)).round().astype(np.uint8)


def run_edits(scene: Scene, folder: Path) -> None:
    """All edits of one scene that are not there yet, by the command."""
    video, run, targets = folder / "source.mp4", folder / "run", wanted(scene)
    if not video.exists():
        write_mp4(video, clip_of(scene), FPS, crf=0)
    Image.fromarray(clip_of(targets["both"])[0]).save(folder / "given.png")
    jobs: dict[str, tuple[Scene, list[str]]] = {name: (targets[name], []) for name in EDITS}
    jobs |= {name: (targets["both"], words) for name, (_, words) in VARIANTS.items()}
    for name, (target, words) in jobs.items():
        out = folder / name
        if out.exists():
            continue
        begun = (run / "config.yaml").exists()
        # A run remembers the settings of its last edit.
        how = [f"prompt={target.caption}", f"out={out}"]
        how += [
            f"{key}=${{model.recipe.edit.{key}}}" for key in ("follow", "paint_follow", "motion_strength")
        ]
        how = [*how, *words]
        if name == "given":
            how.append(f"first_frame={folder / 'given.png'}")
        new = [f"video={video}", f"source_prompt={scene.caption}", f"hydra.run.dir={run}", "logger=none"]
        if status := edit.main([*([f"run={run}"] if begun else new), *how]):
            raise SystemExit(status)


def measure(scene: Scene, folder: Path, judge: Judge) -> dict[str, Any]:
    """What the edits of one scene are worth."""
    source, targets = clip_of(scene), wanted(scene)
    found: dict[str, Any] = {"scene": asdict(scene), "caption": scene.caption}
    for name in (*EDITS, *VARIANTS):
        target = targets.get(name, targets["both"])
        true, made = clip_of(target), small(folder / name / "edit.mp4")
        metrics = json.loads((folder / name / "metrics.json").read_text())
        error = MovingPixelError()
        error.update(made, true)
        seen, seen_true = judge.names(made), judge.names(true)
        found[name] = {
            "prompt": target.caption,
            "true_flow_correlation": flow_correlation(true, source),
            "moving_error_ratio": float(error.compute()["moving_error_ratio"]),
            "right": {part: seen[part] == getattr(target, part) for part in ASKED},
            "right_true": {part: seen_true[part] == getattr(target, part) for part in ASKED},
            **metrics["edit"],
        }
    found["reconstruction"] = json.loads((folder / "both" / "metrics.json").read_text())["reconstruction"]
    found["other_scene"] = flow_correlation(clip_of(replace(scene, seed=scene.seed + 1)), source)
    return found


def share(rows: Sequence[dict[str, bool]]) -> str:
    """How often subject, colour and place are named right, in percent."""
    return ", ".join(f"{100 * np.mean([row[part] for row in rows]):.0f}" for part in ASKED)


def write_results(results: dict[str, list[dict[str, Any]]], page: Path) -> None:
    """The tables of docs/editing.md."""
    head = [
        "| motion, change | flow correlation ↑ mean (least) | of the true edit "
        "| subject, colour, place right % ↑ | of the true edit | error ↓ "
        "| CLIP score ↑ new prompt / source's | consistency ↑ |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def row(label: str, edits: list[dict[str, Any]]) -> str:
        def mean(key: str) -> float:
            return float(np.mean([e[key] for e in edits]))

        least = min(e["flow_correlation"] for e in edits)
        cells = [
            label,
            f"{mean('flow_correlation'):.2f} ({least:.2f})",
            f"{mean('true_flow_correlation'):.2f}",
            share([e["right"] for e in edits]),
            share([e["right_true"] for e in edits]),
            f"{mean('moving_error_ratio'):.2f}",
            f"{mean('clip_score'):.1f} / {mean('clip_score_source_prompt'):.1f}",
            f"{mean('frame_consistency'):.3f}",
        ]
        return f"| {' | '.join(cells)} |"

    scenes = [scene for each in results.values() for scene in each]
    rows = list(head)
    for motion, each in results.items():
        rows += [row(f"{motion_name(motion)}, {name}", [scene[name] for scene in each]) for name in EDITS]
    rows.append(row("**all**", [scene[name] for scene in scenes for name in EDITS]))
    rows += ["", "| both changed, all motions |" + head[0].partition("change |")[2], head[1]]
    rows.append(row("the recipe", [scene["both"] for scene in scenes]))
    rows += [row(label, [scene[name] for scene in scenes]) for name, (label, _) in VARIANTS.items()]
    kept = np.mean([scene[name]["flow_correlation"] >= 0.7 for scene in scenes for name in EDITS])
    again = [scene["reconstruction"]["flow_correlation"] for scene in scenes]
    others = [scene["other_scene"] for scene in scenes]
    rows += [
        "",
        f"{len(scenes)} held-out videos of {FRAMES} frames, three edits each: {100 * kept:.0f} % have a flow "
        f"correlation of 0.7 or more. Between source and reconstruction it is {np.mean(again):.2f} (least "
        f"{min(again):.2f}), between videos of two scenes of one motion {np.mean(others):.2f}.",
    ]
    fill(page, "tables", rows)


def draw(results: dict[str, list[dict[str, Any]]], out: Path, docs: Path) -> None:
    """A contact sheet for each motion: source and edits of its first scenes, as they came."""
    for motion, each in results.items():
        rows = []
        for k, scene in enumerate(each[:2]):
            folder = out / f"{motion}_{k}"
            rows.append((f"source: {scene['caption']}", small(folder / "source.mp4")))
            rows += [(scene[name]["prompt"], small(folder / name / "edit.mp4")) for name in EDITS]
        contact_sheet(rows, docs / "images" / f"editing_{motion}.png", title=motion_name(motion))


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--motions", nargs="+", default=list(MOTIONS), metavar="MOTION")
    asked.add_argument("--scenes", type=int, default=3, help="held-out videos of each motion")
    asked.add_argument("--out", type=Path, default=Path("runs/editing"))
    options = asked.parse_args()
    out = options.out.absolute()
    (options.docs / "images").mkdir(parents=True, exist_ok=True)
    judge, results = Judge(), {}
    for motion in options.motions:
        scenes = held_out_scenes(motion, CHOSEN_ON + options.scenes)[CHOSEN_ON:]
        results[motion] = []
        for k, scene in enumerate(scenes):
            folder = out / f"{motion}_{k}"
            folder.mkdir(parents=True, exist_ok=True)
            run_edits(scene, folder)
            results[motion].append(measure(scene, folder, judge))
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        write_results(results, options.docs / "editing.md")
        draw(results, out, options.docs)
    print(f"Measured with {torch.get_num_threads()} processor threads: {options.docs / 'editing.md'}")


if __name__ == "__main__":
    main()
