"""A folder of clips becomes batches of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lamp_lightning.data.clip import Clip, MotionSet
from lamp_lightning.data.clips import list_clips, load_clip, load_motion_set
from lamp_lightning.data.dataset import HELD_OUT_DRAWS, HeldOutDataset, MotionDataset, SampleStream
from lamp_lightning.data.latents import LatentClips, encode_motion_set
from lamp_lightning.data.windows import Windows
from lamp_lightning.models.devices import on_device
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import DataSettings


class MotionSetDataModule(LightningDataModule):
    """The clips of one motion as an endless stream of training batches.

    Args:
        folder: 8-16 clips (mp4, m4v, mov, avi, mkv, webm, gif, animated webp), or one clip.
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
        validation: held-out clips, which are not tuned on: a share of the clips (the last ones, at least
            one), or a folder of others. None: none.
        fps: frames per second at which clips are read, by the times of their frames; None: all frames as
            they are, whatever the clips' rates are.
        use_masks: whether masks beside clips (`<clip>_mask.png` or a video) weigh the loss: white counts.
        mask_black: what black counts in them, 0..1.
        base: the text-to-image model that encodes the clips, a `BaseModel` or its name.

    Trainers call `prepare_data` and `setup`, which load `base`, or the model that the `MotionTuner` names;
    `prepare(base)` does it at once. A batch is {"latents": (b, c, f, h, w), "text": (b, l, d),
    "index": (b,)}, for SDXL with "added_cond_kwargs" (its pooled prompts and size conditions), with masks
    beside clips also "mask" (b, f, h, w). The stream is
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
        validation: float | str | Path | None = None,
        base: Any = None,
        fps: float | None = None,
        use_masks: bool = True,
        mask_black: float = 0.0,
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
            "fps": fps,
            "mask_black": mask_black,
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
        self.validation = _share_or_folder(validation)
        self.base = base
        self.rate = fps
        self.use_masks = use_masks
        self.mask_black = mask_black
        self.motion_set: MotionSet | None = None
        self.latent_clips: LatentClips | None = None
        self.held_out_clips: LatentClips | None = None

    def prepare(self, base: Any, progress: Callable[[int, int], None] | None = None) -> LatentClips:
        """Decode the clips and encode them with `base` (a BaseModel), or read both from the cache.

        `progress(done, total)` follows the encoding. Raises UserError for anything wrong with the folder.
        """
        factor = base.vae_scale_factor
        size = self.size or _pair(getattr(base.unet.config, "sample_size", None), factor)
        unit = factor * (getattr(base.unet.config, "patch_size", None) or 1)  # a transformer's tokens
        if size is None or any(side % unit for side in size):
            raise UserError(f"size must be multiples of {unit} for the model {base.name}, found {size}.")
        self.size = size
        self.motion_set, held_out = self.split(self.read(size), size)
        how: Any = {"cache_dir": self.cache_dir, "mask_black": self.mask_black, **self.windows_for(base)}
        if held_out is not None:
            self.held_out_clips = encode_motion_set(held_out, base, **how)
        self.latent_clips = encode_motion_set(self.motion_set, base, flip=self.flip, progress=progress, **how)
        return self.latent_clips

    def windows_for(self, base: Any) -> dict[str, Any]:
        """How clips are encoded as a whole, where a base takes such (`Windows`); else nothing.

        Raises:
            UserError: it takes none of `num_frames`.
        """
        if not getattr(base, "takes_clips", False):
            return {}
        latents = base.latent_frames(self.num_frames, "data.num_frames")
        return {"windows": Windows(self.num_frames, self.frame_stride, latents)}

    def prepare_data(self) -> None:
        """Decode and encode the clips into the cache: Lightning's hook, called by one process."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Decode and encode the clips, unless that is done: Lightning's hook, called by every process.

        Raises:
            UserError: no model is known that could encode them, or anything that `prepare` raises.
        """
        if self.latent_clips is not None:
            return
        base = self.base
        if base is None and self.trainer is not None:
            base = getattr(self.trainer.lightning_module, "base_model", None)
        if base is None:
            raise UserError(
                'Which model encodes the clips? Give MotionSetDataModule(..., base="<folder or hub id>"), or '
                "call prepare(base)."
            )
        from lamp_lightning.models.base.load import load_base_model  # diffusers and all

        if isinstance(base, str | Path):
            known: Any = {} if self.base or self.trainer is None else self.trainer.lightning_module.hparams
            base = load_base_model(
                base,
                config=known.get("base_config"),
                variant=known.get("base_variant"),
                lora=known.get("base_lora"),
                lora_scale=known.get("base_lora_scale", 1.0),
            )
        device = self.trainer.strategy.root_device if self.trainer else base.device
        with on_device(base.encoders, device):
            self.prepare(base)

    def read(self, size: tuple[int, int]) -> MotionSet:
        """The decoded clips at height and width `size`."""
        return self._load(self.folder, size, self.captions if self.use_captions else False, self.max_clips)

    def _load(self, folder: Path, size: tuple[int, int], captions: Any, max_clips: int | None) -> MotionSet:
        return load_motion_set(
            folder,
            motion=self.motion,
            size=size,
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            cache_dir=self.cache_dir,
            captions=captions,
            max_clips=max_clips,
            timeout_s=self.decode_timeout,
            fps=self.rate,
            masks=self.use_masks,
        )

    def split(self, whole: MotionSet, size: tuple[int, int]) -> tuple[MotionSet, MotionSet | None]:
        """The clips to tune on and the held-out ones."""
        if self.validation is None:
            return whole, None
        if isinstance(self.validation, Path):
            count = len(list_clips(self.validation))  # as many as there are: a few will do
            return whole, self._load(self.validation, size, None if self.use_captions else False, count)
        kept = len(whole.clips) - max(1, round(self.validation * len(whole.clips)))
        if kept < 1:
            raise UserError(
                f"{self.folder}: of {counted(len(whole.clips), 'clip')}, "
                f"data.validation={self.validation} leaves none to tune on: add clips, or name a folder of "
                "held-out ones, data.validation=<folder>."
            )
        return MotionSet(whole.name, whole.clips[:kept]), MotionSet(whole.name, whole.clips[kept:])

    @property
    def _encoded(self) -> LatentClips:
        if self.latent_clips is None:
            raise UserError("The motion set is not encoded yet: call prepare(base) before training.")
        return self.latent_clips

    @property
    def first_clip(self) -> Tensor:
        """The most likely latents of the first clip's beginning, unscaled, `f c h w`."""
        return self.latents[: self._encoded.window or self.num_frames]

    @property
    def latents(self) -> Tensor:
        """The most likely latents of the first clip, `frame_stride` apart, unscaled, `f c h w`.

        Of a clip in windows, those of all windows, one after the other.
        """
        stride = 1 if self._encoded.window else self.frame_stride
        mean, _ = self._encoded.moments[0][:, ::stride].chunk(2)
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
        """An endless loader; each pass over it begins where the trainer stands.

        With the trainer's `overfit_batches` it is finite: the first so many batches (or that share of one
        pass over the clips), the same in every epoch.
        """
        if overfit := getattr(self.trainer, "overfit_batches", 0):
            once = -(-len(self._encoded) // self.batch_size)
            batches = overfit if isinstance(overfit, int) else once  # of which Lightning takes the share
            return DataLoader(Subset(self.dataset, range(batches * self.batch_size)), self.batch_size)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = SampleStream(self.dataset, self.batch_size, rank, world_size)
        return _ResumingLoader(stream, self.first_index, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """The held-out clips, every sample of them on each device; nothing where there are none.

        Raises:
            UserError: the trainer waits for the end of an endless epoch before it looks at them.
        """
        if self.validation is None:
            return []
        trainer: Any = self.trainer
        if trainer is not None and trainer.state.fn == "fit" and not trainer.overfit_batches:
            ends = isinstance(trainer.limit_train_batches, int) or isinstance(trainer.val_check_interval, int)
        else:
            ends = True
        if not ends:
            raise UserError(
                "The stream of clips has no end, after which held-out clips could be measured. Give "
                "Trainer(val_check_interval=<batches>, check_val_every_n_epoch=None)."
            )
        return self._held_out(HELD_OUT_DRAWS)

    def test_dataloader(self) -> DataLoader:
        """The held-out clips as in validation. Raises UserError where there are none."""
        if self.validation is None:
            raise UserError(
                "There are no held-out clips to test on: give a share or a folder, data.validation=0.25."
            )
        return self._held_out(HELD_OUT_DRAWS)

    def predict_dataloader(self) -> DataLoader:
        """The beginning of each held-out clip; of each clip where none is held out."""
        return self._held_out(1)

    def _held_out(self, draws: int) -> DataLoader:
        clips = self.held_out_clips or self._encoded
        return DataLoader(
            HeldOutDataset(clips, self.num_frames, self.frame_stride, draws), batch_size=self.batch_size
        )

    def first_index(self) -> int:
        """The number of the first sample that no finished optimiser step has seen, over all devices."""
        if self.trainer is None:
            return 0
        batches = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return batches * self.batch_size * self.trainer.world_size


class ClipDataModule(MotionSetDataModule):
    """A motion set of one clip: the frames of a video that are edited. Its prompt is the motion's."""

    def split(self, whole: MotionSet, size: tuple[int, int]) -> tuple[MotionSet, MotionSet | None]:
        if self.validation is not None:
            raise UserError("Of a single video nothing can be held out: give data.validation=null.")
        return whole, None

    def read(self, size: tuple[int, int]) -> MotionSet:
        reading: Any = {"cache_dir": self.cache_dir, "timeout_s": self.decode_timeout, "fps": self.rate}
        clip = load_clip(self.folder, self.motion, size=size, **reading)
        span = (self.num_frames - 1) * self.frame_stride + 1
        if len(clip.frames) < span:
            raise UserError(f"{clip.path}: this video has become shorter: begin a new edit of it.")
        return MotionSet(self.motion, [replace(clip, frames=clip.frames[:span])])

    def windows_for(self, base: Any) -> dict[str, Any]:
        if getattr(base, "takes_clips", False):
            raise UserError(
                f"An edit needs a latent for each frame, and {base.frames_per_latent} frames of {base.name} "
                "are one: take a text-to-image model, such as model=sd15."
            )
        return {}

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


def _share_or_folder(value: float | str | Path | None) -> float | Path | None:
    """What is held out; a number may be a text, as command lines have it."""
    if value is None or isinstance(value, Path):
        return value
    try:
        share = float(value)
    except ValueError:
        return Path(str(value))
    if not 0 < share < 1:
        raise UserError(
            f"data.validation must be a share between 0 and 1, or a folder of clips, found {value!r}."
        )
    return share


def _pair(size: int | Sequence[int] | None, factor: int = 1) -> tuple[int, int] | None:
    """Height and width in pixels from a number, a pair, or nothing."""
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"size must be a whole number or [height, width] in pixels, found {size!r}.")
    return sides[0] * factor, sides[1] * factor
