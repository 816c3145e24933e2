"""Every setting, once: its type, default, range and the sentence that explains it.

A class is a group of settings; `runtime.command_settings` puts together those of each command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lamp_lightning.runtime.schema import (
    MANY,
    AnyText,
    Means,
    Options,
    Settings,
    Text,
    Texts,
    plain_options,
    setting,
)

LARGEST_SEED = 2**63 - 1
MOST_FRAMES = 10_000  # of one video: twenty minutes at 8 frames per second
LONGEST_SIDE = 16_384  # pixels

# -- types ---------------------------------------------------------------------------------------------------

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Count = Annotated[int, Field(ge=1, le=MANY)]
CountOrZero = Annotated[int, Field(ge=0, le=MANY)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Steps = Annotated[int, Field(ge=1, le=1000)]  # as many as the models have noise levels
Timesteps = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MANY)], ...],
    Field(strict=False, min_length=1, max_length=1000),
    Means("a list of whole numbers from 0, like [999,500,1]"),
]
Guidance = Annotated[float, Field(ge=0, le=1000)]
Rank = Annotated[int, Field(ge=1, le=4096)]
LoraScale = Annotated[float, Field(ge=-10, le=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Frames = Annotated[int, Field(ge=1, le=MOST_FRAMES)]
VideoFrames = Annotated[int, Field(ge=2, le=MOST_FRAMES)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=8, le=LONGEST_SIDE)]
Size = Annotated[
    tuple[Side, Side],
    Field(strict=False),  # JSON and YAML know lists, not tuples
    Means(f"[height,width] in pixels, both from 8 to {LONGEST_SIDE:,}, like [64,64]"),
]
SizeOrAuto = Annotated[
    Literal["auto"] | Size,
    Means(f"auto, or [height,width] in pixels, both from 8 to {LONGEST_SIDE:,}, like [64,64]"),
]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Dtype = Literal["float32", "float16", "bfloat16"]
Norm = Literal["joint", "per_frame"]
Fit = Literal["crop", "pad"]
Format = Literal["mp4", "gif", "webp", "png"]
Kind = Literal["lamp", "animatediff", "image_to_video"]
SelfAttention = Literal["first_frame", "own", "first_and_former"]
Known = Literal["first", "any"]
OptimizerName = Literal["adamw", "adamw8bit", "muon"]
NoiseSharing = Literal["authors", "variance_preserving"]
Start = Literal["noise", "first_frame", "inversion", "warp", "still"]
_NAME = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"
Target = Annotated[str, Field(pattern=_NAME), Means("the full name of a class or function")]
_Limits = Field(ge=-(10**6), le=10**6)  # some options are lengths of lists that are made at once
_Word = Annotated[str, Field(max_length=200)]
_Option = bool | Annotated[int, _Limits] | Annotated[float, _Limits] | _Word | None
SchedulerOptions = Annotated[
    Mapping[_Word, _Option | Annotated[list[_Option], Field(max_length=10_000)]],
    Field(max_length=50),
    BeforeValidator(lambda value: {} if value is None else value),
    Means("options like {timestep_spacing: trailing}, or null"),
]
FramesPerSecond = Annotated[
    float,
    Field(gt=0, le=1000),
    BeforeValidator(lambda value: 8 if value is None else value),
    Means("a number above 0 and at most 1,000, or null"),
]


def _devices(value: Any) -> Any:
    numbers = value if isinstance(value, list) and value else [value]
    if value not in ("auto", -1) and not all(type(n) is int and 0 <= n <= 1024 for n in numbers):
        raise ValueError("it is no number of devices")
    return value


Devices = Annotated[
    Any, AfterValidator(_devices), Means("auto, a number of devices, or a list of their numbers, like [0,1]")
]


HeldOut = Annotated[
    Annotated[float, Field(gt=0, lt=1)] | Text, Means("a share of the clips, like 0.25, or a folder of clips")
]


def _callbacks(value: Any) -> Any:
    """Names with the full name of a class and its options."""
    if not isinstance(value, Mapping):
        raise ValueError("it is no mapping")
    for name, each in value.items():
        if not isinstance(each, Mapping) or not re.fullmatch(_NAME, str(each.get("_target_", ""))):
            raise ValueError(f"{name} is no callback")
        plain_options({key: option for key, option in each.items() if key != "_target_"})
    return value


Callbacks = Annotated[
    Any,
    AfterValidator(_callbacks),
    Means("names with a class and its options, like {mine: {_target_: my_module.MyCallback}}"),
]


def _known_files(value: Any) -> Any:
    """A file or folder, a list of files, or places with a file each."""
    files = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    if value is not None and not (files and all(isinstance(each, str) and each.strip() for each in files)):
        raise ValueError("it names no files")
    return value


KnownFiles = Annotated[
    Any, AfterValidator(_known_files), Means("a file, a folder, a list of files, or {place: file, ...}")
]

# -- groups --------------------------------------------------------------------------------------------------


class MotionSettings(Settings):
    """The motion that is tuned."""

    name: Text = setting(..., "Name of the motion")
    folder: Text | None = setting(None, "Folder of its clips below data.root", config="${motion.name}")
    prompt: Text | None = setting(
        None, "Prompt of its clips; null: the name in words, or captions beside them"
    )
    drawn: Texts | None = setting(
        None,
        "Motions of the toy world that are drawn where the folder is missing; null: the one of this name",
    )
    flip: bool = setting(True, "Whether a mirrored clip shows the same motion")
    prompts: Texts | None = setting(None, "Prompts of the samples; null: held-out toy scenes, else held_out")
    held_out: Texts | None = setting([], "Prompts of the samples for models other than tiny")


class LayerSettings(Settings):
    """What of LAMP's motion layers a model has (paper, section 3.3)."""

    kind: Kind = setting("lamp", "LAMP's motion layers, AnimateDiff's modules, or a video model's LoRA")
    gate: bool = setting(True, "A gate weighs the temporal convolution; false adds it as it is")
    temporal_conv: bool = setting(True, "Each 2D convolution is followed by a temporal convolution")
    causal: bool = setting(True, "It looks at past frames only; false: at the frame before and the one after")
    self_attention: SelfAttention = setting(
        "first_frame",
        "Which frames give keys and values; own: as in the image model, first_and_former: as in Tune-A-Video",
    )
    temporal_attention: bool = setting(True, "A self-attention over time follows each transformer block")
    conv_first: bool = setting(
        False,
        "Not in the paper: each convolution's output of frame 0 is shown to all frames, by a 1x1 convolution",
    )
    known: Known = setting(
        "first",
        "Which frames are given; any, not in the paper: other ones in each step, so that the motion goes on "
        "from several, or fills in those between",
    )


