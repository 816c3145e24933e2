"""Tune one motion with some overrides, and measure it on first frames that no table uses: to choose by.

    python benchmarks/choices.py motion=helicopter model=tiny_dit trainer.max_steps=120
    python benchmarks/choices.py run=<run folder> sampler.num_inference_steps=24   # sampled in another way

Tables are measured on the first 16 held-out scenes of a motion (`toy_motions.py`, the benchmark command). A
rate or a part that is chosen on those looks better there than it is. Here the next 8 are continued.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf
from pages import parser

from lamp_lightning.benchmark.methods import load_method
from lamp_lightning.benchmark.trial import HeldOut
from lamp_lightning.metrics import load_clip
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.train import __main__ as train

REPORTED, SCENES = 16, 8
SHOWN = ("moving_error_ratio", "still_error", "detail", "clip_score", "motion_amount")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("overrides", nargs="+", help="of the train command; or run=<folder> and of sampler")
    words = dict(word.split("=", 1) for word in options.parse_args().overrides)
    run = words.pop("run", None)
    if run is None:
        run = f"runs/choices/{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"  # two may run side by side
        quiet = ["logger=none", "samples.every=null", "samples.final=0", f"hydra.run.dir={run}"]
        if status := train.main([*(f"{key}={value}" for key, value in words.items()), *quiet]):
            sys.exit(status)
        words = {}
    changes = OmegaConf.from_dotlist([f"{k.removeprefix('sampler.')}={v}" for k, v in words.items()])
    method = load_method(Path(run), device="cpu")
    method = method.with_sampler(**OmegaConf.to_container(changes))
    motion = str(RunFolder.open(Path(run))[1].motion.name)
    held_out = HeldOut.drawn(motion, SCENES, method.sampler.num_frames, skip=REPORTED)
    found = held_out.measure(held_out.generate(method), load_clip("tiny"))
    print(f"{run}: {', '.join(f'{name} {found[name]:.4f}' for name in SHOWN)}")


if __name__ == "__main__":
    main()
