"""CLIP as a judge: how well frames fit a prompt, and how alike the frames of a video are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lamp_lightning.data.video import as_frames, as_videos
from lamp_lightning.metrics.batches import VideoMetric, one_each
from lamp_lightning.models.checks import (
    check_folder,
    check_processor,
    check_size,
    check_tokenizer,
    library_reason,
)
from lamp_lightning.models.part_configs import ClipConfig
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import read_json


@dataclass
class ClipJudge:
    """A CLIP model with its tokenizer and image processor; features are unit vectors, float32."""

    model: Any  # transformers.CLIPModel
    tokenizer: Any
    processor: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> ClipJudge:
        return self  # metrics are copied freely, the model that they share is not

    @cached_property
    def max_tokens(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def image_features(self, frames: Any, batch: int = 64) -> Tensor:
        """Frames, uint8 `f h w c`, to features `f d`."""
        pictures = as_frames(frames)
        parts = []
        for k in range(0, len(pictures), batch):
            pixels = self.processor(images=list(pictures[k : k + batch]), return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.model.device, self.model.dtype)
            parts.append(_unit(self.model.get_image_features(pixel_values=pixels)))
        return torch.cat(parts)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Texts to features `n d`; what goes beyond CLIP's text limit is cut off, with a warning."""
        longest = max(len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"])
        if longest > self.max_tokens:
            warnings.warn(
                f"A prompt has {longest} tokens and CLIP reads {self.max_tokens}: the CLIP score judges the "
                "prompt's beginning only.",
                stacklevel=3,
            )
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return _unit(self.model.get_text_features(**tokens.to(self.model.device)))


def load_clip(path_or_id: str | Path) -> ClipJudge:
    """Load a `CLIPModel` with its tokenizer and image processor.

    Args:
        path_or_id: `tiny` for the packaged model of toy-world pictures, a folder, or a hub id such as
            `openai/clip-vit-base-patch32`.

    Raises:
        UserError: nothing that can be loaded there, or a model without some of CLIP's weights.

    Example:
        >>> clip = load_clip("tiny")
        >>> clip.text_features(["a red horse", "a blue bird"]).shape
        torch.Size([2, 96])
    """
    try:
        return _loaded(str(path_or_id))
    except Exception as error:  # whatever the library meets in a damaged folder
        reason = str(error) if isinstance(error, UserError) else library_reason(error)
        raise UserError(
            f"The CLIP model {str(path_or_id)!r} cannot be loaded: {reason} Give a folder with a transformers"
            " CLIPModel, its tokenizer and image processor, or the id of one on the hub; without one,"
            " what CLIP judges is not measured (model.clip=null in train, clip=null in evaluate)."
        ) from error


def _loaded(name: str) -> ClipJudge:
    """The CLIP model of that name, checked before and after loading."""
    from transformers import CLIPModel, CLIPTokenizer

    from lamp_lightning.toyworld import tiny_clip_path

    where = str(tiny_clip_path()) if name == "tiny" else name
    folder = Path(where).expanduser()
    if folder.is_absolute() and not folder.is_dir():
        raise UserError(f"there is no folder {where}.")
    if folder.is_dir():
        where = str(folder)
        check_folder(folder, ClipConfig)
        config = read_json(folder / "config.json", what="a configuration")
        check_size(folder, CLIPModel, config, torch.float32)
        check_processor(folder)
    model, found = CLIPModel.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True)
    tokenizer = CLIPTokenizer.from_pretrained(where)
    processor = _processor_class().from_pretrained(where)
    for key, fault in (("missing_keys", "lack"), ("mismatched_keys", "have other shapes than its config of")):
        if names := sorted(str(each if isinstance(each, str) else each[0]) for each in found.get(key) or ()):
            raise UserError(f"its weights {fault} {len(names)} tensors, among them {names[0]}.")
    check_tokenizer(tokenizer, model.config.text_config.vocab_size, None, f"{name}: its tokenizer")
    return ClipJudge(model.float().eval(), tokenizer, processor)


def _processor_class() -> Any:
    """CLIP's image processor without torchvision where transformers has one (5 and later)."""
    import transformers

    found = getattr(transformers, "CLIPImageProcessorPil", None)
    return found or transformers.CLIPImageProcessor


def _unit(features: Any) -> Tensor:
    x = (features if isinstance(features, Tensor) else features.pooler_output).float()
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-8)


class CLIPScore(VideoMetric, MeanMetric):
    """How well videos fit their prompts: 100 times the mean cosine of each frame's and the prompt's features.

    Higher is better. `update(frames, prompt)` takes a video and its prompt, or a batch and a prompt for each.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> scene = held_out_scenes("horse_run", 1)[0]
        >>> score = CLIPScore(load_clip("tiny"))
        >>> score.update(render_clip(scene, frames=4), scene.caption)
        >>> float(score.compute()) > 30
        True
    """

    higher_is_better = True

    def __init__(self, clip: ClipJudge, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip

    def update(self, frames: Any, prompt: str | Sequence[str]) -> None:
        videos = as_videos(frames)
        pairs = zip(videos, one_each(prompt, videos, "prompts"), strict=True)
        super().update(
            [float(fit(self.clip.image_features(v), self.clip.text_features([p]))) for v, p in pairs]
        )


class FrameConsistency(VideoMetric, MeanMetric):
    """How alike the frames of a video are: mean cosine of CLIP features over pairs of its frames.

    Higher is steadier, and a frozen video has 1: read it beside `MotionAmount`.

    Args:
        clip: the judge.
        pairs: `all` pairs of different frames (the authors' measure) or only `neighbours`.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        >>> consistency = FrameConsistency(load_clip("tiny"))
        >>> consistency.update(video[:1].repeat(4, axis=0))
        >>> round(float(consistency.compute()), 4)
        1.0
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(self, clip: ClipJudge, pairs: Literal["all", "neighbours"] = "all", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pairs not in ("all", "neighbours"):
            raise ValueError(f"pairs must be 'all' or 'neighbours', not {pairs!r}.")
        self.clip, self.pairs = clip, pairs

    def update(self, frames: Any) -> None:
        features = [self.clip.image_features(video) for video in as_videos(frames, min_frames=2)]
        super().update([float(consistency(each, self.pairs)) for each in features])


def fit(features: Tensor, text: Tensor) -> Tensor:
    """100 times the mean cosine of unit `features` `f d` with the unit `text` `1 d`."""
    return 100 * (features @ text[0]).mean()


def consistency(features: Tensor, pairs: str = "all") -> Tensor:
    """Mean cosine of unit `features` `f d` over all pairs of different rows, or neighbouring ones."""
    if pairs == "neighbours":
        return (features[1:] * features[:-1]).sum(-1).mean()
    f = len(features)
    cosines = features @ features.T
    return (cosines.sum() - cosines.diagonal().sum()) / (f * (f - 1))
