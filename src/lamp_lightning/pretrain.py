"""`python -m lamp_lightning.pretrain`: pretrain the tiny models; started again, it goes on from `work`."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path

import torch

from lamp_lightning.toyworld import tiny_model_path
from lamp_lightning.toyworld.pretraining.stages import STAGES, Recipe, pretrain


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lamp_lightning.pretrain",
        description="Pretrain the tiny autoencoder, CLIP, painter and transformer on toy-world stills.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("pretrain"), help="folder of the resumable state")
    parser.add_argument(
        "--out", type=Path, default=tiny_model_path().parent, help="where the half-precision models go"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to train")
    parser.add_argument("--threads", type=int, default=None, help="processor threads; default: all cores")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    start = time.perf_counter()
    report = pretrain(options.work, options.out, recipe=recipe, stages=options.stages)
    print(f"Done in {(time.perf_counter() - start) / 60:.1f} minutes; models in {options.out}")
    for name, value in report.items():
        print(f"  {name:20s} {value:.3f}")


if __name__ == "__main__":
    main()
