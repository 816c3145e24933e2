"""The settings of each command: its groups, and those that are its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lamp_lightning.runtime.schema import Means, OneOrSeveral, Options, Settings, Text, Texts, setting
from lamp_lightning.runtime.settings import (
    Callbacks,
    Count,
    DataSettings,
    Dtype,
    Fit,
    Format,
    KnownFiles,
    LoggerSettings,
    LoraScale,
    MethodSettings,
    ModelSettings,
    MotionSettings,
    Positive,
    Precision,
    Rank,
    SamplerSettings,
    SampleSettings,
    Seed,
    Share,
    Size,
    SizeOrAuto,
    Threads,
    TrainerSettings,
    TunerSettings,
    VideoFrames,
)

SEED = "Seed of all random numbers"
THREADS = "CPU threads; null: all cores"
ADAPTER_DTYPE = "Precision of the adapter's file; float32 makes twice the size"
OVERWRITE = "Replace what is there"
Runs = Annotated[OneOrSeveral[Text], Means("a run folder, a folder or pattern of runs, or a list of these")]


class RunSettings(Settings):
    """What tuning a motion and editing a video have in common; a run's config.yaml holds them."""

    seed: Seed = setting(0, SEED)
    threads: Threads | None = setting(None, THREADS)
    save_every: Count = setting(50, "Steps between checkpoints", recipe="save_every")
    adapter_dtype: Dtype = setting("float32", ADAPTER_DTYPE, config="float16")
    tuner: TunerSettings
    samples: SampleSettings = SampleSettings()
    motion: MotionSettings
    model: ModelSettings
    data: DataSettings
    sampler: SamplerSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    method: MethodSettings | None = None


class Train(RunSettings):
    """`python -m lamp_lightning.train`: tune a motion."""

    callbacks: Callbacks | None = setting(
        None, "Lightning callbacks by name, of the group callbacks or your own; null: none"
    )
    optimized_metric: Text | None = setting(
        None, "The number that a job returns to a sweeper, such as val/loss or clip_score; null: none"
    )
    tags: Texts | None = setting([], "Labels of the run, in its config and in Weights & Biases")
    print_config: bool | None = setting(
        None, "Show what the config chooses as a tree, at the start; null: in a terminal"
    )
    resume: Text | None = setting(None, "A run folder: goes on exactly where it stopped, with its config")


class Inspect(Settings):
    """`python -m lamp_lightning.inspect`: a first look at clips, before tuning on them."""

    motion: MotionSettings
    model: ModelSettings
    data: DataSettings
    out: Text | None = setting(
        None, "A folder for contact_sheet.png and inspection.json; null: inspections/<motion>"
    )
    captioner: Text | None = setting(
        None,
        "An image-to-text model, a folder or hub id like Salesforce/blip-image-captioning-base, that writes "
        "<clip>.txt for clips without a caption; null: none",
    )


class Edit(RunSettings):
    """`python -m lamp_lightning.edit`: edit a video."""

    video: Text = setting(..., "The video to edit")
    prompt: Annotated[Text, Means("one text")] = setting(..., "What it is to show")
    source_prompt: Text | None = setting(None, "What it shows; null: its file name")
    run: Text | None = setting(
        None, "An edit folder: goes on with an interrupted edit, or edits once more without tuning again"
    )
    first_frame: Text | None = setting(
        None, "A picture to begin with; null: the video's first frame, edited by the untuned image model"
    )
    paint_from: Literal["inversion", "noise"] = setting(
        "noise",
        "inversion: the first frame is edited from its own noise, which keeps its layout",
        recipe="edit.paint_from",
    )
    strength: Share = setting(
        0.6,
        "How far back to noise the first frame goes: 0 leaves it, 1 leaves little of it",
        recipe="edit.strength",
    )
    paint_follow: Share = setting(
        0.0,
        "Share of its steps in which the attention of the original frame is injected",
        recipe="edit.paint_follow",
    )
    follow: Share = setting(
        0.0,
        "Share of the video's steps in which the attention of the original video is injected",
        recipe="edit.follow",
    )
    motion_strength: Annotated[float, Field(ge=0, le=2)] = setting(
        1.0, "Weight of the tuned layers: less brings less of the old look", recipe="edit.motion_strength"
    )
    out: Text | None = setting(None, "A folder; null: <edit folder>/videos/<prompt>")
    overwrite: bool = setting(False, OVERWRITE)


