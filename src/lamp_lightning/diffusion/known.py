"""Frames that are given: the first frame of LAMP, the last frames of a window, any others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def random_known(frames: int, generator: torch.Generator) -> tuple[int, ...]:
    """Numbers of frames to give in a step of tuning with any known frames, in order; one at least is left.

    Half of the time it is frame 0, as in LAMP. Else up to a quarter of the frames begin the clip, and every
    second to eighth frame, the last one, or both are given besides.

    Example:
        >>> import torch
        >>> {random_known(8, torch.Generator().manual_seed(seed)) for seed in range(4)} > {(0,)}
        True
    """

    def below(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    if frames < 3 or below(2) == 0:
        return (0,)
    numbers = set(range(1 + below(max(1, frames // 4))))
    if below(2):
        numbers |= set(range(0, frames, 2 + below(7)))
    if below(2):
        numbers.add(frames - 1)
    return tuple(sorted(numbers))


@lru_cache(maxsize=256)  # each layer asks
def nearest_known(
    known: tuple[int, ...], frames: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Of each frame the known one before it, the one after it, and its way from one to the other, 0..1.

    A known frame is both itself. Where there is none before a frame, or none after it, it is the other.

    Example:
        >>> nearest_known((0, 2), frames=4)
        ((0, 0, 2, 2), (0, 2, 2, 2), (0.0, 0.5, 0.0, 0.0))
    """
    before, after, way = [], [], []
    for frame in range(frames):
        first = max((k for k in known if k <= frame), default=min(known))
        last = min((k for k in known if k >= frame), default=first)
        before.append(first)
        after.append(last)
        way.append(0.0 if first == last else max(0.0, (frame - first) / (last - first)))
    return tuple(before), tuple(after), tuple(way)


@dataclass(frozen=True)
class KnownFrames:
    """Clean latents of frames that are given, `b c h w` by their number; those of one clip serve a batch.

    Args:
        clean: frames that the model sees without noise, as LAMP is tuned to (paper, section 3.2). They take
            no part in the steps of a solver.
        noised: frames that enter each step with their own noise at that step's level, as conditional sampling
            from an unconditional model does ("replacement", Ho et al. 2022, section 3.1).

    Example:
        >>> import torch
        >>> known = KnownFrames.first(torch.ones(1, 4, 1, 8, 8))
        >>> moving = known.others(torch.zeros(1, 4, 5, 8, 8))
        >>> moving.shape[2], known.whole(moving)[0, 0, :, 0, 0].tolist()
        (4, [1.0, 0.0, 0.0, 0.0, 0.0])
    """

    clean: Mapping[int, Tensor] = field(default_factory=dict)
    noised: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def none(cls) -> KnownFrames:
        """All frames are to be made."""
        return cls()

    @classmethod
    def first(cls, latents: Tensor, *, noised: bool = False) -> KnownFrames:
        """Frame 0, `b c 1 h w` or `b c h w`: clean, or `noised` for a model that was tuned without."""
        if latents.ndim == 5 and latents.shape[2] != 1:
            raise ValueError(f"A first frame must be one latent, b c 1 h w, not {tuple(latents.shape)}.")
        frame = {0: latents.squeeze(2) if latents.ndim == 5 else latents}
        return cls(noised=frame) if noised else cls(clean=frame)

    @classmethod
    def of(cls, video: Tensor, frames: Sequence[int]) -> KnownFrames:
        """These frames of a clip `b c f h w`, clean."""
        return cls(clean={frame: video[:, :, frame] for frame in frames})

    def __or__(self, others: KnownFrames) -> KnownFrames:
        """Both; where a frame is in both, it is as in the others."""
        theirs = {**others.clean, **others.noised}
        mine = self._each(lambda frames: {k: x for k, x in frames.items() if k not in theirs})
        return KnownFrames({**mine.clean, **others.clean}, {**mine.noised, **others.noised})

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the clean frames, in order."""
        return tuple(sorted(self.clean))

    @property
    def said(self) -> dict[str, Any]:
        """What a model is told of the clean frames: nothing where it is frame 0 or none, as in LAMP."""
        return {} if self.numbers in ((), (0,)) else {"known": self.numbers}

    def at(self, places: Sequence[int]) -> KnownFrames:
        """Those at some places of a long clip, for the clip of these places alone."""
        return self._each(
            lambda frames: {number: frames[place] for number, place in enumerate(places) if place in frames}
        )

    def like(self, video: Tensor) -> KnownFrames:
        """On the device and in the dtype of a video `b c f h w`, one latent for each of its clips.

        Raises:
            ValueError: a frame that the video does not have, or a latent that does not fit into it.
        """
        clips, channels, frames, *size = video.shape
        shape = (clips, channels, *size)

        def fitted(number: int, latents: Tensor) -> Tensor:
            if not 0 <= number < frames:
                raise ValueError(f"Frame {number} cannot be known: the clip has frames 0 to {frames - 1}.")
            if latents.shape[1:] != shape[1:] or latents.shape[0] not in (1, clips):
                raise ValueError(
                    f"The known frame {number} must be a latent of shape {shape} to go with noise of "
                    f"{tuple(video.shape)}, not {tuple(latents.shape)}."
                )
            return latents.to(video).expand(shape)

        return self._each(
            lambda known: {number: fitted(number, latents) for number, latents in known.items()}
        )

    def moving(self, frames: int) -> list[int]:
        """The numbers of the frames that a solver steps: all of so many but the clean ones."""
        return [number for number in range(frames) if number not in self.clean]

    def between(self, frames: int) -> Tensor:
        """Of each frame what lies on the straight line between the clean ones around it: `b c f h w`.

        Example:
            >>> import torch
            >>> known = KnownFrames(clean={0: torch.zeros(1, 4, 8, 8), 2: torch.ones(1, 4, 8, 8)})
            >>> known.between(4)[0, 0, :, 0, 0].tolist()
            [0.0, 0.5, 1.0, 1.0]
        """
        if len(self.clean) == 1:
            return next(iter(self.clean.values())).unsqueeze(2).expand(-1, -1, frames, -1, -1)
        lines = zip(*nearest_known(self.numbers, frames), strict=True)
        return torch.stack([torch.lerp(self.clean[a], self.clean[b], way) for a, b, way in lines], dim=2)

    def others(self, video: Tensor) -> Tensor:
        """Of a clip `b c f h w` the frames that are not clean."""
        if not self.clean:
            return video
        if sorted(self.clean) == list(range(len(self.clean))):  # the usual case, without a copy
            return video[:, :, len(self.clean) :]
        frames = video.unbind(2)
        return torch.stack([frames[number] for number in self.moving(len(frames))], dim=2)

    def whole(self, others: Tensor) -> Tensor:
        """The clip `b c f h w` of the clean frames and the others between them."""
        if not self.clean:
            return others
        numbers = self.moving(others.shape[2] + len(self.clean))
        frames = {**self.clean, **dict(zip(numbers, others.unbind(2), strict=True))}
        return torch.stack([frames[number] for number in sorted(frames)], dim=2)

    def _each(self, change: Callable[[Mapping[int, Tensor]], Mapping[int, Tensor]]) -> KnownFrames:
        return KnownFrames(change(self.clean), change(self.noised))