class ModelSettings(Settings):
    """The text-to-image model and what it becomes."""

    name: Text = setting(..., "Name of this config")
    path: Text = setting(..., "A diffusers folder, a hub id, a single-file checkpoint, or tiny or tiny_dit")
    config: Text | None = setting(
        None, "Folder or hub id with what a single file lacks, such as its configuration; null: the hub's"
    )
    variant: Text | None = setting(None, "Variant of the weight files, like fp16; null: the plain ones")
    lora: Text | None = setting(
        None,
        "A style LoRA that is fused into the model: a .safetensors file, a folder with one, or owner/name "
        "or owner/name/<file>.safetensors of the hub; null: none",
    )
    lora_scale: LoraScale = setting(1.0, "Its strength; 1: as it was trained")
    motion_adapter: Text | None = setting(
        None,
        "What tuning begins with: a motion of the same model (a run folder, adapter or owner/name), or for "
        "method=animatediff published motion modules; null: nothing",
    )
    painter: Text | None = setting(
        None, "Another text-to-image model that makes the first frames; null: this one, untuned"
    )
    painter_config: Text | None = setting(None, "The same as config, for the painter")
    painter_variant: Text | None = setting(None, "The same as variant, for the painter")
    clip: Text | None = setting(None, "The CLIP model that measures prompts and frames; null: none")
    norm: Norm = setting("joint", "Group norms over all frames of a clip (the authors' way) or of each frame")
    dtype: Dtype = setting("float32", "Precision of the frozen weights; the tuned ones are always float32")
    layers: LayerSettings = LayerSettings()
    gradient_checkpointing: bool = setting(False, "Less memory and more time in training")
    attention_slicing: bool = setting(
        False, "Attention a few heads at a time: less memory where the device has no fused attention"
    )
    vae_slicing: bool = setting(False, "Decode frame by frame: less memory")
    vae_tiling: bool = setting(False, "Encode and decode large frames in tiles: less memory")
    recipe: Options | None = setting({}, "What suits the model; other groups take their defaults from here")