class Sample(Settings):
    """`python -m lamp_lightning.sample`: generate videos with tuned motions."""

    run: Annotated[
        OneOrSeveral[Text], Means("a run folder, an adapter file, or several like [waterfall:0.7,rain:0.5]")
    ] = setting(
        ...,
        "A run folder, an adapter file, a motion's name (its newest finished run) or owner/name on the hub; "
        "several are mixed by weight, like a:0.7,b:0.5. motion= says the same",
    )
    prompt: Annotated[OneOrSeveral[Text], Means("a text, a list like [a lake,a river]")] | None = setting(
        None, "What to show, a text or a list; null: the names of a folder's pictures, else the motion"
    )
    prompts: Text | None = setting(None, "A file with one prompt on each line")
    first_frame: Annotated[OneOrSeveral[Text], Means("a file, a folder, a list of files")] | None = setting(
        None, "A picture to animate, a list, or a folder; null: the image model generates one"
    )
    known: KnownFiles = setting(
        None,
        "Several frames that are given, for motions of method=lamp_known: a clip to go on from, a folder or "
        "list of pictures, or pictures by their places, like {0:a.png,15:b.png}",
    )
    known_every: Count = setting(1, "How far apart they lie where no places are given; 2: every second frame")
    loop: bool = setting(False, "Whether the video ends where it begins, for motions of method=lamp_known")
    fit: Fit = setting(
        "crop",
        "crop cuts the middle of a picture out; pad shows the whole picture and fills what is around it",
    )
    seed: Seed = setting(0, SEED)
    count: Annotated[int, Field(ge=1, le=1_000_000)] = setting(
        1, "Videos of each prompt and picture, with the seeds seed, seed+1, ..."
    )
    seeds: Annotated[OneOrSeveral[Seed], Means("a list of whole numbers, like [1,5,9]")] | None = setting(
        None, "Or these seeds, like [1,5,9]"
    )
    again: Text | None = setting(
        None, "The .json beside a video: makes it again, bit for bit; other overrides change it"
    )
    out: Text | None = setting(
        None, "An mp4, gif or webp file, or a folder; null: <run folder>/samples, or ./samples for an adapter"
    )
    format: Annotated[OneOrSeveral[Format], Means("one or some of mp4, gif, webp, png, like [mp4,png]")] = (
        setting(["mp4", "gif"], "Formats of the videos; png is a folder of frames")
    )
    overwrite: bool = setting(
        False, "Replace videos of the same name that were made otherwise; false: new ones are called <name>_2"
    )
    batch: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=1024)],
        Means("auto or a whole number from 1 to 1,024"),
    ] = setting("auto", "Videos generated at once; auto: what fits into memory")
    base: Text | None = setting(
        None, "The model below an adapter: a folder, hub id or single file; null: the one it was tuned on"
    )
    base_config: Text | None = setting(None, "Folder or hub id with the configuration of a single file")
    check_base: bool = setting(
        True,
        "false: the motion is also added to a model of the same architecture with other weights, such as a "
        "fine-tuned one",
    )
    lora: Text | None = setting(
        None,
        "A style LoRA below the motion, as model.lora of train; none: without the one that it was tuned on; "
        "null: as tuned",
    )
    lora_scale: LoraScale | None = setting(None, "Its strength; null: as tuned, 1 for another LoRA")
    painter: Text | None = setting(None, "Another text-to-image model that makes the first frames")
    painter_config: Text | None = setting(None, "The same as base_config, for the painter")
    num_frames: VideoFrames | None = setting(None, "Frames of a video; null: as many as were tuned")
    size: SizeOrAuto | None = setting(
        None, "[height,width], or auto: the shape of each picture at the motion's area"
    )
    attention_slicing: bool | None = setting(None, "true: attention a few heads at a time")
    vae_slicing: bool | None = setting(None, "true: decode frame by frame")
    vae_tiling: bool | None = setting(None, "true: encode and decode large frames in tiles")
    device: Text = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: Precision | None = setting(None, "What layers compute in; null: mixed where that is fast")
    threads: Threads | None = setting(None, THREADS)
    sampler: SamplerSettings


