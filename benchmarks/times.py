"""How long tuning and sampling take on a GPU, calculated without one: the table of docs/own_clips.md.

    python benchmarks/times.py               # a few minutes on one core

The real code runs on tensors that have shapes and no contents, as in `memory.py`, and its operations are
counted. A card's maker says how many of these it does in a second at most; a third of that is assumed to be
reached. No GPU has confirmed the times.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from diffusers import DDIMScheduler
from memory import TITLES, default_setting, header, on_meta
from pages import fill, parser
from peak import FRAMES, allocate, conditions, fused_attention, motion_unet
from stable_diffusion import MODELS, unet
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.loss import first_frame_loss
from lamp_lightning.runtime.config import composed

# Products of 16-bit numbers summed in 32 bits, in 10^12 a second, without sparsity, as NVIDIA's papers on the
# architectures GA102, AD102 and A100 give them.
CARDS = {"RTX 3090": 71, "RTX 4090": 165, "A100": 312}
REACHED = 1 / 3
STEPS = (2_500, 15_000)  # of tuning: where the first samples come, and the default
SAMPLING = 50


def operations(name: str, *, checkpointing: bool) -> tuple[float, float]:
    """Operations in 10^12 of a tuning step, and of a sampling step with guidance, for one clip."""
    size = default_setting(name).size
    model = motion_unet(on_meta(unet, name), torch.bfloat16, checkpointing=checkpointing)
    counted = []
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(fused_attention())
        allocate(model)
        latents = torch.zeros(1, 4, FRAMES, size[0] // 8, size[1] // 8)
        for clips in (1, 2):
            text, added = conditions(model, clips)
            told = Conditions.of(text, added)
            counter = FlopCounterMode(display=False)
            with counter, torch.autocast("cpu", dtype=torch.bfloat16):
                if clips == 1:
                    step = torch.zeros(1, dtype=torch.long)
                    first_frame_loss(model, DDIMScheduler(), latents, latents, step, told).backward()
                else:
                    with torch.no_grad():
                        model.eval()(latents.expand(2, -1, -1, -1, -1), 0, text, added)
            counted.append(counter.get_total_flops() / 1e12)
    return counted[0], counted[1]


def rows(counts: dict[str, tuple[float, float]]) -> list[str]:
    """The table, of the operations of both steps of each model."""
    lines = header("model", "", "operations (10^12)", *CARDS)
    for name, (tuning, sampling) in counts.items():
        size = default_setting(name).size
        what = f"{TITLES[name]}, {FRAMES} frames of {size[1]}x{size[0]}"
        works = [(f"tuning, {steps:,} steps", tuning * steps) for steps in STEPS]
        for words, count in (*works, (f"one video, {SAMPLING} steps", sampling * SAMPLING)):
            times = [spoken(count / (peak * REACHED)) for peak in CARDS.values()]
            lines.append(f"| {what} | {words} | {count:,.0f} | {' | '.join(times)} |")
            what = ""
    return lines


def spoken(seconds: float) -> str:
    """A time in two digits at most: no more is known."""
    if seconds < 90:
        return f"{seconds:.1g} s" if seconds < 10 else f"{round(seconds, -1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    args = asked.parse_args()
    counts = {}
    for name in args.models:
        cfg = composed("train", [f"model={name}", "trainer=gpu"])
        counts[name] = operations(name, checkpointing=cfg.model.gradient_checkpointing)
        tuning, sampling = counts[name]
        print(f"{name}: {tuning:.1f} a tuning step, {sampling:.1f} a sampling step (10^12)", flush=True)
    fill(args.docs / "own_clips.md", "times", rows(counts))


if __name__ == "__main__":
    main()
