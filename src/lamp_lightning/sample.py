"""``python -m lamp_lightning.sample run=<folder or adapter> prompt="..."``: paint with a tuned motion."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lamp_lightning.config import check_config, fast_precision, run_command
from lamp_lightning.console import quiet, quiet_libraries, short, threads
from lamp_lightning.errors import UserError
from lamp_lightning.runs import RunFolder

if TYPE_CHECKING:
    from lamp_lightning.generate import Sampler
    from lamp_lightning.pipeline import LAMPPipeline

MEMORY_SETTINGS = ("attention_slicing", "vae_slicing", "vae_tiling")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(sample, "sample", list(sys.argv[1:] if argv is None else argv))


def sample(cfg: DictConfig) -> None:
    """Paint ``count`` videos and write them with their contact sheet."""
    check_config(cfg, may_be_null=("sampler.", "size"))
    adapter = with_changes(find_adapter(cfg.run), cfg)
    first_frame = None if cfg.first_frame is None else existing_file(cfg.first_frame, "first_frame")
    folder, stem = output(cfg.out, adapter)

    import torch

    from lamp_lightning.generate import evaluation, generate, mixed_precision
    from lamp_lightning.report import Painted, measure, save_videos, write_sheet

    quiet_libraries()
    torch.set_num_threads(threads(cfg.threads))
    sampler = adapter.sampler.changed({**cfg.sampler, "num_frames": cfg.num_frames, "size": cfg.size})
    prompt = str(cfg.prompt or adapter.prompt)
    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    precision = cfg.precision or fast_precision(device)
    pipeline = load(adapter, device, "float32" if precision == "32-true" else adapter.dtype)
    warn_of_length(pipeline, prompt)
    videos = []
    total = cfg.count * sampler.num_inference_steps
    with evaluation(pipeline.unet), mixed_precision(device, precision), bar(total) as advance:
        for seed in range(cfg.seed, cfg.seed + cfg.count):
            frames = generate(pipeline, prompt, sampler, seed=seed, first_frame=first_frame, on_step=advance)
            videos.append(Painted(prompt, seed, frames))
    shown = save_videos(videos, folder, sampler.fps, stem=stem)
    sheet = write_sheet(videos, shown[0].file.with_suffix(".png"), adapter.motion)
    for name, value in measure(videos, adapter.clip)[0].items():
        print(f"  {name.replace('_', ' '):<32}{value:.4f}")
    for video in shown:
        print(f"  video         {short(video.file)} (and .gif)")
    print(f"  contact sheet {short(sheet)}", flush=True)


@dataclass(frozen=True)
class Adapter:
    """A tuned motion and how to paint with it."""

    file: Path
    run: RunFolder | None
    base: str
    norm: str
    motion: str
    prompt: str
    sampler: Sampler
    clip: str | None
    base_config: str | None = None
    base_variant: str | None = None
    dtype: str = "float32"
    memory: Mapping[str, Any] = field(default_factory=dict)


def find_adapter(where: Any) -> Adapter:
    """The adapter of a run folder, with the run's settings, or an adapter file, with those in its header."""
    from lamp_lightning.generate import Sampler
    from lamp_lightning.motions import motion_prompt
    from lamp_lightning.weights.adapter import read_metadata

    path = Path(str(where)).expanduser()
    if not path.exists():
        raise UserError(
            f"run={path} does not exist. Give a run folder (runs/<motion>/<time>) or an adapter file."
        )
    if path.is_dir():
        run, cfg = RunFolder.open(path)
        if not run.adapter.is_file():
            raise UserError(
                f"{path} has no adapter yet: the run has not come so far. Go on with it by "
                f"python -m lamp_lightning.train resume={path}"
            )
        return Adapter(
            file=run.adapter,
            run=run,
            base=str(cfg.model.path),
            norm=cfg.model.norm,
            motion=str(cfg.motion.name),
            prompt=motion_prompt(cfg),
            sampler=Sampler.from_config(cfg),
            clip=cfg.model.clip,
            base_config=cfg.model.get("config"),
            base_variant=cfg.model.get("variant"),
            dtype=cfg.model.dtype,
            memory={name: cfg.model.get(name) for name in MEMORY_SETTINGS},
        )
    facts = read_metadata(path)
    base = facts.get("base_model", "")
    return Adapter(
        file=path,
        run=None,
        base=base,
        norm=facts.get("norm", "joint"),
        motion=facts.get("motion", path.stem),
        prompt=facts.get("prompt", facts.get("motion", path.stem)),
        sampler=Sampler().changed(json.loads(facts.get("sampler", "{}"))),
        clip="tiny" if base == "tiny" else None,
        base_config=facts.get("base_config"),
        base_variant=facts.get("base_variant"),
        dtype=facts.get("base_dtype", "float32"),
    )


