"""Models of the real kinds with random weights: everything that Stable Diffusion has, in seconds on one core.

All paint 32x32 pixels from 8x8 latents and read 16 tokens of text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

transformers.utils.logging.disable_progress_bar()  # saving the smallest model shows one

KINDS = ("sd1", "sd2", "sdxl")
WORDS = ["a", "red", "blue", "white", "waterfall", "rain", "bird", "lake", "forest", "city", "falls", "flows"]
TOKENS = 16
WIDTH, WIDTH_2 = 16, 24  # of the text encoders

_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
_SDXL_TIME = 8  # channels of each of SDXL's six size conditions
_UNETS: dict[str, dict[str, Any]] = {
    "sd1": _UNET,
    "sd2": _UNET | {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "sdxl": _UNET
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH + WIDTH_2,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": _SDXL_TIME,
        "projection_class_embeddings_input_dim": WIDTH_2 + 6 * _SDXL_TIME,
    },
}

# scheduler_config.json as on the hub: CompVis/stable-diffusion-v1-4, stabilityai's 2-1 and xl-base-1.0.
_NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd1": {"_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0"} | _NOISE,
    "sd2": {"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0"}
    | _NOISE
    | {"prediction_type": "v_prediction"},
    "sdxl": {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0"}
    | _NOISE
    | {
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
}


def random_unet(kind: str = "sd1", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A UNet of two levels, one of them with attention; `changes` go over its configuration."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(**(_UNETS[kind] | changes)).eval()


def save_random_model(folder: Path, kind: str = "sd1", *, seed: int = 0, **unet_changes: Any) -> Path:
    """A whole pipeline as diffusers saves it, with the hub's settings of its kind; returns `folder`.

    Args:
        folder: made if need be.
        kind: "sd1" (Stable Diffusion 1.x), "sd2" (2.x, v prediction) or "sdxl".
        seed: of all weights.
        unet_changes: over the UNet's configuration.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
    )
    tokenizer = save_tokenizer(folder / "tokenizer")
    words = len(tokenizer)
    parts: dict[str, Any] = {
        "vae": vae,
        "unet": random_unet(kind, seed, **unet_changes),
        "text_encoder": CLIPTextModel(
            _text_config(words, hidden_act="gelu" if kind == "sd2" else "quick_gelu")
        ),
        "tokenizer": tokenizer,
        "scheduler": getattr(diffusers, _SCHEDULERS[kind]["_class_name"]).from_config(_SCHEDULERS[kind]),
    }
    if kind == "sdxl":
        # As many layers as diffusers knows SDXL's single files by.
        second = _text_config(words, WIDTH_2, layers=10, hidden_act="gelu", projection_dim=WIDTH_2)
        parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
        parts["tokenizer_2"] = save_tokenizer(folder / "tokenizer_2", pad="!")
        pipeline: Any = diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True)
    else:
        none = dict.fromkeys(("safety_checker", "feature_extractor"))
        pipeline = diffusers.StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(_SCHEDULERS[kind], indent=2))
    return folder


