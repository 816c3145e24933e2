"""What training and painting take on a GPU, calculated without one: docs/models.md.

    python benchmarks/memory.py                   # the tables of docs/models.md (ten minutes on one core)
    python benchmarks/memory.py --models sd14     # one model's, printed only
    python benchmarks/memory.py --models sana sd35     # all transformers, which have a part of the page
    python benchmarks/memory.py --check           # the calculation against the memory of real processes

`peak.py` says how.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from pages import fill, parser
from peak import CARDS, FRAMES, GIB, Memory, fits, painting, training
from stable_diffusion import MODELS, TRANSFORMERS, autoencoder, text_encoders, unet

from lamp_lightning.models.lowrank import stored_shapes
from lamp_lightning.models.registry import inflated
from lamp_lightning.runtime.config import composed

# -- against a real process ----------------------------------------------------------------------------------

SMALL = {"block_out_channels": (64, 128, 256, 256), "cross_attention_dim": 64, "attention_head_dim": 4}
CHECKED = [((128, 192), False), ((256, 256), False), ((256, 512), False), ((256, 512), True)]


def small_unet() -> UNet2DConditionModel:
    """Stable Diffusion's layers with a fifth of the channels, on the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SMALL)


def measure(size: tuple[int, int], checkpointing: bool) -> None:
    """Print the calculated peak and by how much this process grows when it is real."""
    options: dict[str, Any] = {"checkpointing": checkpointing, "on_gpu": False}
    training(small_unet(), (32, 32), world=nullcontext(), **options)  # what libraries allocate once
    calculated = training(small_unet(), size, **options)
    before = resident_now()
    training(small_unet(), size, world=nullcontext(), **options)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    calculated_bytes = calculated.total - calculated.optimizer
    print(
        f"{size[0]}x{size[1]}{' with checkpointing' if checkpointing else ''}: calculated "
        f"{calculated_bytes / GIB:.2f} GiB, process grown by {grown / GIB:.2f} GiB",
        flush=True,
    )


def resident_now() -> int:
    """Bytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def check() -> None:
    """Each measurement in a process of its own, so that its peak is its own."""
    for size, checkpointing in CHECKED:
        words = [sys.executable, __file__, "--measure", *map(str, size), str(int(checkpointing))]
        give_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc keeps nothing that was freed
        subprocess.run(words, check=True, env=os.environ | give_back)


# -- the tables of docs/models.md ----------------------------------------------------------------------------

TITLES = {
    "sd14": "Stable Diffusion 1.4 and 1.5",
    "sd21": "Stable Diffusion 2.1",
    "sdxl": "Stable Diffusion XL",
    "sana": "Sana 1.6B",
    "sd35": "Stable Diffusion 3.5 Medium",
}
RANKS = (64, 16, 4)  # whose files the table has
SMALLER = {"sd14": (256, 384), "sd21": (320, 512), "sdxl": (320, 512), "sana": (256, 384), "sd35": (256, 384)}
PARTS = {"tables": MODELS, "transformers": tuple(TRANSFORMERS)}  # of docs/models.md
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """How to tune."""

    size: tuple[int, int]
    dtype: str
    checkpointing: bool
    optimizer: str

    def words(self, default: Setting) -> list[str]:
        """What to write behind `model=` where it differs from the model's config."""
        words = {
            f"data.size=[{self.size[0]},{self.size[1]}]": self.size != default.size,
            f"model.dtype={self.dtype}": self.dtype != default.dtype,
            f"model.gradient_checkpointing={str(self.checkpointing).lower()}": (
                self.checkpointing != default.checkpointing
            ),
            f"tuner.optimizer={self.optimizer}": self.optimizer != default.optimizer,
        }
        return [word for word, differs in words.items() if differs]


def default_setting(name: str) -> Setting:
    """The model's config."""
    cfg = composed("train", [f"model={name}", "trainer=gpu"])
    size = (int(cfg.data.size[0]), int(cfg.data.size[1]))
    return Setting(size, cfg.model.dtype, cfg.model.gradient_checkpointing, "adamw")


def settings(name: str) -> list[Setting]:
    """From the fastest to the most sparing."""
    default = default_setting(name)
    steps = [(dtype, False, "adamw") for dtype in dtypes(default)]
    steps += [("bfloat16", True, "adamw"), ("bfloat16", True, "adamw8bit")]
    return [*(Setting(default.size, *step) for step in steps), Setting(SMALLER[name], *steps[-1])]


def dtypes(default: Setting) -> list[str]:
    """The config's, and the small one."""
    return list(dict.fromkeys([default.dtype, "bfloat16"]))


def on_meta(build: Callable[[str], Any], name: str) -> Any:
    with torch.device("meta"):
        return build(name)


def stored(unet_: Any, rank: int | None) -> int:
    """How many numbers an adapter has of a whole MotionUNet, at a rank."""
    tuned = zip(unet_.trainable_names(), unet_.tuned_parameters(), strict=True)
    shapes = stored_shapes({name: tuple(parameter.shape) for name, parameter in tuned}, rank)
    return sum(math.prod(shape) for shape in shapes.values())


