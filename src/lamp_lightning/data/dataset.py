"""What one training step sees, as a pure function of a seed and a number."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from lamp_lightning.data.latents import LatentClips
from lamp_lightning.runtime.errors import UserError

HELD_OUT_DRAWS = 4  # samples of each held-out clip: a loss at one noise level says little


class MotionDataset(Dataset):
    """An endless list of training samples: item i depends on (seed, i) alone, so a run resumes at any item.

    Each n items (n clips) visit every clip once, in an order of their own. An item is a random crop in time
    of `num_frames` frames, `frame_stride` apart, mirrored in half of the cases where mirrored latents exist,
    with latents drawn from the posterior: {"latents": (c, f, h, w), "text": (l, d), "index": i}, for
    some models with "added_cond_kwargs", such as SDXL's {"text_embeds": (p,), "time_ids": (6,)}. Of a clip
    with several captions one is drawn. Where clips have masks, "mask" (f, h, w) is the weight of each latent
    in the loss. Of clips that were encoded in windows an item is one of these, whatever `num_frames` says.

    Example:
        >>> import torch
        >>> from lamp_lightning.data import LatentClips, MotionDataset
        >>> clips = LatentClips([torch.zeros(8, 6, 2, 2)], None, text=torch.zeros(1, 7, 16))
        >>> items = MotionDataset(clips, num_frames=4, seed=0)
        >>> items[5]["latents"].shape, torch.equal(items[5]["latents"], items[5]["latents"])
        (torch.Size([4, 4, 2, 2]), True)
    """

    def __init__(self, clips: LatentClips, num_frames: int, frame_stride: int = 1, seed: int = 0) -> None:
        if clips.window is not None:  # strides were taken before the encoding
            num_frames, frame_stride = clips.window, 1
        needed = (num_frames - 1) * frame_stride + 1
        shortest = min(moments.shape[1] for moments in clips.moments)
        if shortest < needed:
            raise UserError(
                f"A clip has {shortest} frames, but {num_frames} at a stride of {frame_stride} need {needed}."
            )
        self.clips = clips
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = self.clip_of(index)
        generator = _generator(self.seed, "item", index)
        # All choices are drawn whether used or not: the same item has the same crop with and without flips.
        place, coin = torch.rand(2, generator=generator).tolist()
        source = self.clips.flipped if self.clips.flipped and coin < 0.5 else self.clips.moments
        room = self.room(clip)
        return self.cut(source, clip, min(int(place * (room + 1)), room), index, generator)

    def room(self, clip: int) -> int:
        """The last frame of a clip at which a sample can begin, or the number of its last window."""
        if self.clips.window is not None:
            return self.clips.moments[clip].shape[1] // self.clips.window - 1
        return self.clips.moments[clip].shape[1] - (self.num_frames - 1) * self.frame_stride - 1

    def cut(
        self, source: list[torch.Tensor], clip: int, start: int, index: int, generator: torch.Generator
    ) -> dict[str, Any]:
        """Item `index`: the sample of a clip that begins at frame `start`, drawn from moments.

        Of a clip in windows, the window of that number.
        """
        start *= self.clips.window or 1
        span = (self.num_frames - 1) * self.frame_stride + 1
        crop = source[clip][:, start : start + span : self.frame_stride]
        latents = self.clips.sample(crop, generator)
        row = self.caption_of(clip, index)
        item = {"latents": latents, "text": self.clips.text[row], "index": index}
        if self.clips.added is not None:
            item["added_cond_kwargs"] = {name: rows[row] for name, rows in self.clips.added.items()}
        if self.clips.masks is not None:
            mask = self.clips.masks[clip]
            whole = latents.new_ones(source[clip].shape[1:]) if mask is None else mask
            frames = whole[start : start + span : self.frame_stride]
            item["mask"] = frames.flip(-1) if source is self.clips.flipped else frames.clone()
        return item

    def caption_of(self, clip: int, index: int) -> int:
        """The row of the text that item `index`, of this clip, has."""
        if self.clips.rows is None:
            return clip
        rows = self.clips.rows[clip]
        if len(rows) == 1:
            return rows[0]
        generator = _generator(self.seed, "caption", index)  # of its own: other choices stay as without it
        return rows[int(torch.randint(len(rows), (1,), generator=generator))]

    def clip_of(self, index: int) -> int:
        """The number of the clip that item `index` is cut from."""
        epoch, place = divmod(index, len(self.clips))
        order = torch.randperm(len(self.clips), generator=_generator(self.seed, "order", epoch))
        return int(order[place])


class HeldOutDataset(MotionDataset):
    """Samples of held-out clips that are the same in every pass, at any seed: what a loss is compared on.

    Of each clip `draws` samples, which begin at frames that are spread over it, never mirrored. Items are
    those of a `MotionDataset`.

    Example:
        >>> import torch
        >>> from lamp_lightning.data import LatentClips
        >>> clips = LatentClips([torch.zeros(8, 6, 2, 2)], None, text=torch.zeros(1, 7, 16))
        >>> items = HeldOutDataset(clips, num_frames=4)
        >>> len(items), items[3]["latents"].shape
        (4, torch.Size([4, 4, 2, 2]))
    """

    def __init__(
        self, clips: LatentClips, num_frames: int, frame_stride: int = 1, draws: int = HELD_OUT_DRAWS
    ) -> None:
        super().__init__(clips, num_frames, frame_stride)
        self.draws = draws

    def __len__(self) -> int:
        return len(self.clips) * self.draws

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        clip, draw = divmod(index, self.draws)
        start = self.room(clip) * draw // max(1, self.draws - 1)
        return self.cut(self.clips.moments, clip, start, index, _generator(0, "held out", index))


class SampleStream(IterableDataset):
    """Items first + rank, first + rank + world_size, ... of a MotionDataset, without end.

    With workers, each makes whole batches in turn, so the order stays that of a single process.
    """

    def __init__(self, items: MotionDataset, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.items = items
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.first = 0

    def __iter__(self):
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        batch = number
        while True:
            for place in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                yield self.items[self.first + self.rank + place * self.world_size]
            batch += workers


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator of its own for each (seed, purpose, number), far from those of neighbouring numbers."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
