"""A folder of clips becomes batches of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lamp_lightning.data.clips import Clip, MotionSet, load_clip, load_motion_set
from lamp_lightning.data.dataset import MotionDataset, SampleStream
from lamp_lightning.data.latents import LatentClips, encode_motion_set
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import DataSettings


class MotionSetDataModule(LightningDataModule):
    """The clips of one motion as an endless stream of training batches.

    Args:
        folder: 8-16 clips (mp4, m4v, mov, avi, mkv, webm, gif), or one clip.
        motion: the motion's name, which is also the prompt (`birds_fly` -> "birds fly").
        num_frames: frames of a training sample.
        frame_stride: take every so many-th frame of a clip.
        flip: mirror half of the samples; leave it off where left and right matter.
        size: height and width in pixels, or one number for both; None takes the model's own.
        batch_size: samples of a batch, on each device.
        cache_dir: where decoded frames, latents and text embeddings are kept; None for the user's cache.
        num_workers: loader processes; the data is in memory, so 0 is fastest.
        seed: of all random choices.
        captions: a caption file; None looks for one in the folder.
        use_captions: False takes the motion's name for the prompt of all clips, as the paper does.
        max_clips: use the first so many clips only, in natural order of their names; None: all.
        decode_timeout: seconds that decoding one clip may take.

    Call `prepare(base)` before training. A batch is {"latents": (b, c, f, h, w), "text": (b, l, d),
    "index": (b,)}, for SDXL with "added_cond_kwargs" (its pooled prompts and size conditions). The stream is
    a pure function of the seed: it begins at the trainer's global step, so a resumed run sees what an
    uninterrupted one would, and of several devices each takes its share.

    Example:
        >>> from lamp_lightning import MotionSetDataModule
        >>> data = MotionSetDataModule("data/waterfall", "waterfall", size=64, batch_size=2)
        >>> data.size, data.first_index()
        ((64, 64), 0)
    """

    def __init__(
        self,
        folder: str | Path,
        motion: str,
        num_frames: int = 16,
        frame_stride: int = 1,
        flip: bool = False,
        size: int | Sequence[int] | None = None,
        batch_size: int = 1,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        seed: int = 0,
        captions: str | Path | None = None,
        use_captions: bool = True,
        max_clips: int | None = None,
        decode_timeout: float = 60.0,
    ) -> None:
        super().__init__()
        settings = {
            "_target_": "lamp_lightning.MotionSetDataModule",
            "num_frames": num_frames,
            "frame_stride": frame_stride,
            "batch_size": batch_size,
            "num_workers": num_workers,
            "max_clips": max_clips,
            "decode_timeout": decode_timeout,
        }
        usable(DataSettings, "data", settings)
        self.folder = Path(folder)
        self.motion = motion
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.flip = flip
        self.size = _pair(size)
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.num_workers = num_workers
        self.seed = seed
        self.captions = captions
        self.use_captions = use_captions
        self.max_clips = max_clips
        self.decode_timeout = decode_timeout
        self.motion_set: MotionSet | None = None
        self.latent_clips: LatentClips | None = None

    def prepare(self, base: Any, progress: Callable[[int, int], None] | None = None) -> LatentClips:
        """Decode the clips and encode them with `base` (a BaseModel), or read both from the cache.

        `progress(done, total)` follows the encoding. Raises UserError for anything wrong with the folder.
        """
        factor = base.vae_scale_factor
        size = self.size or _pair(base.unet.config.sample_size, factor)
        if size is None or any(side % factor for side in size):
            raise UserError(f"size must be multiples of {factor} for the model {base.name}, found {size}.")
        self.size = size
        self.motion_set = self.read(size)
        self.latent_clips = encode_motion_set(
            self.motion_set, base, flip=self.flip, cache_dir=self.cache_dir, progress=progress
        )
        return self.latent_clips

    def read(self, size: tuple[int, int]) -> MotionSet:
        """The decoded clips at height and width `size`."""
        return load_motion_set(
            self.folder,
            motion=self.motion,
            size=size,
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            cache_dir=self.cache_dir,
            captions=self.captions if self.use_captions else False,
            max_clips=self.max_clips,
            timeout_s=self.decode_timeout,
        )

    @property
    def _encoded(self) -> LatentClips:
        if self.latent_clips is None:
            raise UserError("The motion set is not encoded yet: call prepare(base) before training.")
        return self.latent_clips

    @property
    def first_clip(self) -> Tensor:
        """The most likely latents of the first clip's beginning, unscaled, `f c h w`."""
        return self.latents[: self.num_frames]

    @property
    def latents(self) -> Tensor:
        """The most likely latents of the first clip, `frame_stride` apart, unscaled, `f c h w`."""
        mean, _ = self._encoded.moments[0][:, :: self.frame_stride].chunk(2)
        return mean.transpose(0, 1)

    @property
    def fps(self) -> float:
        """Frames per second of a training sample."""
        assert self.motion_set is not None
        return self.motion_set.fps / self.frame_stride

    @property
    def dataset(self) -> MotionDataset:
        """The training samples by number."""
        return MotionDataset(self._encoded, self.num_frames, self.frame_stride, self.seed)

    def train_dataloader(self) -> DataLoader:
        """An endless loader; each pass over it begins where the trainer stands."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = SampleStream(self.dataset, self.batch_size, rank, world_size)
        return _ResumingLoader(stream, self.first_index, num_workers=self.num_workers)

    def first_index(self) -> int:
        """The number of the first sample that no finished optimiser step has seen, over all devices."""
        if self.trainer is None:
            return 0
        batches = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return batches * self.batch_size * self.trainer.world_size


class ClipDataModule(MotionSetDataModule):
    """A motion set of one clip: the frames of a video that are edited. Its prompt is the motion's."""

    def read(self, size: tuple[int, int]) -> MotionSet:
        clip = load_clip(
            self.folder, self.motion, size=size, cache_dir=self.cache_dir, timeout_s=self.decode_timeout
        )
        span = (self.num_frames - 1) * self.frame_stride + 1
        if len(clip.frames) < span:
            raise UserError(f"{clip.path}: this video has become shorter: begin a new edit of it.")
        return MotionSet(self.motion, [replace(clip, frames=clip.frames[:span])])

    @property
    def clip(self) -> Clip:
        """The frames that are edited, `frame_stride` apart in the video, at their own rate."""
        assert self.motion_set is not None
        whole = self.motion_set.clips[0]
        stride = self.frame_stride
        return replace(whole, frames=np.array(whole.frames[::stride]), fps=whole.fps / stride)


class _ResumingLoader(DataLoader):
    """Asks where to begin at each new pass, not once when it is made."""

    def __init__(self, stream: SampleStream, first_index: Callable[[], int], num_workers: int = 0) -> None:
        super().__init__(stream, batch_size=stream.batch_size, num_workers=num_workers)
        self._first_index = first_index

    def __iter__(self) -> Any:
        self.dataset.first = self._first_index()  # type: ignore[attr-defined]
        return super().__iter__()


def _pair(size: int | Sequence[int] | None, factor: int = 1) -> tuple[int, int] | None:
    """Height and width in pixels from a number, a pair, or nothing."""
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"size must be a whole number or [height, width] in pixels, found {size!r}.")
    return sides[0] * factor, sides[1] * factor
