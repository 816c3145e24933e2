"""Clips written on the spot and a stand-in for the base model, for the tests of the data side."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import torch

from lamp_lightning.diffusion import Conditions

CODECS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mov": ("libx264", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".mkv": ("libx264", "yuv420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".gif": ("gif", "rgb8"),
}


def draw_frames(count: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """(f, h, w, 3) uint8: red grows by 8 a frame; green above; blue on the left."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = (8 * np.arange(count) % 256)[:, None, None]
    frames[:, : height // 2, :, 1] = 200
    frames[:, :, : width // 2, 2] = 100
    return frames


def write_clip(path: Path, frames: np.ndarray | None = None, fps: int = 10, **container: str) -> Path:
    frames = draw_frames() if frames is None else frames
    codec, pixels = CODECS[path.suffix.lower()]
    with av.open(str(path), "w", options=container) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if codec == "libx264":
            stream.options = {"crf": "12"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def write_set(folder: Path, count: int = 8, frames: int = 10, height: int = 32, width: int = 32) -> Path:
    """A folder of `count` different clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.roll(draw_frames(frames, height, width), number, axis=2)
        write_clip(folder / f"clip_{number}.mp4", pixels)
    return folder


class FakeBase:
    """Has what the data side uses of a base model: 8 latent channels, factor 4, and counts its calls."""

    name = "fake"
    vae_scale_factor = 4

    def __init__(self, weights: str = "one") -> None:
        self.identity = {"vae": weights, "text_encoder": weights}
        self.vae = SimpleNamespace(
            dtype=torch.float32,
            config=SimpleNamespace(scaling_factor=0.5, shift_factor=None),
        )
        self.text_encoder = SimpleNamespace(dtype=torch.float32)
        self.unet = SimpleNamespace(config=SimpleNamespace(sample_size=8))
        self.encoded_frames = 0
        self.encoded_prompts: list[str] = []

    def encode_moments(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.dtype == torch.float32
        assert pixels.abs().max() <= 1
        self.encoded_frames += len(pixels)
        small = torch.nn.functional.avg_pool2d(pixels, 4)
        mean = torch.cat([small, small, small[:, :2]], dim=1)
        return torch.cat([mean, torch.full_like(mean, -2.0)], dim=1)

    def encode_prompts(self, prompts: list[str]) -> Conditions:
        self.encoded_prompts += prompts
        return Conditions(
            torch.stack([torch.full((7, 6), float(sum(map(ord, prompt)))) for prompt in prompts])
        )
