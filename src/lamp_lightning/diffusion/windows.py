"""Videos of any length: window after window, each continuing the last frames of the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.diffusion.denoise import StepCallback, denoise


def count_windows(frames: int, window: int, overlap: int) -> int:
    """How many windows a video of so many frames takes.

    Raises:
        ValueError: several are needed, and have no room for the first frame, known ones and a new one.
    """
    if frames <= window:
        return 1
    if not 0 < overlap < window - 1:
        raise ValueError(f"overlap must lie between 1 and window - 2 = {window - 2}, not be {overlap}.")
    return 1 - (window - frames) // (window - 1 - overlap)


def denoise_in_windows(
    unet: Callable[..., Tensor],
    scheduler: Any,
    noise: Tensor,
    first_frame: Tensor | None,
    text_embeddings: Tensor,
    *,
    conditioned: bool = True,
    window: int,
    overlap: int,
    num_inference_steps: int,
    callback: StepCallback | None = None,
    **settings: Any,
) -> Tensor:
    """Denoise clips of any length in windows of frames, under a first frame that anchors them all.

    The first window is `denoise` as it is. Each further one begins with the clips' first frame, to which the
    first-frame attention looks and whose statistics AdaIN takes, so that looks do not drift; then come the
    last `overlap` frames so far, which are known, and then new ones.

    Args:
        noise: `b c f h w`, for all frames.
        conditioned: whether the model was tuned with a clean first frame. If not, a given one is a known
            frame: it enters each step with noise of that step's level, as conditional sampling from an
            unconditional model does ("replacement", Ho et al. 2022, section 3.1), and None lets the model
            denoise all frames. Either way frame 0 is the anchor of further windows.
        window: frames that the model sees at once, the first frame and the overlap included.
        overlap: known frames at the beginning of each window but the first.
        callback: as of `denoise`; steps count through all windows, and the latents are the window's.
        unet, scheduler, first_frame, text_embeddings, num_inference_steps, settings: as of `denoise`.

    Returns:
        Latents, `b c f h w`.
    """
    if conditioned and first_frame is None:
        raise ValueError("A model that was tuned with a first frame needs one.")
    windows, new = count_windows(noise.shape[2], window, overlap), window - 1 - overlap

    def part(number: int, own_noise: Tensor, known: dict[int, Tensor], first: Tensor | None) -> Tensor:
        def report(step: int, steps: int, latents: Tensor) -> Tensor | None:
            return callback(number * steps + step, windows * steps, latents) if callback else None

        if first is not None and not conditioned:
            known, first = known | {0: first[:, :, 0]}, None
        return denoise(
            unet, scheduler, own_noise, first, text_embeddings, known=known, callback=report,
            num_inference_steps=num_inference_steps, **settings,
        )  # fmt: skip

    video = part(0, noise[:, :, :window], {}, first_frame)
    for number in range(1, windows):
        done = video.shape[2]
        own_noise = torch.cat([noise[:, :, :1], noise[:, :, done - overlap : done + new]], dim=2)
        known = {1 + k: video[:, :, done - overlap + k] for k in range(overlap)}
        anchor = first_frame if conditioned else video[:, :, :1]
        video = torch.cat([video, part(number, own_noise, known, anchor)[:, :, 1 + overlap :]], dim=2)
    return video