def with_changes(adapter: Adapter, cfg: DictConfig) -> Adapter:
    """The adapter with what the command line says otherwise: its base model, what saves memory."""
    memory = {**adapter.memory, **{n: cfg[n] for n in MEMORY_SETTINGS if cfg[n] is not None}}
    adapter = replace(adapter, memory=memory)
    if cfg.base is not None:
        adapter = replace(adapter, base=str(cfg.base), base_config=None, base_variant=None)
    if cfg.base_config is not None:
        adapter = replace(adapter, base_config=str(cfg.base_config))
    if not adapter.base:
        raise UserError(
            f"{adapter.file} does not say which base model it belongs to: name it with base=<model>."
        )
    return adapter


def load(adapter: Adapter, device: str, dtype: str) -> LAMPPipeline:
    """The pipeline of the adapter's base model with the motion in it, on the device."""
    import torch

    from lamp_lightning.generate import spare_memory
    from lamp_lightning.pipeline import LAMPPipeline
    from lamp_lightning.unet import MotionUNet
    from lamp_lightning.weights.base import load_base_model

    base = load_base_model(
        adapter.base,
        config=adapter.base_config,
        variant=adapter.base_variant,
        torch_dtype=getattr(torch, dtype),
    )
    unet = MotionUNet.from_unet(base.unet, norm=adapter.norm)
    for parameter in unet.tuned_parameters():
        parameter.data = parameter.data.float()
    pipeline = LAMPPipeline.from_base(base, unet)
    pipeline.load_motion(adapter.file)
    pipeline.set_progress_bar_config(disable=True)
    spare_memory(pipeline, adapter.memory)
    try:
        return pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}") from error


def output(out: Any, adapter: Adapter) -> tuple[Path, str | None]:
    """The folder to write to and the stem of the file names, None for one made of the prompt."""
    from lamp_lightning.video import writable_folder

    if out is None:
        return writable_folder(adapter.run.samples if adapter.run else Path("samples")), None
    path = Path(str(out)).expanduser()
    if path.suffix.lower() in (".mp4", ".gif"):
        return writable_folder(path.parent), path.stem
    return writable_folder(path), None


def existing_file(path: Any, what: str) -> Path:
    """``path``, if it is a file."""
    file = Path(str(path)).expanduser()
    if not file.is_file():
        raise UserError(f"{what}={file} is no file. Give the path of a picture (png, jpg, webp, ...).")
    return file


def warn_of_length(pipeline: LAMPPipeline, prompt: str) -> None:
    """Say what a text encoder of limited length will not see."""
    limit = pipeline.tokenizer.model_max_length
    count = len(pipeline.tokenizer(prompt, truncation=False, verbose=False).input_ids)
    if count > limit:
        print(
            f"Warning: the prompt is {count} tokens long; the model reads the first {limit}.", file=sys.stderr
        )


@contextmanager
def bar(total: int) -> Any:
    """A progress bar of denoising steps; gives the function that advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("painting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=total)
        advance: Callable[..., None] = lambda *_: progress.advance(task)  # noqa: E731
        yield advance


if __name__ == "__main__":
    sys.exit(main())
