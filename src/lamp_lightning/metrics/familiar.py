"""Whether the tiny models know what they are given: words of prompts, and pictures like the toy world's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from lamp_lightning.data.fit import fit_frame
from lamp_lightning.metrics.clip import load_clip
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.toyworld import tiny_clip_path, tiny_dit_path, tiny_model_path
from lamp_lightning.toyworld.known import KnownPictures, lost_detail, strange_words

SIDE = 64  # pixels of the toy world's pictures
FRAMES = 4  # of a clip, evenly chosen
REAL = "Stable Diffusion (model=sd15 trainer=gpu)"
ELSE = "What comes of them will be something else: for real footage"
LIKE = "a red horse runs on the meadow, ink drawing"


def doubts(
    model: str | None, prompts: Sequence[str], clips: Sequence[np.ndarray], *, advice: str, what: str = "clip"
) -> str | None:
    """What to tell the user where a tiny model does not know what it is given; None where it does.

    Other models are not asked: it is not known what they were trained on.

    Args:
        model: path of the model, or of the CLIP model; `TOY_MODELS` are the packaged ones.
        prompts: what is to be shown.
        clips: each uint8 `f h w 3`; a picture is a clip of one frame.
        advice: a sentence that says which model to take instead.
        what: what the user calls the clips: clip, picture, video.

    Example:
        >>> doubts("tiny", ["a red waterfall in the forest"], [], advice="Take model=sd15.") is None
        True
        >>> print(doubts("tiny", ["a lake"], [], advice="Take model=sd15.")[:76])
        The tiny model was trained on a small drawn world. It does not know 'lake' (
    """
    if model is None or not is_tiny(model):
        return None
    words = list(dict.fromkeys(word for prompt in prompts for word in strange_words(prompt)))
    far = sum(value > 1 for value in strangeness(clips)) if clips else 0
    found = []
    if words:
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        listed = ", ".join(repr(word) for word in words[:5])
        found.append(f"does not know {listed}{more} (a prompt that it knows: {LIKE!r})")
    if far:
        found.append(f"has seen nothing like {far} of {counted(len(clips), what)}")
    if not found:
        return None
    return f"The tiny model was trained on a small drawn world. It {', and '.join(found)}. {advice}"


def knows(model: str | None, clips: Sequence[np.ndarray]) -> bool:
    """Whether a model knows such content as most of the clips show; of other models than tiny: yes.

    Args:
        model: as for `doubts`.
        clips: each uint8 `f h w 3`.
    """
    if model is None or not is_tiny(model) or not clips:
        return True
    return sum(value > 1 for value in strangeness(clips)) <= len(clips) / 2


def say_doubts(*args: Any, **kwargs: Any) -> str | None:
    """Warn of what `doubts` finds, before the work; returns it."""
    found = doubts(*args, **kwargs)
    if found:
        print(f"Warning: {found}", file=sys.stderr, flush=True)
    return found


def strangeness(clips: Sequence[np.ndarray]) -> list[float]:
    """How far clips are from what the tiny models were trained on: the mean over frames, above 1 is far.

    Most drawn pictures are below, most others above: `benchmarks/familiar.py` measures it.

    Args:
        clips: each uint8 `f h w 3`.

    Example:
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        >>> drawn = render_clip(held_out_scenes("rain", 1)[0], frames=3)
        >>> [value > 1 for value in strangeness([drawn, noise])]
        [False, True]
    """
    clip, autoencoder, known = _tiny()
    chosen = [each[np.linspace(0, len(each) - 1, min(FRAMES, len(each))).astype(int)] for each in clips]
    frames = np.stack([fit_frame(frame, (SIDE, SIDE)) for each in chosen for frame in each])
    features, lost = clip.image_features(frames), []
    with torch.no_grad():
        for part in torch.from_numpy(frames).split(64):
            pixels = rearrange(part, "n h w c -> n c h w").float() / 127.5 - 1
            latents = autoencoder.encode(pixels).latent_dist.mode()
            lost.append(lost_detail(pixels, autoencoder.decode(latents).sample))
    values = known.strangeness(features, torch.cat(lost)).split([len(each) for each in chosen])
    return [float(value.mean()) for value in values]


@cache
def _tiny() -> tuple[Any, Any, KnownPictures]:
    """The tiny CLIP, the tiny autoencoder, and what they know."""
    from diffusers import AutoencoderKL

    autoencoder = AutoencoderKL.from_pretrained(tiny_model_path() / "vae", torch_dtype=torch.float32).eval()
    return load_clip("tiny"), autoencoder, KnownPictures.read(tiny_model_path().parent)


def is_tiny(model: str) -> bool:
    own = (tiny_model_path(), tiny_dit_path(), tiny_clip_path())
    return model in TOY_MODELS or Path(model).expanduser().absolute() in own