class Evaluate(Settings):
    """`python -m lamp_lightning.evaluate`: measure videos."""

    run: Annotated[OneOrSeveral[Text], Means("a run folder, or several like [a,b]")] | None = setting(
        None, "A run folder, or several [a,b] for a table that compares them"
    )
    runs: Runs | None = setting(
        None, "A folder or pattern of runs, such as a sweep's folder or runs/rain/*, or a list of these"
    )
    folder: Text | None = setting(
        None,
        "Or a folder of videos (mp4, m4v, mov, avi, mkv, webm, gif, webp, folders of PNG frames), anyone's",
    )
    prompts: Text | None = setting(
        None,
        "Prompts of the folder's videos: a .txt file (lines in order, or name: prompt), .json or .csv; "
        "null: their records or names",
    )
    truth: Text | None = setting(None, "A folder with the true continuations, called like the videos")
    first_frames: Text | None = setting(
        None, "A folder with the given first frames, called like the videos; null: those in the records"
    )
    reference: Text | None = setting(
        None, "A folder of clips for motion fidelity, FID and FVD; null: those that a run was tuned on"
    )
    clip: Text | None = setting(
        "auto",
        "The CLIP model: tiny, a folder or hub id; auto: the run's, else openai/clip-vit-base-patch32; "
        "null: none",
    )
    fid: Text | None = setting(
        None, "What extracts frame features: clip, a TorchScript file or module:callable"
    )
    fid_arguments: Annotated[Options, Means("arguments like {return_features: true}")] | None = setting(
        None, "Its arguments, such as {return_features: true} for the Inception of StyleGAN's authors"
    )
    fvd: Text | None = setting(None, "What extracts video features: a TorchScript file or module:callable")
    fvd_arguments: Annotated[Options, Means("arguments like {rescale: true}")] | None = setting(
        None, "Its arguments, such as {rescale: true, resize: true, return_features: true} for the usual I3D"
    )
    num_frames: VideoFrames | None = setting(None, "Measure only the first so many frames")
    decode_timeout: Positive = setting(60, "Seconds that decoding a video may take")
    out: Text | None = setting(
        None,
        "A folder for metrics.json and table.md; null: evaluation in the run or the folder, "
        "evaluations/comparison for several",
    )
    threads: Threads | None = setting(None, THREADS)
    logger: LoggerSettings


class Benchmark(Settings):
    """`python -m lamp_lightning.benchmark`: tune and measure the methods of a suite on held-out scenes."""

    motions: Annotated[list[Text], Field(min_length=1), Means("a list of motions, like [waterfall,rain]")] = (
        setting([], "Motions, of the config group motion", config="${suite.motions}")
    )
    seeds: Annotated[list[Seed], Field(min_length=1), Means("a list of whole numbers, like [1,5,9]")] = (
        setting([0], "Seeds of tuning; each also samples with noise of its own", config="${suite.seeds}")
    )
    scenes: Annotated[int, Field(ge=1, le=10_000)] = setting(
        8,
        "Held-out first frames, of the toy world with the true continuation; else prompts",
        config="${suite.scenes}",
    )
    entries: (
        Annotated[
            list[Text], Field(min_length=1), Means("a list of the suite's methods, like [lamp,untuned]")
        ]
        | None
    ) = setting(None, "Names of some of the suite's methods; null: all")
    steps: Count | None = setting(
        None, "Tuning steps of all that is tuned; null: each method's own", config="${suite.steps}"
    )
    words: Annotated[
        list[Text],
        Means('a list of overrides of the train command, like \'words=["model=sd15","trainer=gpu"]\''),
    ] = setting([], 'Overrides of the train command for every run, like ["model=sd15","trainer=gpu"]')
    launcher: Text | None = setting(
        None, "Hydra launcher of the runs: joblib, submitit_slurm, ...; null: one after the other"
    )
    quick: bool = setting(
        False, "A smoke test in minutes: one motion, two scenes, three steps; its figures mean nothing"
    )
    out: Text | None = setting(
        None,
        "Where results go; what is finished there is not done again",
        config="runs/benchmark/${suite.name}",
    )
    threads: Threads | None = setting(None, THREADS)
    logger: LoggerSettings


