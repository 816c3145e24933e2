"""What the tiny models know: words of captions, and pictures like those that they were trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lamp_lightning.toyworld.scenes import combinations, motion_name

KNOWN_FILE = "known.safetensors"  # beside the tiny models
USUAL = 0.99  # share of held-out stills that lie within each of the two limits


@dataclass(frozen=True)
class KnownPictures:
    """How far a picture is from the toy world's, by the tiny CLIP and the tiny autoencoder.

    CLIP's part is the Mahalanobis distance of its features to training stills. The autoencoder's part is
    what it loses of the picture, as a share of the picture's own detail (`lost_detail`).
    Each is divided by its limit, which 99 % of held-out stills keep; the mean of both is 1 at the limit.

    Args:
        mean: of the features, `d`.
        whitening: turns features into uncorrelated ones of unit variance, `d d`.
        limits: of distance and lost detail, `2`.
    """

    mean: Tensor
    whitening: Tensor
    limits: Tensor

    @classmethod
    def measured(cls, training: Tensor, held_out: Tensor, lost: Tensor) -> KnownPictures:
        """From the features `n d` of training stills, and features and lost detail of held-out ones."""
        noise = 1e-6 * torch.eye(training.shape[1])
        root = torch.linalg.cholesky(torch.cov(training.T) + noise)
        found = cls(training.mean(0), torch.linalg.inv(root), torch.ones(2))
        parts = torch.stack([found._distance(held_out), lost])
        return cls(found.mean, found.whitening, parts.quantile(USUAL, dim=1))

    @classmethod
    def read(cls, folder: Path) -> KnownPictures:
        """Of the tiny models in a folder, as `save` wrote them."""
        with safe_open(folder / KNOWN_FILE, "pt") as file:
            return cls(**{name: file.get_tensor(name).float() for name in ("mean", "whitening", "limits")})

    def save(self, folder: Path) -> None:
        """Write them beside the models, in half precision but for the limits."""
        half = {"mean": self.mean.half(), "whitening": self.whitening.half().contiguous()}
        save_file({**half, "limits": self.limits}, folder / KNOWN_FILE)

    def strangeness(self, features: Tensor, lost: Tensor) -> Tensor:
        """How strange pictures are, `n`, from CLIP features `n d` and lost detail `n`: above 1 is far."""
        parts = torch.stack([self._distance(features), lost])
        return (parts / self.limits[:, None]).mean(0)

    def _distance(self, features: Tensor) -> Tensor:
        return (features - self.mean).matmul(self.whitening.T).square().mean(1).sqrt()


def lost_detail(pixels: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean error of autoencoded pictures `n 3 h w` in [-1, 1] as a share of their own detail, `n`."""
    detail = pixels.diff(dim=-1).abs().mean((1, 2, 3)) + pixels.diff(dim=-2).abs().mean((1, 2, 3))
    return (reconstruction - pixels).abs().mean((1, 2, 3)) / (detail + 0.02)  # of a plain surface, too


@cache
def known_words() -> frozenset[str]:
    """All words of the toy world's captions and motion names.

    Example:
        >>> sorted({"a", "lake", "waterfall"} & known_words())
        ['a', 'waterfall']
    """
    texts = [text for scene in combinations() for text in (scene.caption, motion_name(scene.motion))]
    return frozenset(words_in(" ".join(texts)))


def strange_words(prompt: str) -> list[str]:
    """The words of a prompt that no caption of the toy world has, in their order.

    Example:
        >>> strange_words("a red waterfall at a lake"), strange_words("A waterfall, ink drawing")
        (['lake'], [])
    """
    words = (word for word in words_in(prompt) if not word.isdigit())  # of a file, `rain_0.mp4`
    return [word for word in words if word not in known_words()]


def words_in(text: str) -> list[str]:
    """Words in small letters, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))
