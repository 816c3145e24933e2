"""The tiny CLIP that judges toy-world pictures: trained on pictures and partial captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lamp_lightning.toyworld.known import KnownPictures, lost_detail
from lamp_lightning.toyworld.pretraining.autoencoder import reconstruct
from lamp_lightning.toyworld.pretraining.stills import Stills
from lamp_lightning.toyworld.pretraining.tokenizer import MAX_TOKENS
from lamp_lightning.toyworld.pretraining.training import fast_autocast, fit
from lamp_lightning.toyworld.scenes import COLOURS, MOTIONS, PLACES, STYLES, Scene

ATTRIBUTES = ("motion", "colour", "place", "style")


def text_config(tokenizer: CLIPTokenizer, layers: int = 2) -> dict:
    """Settings of the tiny text encoders, CLIP's and the painter's."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 96,
        "hidden_act": "quick_gelu",
    }


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 96,
        "hidden_act": "quick_gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text_config(tokenizer), vision_config=vision, projection_dim=96))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> dict[str, Tensor]:
    return dict(
        tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    )


def partial_caption(scene: Scene, mentioned: set[str], verb: bool = True) -> str:
    """A caption that names only the `mentioned` attributes: `something red in the city, ink drawing`."""
    if "motion" in mentioned:
        words = scene.phrase("colour" in mentioned, "place" in mentioned, verb)
    else:
        parts = [f"something {scene.colour}"] if "colour" in mentioned else []
        parts += [PLACES[scene.place]] if "place" in mentioned else []
        words = " ".join(parts)
    return ", ".join(part for part in (words, STYLES[scene.style] if "style" in mentioned else "") if part)


def train_clip(
    tokenizer: CLIPTokenizer, data: Stills, repainted: np.ndarray, folder: Path, *, steps: int, batch: int
) -> CLIPModel:
    """Contrastive training where a caption may fit several pictures of the batch: all of them are right.

    `repainted` is `data.pictures` after the autoencoder; half of the pictures come from there, and all
    get a little noise, so that the judge does not mind what generated pictures look like.
    """
    torch.manual_seed(0)
    clip = build_clip(tokenizer)
    clip.set_attn_implementation("eager")  # on a CPU far faster backward than the fused kernel
    twin = Stills(repainted, data.scenes)
    columns = {a: np.array([getattr(scene, a) for scene in data.scenes]) for a in ATTRIBUTES}

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng([step, 7])
        index = rng.integers(0, len(data.scenes), batch)
        half = batch // 2
        pixels = torch.cat([data.pixels(index[:half]), twin.pixels(index[half:])])
        spread = 0.15 * torch.rand((batch, 1, 1, 1), generator=generator)
        pixels = pixels + spread * torch.randn(pixels.shape, generator=generator)
        texts, fits = [], np.ones((batch, batch), bool)
        for row, k in enumerate(index):
            mentioned = {a for a in ATTRIBUTES if rng.random() < 0.5} or {ATTRIBUTES[rng.integers(4)]}
            texts.append(partial_caption(data.scenes[k], mentioned, bool(rng.integers(4))))
            for a in mentioned:
                fits[row] &= columns[a][index] == columns[a][k]
        with fast_autocast():
            out = clip(pixel_values=pixels, **tokenize(tokenizer, texts))
        logits, right = out.logits_per_text.float(), torch.from_numpy(fits).float()
        by_text = F.cross_entropy(logits, right / right.sum(1, keepdim=True))
        by_image = F.cross_entropy(logits.T, (right / right.sum(0, keepdim=True)).T)
        return (by_text + by_image) / 2

    fit("clip", clip, loss_of, steps=steps, rate=1e-3, folder=folder, weight_decay=0.05, save_every=500)
    return clip.eval()


def questions() -> dict[str, tuple[list[str], list[str]]]:
    """What a picture is asked: attribute -> (its values, one text for each)."""
    return {
        "motion": (list(MOTIONS), [Scene(m, "red", "sea", "flat").phrase(False, False) for m in MOTIONS]),
        "colour": (list(COLOURS), [f"something {c}" for c in COLOURS]),
        "place": (list(PLACES), list(PLACES.values())),
        "style": (list(STYLES), list(STYLES.values())),
    }


@torch.no_grad()
def judged_right(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pixels: Tensor, scenes: list[Scene]
) -> dict[str, float]:
    """Share of pictures `(n, 3, 64, 64)` in [-1, 1] whose attribute CLIP names as in `scenes`."""

    images = image_features(clip, pixels)
    shares = {}
    for attribute, (values, texts) in questions().items():
        answers = _unit(clip.get_text_features(**tokenize(tokenizer, texts)))
        named = (images @ answers.T).argmax(1).tolist()
        right = [values[k] == getattr(scene, attribute) for k, scene in zip(named, scenes, strict=True)]
        shares[attribute] = sum(right) / len(right)
    return shares


@torch.no_grad()
def image_features(clip: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit features `n d` of pictures `n 3 64 64` in [-1, 1]."""
    return torch.cat([_unit(clip.get_image_features(pixel_values=part)) for part in pixels.split(128)])


def known_pictures(clip: CLIPModel, vae: AutoencoderKL, training: Tensor, held_out: Tensor) -> KnownPictures:
    """What the tiny models know of pictures, from training and held-out stills `n 3 64 64` in [-1, 1]."""
    lost = lost_detail(held_out, reconstruct(vae, held_out))
    return KnownPictures.measured(image_features(clip, training), image_features(clip, held_out), lost)


def _unit(features: Tensor | object) -> Tensor:
    x = features if isinstance(features, Tensor) else features.pooler_output  # type: ignore[attr-defined]
    return x / x.norm(dim=-1, keepdim=True)
