"""Shared fixtures: models of the real kinds, so small and random that a command takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

WORDS = ["a", "red", "blue", "white", "waterfall", "rain", "bird", "lake", "forest", "city", "falls", "flows"]


def write_tokenizer(folder: Path) -> None:
    """A CLIPTokenizer of single letters and a few whole words."""
    letters = [chr(c) for c in range(33, 127)]
    vocab = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)])
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            parts[:2] = ["".join(parts[:2])]
            vocab[parts[0]] = None
            if merge not in merges:
                merges.append(merge)
    tokens = [*vocab, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def _text_config(tokenizer: object) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),  # type: ignore[arg-type]
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,  # type: ignore[attr-defined]
        "eos_token_id": tokenizer.eos_token_id,  # type: ignore[attr-defined]
        "pad_token_id": tokenizer.pad_token_id,  # type: ignore[attr-defined]
    }


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline folder, random weights: 32x32 pixels, 4 latent channels, factor 4."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("random_base")
    write_tokenizer(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
        ),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**_text_config(tokenizer))),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder (model, tokenizer, image processor) with random weights, 32x32 pixels."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("random_clip")
    write_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    text = _text_config(tokenizer)
    vision = {key: text[key] for key in ("hidden_size", "intermediate_size")}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    torch.manual_seed(1)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": size,
    }
    processor |= {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_clips(folder: Path, count: int = 8, frames: int = 6, size: int = 32) -> Path:
    """``count`` mp4 clips of a bright square that moves to the right over noise."""
    from lamp_lightning.video import write_mp4

    rng = np.random.default_rng(0)
    for k in range(count):
        video = np.repeat(rng.integers(0, 120, (1, size, size, 3), dtype=np.uint8), frames, axis=0)
        for f in range(frames):
            video[f, 4 + k : 12 + k, 2 * f : 2 * f + 8] = 250
        write_mp4(folder / f"clip_{k}.mp4", video, fps=8)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the motions ``waterfall``, ``rain`` and ``my_dance``: 8 clips of 6 frames each."""
    root = tmp_path_factory.mktemp("clips")
    for motion in ("waterfall", "rain", "my_dance"):
        write_clips(root / motion)
    return root


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test talks to W&B's servers, whoever runs it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no_netrc"))


@pytest.fixture
def small(
    random_base: Path, random_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Overrides that make a training run of seconds; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return [
        f"model.path={random_base}",
        f"model.clip={random_clip}",
        f"data.root={clips}",
        f"data.cache_dir={clips / 'cache'}",
        "data.size=[32,32]",
        "data.num_frames=4",
        "sampler.num_inference_steps=2",
        "trainer.max_steps=2",
        "samples.every=null",
        "samples.final=1",
        "threads=1",
    ]
