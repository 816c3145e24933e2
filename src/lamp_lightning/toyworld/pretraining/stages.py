"""Pretraining of the tiny models, stage by stage, and the measure of each."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, SanaTransformer2DModel, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTextModel, CLIPTokenizer

from lamp_lightning.toyworld.pretraining.autoencoder import (
    build_autoencoder,
    psnr,
    reconstruct,
    train_autoencoder,
)
from lamp_lightning.toyworld.pretraining.judge import build_clip, judged_right, known_pictures, train_clip
from lamp_lightning.toyworld.pretraining.painter import (
    Painter,
    build_painter,
    build_scheduler,
    paint_latents,
    train_painter,
)
from lamp_lightning.toyworld.pretraining.stills import Stills, kept, stills
from lamp_lightning.toyworld.pretraining.tokenizer import build_tokenizer
from lamp_lightning.toyworld.pretraining.training import fast_autocast
from lamp_lightning.toyworld.pretraining.transformer import (
    flow_pipeline,
    paint_with_flow,
    train_transformer,
)
from lamp_lightning.toyworld.scenes import MOTIONS, Scene, held_out_scenes

STAGES = ("autoencoder", "clip", "painter", "transformer")
_OF_UNET = STAGES[:3]


@dataclass
class Recipe:
    """How much of everything.

    The shipped weights saw the same steps and batches, but the first two stages not in one run: the
    autoencoder's first 2600 steps and CLIP's first 1000 followed learning rates of longer or shorter
    schedules, and those of the autoencoder had twice the weight on absolute and edge error.
    """

    stills: int = 20480
    autoencoder_steps: int = 3600
    autoencoder_batch: int = 16
    clip_steps: int = 1200
    clip_batch: int = 128
    painter_steps: int = 4600
    painter_batch: int = 24
    transformer_steps: int = 2600
    transformer_batch: int = 32


def pretrain(work: Path, out: Path, *, recipe: Recipe, stages: Sequence[str] = STAGES) -> dict[str, float]:
    """Run `stages` and write what exists so far to `tiny`, `clip` and `tiny_dit` in `out`, in half precision.

    The transformer stands on the autoencoder, the text encoder and CLIP that are in `out` then.
    Every stage keeps its state in `work` and goes on from there; a finished stage is only read. Returns the
    figures on held-out stills, which are also in `out/report.json`.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(
            f"There is no stage {', '.join(sorted(unknown))}; the stages are {', '.join(STAGES)}."
        )
    data = stills(("tuning", "pretraining"), recipe.stills, 0, work)
    report = read_report(out)
    if set(stages) & set(_OF_UNET):
        report |= _pretrain_unet(data, work, out, recipe, stages)
    if "transformer" in stages:
        report |= _pretrain_transformer(data, work, out, recipe)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def read_report(out: Path) -> dict[str, float]:
    """The figures of an earlier call; empty where there was none."""
    file = out / "report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _pretrain_unet(
    data: Stills, work: Path, out: Path, recipe: Recipe, stages: Sequence[str]
) -> dict[str, float]:
    """Autoencoder, CLIP and the UNet with its text encoder, and the figures of each."""
    held_out = stills(("held_out",), 1152, 1, work)
    tokenizer = build_tokenizer()
    report: dict[str, float] = {}

    vae = build_autoencoder()
    if "autoencoder" in stages:
        vae = train_autoencoder(
            data, held_out, work, steps=recipe.autoencoder_steps, batch=recipe.autoencoder_batch
        )
        vae.save_pretrained(work / "vae")
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    check = held_out.pixels(range(512))
    report["autoencoder_psnr"] = float(psnr(reconstruct(vae, check), check).mean())

    clip = build_clip(tokenizer)
    if "clip" in stages:
        seen_through = _repainted(vae, data, work)
        clip = train_clip(
            tokenizer, data, seen_through, work, steps=recipe.clip_steps, batch=recipe.clip_batch
        )
        clip.save_pretrained(work / "clip")
    if (work / "clip").exists():
        clip = CLIPModel.from_pretrained(work / "clip").eval()
        shares = judged_right(clip, tokenizer, held_out.pixels(range(1152)), held_out.scenes)
        report |= {f"clip_{attribute}": share for attribute, share in shares.items()}

    painter, finished = build_painter(tokenizer), work / "painter_final.pt"
    if "painter" in stages:
        latents = _latents(vae, data, work)
        painter = train_painter(
            tokenizer, clip, data, latents, work, steps=recipe.painter_steps, batch=recipe.painter_batch
        )
        torch.save(painter.state_dict(), finished)
    if finished.exists():
        painter.load_state_dict(torch.load(finished, weights_only=True))
        report |= measure_painter(painter.eval(), vae, clip, tokenizer, out)
    write_models(vae, painter, clip, tokenizer, out)
    out.mkdir(parents=True, exist_ok=True)
    if (work / "clip").exists():
        known_pictures(clip, vae, data.pixels(range(min(2048, len(data.scenes)))), check).save(out)
    return report