class DataSettings(Settings):
    """The motion set: a folder of 8-16 clips (mp4, m4v, mov, avi, mkv, webm, gif, animated webp)."""

    target: Target = Field(alias="_target_", description="The data module")
    root: Text | None = setting("data", "The folder below which motions have their folders")
    folder: Text | None = setting(None, "The folder of the clips", config="${data.root}/${motion.folder}")
    num_frames: VideoFrames = setting(16, "Frames of a training clip")
    frame_stride: Annotated[int, Field(ge=1, le=10_000)] = setting(1, "Every so many frames make the clip")
    fps: Annotated[float, Field(gt=0, le=1000)] | None = setting(
        None,
        "Frames per second at which clips are read, by the times of their frames; null: all frames, whatever "
        "the clips' rates are",
    )
    size: Size = setting((64, 64), "Height and width in pixels", recipe="size")
    flip: bool = setting(True, "Mirror half of the clips at random", config="${motion.flip}")
    batch_size: Annotated[int, Field(ge=1, le=4096)] = setting(1, "Clips of a step", recipe="batch_size")
    cache_dir: Text | None = setting(
        None, "Folder for decoded clips, latents and text embeddings; null: the user's cache folder"
    )
    num_workers: Annotated[int, Field(ge=0, le=256)] = setting(0, "Processes that load clips")
    captions: Text | None = setting(
        None, "A caption file; null: captions.txt, captions.json or <clip>.txt beside the clips"
    )
    use_captions: bool = setting(True, "false: the prompt of all clips is the motion's name, as in the paper")
    use_masks: bool = setting(
        True, "Masks beside clips (<clip>_mask.png, or a video) weigh the loss: white counts, black does not"
    )
    mask_black: Share = setting(0.0, "What black counts in a mask, as a share of what white does")
    max_clips: Count | None = setting(None, "Only the first so many clips; null: all")
    decode_timeout: Positive = setting(60, "Seconds that decoding a clip may take")
    validation: HeldOut | None = setting(
        None, "Held-out clips, to measure the loss on: a share of the clips, or a folder; null: none"
    )


class TunerSettings(Settings):
    """How the motion layers are tuned."""

    target: Target = Field("lamp_lightning.MotionTuner", alias="_target_", description="The Lightning module")
    optimizer: OptimizerName = setting("adamw", "muon learns faster, adamw8bit takes a quarter of the memory")
    learning_rate: Positive = setting(3e-5, "Step size of the optimizer", recipe="learning_rate")
    weight_decay: NotNegative = setting(1e-2, "Decoupled weight decay")
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "Course of the learning rate", recipe="schedule"
    )
    warmup_steps: CountOrZero = setting(0, "Steps in which the rate rises from zero", recipe="warmup_steps")
    first_frame: bool = setting(True, "Frame 0 is given; false: it is noised and learned as the others are")
    tuned: Texts | None = setting(
        None,
        "Of conv1d, conv_gate, conv_first, attn1.to_q, attn_temp and attn2.to_q; null: those of the method",
    )
    rank: Rank | None = setting(
        None, "Tune factors of this rank in place of weights, for small files, like 16; null: whole weights"
    )
    scheduled_sampling: Share = setting(0.0, "Not in the paper: share of clips shown as the model has them")
    appearance_rank: Rank | None = setting(
        None, "Beside them tune a LoRA of single frames' look, and leave it out (MotionDirector); null: none"
    )


class SamplerSettings(Settings):
    """How a video is sampled."""

    scheduler: Annotated[Text, Field(max_length=200)] = setting(
        "DDIMScheduler", "Name of the scheduler's class in diffusers"
    )
    scheduler_options: SchedulerOptions = setting(
        {}, "Options of its class, like {timestep_spacing: trailing}", config=None
    )
    num_inference_steps: Steps = setting(50, "Denoising steps", recipe="num_inference_steps")
    timesteps: Timesteps | None = setting(
        None, "Timesteps to go along, falling, for schedulers that take any; null: evenly spaced ones"
    )
    eta: Share = setting(0.0, "Of DDIM's schedulers: share of new noise in each step")
    guidance_scale: Guidance = setting(
        12.5, "Strength of classifier-free guidance; 1 or 0: none, in half the time", recipe="guidance_scale"
    )
    guidance_rescale: Share = setting(
        0.0, "Share in which guided predictions keep the standard deviation of unguided ones"
    )
    paint_guidance_scale: Guidance | None = setting(
        None, "Guidance of a generated first frame; null: guidance_scale", recipe="paint_guidance_scale"
    )
    paint_steps: Steps | None = setting(
        None, "Denoising steps of a generated first frame; null: num_inference_steps", recipe="paint_steps"
    )
    shared_noise: Share = setting(0.2, "Share of the first frame's noise in that of the others (paper: 0.2)")
    noise_sharing: NoiseSharing = setting(
        "authors", "The authors' formula, which shrinks the noise, or one that keeps its variance"
    )
    start: Start = setting(
        "noise",
        "What frames begin as: noise, noise over the blurred first frame (first_frame), the inverted clip, a "
        "warped first frame, or the still first frame",
    )
    steady: Annotated[float, Field(ge=0, le=10)] = setting(
        0.0,
        "Not in the paper: changes of latents from the first frame that are smaller than this fade; 0: none",
    )
    warp_strength: Annotated[float, Field(ge=0, le=10_000)] = setting(
        12.0, "Of start=warp: pixels of a picture of 512 that each frame moves"
    )
    adain: bool = setting(True, "In late steps latents take the first frame's statistics", recipe="adain")
    histogram_matching: bool = setting(
        True, "Decoded frames take the first frame's colours", recipe="histogram_matching"
    )
    negative_prompt: Annotated[AnyText, Field(max_length=100_000)] | None = setting(
        None, "What guidance leads away from"
    )
    window: Frames = setting(128, "Frames sampled at once; longer videos go on in windows of so many")
    overlap: Frames = setting(8, "Frames that a window has in common with the one before")
    fps: FramesPerSecond = setting(
        8, "Frames per second of the files; null: as many as the motion's clips have", config=None
    )


