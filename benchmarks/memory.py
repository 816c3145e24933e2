"""What training and painting take on a GPU, calculated without one: docs/models.md.

    python benchmarks/memory.py                   # the tables of docs/models.md (ten minutes on one core)
    python benchmarks/memory.py --models sd14     # one model's, printed only
    python benchmarks/memory.py --check           # the calculation against the memory of real processes

The real code runs on tensors that have shapes and no contents, and every storage is counted from its birth to
its end. What that cannot see: the CUDA context, workspaces inside kernels, and what the allocator loses
between blocks; `fits` leaves room for them.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from hydra import compose, initialize_config_dir
from stable_diffusion import MODELS, autoencoder, text_encoders, unet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lamp_lightning.diffusion.loss import first_frame_loss
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.families import MotionUNet
from lamp_lightning.runtime.config import conf_dir
from lamp_lightning.sample.pipeline import DECODED_AT_ONCE
from lamp_lightning.train.tuner import MotionTuner

GIB = 2**30
CARDS = (8, 12, 16, 24)  # GiB
RESERVED = 1.0  # GiB of a card: CUDA context, workspaces of kernels
FRAGMENTED = 0.05  # share of the peak that the allocator loses between blocks
FRAMES = 16
BLOCK = 512  # bytes: CUDA's allocator rounds up to it
TEXT_LENGTH = 77


class Ledger(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most that were.

    torch's own MemTracker wants gradients of every parameter, and ours are mostly frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.operators: set[Any] = set()
        self._known: set[int] = set()

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = math.ceil(storage.nbytes() / BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operators.add(func)
        for leaf in (output,) if isinstance(output, Tensor) else tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return output


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak.

    `rest` is what is not kept between steps: activations, their gradients, and casts of weights.
    """

    frozen: int
    tuned: int
    rest: int
    gradients: int = 0
    optimizer: int = 0
    encoders: int = 0

    @property
    def total(self) -> int:
        return self.frozen + self.tuned + self.gradients + self.optimizer + self.encoders + self.rest


