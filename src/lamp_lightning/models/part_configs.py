"""The configurations of a model's parts: what of each config.json we rely on, as schemas."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lamp_lightning.runtime.settings import Share

Count = Annotated[int, Field(ge=1, le=100_000)]
Widths = Annotated[list[Count], Field(min_length=1, max_length=64)]
Side = Annotated[int, Field(ge=1, le=4096)]
Blocks = Annotated[list[str], Field(min_length=1, max_length=64)]
Real = Annotated[float, Field(allow_inf_nan=False)]
NoiseSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid", "exp"]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class PartConfig(BaseModel):
    """What we rely on in a config.json; the rest is the libraries'."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class AutoencoderConfig(PartConfig):
    """Of an AutoencoderKL."""

    block_out_channels: Widths = [64]
    latent_channels: Annotated[int, Field(ge=1, le=256)] = 4
    scaling_factor: Positive = 0.18215
    shift_factor: Real | None = None
    force_upcast: bool | Literal[0, 1] = True


class UNetConfig(PartConfig):
    """Of a UNet2DConditionModel."""

    sample_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    in_channels: Count = 4
    out_channels: Count = 4
    block_out_channels: Widths = [320, 640, 1280, 1280]
    down_block_types: Blocks = ["DownBlock2D"]
    up_block_types: Blocks = ["UpBlock2D"]
    cross_attention_dim: Count | Widths = 1280
    layers_per_block: Annotated[int, Field(ge=1, le=64)] | Widths = 2
    addition_embed_type: str | None = None
    addition_time_embed_dim: Count | None = None
    projection_class_embeddings_input_dim: Count | None = None
    class_embed_type: str | None = None
    num_class_embeds: int | None = None


class TextConfig(PartConfig):
    """Of a CLIPTextModel, with or without projection."""

    hidden_size: Count = 512
    max_position_embeddings: Count = 77
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] = 12
    vocab_size: Annotated[int, Field(ge=1, le=10_000_000)] = 49408
    projection_dim: Count | None = 512


class GemmaConfig(PartConfig):
    """Of a Gemma2Model."""

    hidden_size: Count = 2304
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] = 26
    vocab_size: Annotated[int, Field(ge=1, le=10_000_000)] = 256_000


class T5Config(PartConfig):
    """Of a T5EncoderModel."""

    d_model: Count = 4096
    num_layers: Annotated[int, Field(ge=1, le=256)] = 24
    vocab_size: Annotated[int, Field(ge=1, le=10_000_000)] = 32_128


class DeepAutoencoderConfig(PartConfig):
    """Of an AutoencoderDC."""

    encoder_block_out_channels: Widths = [128]
    latent_channels: Annotated[int, Field(ge=1, le=256)] = 32
    scaling_factor: Positive = 1.0


class SanaConfig(PartConfig):
    """Of a SanaTransformer2DModel."""

    sample_size: Side = 32
    patch_size: Annotated[int, Field(ge=1, le=16)] = 1
    in_channels: Count = 32
    out_channels: Count | None = 32
    num_layers: Annotated[int, Field(ge=1, le=256)] = 20
    num_attention_heads: Count = 70
    attention_head_dim: Count = 32
    caption_channels: Count = 2304
    mlp_ratio: Positive = 2.5
    timestep_scale: Positive = 1.0
    guidance_embeds: bool = False


class SD3Config(PartConfig):
    """Of an SD3Transformer2DModel."""

    sample_size: Side = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: Count = 16
    out_channels: Count | None = 16
    num_layers: Annotated[int, Field(ge=1, le=256)] = 18
    num_attention_heads: Count = 18
    attention_head_dim: Count = 64
    joint_attention_dim: Count = 4096
    pooled_projection_dim: Count = 2048
    pos_embed_max_size: Side = 96
    dual_attention_layers: Annotated[list[int], Field(max_length=256)] = []


class ClipAutoencoderConfig(PartConfig):
    """Of an AutoencoderKLLTXVideo."""

    latent_channels: Annotated[int, Field(ge=1, le=1024)] = 128
    block_out_channels: Widths = [128]
    decoder_block_out_channels: Widths = [128]
    patch_size: Annotated[int, Field(ge=1, le=16)] = 4
    patch_size_t: Literal[1] = 1
    scaling_factor: Positive = 1.0
    spatial_compression_ratio: Annotated[int, Field(ge=1, le=256)] | None = None
    temporal_compression_ratio: Annotated[int, Field(ge=1, le=64)] | None = None
    timestep_conditioning: bool = False
    encoder_causal: Literal[True] = True  # the first latent is of the first frame alone


class LTXConfig(PartConfig):
    """Of an LTXVideoTransformer3DModel."""

    patch_size: Literal[1] = 1
    patch_size_t: Literal[1] = 1
    in_channels: Count = 128
    out_channels: Count | None = 128
    num_layers: Annotated[int, Field(ge=1, le=256)] = 28
    num_attention_heads: Count = 32
    attention_head_dim: Count = 64
    cross_attention_dim: Count = 2048
    caption_channels: Count = 4096


class _VisionConfig(PartConfig):
    hidden_size: Count = 768
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] = 12
    image_size: Annotated[int, Field(ge=1, le=2048)] = 224
    patch_size: Annotated[int, Field(ge=1, le=512)] = 32


class ClipConfig(PartConfig):
    """Of a CLIPModel."""

    text_config: TextConfig | None = None
    vision_config: _VisionConfig | None = None
    projection_dim: Count = 512


class _Sides(PartConfig):
    shortest_edge: Side | None = None
    height: Side | None = None
    width: Side | None = None


class ProcessorConfig(PartConfig):
    """Of CLIP's image processor."""

    size: _Sides | Side | None = None
    crop_size: _Sides | Side | None = None
    image_mean: list[Real] | None = None
    image_std: list[Positive] | None = None
    rescale_factor: Real | None = None


class SchedulerConfig(PartConfig):
    """Of any scheduler of a diffusion model with discrete noise levels."""

    class_name: str = Field("", alias="_class_name")
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: NoiseSchedule = "linear"
    trained_betas: Annotated[list[Share], Field(max_length=100_000)] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] = "epsilon"
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    shift: Positive | None = None  # these are of flow matching
    flow_shift: Positive | None = None
    base_shift: Real | None = None
    max_shift: Real | None = None
    base_image_seq_len: Count | None = None
    max_image_seq_len: Count | None = None
    time_shift_type: Literal["exponential", "linear"] | None = None
    shift_terminal: Annotated[float, Field(gt=0, lt=1)] | None = None


CONFIGS: dict[str, type[PartConfig]] = {  # by the class of the part
    "AutoencoderKL": AutoencoderConfig,
    "AutoencoderDC": DeepAutoencoderConfig,
    "UNet2DConditionModel": UNetConfig,
    "SanaTransformer2DModel": SanaConfig,
    "SD3Transformer2DModel": SD3Config,
    "CLIPTextModel": TextConfig,
    "CLIPTextModelWithProjection": TextConfig,
    "Gemma2Model": GemmaConfig,
    "T5EncoderModel": T5Config,
    "AutoencoderKLLTXVideo": ClipAutoencoderConfig,
    "LTXVideoTransformer3DModel": LTXConfig,
}