class TrainerSettings(Settings):
    """Lightning's trainer. Its other settings can be added with +trainer.<name>=<value>."""

    target: Target = Field("lightning.Trainer", alias="_target_", description="The trainer")
    max_steps: CountOrZero = setting(1, "Optimizer steps", recipe="max_steps")
    accelerator: Annotated[
        str, Field(pattern="^[a-z]+$"), Means("auto, cpu, gpu or another of Lightning's accelerators")
    ] = setting("auto", "The kind of device")
    devices: Devices = setting(1, "How many devices, or which")
    strategy: Annotated[
        str, Field(pattern=r"^[\w.-]+$"), Means("auto, ddp or another of Lightning's strategies")
    ] = setting("auto", "How several devices work together")
    precision: Precision = setting(
        "32-true", "What layers compute in; the default suits the device", config="${hardware:precision}"
    )
    accumulate_grad_batches: Count = setting(1, "Batches of an optimizer step")
    gradient_clip_val: NotNegative | None = setting(1.0, "Largest norm of the gradient; null: any")
    log_every_n_steps: Count = setting(1, "Steps between logged values")
    val_check_interval: Count | None = setting(
        None, "Batches between measurements of held-out clips; null: those of save_every"
    )
    benchmark: bool | None = setting(
        None, "true: cuDNN tries which convolutions are fastest; no two runs are then quite the same"
    )


class LoggerSettings(Settings):
    """Where figures and samples are logged."""

    target: Target = Field(alias="_target_", description="What makes the logger")
    project: Text | None = setting("lamp-lightning", "Project of Weights & Biases")
    entity: Text | None = setting(None, "User or team; null: your default")
    mode: Literal["auto", "online", "offline"] = setting("auto", "auto: online where you are logged in")
    tags: Texts | None = setting(
        [], "Labels of the run; those of the command, where it has any", config="${oc.select:tags,[]}"
    )


class SampleSettings(Settings):
    """The videos that a training run generates."""

    every: Count | None = setting(None, "Steps between samples; null: at the end", recipe="sample_every")
    while_training: Annotated[int, Field(ge=0, le=10_000)] = setting(2, "How many prompts each time")
    final: Annotated[int, Field(ge=0, le=10_000)] = setting(4, "How many prompts at the end")
    seed: Seed = setting(0, "Seed of their noise")
    first_frame: Text | None = setting(
        None, "A picture of yours that they begin with, or a folder of pictures; null: generated ones"
    )


class MethodSettings(Settings):
    """The method, for tables."""

    name: Text | None = setting(None, "Name of the method")


# Groups of conf/ that any config of theirs begins with.
GROUPS: dict[str, type[Settings]] = {
    "motion": MotionSettings, "model": ModelSettings, "data": DataSettings, "sampler": SamplerSettings,
    "trainer": TrainerSettings, "logger": LoggerSettings,
}  # fmt: skip
# All groups of conf/ that a command line can choose from.
CONFIG_GROUPS = (*GROUPS, "method", "callbacks", "experiment", "hparams_search", "debug")
# Lightning's own settings of a trainer that the config of a run may have besides ours, as plain values.
LIGHTNING = ("deterministic", "detect_anomaly", "fast_dev_run", "gradient_clip_algorithm", "inference_mode",
             "limit_train_batches", "limit_val_batches", "max_time", "num_nodes", "num_sanity_val_steps",
             "overfit_batches", "profiler", "sync_batchnorm")  # fmt: skip