class Model:
    """One model's figures, each calculated once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.default = default_setting(name)
        self.settings = settings(name)
        unet_ = inflated(on_meta(unet, name), None)
        self.parameters = sum(p.numel() for p in unet_.parameters())
        self.tuned = sum(p.numel() for p in unet_.tuned_parameters())
        self.files = [2 * stored(unet_, rank) for rank in (None, *RANKS)]  # bytes in half precision
        self.training = {setting: self._training(setting) for setting in self.settings}
        self.painting = {
            (size, dtype, slicing): self._painting(size, dtype, slicing)
            for size in dict.fromkeys(setting.size for setting in self.settings)
            for dtype in dtypes(self.default)
            for slicing in (False, True)
        }

    def _training(self, setting: Setting) -> Memory:
        return training(
            on_meta(unet, self.name),
            setting.size,
            dtype=DTYPES[setting.dtype],
            checkpointing=setting.checkpointing,
            optimizer=setting.optimizer,
        )

    def _painting(self, size: tuple[int, int], dtype: str, slicing: bool) -> Memory:
        parts = [on_meta(build, self.name) for build in (unet, autoencoder, text_encoders)]
        return painting(*parts, size, dtype=DTYPES[dtype], vae_slicing=slicing)

    def samples_while_training(self, setting: Setting, slicing: bool) -> int:
        """Bytes when the tuner paints: the optimiser's are there, too."""
        painted = self.painting[setting.size, setting.dtype, slicing]
        return painted.total + self.training[setting].optimizer

    def row(self) -> str:
        sizes = " | ".join(f"{size / 1e6:,.0f} MB" for size in self.files)
        return f"| {TITLES[self.name]} | {self.parameters:,} | {self.tuned:,} | {sizes} |"

    def training_rows(self) -> Iterator[str]:
        for setting, memory in self.training.items():
            words = " ".join(setting.words(self.default)) or "(as it comes)"
            parts = [
                memory.frozen + memory.tuned,
                memory.gradients + memory.optimizer,
                memory.rest,
                memory.total,
                self.samples_while_training(setting, True),
            ]
            numbers = " | ".join(f"{part / GIB:.1f}" for part in parts)
            yield f"| `{words}` | {numbers} | {card(memory.total)} |"

    def painting_rows(self) -> Iterator[str]:
        for (size, dtype, slicing), memory in self.painting.items():
            words = f"{size[0]}x{size[1]}, {dtype}" + (", `vae_slicing=true`" if slicing else "")
            weights = memory.frozen + memory.tuned
            parts = [weights, memory.encoders, max(memory.rest, memory.reading), memory.total]
            numbers = " | ".join(f"{part / GIB:.1f}" for part in parts)
            yield f"| {words} | {numbers} | {card(memory.total)} |"

    def training_command(self, gib: int) -> str:
        """The fastest setting that a card of so many GiB holds."""
        for setting, memory in self.training.items():
            if (fits(memory.total) or math.inf) > gib:
                continue
            words = [f"model={self.name}", *setting.words(self.default)]
            for slicing in (False, True):
                if (fits(self.samples_while_training(setting, slicing)) or math.inf) <= gib:
                    return code([*words, "model.vae_slicing=true"] if slicing else words)
            return code([*words, "model.vae_slicing=true", "samples.every=null"])
        return "no"

    def painting_command(self, gib: int) -> str:
        """The largest picture, the plainest setting that a card of so many GiB holds."""
        for (size, dtype, slicing), memory in self.painting.items():
            if (fits(memory.total) or math.inf) <= gib:
                words = [f"size=[{size[0]},{size[1]}]"] if size != self.default.size else []
                words += ["vae_slicing=true"] if slicing else []
                run = "" if dtype == self.default.dtype else f", of a run with `model.dtype={dtype}`"
                return (code(words) if words else "as it comes") + run
        return "no"


def card(total: float) -> str:
    smallest = fits(total)
    return f"{smallest} GB" if smallest else "more"


def code(words: list[str]) -> str:
    return f"`{' '.join(words)}`"


def tables(models: list[Model]) -> str:
    """All tables, in Markdown."""
    titles = [TITLES[model.name] for model in models]
    ranks = [f"rank {rank}" for rank in RANKS]
    lines = [
        *header("model", "parameters", "tuned", "adapter file", *ranks),
        *(model.row() for model in models),
    ]
    lines += ["", "### Tuning", "", *header("card", *titles, align="---")]
    lines += [f"| {gib} GB | " + " | ".join(m.training_command(gib) for m in models) + " |" for gib in CARDS]
    lines += ["", "### Painting", "", *header("card", *titles, align="---")]
    lines += [f"| {gib} GB | " + " | ".join(m.painting_command(gib) for m in models) + " |" for gib in CARDS]
    for model in models:
        size = "x".join(map(str, model.default.size))
        lines += ["", f"### {TITLES[model.name]}: {size}, {FRAMES} frames", ""]
        columns = ("weights", "gradients, optimiser", "rest", "peak", "while painting samples", "card")
        lines += [*header(f"tuning with `model={model.name}` and", *columns), *model.training_rows(), ""]
        lines += header("painting", "weights", "encoders", "rest", "peak", "card")
        lines += model.painting_rows()
    return "\n".join(lines)


def header(first: str, *others: str, align: str = "---:") -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join([first, *others])} |", f"|{'|'.join(['---', *[align] * len(others)])}|"]


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--models", nargs="+", choices=TITLES, metavar="MODEL", help="only these")
    asked.add_argument("--check", action="store_true", help="compare with real processes")
    asked.add_argument("--measure", nargs=3, type=int, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.measure:
        measure((options.measure[0], options.measure[1]), bool(options.measure[2]))
    elif options.check:
        check()
    else:
        for part, names in PARTS.items():
            asked_for = [name for name in names if name in (options.models or TITLES)]
            if not asked_for:
                continue
            text = tables([Model(name) for name in asked_for])
            print(text)
            if asked_for == list(names):
                fill(options.docs / "models.md", part, text)


if __name__ == "__main__":
    main()