class Collect(Settings):
    """`python -m lamp_lightning.collect`: tables, plots and a page of runs that are there."""

    runs: Runs = setting(
        ..., "Run folders, folders with runs anywhere below, or patterns with *; one, or a list [a,b]"
    )
    out: Text | None = setting(
        None, "Where results go; null: collected/ in the folder of runs, with several ./collected"
    )
    title: Text | None = setting(None, "Title of the page; null: what was collected")
    videos: Annotated[int, Field(ge=0, le=1_000_000)] = setting(8, "Videos of each run in the page")
    logger: LoggerSettings


class OfficialMotion(Settings):
    """What an adapter is to say of an official checkpoint, which does not say it."""

    name: Text | None = setting(None, "Name of the motion; null: its folder's name. motion=<name> for short")


class Convert(Settings):
    """`python -m lamp_lightning.convert`: the authors' checkpoints to adapters and back; smaller adapters."""

    source: Text = Field(
        alias="from",
        description="A checkpoint folder of the authors' code; or a run folder or adapter of ours",
    )
    out: Text = setting(..., "The adapter to write (.safetensors); or a folder for unet/, or for a LoRA")
    base: Text | None = setting(
        None, "The model below: a folder, hub id or single file; null: as tuned, or not compared"
    )
    base_config: Text | None = setting(None, "Folder or hub id with the configuration of a single file")
    overwrite: bool = setting(False, "Replace an adapter or a UNet that is there")
    rank: Rank | None = setting(
        None, "Of an adapter to a smaller one: the rank of its factors, like 16; null: as it is"
    )
    adapter_dtype: Dtype = setting("float16", ADAPTER_DTYPE)
    motion: OfficialMotion
    prompt: Text | None = setting(None, "What the adapter says its prompt is; null: the motion's name")
    num_frames: VideoFrames = setting(16, "What the adapter says of its frames")
    size: Size = setting((320, 512), "What the adapter says of its height and width")


class ShareMotion(Settings):
    """`python -m lamp_lightning.share`: publish a motion on the Hugging Face hub, with a model card."""

    run: Text = setting(
        ...,
        "A run folder, an adapter file or a motion's name (its newest finished run). motion= says the same",
    )
    to: Text = setting(..., "Where: owner/name on the hub; a repository that is not there is made")
    private: bool = setting(False, "Nobody else sees it, until you change that on its page")
    videos: Annotated[int, Field(ge=0, le=64)] = setting(4, "Videos of the run that the card shows")
    clips: bool = setting(
        True, "Show the contact sheet of the training clips; their frames become public with it"
    )
    base: Text | None = setting(
        None,
        "The base model's name on the hub, where the motion names a folder of this machine; null: as tuned",
    )
    license: Text | None = setting(
        None, "The motion's licence, in the hub's words, such as cc-by-4.0; null: the base model's"
    )
    out: Text | None = setting(
        None, "A new folder to write card and files into, to look at them; nothing is published then"
    )


class App(Settings):
    """`python -m lamp_lightning.app`: a page for tuning and painting, in the browser."""

    folder: Text = setting("lamp_studio", "The folder of all that the page reads and writes")
    port: Annotated[int, Field(ge=1, le=65_535)] = setting(7860, "Port of the page")
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$"), Means("a name or address of this machine")] = (
        setting("127.0.0.1", "Where it listens: only on this machine, or 0.0.0.0 for all of its networks")
    )
    auth: Text | None = setting(
        None, "A file with one line <name>:<password> that the page then asks for; null: nobody is asked"
    )
    largest_upload: Annotated[float, Field(gt=0, le=1000)] = setting(
        4.0, "Most that can be uploaded at once, in GB"
    )
    show: bool = setting(False, "Open the page in the browser")


COMMANDS: dict[str, type[Settings]] = {
    "inspect": Inspect, "train": Train, "sample": Sample, "edit": Edit, "evaluate": Evaluate,
    "benchmark": Benchmark, "collect": Collect, "convert": Convert, "share": ShareMotion, "app": App,
}  # fmt: skip
