"""The peak of memory on a GPU, calculated without one.

The real code runs on tensors that have shapes and no contents, and every storage is counted from its birth to
its end. What that cannot see: the CUDA context, workspaces inside kernels, and what the allocator loses
between blocks; `fits` leaves room for them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.loss import first_frame_loss
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.base.prompts import SANA_TOKENS, T5_TOKENS
from lamp_lightning.models.registry import inflated
from lamp_lightning.sample.frames import DECODED_AT_ONCE
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
    reading: int = 0  # text encoders that are there before the first step only

    @property
    def total(self) -> int:
        weights = self.frozen + self.tuned + self.encoders
        return weights + self.gradients + self.optimizer + max(self.rest, self.reading)


def training(
    image_unet: Any,
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
    flow = FlowMatchEulerDiscreteScheduler() if is_transformer(model) else None  # looks at its own values
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode() if world is None else world)
        stack.enter_context(fused_attention())
        if on_gpu:
            stack.enter_context(norms_in_float32())
        ledger = stack.enter_context(Ledger())
        allocate(model)
        weights = ledger.now
        latents = noisy_latents(model, 1, frames, size)
        timesteps = torch.zeros(1, dtype=torch.long)
        text, added = conditions(model, 1)
        scheduler = flow or DDIMScheduler()  # whose values are asked for in each step
        ledger.peak = ledger.now
        for _ in range(2):  # the tuner frees a step's gradients before the next one's forward pass
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = first_frame_loss(
                    model, scheduler, latents, latents, timesteps, Conditions.of(text, added)
                )
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
    image_unet: Any,
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
        later = is_transformer(
            model
        )  # its text encoders are there while they read, and gone before the steps
        for part in (vae, *([] if later else encoders)):
            allocate(part)
        resident = ledger.peak = ledger.now
        if vae_slicing:
            vae.enable_slicing()
        latents = noisy_latents(model, 2, frames, size)
        text, added = conditions(model, 2)
        base = BaseModel("", vae, model, encoders[0], None, None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(latents, 0, text, added)
            parts = latents[0].transpose(0, 1).split(DECODED_AT_ONCE)
            torch.cat([base.decode_latents(part) for part in parts])
    check_fused(ledger)
    tuned = size_of(model.tuned_parameters())
    texts = [tensor for encoder in encoders for tensor in (*encoder.parameters(), *encoder.buffers())]
    return Memory(
        frozen=weights - tuned,
        tuned=tuned,
        encoders=resident - weights,
        rest=ledger.peak - resident,
        reading=size_of(texts) if later else 0,
    )


def is_transformer(model: Any) -> bool:
    """Whether it is a transformer, of flow matching."""
    return not isinstance(model, UNet2DConditionModel)


def noisy_latents(model: Any, clips: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Latents of clips of that size in pixels, `b c f h w`."""
    factor = 32 if isinstance(model, SanaTransformer2DModel) else 8
    return torch.zeros(clips, model.config.in_channels, frames, size[0] // factor, size[1] // factor)


def motion_unet(image_unet: Any, dtype: torch.dtype, *, checkpointing: bool = False) -> Any:
    """The UNet or transformer as the tuner has it: frozen weights in `dtype`, tuned ones in float32."""
    nn.Module.to(image_unet, dtype)
    unet = inflated(image_unet, None)
    return MotionTuner(unet, None, gradient_checkpointing=checkpointing).unet.train()


def conditions(unet: Any, clips: int) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Text embeddings for the model, and what some models take with them."""
    if isinstance(unet, SanaTransformer2DModel):
        text = torch.zeros(clips, SANA_TOKENS, unet.config.caption_channels)
        return text, {"encoder_attention_mask": torch.ones(clips, SANA_TOKENS)}
    if isinstance(unet, SD3Transformer2DModel):
        text = torch.zeros(clips, TEXT_LENGTH + T5_TOKENS, unet.config.joint_attention_dim)
        return text, {"text_embeds": torch.zeros(clips, unet.config.pooled_projection_dim)}
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
