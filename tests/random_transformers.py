"""Transformers of flow matching with random weights, in the folders of Sana and Stable Diffusion 3.5.

All make 32x32 pixels from 8x8 latents.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from random_models import (
    TOKENS,
    WIDTH,
    WIDTH_2,
    _renamed,
    _text_config,
    _vae_as_ldm,
    save_tokenizer,
)

KINDS = ("sana", "sd3")
CHANNELS, TEXT, T5 = 4, 12, 48  # of latents, of Gemma's embeddings, of T5's
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;->'\n"
_TRANSFORMERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sana": (
        SanaTransformer2DModel,
        {
            "sample_size": 8,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": TEXT,
        },
    ),
    "sd3": (
        SD3Transformer2DModel,
        {
            "sample_size": 8,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": T5,
            "caption_projection_dim": 16,
            "pooled_projection_dim": WIDTH + WIDTH_2,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),  # these two are 3.5's
            "qk_norm": "rms_norm",
        },
    ),
}


def random_transformer(kind: str, seed: int = 0, **changes: Any) -> Any:
    """An image transformer of two blocks; `changes` go over its configuration."""
    cls, config = _TRANSFORMERS[kind]
    torch.manual_seed(seed)
    return cls(**(config | changes)).eval()


def save_random_transformer(folder: Path, kind: str, *, t5: bool = True, **changes: Any) -> Path:
    """A whole pipeline as diffusers saves it, with the hub's settings of its kind; returns `folder`.

    Args:
        folder: made if need be.
        kind: "sana" or "sd3", which is a Stable Diffusion 3.5.
        t5: whether Stable Diffusion 3 has its third text encoder.
        changes: over the transformer's configuration.
    """
    transformer = random_transformer(kind, **changes)
    pipeline = _sana(transformer) if kind == "sana" else _sd3(transformer, folder, t5)
    pipeline.save_pretrained(folder)
    return folder


def _sana(transformer: SanaTransformer2DModel) -> Any:
    vae = AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        attention_head_dim=8,
        scaling_factor=0.41407,
    )
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokenizer = GemmaTokenizer(vocab={token: number for number, token in enumerate(tokens)})
    text = Gemma2Config(
        vocab_size=len(tokens),
        hidden_size=TEXT,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=TOKENS,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(tokenizer, Gemma2Model(text), vae, transformer, scheduler)


def _sd3(transformer: SD3Transformer2DModel, folder: Path, t5: bool) -> Any:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        sample_size=32,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    tokenizers = [save_tokenizer(folder / "tokenizer"), save_tokenizer(folder / "tokenizer_2", pad="!")]
    words = len(tokenizers[0])
    configs = [
        _text_config(words, projection_dim=WIDTH),
        _text_config(words, WIDTH_2, hidden_act="gelu", projection_dim=WIDTH_2),
    ]
    encoders = [CLIPTextModelWithProjection(config) for config in configs]
    torch.nn.init.eye_(encoders[0].text_projection.weight)  # which single files leave out
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((x, -3.0) for x in LETTERS)]
    third: tuple[Any, Any] = (None, None)
    if t5:
        config = T5Config(
            vocab_size=len(pieces), d_model=T5, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        third = T5EncoderModel(config), T5Tokenizer(vocab=pieces, extra_ids=0)
    return diffusers.StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae,
        encoders[0],
        tokenizers[0],
        encoders[1],
        tokenizers[1],
        *third,
    )


def index_of(folder: Path) -> dict[str, Any]:
    """The pipeline's `model_index.json`."""
    return json.loads((folder / "model_index.json").read_text())


# The format in which Stable Diffusion 3 is shared as one file: the names of the original code


def save_sd3_file(folder: Path, file: Path, *, t5: bool = True) -> Path:
    """The weights of a pipeline folder of "sd3" as one checkpoint; returns `file`."""
    transformer = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{name}": x for name, x in _as_mmdit(transformer).items()}
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors |= {f"first_stage_model.{name}": x for name, x in _vae_as_ldm(vae).items()}
    encoders = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"} | (
        {"text_encoder_3": "t5xxl"} if t5 else {}
    )
    for part, short in encoders.items():
        text = load_file(folder / part / "model.safetensors")
        tensors |= {f"text_encoders.{short}.transformer.{name}": x for name, x in text.items()}
    save_file({name: x.contiguous() for name, x in tensors.items()}, file, metadata={"format": "pt"})
    return file