def training(
    image_unet: UNet2DConditionModel,
    size: tuple[int, int],
    *,
    frames: int = FRAMES,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
    optimizer: str = "adamw",
    world: AbstractContextManager[Any] | None = None,
    on_gpu: bool = True,
) -> Memory:
    """The peak of tuning with `trainer.precision=bf16-mixed`, one clip in a batch.

    Args:
        image_unet: on the meta device; becomes the tuner's.
        size: height and width in pixels.
        frames: of the clip.
        dtype: of the frozen weights.
        checkpointing: of gradients.
        optimizer: "adamw" or "adamw8bit".
        world: where tensors are made: None for shapes without contents, `nullcontext()` for real ones.
        on_gpu: False counts what a CPU does, where autocast leaves norms in bfloat16.
    """
    model = motion_unet(image_unet, dtype, checkpointing=checkpointing)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode() if world is None else world)
        stack.enter_context(fused_attention())
        if on_gpu:
            stack.enter_context(norms_in_float32())
        ledger = stack.enter_context(Ledger())
        allocate(model)
        weights = ledger.now
        latents = torch.zeros(1, 4, frames, size[0] // 8, size[1] // 8)
        timesteps = torch.zeros(1, dtype=torch.long)
        text, added = conditions(model, 1)
        scheduler = DDIMScheduler()
        ledger.peak = ledger.now
        for _ in range(2):  # the tuner frees a step's gradients before the next one's forward pass
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = first_frame_loss(model, scheduler, latents, latents, timesteps, text, added)
            loss.backward()
            del loss
            model.zero_grad()
    check_fused(ledger)
    tuned = model.tuned_parameters()
    gradients = size_of(tuned)
    return Memory(
        frozen=weights - size_of(tuned),
        tuned=size_of(tuned),
        gradients=gradients,
        optimizer=optimizer_size(tuned, optimizer),
        rest=ledger.peak - weights - gradients,
    )


def painting(
    image_unet: UNet2DConditionModel,
    vae: Any,
    encoders: list[nn.Module],
    size: tuple[int, int],
    *,
    frames: int = FRAMES,
    dtype: torch.dtype = torch.float32,
    vae_slicing: bool = False,
) -> Memory:
    """The peak of painting one clip with guidance in mixed bfloat16, all parts of the pipeline on the device.

    The models are on the meta device and become the painter's.
    """
    model = motion_unet(image_unet, dtype)
    for part in (vae, *encoders):
        nn.Module.to(part, dtype)
    with ExitStack() as stack:
        for context in (FakeTensorMode(), fused_attention(), norms_in_float32(), torch.no_grad()):
            stack.enter_context(context)
        ledger = stack.enter_context(Ledger())
        allocate(model)
        weights = ledger.now
        for part in (vae, *encoders):
            allocate(part)
        resident = ledger.peak = ledger.now
        if vae_slicing:
            vae.enable_slicing()
        latents = torch.zeros(2, 4, frames, size[0] // 8, size[1] // 8)
        text, added = conditions(model, 2)
        base = BaseModel("", vae, model, encoders[0], None, None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(latents, 0, text, added)
            parts = latents[0].transpose(0, 1).split(DECODED_AT_ONCE)
            torch.cat([base.decode_latents(part) for part in parts])
    check_fused(ledger)
    tuned = size_of(model.tuned_parameters())
    return Memory(
        frozen=weights - tuned, tuned=tuned, encoders=resident - weights, rest=ledger.peak - resident
    )


def motion_unet(
    image_unet: UNet2DConditionModel, dtype: torch.dtype, *, checkpointing: bool = False
) -> MotionUNet:
    """The UNet as the tuner has it: frozen weights in `dtype`, tuned ones in float32."""
    nn.Module.to(image_unet, dtype)
    unet = MotionUNet.from_unet(image_unet)
    return MotionTuner(unet, None, gradient_checkpointing=checkpointing).unet.train()


def conditions(unet: Any, clips: int) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Text embeddings for the UNet, and for SDXL pooled ones and sizes."""
    text = torch.zeros(clips, TEXT_LENGTH, unet.config.cross_attention_dim)
    if unet.config.addition_embed_type != "text_time":
        return text, None
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    return text, {"text_embeds": torch.zeros(clips, pooled), "time_ids": torch.zeros(clips, 6)}


def allocate(model: nn.Module) -> None:
    """Give a model of the meta device memory, or in fake mode what counts as such."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                made = torch.zeros(tensor.shape, dtype=tensor.dtype)
                if isinstance(tensor, nn.Parameter):
                    made = nn.Parameter(made, requires_grad=tensor.requires_grad)
                tensors[name] = made


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as on a GPU, where no layer writes its scores down."""
    with mock.patch("lamp_lightning.runtime.hardware.PLAIN_ATTENTION_SCORES", 0):
        yield


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """CUDA's autocast computes norms in float32, which keeps larger activations than the CPU's."""

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*args: Any) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                args = tuple(x.float() if isinstance(x, Tensor) else x for x in args)
            return norm(*args)

        return wrapped

    with mock.patch.multiple(F, group_norm=in_float32(F.group_norm), layer_norm=in_float32(F.layer_norm)):
        yield


def check_fused(ledger: Ledger) -> None:
    if torch.ops.aten._softmax.default in ledger.operators:
        raise RuntimeError("Some attention layer wrote down its scores: on a GPU the fused kernel does not.")


def size_of(tensors: list[Any]) -> int:
    """Bytes, as the ledger counts them."""
    return sum(math.ceil(x.numel() * x.element_size() / BLOCK) * BLOCK for x in tensors)


def optimizer_size(tuned: list[Any], optimizer: str) -> int:
    """Bytes of AdamW's two moments.

    "adamw8bit" is bitsandbytes': a byte each, a float32 scale for each 256 of them, and tensors of less than
    4096 values in float32.
    """
    if optimizer == "adamw":
        return 2 * size_of(tuned)
    large = [x.numel() for x in tuned if x.numel() >= 4096]
    small = sum(x.numel() for x in tuned) - sum(large)
    return 2 * sum(n + 4 * math.ceil(n / 256) for n in large) + 2 * 4 * small


def fits(total: float) -> int | None:
    """The smallest card that holds a peak of so many bytes and what the calculation cannot see."""
    needed = total * (1 + FRAGMENTED) / GIB + RESERVED
    return next((card for card in CARDS if needed <= card), None)


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
}
SMALLER = {"sd14": (256, 384), "sd21": (320, 512), "sdxl": (320, 512)}
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
    with initialize_config_dir(str(conf_dir()), version_base=None):
        cfg = compose("train", [f"model={name}", "trainer=gpu"])
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


class Model:
    """One model's figures, each calculated once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.default = default_setting(name)
        self.settings = settings(name)
        unet_ = MotionUNet.from_unet(on_meta(unet, name))
        self.parameters = sum(p.numel() for p in unet_.parameters())
        self.tuned = sum(p.numel() for p in unet_.tuned_parameters())
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
        size = f"{4 * self.tuned / 1e9:.2f} GB"
        return f"| {TITLES[self.name]} | {self.parameters:,} | {self.tuned:,} | {size} |"

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
            parts = [memory.frozen + memory.tuned, memory.encoders, memory.rest, memory.total]
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
    lines = [*header("model", "parameters", "tuned", "adapter file"), *(model.row() for model in models)]
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


def write_page(text: str, page: Path) -> None:
    """Put the tables between the page's two markers."""
    begin, end = "<!-- tables -->", "<!-- end of tables -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help="print only these")
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"), help="where the tables go")
    parser.add_argument("--check", action="store_true", help="compare with real processes")
    parser.add_argument("--measure", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure((options.measure[0], options.measure[1]), bool(options.measure[2]))
    elif options.check:
        check()
    else:
        text = tables([Model(name) for name in options.models or MODELS])
        print(text)
        if options.models is None:
            write_page(text, options.page)


if __name__ == "__main__":
    main()
