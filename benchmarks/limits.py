"""Measure where the error of tuned motions comes from: docs/limits.md.

    python benchmarks/limits.py runs/helicopter/<time>    # a run of the toy world; ten minutes of one thread

The true continuations of held-out scenes get noise of some level, and are denoised from there. What the rest
of the way costs is then known, by the tuned model and by its image model, which knows nothing of motion.
Beside it: the autoencoder alone, the scenes that were tuned on, and the mean of several videos, which has
the error of the model's belief without that of drawing from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from pages import fill, parser

from lamp_lightning.benchmark.methods import Method, load_method
from lamp_lightning.benchmark.trial import HeldOut
from lamp_lightning.diffusion.denoise import solve
from lamp_lightning.diffusion.first_frame import steadied
from lamp_lightning.diffusion.guidance import with_guidance
from lamp_lightning.diffusion.known import KnownFrames
from lamp_lightning.diffusion.schedule import add_noise
from lamp_lightning.metrics.truth import compared_to_truth
from lamp_lightning.models.devices import evaluation
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.frames import decode
from lamp_lightning.toyworld import continuation, motion_set_scenes
from lamp_lightning.toyworld.scenes import motion_name

FRAMES, SKIPPED, VIDEOS = 16, 16, 3  # the first scenes are those of the tables
LEFT_OUT = (0, 2, 4, 6, 8, 10)  # of the 12 steps; from the first of the others on noise is taken away
SHOWN = ("moving_error_ratio", "still_error", "detail")
Row = tuple[str, dict[str, float]]


def error(videos: np.ndarray, held_out: HeldOut) -> dict[str, float]:
    """Of videos uint8 `n f h w 3` of these scenes."""
    assert held_out.truth is not None
    return compared_to_truth(list(zip(videos, held_out.truth, strict=True)))


def tuned_scenes(motion: str) -> HeldOut:
    """The scenes of the tuned clips, from their first moment on."""
    scenes = motion_set_scenes(motion)
    truth = np.stack([continuation(scene, FRAMES, 64) for scene in scenes])
    return HeldOut(tuple(scene.caption for scene in scenes), truth[:, 0], truth)


@torch.no_grad()
def along_the_way(method: Method, held_out: HeldOut) -> Iterator[Row]:
    """The autoencoder, then both models from true frames with noise of falling levels."""
    pipeline, truth = method.pipeline, held_out.truth
    assert truth is not None
    base, unet = pipeline.base, pipeline.unet
    pixels = torch.from_numpy(truth).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    clean = base.latents_from_pixels(pixels).unflatten(0, truth.shape[:2]).transpose(1, 2)

    def judged(latents: torch.Tensor) -> dict[str, float]:
        return error((255 * decode(base, latents, False)).round().astype(np.uint8), held_out)

    yield "the autoencoder", judged(clean)
    scheduler = method.sampler.make_scheduler(pipeline.scheduler.config)
    image = with_guidance(unet, base.encode_prompts(held_out.prompts), scale=1.0)
    tuned = steadied(image, scheduler, method.sampler.steady) if method.sampler.steady else image
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    known = KnownFrames.of(clean, [0])
    models = ("the tuned model", tuned, nullcontext), ("the image model", image, unet.image_layers)
    for name, predict, layers in models:
        for left_out in LEFT_OUT:
            method.sampler.set_timesteps(scheduler, clean.device, tuple(clean.shape[-3:]))
            left = scheduler.timesteps[left_out:]
            noisy = add_noise(scheduler, clean, noise, left[:1].repeat(len(clean)))
            with evaluation(unet), layers():
                found = solve(predict, scheduler, noisy, left, known)
            yield f"{name} from timestep {int(left[0])}", judged(found)


def rows(run: Path, scenes: int) -> Iterator[Row]:
    cfg = RunFolder.open(run)[1]
    motion, method = str(cfg.motion.name), load_method(run, device="cpu")
    held_out = HeldOut.drawn(motion, scenes, FRAMES, skip=SKIPPED)
    tuned = tuned_scenes(motion)
    drawn = [held_out.generate(method, seed=1000 * k) for k in range(VIDEOS)]
    each = [error(videos, held_out) for videos in drawn]
    yield "videos of held-out scenes", {name: float(np.mean([one[name] for one in each])) for name in SHOWN}
    yield f"the mean of {VIDEOS} videos", error(np.mean(drawn, axis=0).round().astype(np.uint8), held_out)
    yield "videos of the tuned scenes", error(tuned.generate(method), tuned)
    yield from along_the_way(method, held_out)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="a finished run of model=tiny")
    options.add_argument("--scenes", type=int, default=8, help="held-out scenes")
    args = options.parse_args()
    cfg = RunFolder.open(args.run)[1]
    table = ["| | error to truth | squared error of still pixels | detail |", "|---|---:|---:|---:|"]
    for name, found in rows(args.run, args.scenes):
        error_to_truth, still, detail = (found[key] for key in SHOWN)
        table.append(f"| {name} | {error_to_truth:.3f} | {still:.4f} | {detail:.2f} |")
        print(table[-1], flush=True)
    about = f"*{motion_name(cfg.motion.name)}*, `method={cfg.method.name}`, {cfg.trainer.max_steps} steps"
    fill(args.docs / "limits.md", "limits", [f"{about}, {args.scenes} held-out scenes:", "", *table])


if __name__ == "__main__":
    main()