def save_random_clip(folder: Path, seed: int = 1) -> Path:
    """A CLIP model of 32x32 pixels with its tokenizer and image processor; returns `folder`."""
    text = _text_config(len(save_tokenizer(folder))).to_dict()
    vision = {key: text[key] for key in ("hidden_size", "intermediate_size")}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
    processor |= {"crop_size": {"height": 32, "width": 32}, "resample": 3, "rescale_factor": 1 / 255}
    processor |= {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> CLIPTokenizer:
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
    special |= {"unk_token": "<|endoftext|>", "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return CLIPTokenizer.from_pretrained(folder)


def _text_config(words: int, width: int = WIDTH, layers: int = 2, **changes: Any) -> CLIPTextConfig:
    """Of a small CLIP text encoder; the special tokens' numbers are wrong in the hub's configurations too."""
    config = {"vocab_size": words, "hidden_size": width, "intermediate_size": 2 * width}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 2, "max_position_embeddings": TOKENS}
    config |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    return CLIPTextConfig(**(config | changes))


# The format in which single files are shared: the names of the original code


def save_single_file(folder: Path, file: Path, kind: str = "sd1", *, extras: bool = False) -> Path:
    """The weights of a pipeline folder as one checkpoint with the original names; returns `file`.

    Args:
        folder: of `save_random_model`.
        file: `.safetensors`, or `.ckpt`: a pickle as Lightning saves it.
        kind: of `folder`.
        extras: with what many shared files hold besides the weights.
    """
    config = json.loads((folder / "unet" / "config.json").read_text())
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{n}": t for n, t in _unet_as_ldm(unet, config).items()}
    tensors |= {f"first_stage_model.{n}": t for n, t in _vae_as_ldm(vae).items()}
    text = load_file(folder / "text_encoder" / "model.safetensors")
    where = {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.0."}
    if kind == "sd2":
        tensors |= {f"{where[kind]}{n}": t for n, t in _text_as_open_clip(text).items()}
        tensors[f"{where[kind]}text_projection"] = torch.eye(WIDTH)
    else:
        tensors |= {f"{where[kind]}transformer.text_model.{n}": t for n, t in _bare(text).items()}
    if kind == "sdxl":
        second = load_file(folder / "text_encoder_2" / "model.safetensors")
        tensors |= {f"conditioner.embedders.1.model.{n}": t for n, t in _text_as_open_clip(second).items()}
    if extras:
        tensors |= _extras(kind, where[kind])
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if file.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "epoch": 3, "global_step": 470000, "callbacks": {}}, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return file


def _extras(kind: str, text: str) -> dict[str, Tensor]:
    schedule = torch.linspace(0.99, 0.01, 1000)
    extras = {"alphas_cumprod": schedule, "betas": 1 - schedule, "sqrt_alphas_cumprod": schedule.sqrt()}
    extras |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(470000)}
    if kind == "sd2":
        extras[f"{text}logit_scale"] = torch.tensor(4.6)
        unused = f"{text}transformer.resblocks.23."  # the last layer, which Stable Diffusion 2 does without
        extras |= {f"{unused}ln_{i}.{n}": torch.ones(WIDTH) for i in (1, 2) for n in ("weight", "bias")}
        return extras
    extras[f"{text}transformer.text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    if kind == "sdxl":
        extras["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    return extras


def _renamed(tensors: dict[str, Tensor], rules: list[tuple[str, Any]]) -> dict[str, Tensor]:
    """All names with all rules (pattern, replacement) applied in turn."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _unet_as_ldm(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The original UNet counts blocks through all levels: per level, its layers, then the resampler."""
    layers = config["layers_per_block"]
    with_attention = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]

    def number(match: re.Match[str], last: int | None = None) -> int:
        return int(match[1]) * (layers + 1) + (int(match[2]) if last is None else last)

    return _renamed(
        tensors,
        [
            (r"^conv_in\.", "input_blocks.0.0."),
            (r"^time_embedding\.linear_(\d)\.", lambda m: f"time_embed.{2 * int(m[1]) - 2}."),
            (r"^add_embedding\.linear_(\d)\.", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}."),
            (r"^conv_norm_out\.", "out.0."),
            (r"^conv_out\.", "out.2."),
            (r"^down_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"input_blocks.{1 + number(m)}.0."),
            (r"^down_blocks\.(\d)\.attentions\.(\d)\.", lambda m: f"input_blocks.{1 + number(m)}.1."),
            (
                r"^down_blocks\.(\d)\.downsamplers\.0\.conv\.",
                lambda m: f"input_blocks.{1 + number(m, layers)}.0.op.",
            ),
            (r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
            (r"^mid_block\.attentions\.0\.", "middle_block.1."),
            (r"^up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"output_blocks.{number(m)}.0."),
            (r"^up_blocks\.(\d)\.attentions\.(\d)\.", lambda m: f"output_blocks.{number(m)}.1."),
            (
                r"^up_blocks\.(\d)\.upsamplers\.0\.conv\.",
                lambda m: f"output_blocks.{number(m, layers)}.{1 + with_attention[int(m[1])]}.conv.",
            ),
            (r"^((?:input|middle|output)_block.*\.)norm1\.(weight|bias)$", _in_resnet("in_layers.0")),
            (r"^((?:input|middle|output)_block.*\.)conv1\.", r"\1in_layers.2."),
            (r"^((?:input|middle|output)_block.*\.)norm2\.(weight|bias)$", _in_resnet("out_layers.0")),
            (r"^((?:input|middle|output)_block.*\.)conv2\.", r"\1out_layers.3."),
            (r"\.time_emb_proj\.", ".emb_layers.1."),
            (r"\.conv_shortcut\.", ".skip_connection."),
        ],
    )


def _in_resnet(name: str) -> Any:
    """Transformer blocks keep their own `norm1` and `norm2`."""
    return lambda m: m[0] if "transformer_blocks" in m[1] else f"{m[1]}{name}.{m[2]}"


def _vae_as_ldm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original decoder counts its levels from the finest; its attention is made of 1x1 convolutions."""
    levels = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"decoder\.up_blocks\.(\d)", name)))
    renamed = _renamed(
        tensors,
        [
            (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
            (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
            (r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block."),
            (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample."),
            (r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}."),
            (r"mid_block\.attentions\.0\.", "mid.attn_1."),
            (r"attn_1\.group_norm\.", "attn_1.norm."),
            (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
            (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
            (r"conv_norm_out\.", "norm_out."),
            (r"conv_shortcut\.", "nin_shortcut."),
        ],
    )
    as_conv = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight$")
    return {name: t[..., None, None] if as_conv.search(name) else t for name, t in renamed.items()}


def _text_as_open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's layers have queries, keys and values in one matrix, and its projection is transposed."""
    tensors = _bare(tensors)
    for name in [name for name in tensors if ".q_proj." in name]:
        three = [tensors.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        tensors[name.replace(".q_proj.", ".in_proj_")] = torch.cat(three)
    if "text_projection.weight" in tensors:
        tensors["text_projection"] = tensors.pop("text_projection.weight").T
    return _renamed(
        tensors,
        [
            (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^embeddings\.", ""),
            (r"^final_layer_norm\.", "ln_final."),
            (r"^encoder\.layers\.", "transformer.resblocks."),
            (r"\.layer_norm(\d)\.", r".ln_\1."),
            (r"\.mlp\.fc1\.", ".mlp.c_fc."),
            (r"\.mlp\.fc2\.", ".mlp.c_proj."),
            (r"\.self_attn\.", ".attn."),
        ],
    )


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that transformers saves or not, by its version."""
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
