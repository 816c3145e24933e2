"""The ordinary commands on a model of Stable Diffusion 1.4's full size, with random weights, on the CPU.

    python benchmarks/full_size.py    # minutes on two cores, and 9 GB of disk until it ends

It builds a diffusers folder with the shapes of Stable Diffusion 1.4 (autoencoder, text encoder and UNet; a
small tokenizer, as nothing is downloaded), takes one training step with 16 frames of 64x64 pixels, paints a
video in two steps, and prints seconds and peak memory of both commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TRAIN = [
    "model=sd14",
    "motion=waterfall",
    "data.size=[64,64]",
    "trainer=cpu",
    "trainer.max_steps=1",
    "model.clip=tiny",
    "samples.every=null",
    "samples.final=0",
    "logger=csv",
]
SAMPLE = ["prompt=a waterfall", "sampler.num_inference_steps=2"]


@dataclass(frozen=True)
class Measured:
    """A finished command."""

    status: int
    seconds: float
    peak_gib: float
    output: str


@contextmanager
def full_size_run() -> Iterator[tuple[Path, Measured, Measured]]:
    """Build the model, train and sample; gives the folder (`run`, `video.mp4`) and deletes it in the end."""
    with tempfile.TemporaryDirectory(prefix="full_size_") as name:
        folder = Path(name)
        built = measured([__file__, str(folder)])
        if built.status:
            raise RuntimeError(f"The model cannot be built:\n{built.output}")
        places = {
            "model.path": folder / "model",
            "data.root": folder / "clips",
            "data.cache_dir": folder / "cache",
            "hydra.run.dir": folder / "run",
        }
        words = [*TRAIN, *(f"{key}={place}" for key, place in places.items())]
        train = measured(["-m", "lamp_lightning.train", *words])
        words = [*SAMPLE, f"run={folder / 'run'}", f"out={folder / 'video.mp4'}"]
        yield folder, train, measured(["-m", "lamp_lightning.sample", *words])


def measured(words: list[str]) -> Measured:
    """Run `python <words>` in a process of its own."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * unit / 2**30
    return Measured(process.returncode, time.monotonic() - begun, peak, text)


def build(folder: Path) -> None:
    """Save a `StableDiffusionPipeline` of Stable Diffusion 1.4's size (`model/`), and clips (`clips/`)."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from stable_diffusion import autoencoder, text_encoders, unet
    from transformers import CLIPTokenizer

    from lamp_lightning.data.motions import render_motion_set
    from lamp_lightning.toyworld import tiny_model_path

    render_motion_set("waterfall", folder / "clips" / "waterfall")
    StableDiffusionPipeline(
        vae=autoencoder("sd14"),
        unet=unet("sd14"),
        text_encoder=text_encoders("sd14")[0],
        tokenizer=CLIPTokenizer.from_pretrained(tiny_model_path() / "tokenizer", model_max_length=77),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model")


def main() -> int:
    if len(sys.argv) > 1:
        build(Path(sys.argv[1]))
        return 0
    with full_size_run() as (_, train, sample):
        for name, command in (("train", train), ("sample", sample)):
            print(command.output)
            print(
                f"{name}: {command.seconds:.0f} s, {command.peak_gib:.1f} GiB at most, ended {command.status}"
            )
    return train.status or sample.status


if __name__ == "__main__":
    sys.exit(main())
