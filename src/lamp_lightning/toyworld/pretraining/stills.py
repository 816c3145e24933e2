"""The stills that the tiny models are pretrained on: rendered once, kept as one memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lamp_lightning.runtime.files import replacing
from lamp_lightning.toyworld.render import CLIP_FRAMES, render_still
from lamp_lightning.toyworld.scenes import Scene, combinations, random_caption


@dataclass
class Stills:
    """Pictures `(n, size, size, 3)` uint8 and the scene of each."""

    pictures: np.ndarray
    scenes: list[Scene]

    def pixels(self, index: np.ndarray | Tensor | Sequence[int]) -> Tensor:
        """Pictures as float `(len(index), 3, size, size)` in [-1, 1], contiguous."""
        batch = torch.from_numpy(np.ascontiguousarray(self.pictures[np.asarray(index)]))
        return batch.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)

    def captions(self, index: np.ndarray | Tensor, rng: np.random.Generator) -> list[str]:
        return [random_caption(self.scenes[int(i)], rng) for i in index]

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Numbers of stills `(batch,)` and a caption of each, a tenth of them empty, for guidance."""
        index = rng.integers(0, len(self.scenes), batch)
        return torch.from_numpy(index), ["" if rng.random() < 0.1 else t for t in self.captions(index, rng)]


def draw_scenes(splits: tuple[str, ...], count: int, seed: int) -> tuple[list[Scene], list[float]]:
    """`count` scenes, each combination of `splits` equally often, with the time to draw each at."""
    rng = np.random.default_rng(seed)
    pool = [scene for split in splits for scene in combinations(split)]
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))])[:count]
    scenes = [replace(pool[i], seed=int(rng.integers(1 << 30))) for i in order]
    return scenes, [float(t) for t in rng.uniform(0, CLIP_FRAMES - 1, count)]


def stills(splits: tuple[str, ...], count: int, seed: int, folder: Path, size: int = 64) -> Stills:
    """Render `count` stills to `folder`, or take those that an earlier call left there."""
    scenes, times = draw_scenes(splits, count, seed)
    path = folder / f"stills_{'_'.join(splits)}_{count}_{seed}_{size}.npy"
    drawn = (render_still(scene, t=t, size=size)[None] for scene, t in zip(scenes, times, strict=True))
    return Stills(kept(path, (count, size, size, 3), np.uint8, drawn), scenes)


def kept(path: Path, shape: tuple[int, ...], dtype: type, parts: Iterable[np.ndarray]) -> np.ndarray:
    """The array in the file `path`, memory-mapped; written part after part where it is missing."""
    if not path.exists():
        with replacing(path) as partial:
            result = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
            done = 0
            for part in parts:
                result[done : done + len(part)] = part
                done += len(part)
            result.flush()
    return np.load(path, mmap_mode="r")
