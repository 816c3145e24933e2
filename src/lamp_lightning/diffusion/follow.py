"""Attention injection: a video is generated under the attention of another, and moves as that does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lamp_lightning.diffusion.conditions import Conditions


@dataclass
class Way:
    """What `invert` went through with one clip: latents `steps c f h w`, the noisiest last; its prompt."""

    latents: Tensor | Sequence[Tensor]
    conditions: Conditions


@contextmanager
def following(unet: Any, way: Way, share: float) -> Iterator[None]:
    """In this context the attention of an inverted clip is injected into the UNet's clips.

    Plug-and-Play (Tumanyan et al. 2023), for videos FateZero (Qi et al. 2023): the inverted clip is denoised
    beside them, and in self-attention and temporal attention its queries and keys take the place of theirs,
    while values stay their own. It goes back the very way that inversion came, whatever the guidance, and
    each call of the UNet is one step of it: one run of as many steps as inversion had.

    Args:
        unet: a MotionUNet.
        way: from `invert` with the same UNet, by its callback.
        share: 0..1 of the steps, from the noisy end on. Attention that is injected to the end brings in some
            of the inverted video's look.
    """
    steps = round(share * len(way.latents))
    calls, clips = 0, 1

    def join(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        nonlocal calls, clips
        calls += 1
        clips = 1
        if calls > steps:
            return args, kwargs
        sample, timestep, text = args
        clips += len(sample)
        followed = way.latents[-calls].to(sample).unsqueeze(0)
        both = way.conditions.to(text).followed_by(Conditions.of(text, kwargs.get("added_cond_kwargs")))
        return (torch.cat([followed, sample]), timestep, both.text), {**kwargs, **both.extra}

    def lead(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if clips == 1:
            return output
        return output.unflatten(0, (clips, -1))[:1].expand(clips, *[-1] * output.ndim).flatten(0, 1)

    def part(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output if clips == 1 else output[1:]

    with ExitStack() as hooks:
        for handle in (
            unet.register_forward_pre_hook(join, with_kwargs=True),
            unet.register_forward_hook(part),
            *(layer.register_forward_hook(lead) for layer in unet.queries_and_keys()),
        ):
            hooks.callback(handle.remove)
        yield