def _pretrain_transformer(data: Stills, work: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """The transformer, and how CLIP judges its stills."""
    vae = AutoencoderKL.from_pretrained(out / "tiny" / "vae").float().eval()
    text_encoder = CLIPTextModel.from_pretrained(out / "tiny" / "text_encoder").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(out / "tiny" / "tokenizer")
    clip = CLIPModel.from_pretrained(out / "clip").float().eval()
    latents = _latents(vae, data, work)
    transformer = train_transformer(
        tokenizer,
        text_encoder,
        data,
        latents,
        work,
        steps=recipe.transformer_steps,
        batch=recipe.transformer_batch,
    )
    scenes = held_out_pictures(200)
    painted = paint_with_flow(transformer, text_encoder, tokenizer, [scene.caption for scene in scenes])
    pixels = decode(vae, painted)
    _write_grid(out / "stills_dit.png", _as_bytes(pixels[:64]))
    write_transformer(transformer, text_encoder, tokenizer, vae, out)
    return {f"dit_{k}": v for k, v in judged_right(clip, tokenizer, pixels, scenes).items()}


def held_out_pictures(count: int) -> list[Scene]:
    """`count` held-out scenes, motions in turn."""
    each = -(-count // len(MOTIONS))
    columns = [held_out_scenes(motion, each, seed=5) for motion in MOTIONS]
    return [column[k] for k in range(each) for column in columns][:count]


def measure_painter(
    painter: Painter, vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, out: Path
) -> dict[str, float]:
    """Generate 200 held-out captions and ask CLIP; the first 64 pictures go to `out/stills.png`."""
    scenes = held_out_pictures(200)
    latents = paint_latents(painter, tokenizer, [scene.caption for scene in scenes])
    pixels = decode(vae, latents)
    out.mkdir(parents=True, exist_ok=True)
    _write_grid(out / "stills.png", _as_bytes(pixels[:64]))
    return {f"painter_{k}": v for k, v in judged_right(clip, tokenizer, pixels, scenes).items()}


def _as_bytes(pixels: Tensor) -> np.ndarray:
    """`(n, 3, h, w)` in [-1, 1] to uint8 `(n, h, w, 3)`."""
    return ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def _write_grid(path: Path, pictures: np.ndarray, columns: int = 8, scale: int = 2) -> None:
    """`pictures` uint8 `(n, h, w, 3)` in rows of `columns`, each pixel `scale` wide."""
    rows = [np.concatenate(list(pictures[k : k + columns]), axis=1) for k in range(0, len(pictures), columns)]
    picture = np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(picture).save(path)


def _digest(model: torch.nn.Module) -> str:
    """Short hash of a model's weights: names what was computed with it."""
    sha = hashlib.sha256()
    for value in model.state_dict().values():
        sha.update(value.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents `(n, c, h, w)` to pixels `(n, 3, H, W)` in [-1, 1]."""
    unscaled = latents / vae.config.scaling_factor
    return torch.cat([vae.decode(part).sample for part in unscaled.split(64)]).clamp(-1, 1)


def _converted(data: Stills, convert: Callable[[Tensor], Tensor]) -> Iterator[np.ndarray]:
    """`convert` of all stills, 128 at a time."""
    for k in range(0, len(data.scenes), 128):
        part = data.pixels(range(k, min(k + 128, len(data.scenes))))
        with torch.no_grad(), fast_autocast():
            converted = convert(part)
        yield converted.float().numpy()


def _repainted(vae: AutoencoderKL, data: Stills, work: Path) -> np.ndarray:
    """All stills as the autoencoder gives them back, uint8 `(n, h, w, 3)`."""

    def convert(pixels: Tensor) -> Tensor:
        out = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.float()
        return ((out.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)

    path = work / f"repainted_{_digest(vae)}.npy"
    return kept(path, data.pictures.shape, np.uint8, _converted(data, convert))


def _latents(vae: AutoencoderKL, data: Stills, work: Path) -> Tensor:
    """Scaled latents of all stills, half precision `(n, c, h, w)`."""

    def convert(pixels: Tensor) -> Tensor:
        return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor

    side = data.pictures.shape[1] // 4
    shape = (len(data.scenes), vae.config.latent_channels, side, side)
    path = work / f"latents_{_digest(vae)}.npy"
    return torch.from_numpy(np.array(kept(path, shape, np.float16, _converted(data, convert))))


def write_models(
    vae: AutoencoderKL, painter: Painter, clip: CLIPModel, tokenizer: CLIPTokenizer, out: Path
) -> None:
    """`out/tiny`: a `StableDiffusionPipeline` folder. `out/clip`: a `CLIPModel` folder. Both fp16."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=painter.text_encoder,
        tokenizer=tokenizer,
        unet=painter.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    models = (vae, painter.unet, painter.text_encoder, clip)
    for model in models:
        model.half()
    shutil.rmtree(out / "tiny", ignore_errors=True)
    shutil.rmtree(out / "clip", ignore_errors=True)
    pipeline.save_pretrained(out / "tiny")
    clip.save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(out / "clip")
    for folder in (out / "tiny" / "tokenizer", out / "clip"):  # for readers of the older two-file format
        tokenizer.backend_tokenizer.model.save(str(folder))
    for model in models:
        model.float()
    _load_in_float32(out / "tiny" / "text_encoder" / "config.json", out / "clip" / "config.json")


def write_transformer(
    transformer: SanaTransformer2DModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    out: Path,
) -> None:
    """`out/tiny_dit`: a `SanaPipeline` folder, fp16."""
    pipeline = flow_pipeline(transformer, text_encoder, tokenizer, vae)
    models = (transformer, text_encoder, vae)
    for model in models:
        model.half()
    folder = out / "tiny_dit"
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    for model in models:
        model.float()
    _load_in_float32(folder / "text_encoder" / "config.json")


def _load_in_float32(*configs: Path) -> None:
    """transformers loads in the precision that a config names; the weights are half only to be small."""
    for config in configs:
        values = json.loads(config.read_text(encoding="utf-8"))
        for part in (values, *(v for k, v in values.items() if k in ("text_config", "vision_config"))):
            part.pop("torch_dtype", None)
            part["dtype"] = "float32"
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