def save_transformer_file(
    folder: Path, file: Path, kind: str, prefix: str = "", **others: torch.Tensor
) -> Path:
    """The transformer of a pipeline folder, "sana", "sd3" or "ltx", by the original names; returns `file`."""
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors = {"sana": _as_sana, "sd3": _as_mmdit, "ltx": _as_ltx}[kind](tensors)
    tensors = {f"{prefix}{name}": x for name, x in tensors.items()} | others
    tensors = {name: x.contiguous() for name, x in tensors.items()}
    if file.suffix == ".pth":
        torch.save({"state_dict": tensors, "epoch": 3}, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return file


def _as_sana(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Queries, keys and values are one matrix there; diffusers computes two tensors, or does without."""
    found = dict(tensors)
    for name in [name for name in tensors if re.search(r"attn1\.to_q\.", name)]:
        found[name.replace("to_q", "qkv")] = torch.cat(
            [found.pop(name.replace("to_q", f"to_{x}")) for x in "qkv"]
        )
    for name in [name for name in tensors if re.search(r"attn2\.to_k\.", name)]:
        found[name.replace("to_k", "kv_linear")] = torch.cat(
            [found.pop(name.replace("to_k", f"to_{x}")) for x in "kv"]
        )
    found["pos_embed"], found["y_embedder.y_embedding"] = torch.zeros(1, 64, 16), torch.zeros(TOKENS, TEXT)
    rules = [
        (r"^patch_embed\.proj", "x_embedder.proj"),
        (
            r"^time_embed\.emb\.timestep_embedder\.linear_(\d)",
            lambda m: f"t_embedder.mlp.{2 * int(m[1]) - 2}",
        ),
        (r"^time_embed\.linear", "t_block.1"),
        (r"^caption_projection\.linear_", "y_embedder.y_proj.fc"),
        (r"^caption_norm", "attention_y_norm"),
        (r"^proj_out", "final_layer.linear"),
        (r"^scale_shift_table", "final_layer.scale_shift_table"),
        (r"^transformer_blocks", "blocks"),
        (r"\.attn1\.to_out\.0", ".attn.proj"),
        (r"\.attn1", ".attn"),
        (r"\.attn2\.to_out\.0", ".cross_attn.proj"),
        (r"\.attn2\.to_q", ".cross_attn.q_linear"),
        (r"\.attn2", ".cross_attn"),
        (r"\.ff\.conv_(inverted|depth|point)", r".mlp.\1_conv.conv"),
    ]
    return _renamed(found, rules)


def _as_ltx(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rules = [
        (r"^proj_in", "patchify_proj"),
        (r"^time_embed", "adaln_single"),
        (r"\.norm_([qk])\.", r".\1_norm."),
    ]
    return _renamed(tensors, rules)


def _as_mmdit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Queries, keys and values are one matrix there, and the last norm has scale and shift the other way."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    found = dict(tensors)
    for name in [name for name in tensors if re.search(r"\.(to_q|add_q_proj)\.", name)]:
        three = [name.replace("to_q", f"to_{x}").replace("add_q", f"add_{x}") for x in "qkv"]
        joined = name.replace("to_q", "qkv").replace("add_q_proj", "qkv_context")
        found[joined] = torch.cat([found.pop(each) for each in three])
    for name in [name for name in found if re.search(rf"(^|blocks\.{last}\.)norm(_out|1_context)\.", name)]:
        found[name] = torch.cat(found[name].chunk(2)[::-1])
    rules = [
        (r"^pos_embed\.pos_embed$", "pos_embed"),
        (r"^pos_embed\.proj", "x_embedder.proj"),
        (
            r"^time_text_embed\.timestep_embedder\.linear_(\d)",
            lambda m: f"t_embedder.mlp.{2 * int(m[1]) - 2}",
        ),
        (r"^time_text_embed\.text_embedder\.linear_(\d)", lambda m: f"y_embedder.mlp.{2 * int(m[1]) - 2}"),
        (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
        (r"^proj_out", "final_layer.linear"),
        (r"^transformer_blocks", "joint_blocks"),
        (r"\.attn\.qkv_context", ".context_block.attn.qkv"),
        (r"\.attn\.norm_added_([qk])", r".context_block.attn.ln_\1"),
        (r"\.attn\.to_add_out", ".context_block.attn.proj"),
        (r"(\d)\.(attn2?)\.qkv", r"\1.x_block.\2.qkv"),
        (r"(\d)\.(attn2?)\.norm_([qk])", r"\1.x_block.\2.ln_\3"),
        (r"(\d)\.(attn2?)\.to_out\.0", r"\1.x_block.\2.proj"),
        (r"(\d)\.norm1\.linear", r"\1.x_block.adaLN_modulation.1"),
        (r"\.norm1_context\.linear", ".context_block.adaLN_modulation.1"),
        (r"(\d)\.ff\.net\.0\.proj", r"\1.x_block.mlp.fc1"),
        (r"(\d)\.ff\.net\.2", r"\1.x_block.mlp.fc2"),
        (r"\.ff_context\.net\.0\.proj", ".context_block.mlp.fc1"),
        (r"\.ff_context\.net\.2", ".context_block.mlp.fc2"),
    ]
    return _renamed(found, rules)
