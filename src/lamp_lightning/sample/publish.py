"""What of a motion goes to the hub: the adapter, its card, and the pictures and videos that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.metrics.metrics_json import RunMetrics, read_metrics
from lamp_lightning.models.adapter import copy_adapter, header_of
from lamp_lightning.models.header_schema import Header
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import scratch
from lamp_lightning.runtime.hub import ADAPTER, check_token, is_id, publish
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.sample.card import CardFacts, licence_of, model_card

VIDEOS = 4  # that are shown, by default
_SETTINGS = {  # of a run's config, for the card; none of them is a path
    "learning rate": "tuner.learning_rate",
    "clips at once": "data.batch_size",
    "frames of a sample": "data.num_frames",
    "every so many frames": "data.frame_stride",
    "mirrored": "motion.flip",
    "precision": "trainer.precision",
    "seed": "seed",
}


@dataclass(frozen=True)
class Shared:
    """What goes to the hub, by its name in the repository, and the licence that the card names."""

    files: Mapping[str, Path | bytes]
    header: Header
    license: str


def push(
    where: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str | None = None,
    create_pr: bool = False,
    **card: Any,
) -> Any:
    """Publish the motion of a run folder or adapter file.

    Arguments and errors are those of `LAMPPipeline.push_motion_to_hub`.
    """
    check_token(token)
    with scratch() as folder:
        shared = gather(where, repo, folder, **card)
        motion = shared.header.motion or "a motion"
        return publish(
            repo,
            shared.files,
            message=message or f"The motion {motion}, by lamp-lightning",
            private=private,
            token=token,
            create_pr=create_pr,
        )


def gather(
    where: str | Path,
    repo: str,
    folder: Path,
    *,
    videos: int = VIDEOS,
    clips: bool = True,
    base: str | None = None,
    license: str | None = None,
) -> Shared:
    """The files that are published of a motion.

    Args:
        where: a run folder or an adapter file.
        repo: where they go, for the card.
        folder: for intermediate files.
        videos: how many of the run's videos are shown.
        clips: whether the contact sheet of the training clips is shown, which makes their frames public.
        base: what the published adapter calls its base model; None: as the adapter does.
        license: of the motion, in the hub's words; None: the base model's.

    Raises:
        UserError: no motion, or one whose base model only this machine has.
    """
    file, run = _located(Path(where).expanduser())
    header = header_of(file)
    changes = without_paths(header, base)
    if changes:
        tuned, file = file, folder / ADAPTER
        copy_adapter(tuned, file, changes)
        header = header_of(file)
    files: dict[str, Path | bytes] = {ADAPTER: file}
    metrics, shown, settings = None, [], []
    if run is not None:
        cfg = RunFolder.open(run.path)[1]
        settings = list(_settings(cfg, run))
        metrics = read_metrics(run.metrics) if run.metrics.is_file() else None
        pictures = [run.contact_sheet, *([run.clips] if clips else [])]
        files |= {place.name: place for place in pictures if place.is_file()}
        shown = _videos(run, metrics, videos)
        for video in shown:
            for name in filter(None, (video["file"], video.get("gif"))):
                files[name] = run.path / name
    facts = CardFacts(
        repo,
        header,
        file.stat().st_size,
        license,
        settings,
        metrics,
        shown,
        sheet="contact_sheet.png" if "contact_sheet.png" in files else None,
        clips="clips.png" if "clips.png" in files else None,
    )
    return Shared({"README.md": model_card(facts).encode(), **files}, header, licence_of(facts).label)


def without_paths(header: Header, base: str | None) -> dict[str, Any]:
    """What an adapter's header has to say otherwise, so that it means something on other machines.

    Raises:
        UserError: its base model is a folder or file of this machine and `base` does not say what that is, or
            `base` is no name on the hub.
    """
    changes: dict[str, Any] = {}
    if base is not None:
        if base not in TOY_MODELS and not is_id(base):
            raise UserError(f"base={base} is no name of a model on the hub: give owner/name.")
        changes |= {"base_model": base, "base_config": None}
    elif header.base_model is not None and _is_path(header.base_model):
        raise UserError(
            f"The motion names {header.base_model} as its base model, which only this machine has. Say which "
            "model of the hub that is: base=<owner/name>."
        )
    elif header.base_config is not None and _is_path(header.base_config):
        changes["base_config"] = None
    if header.base_lora is not None and _is_path(header.base_lora) and not _is_in_hub(header.base_lora):
        raise UserError(
            f"The motion was tuned with the LoRA {header.base_lora}, which only this machine has. Publish "
            "that first, and tune with model.lora=<owner/name>."
        )
    if header.painter is not None and _is_path(header.painter):
        changes |= dict.fromkeys(("painter", "painter_config", "painter_variant"))
    if header.clip and _is_path(header.clip):
        changes["clip"] = ""
    return {name: value for name, value in changes.items() if getattr(header, name) != value}


def _is_path(name: str) -> bool:
    """Whether a model's name is a folder or file, there or not, and none that the hub could know."""
    return name not in TOY_MODELS and (not is_id(name) or Path(name).exists())


def _is_in_hub(lora: str) -> bool:
    """Whether a LoRA is named as one of the hub: `owner/name/<file>.safetensors`."""
    parts = lora.split("/")
    return is_id("/".join(parts[:2])) and len(parts) > 2 and not Path(lora).exists()


def _located(path: Path) -> tuple[Path, RunFolder | None]:
    """The adapter of a run folder, or an adapter file, and the run folder that it lies in, if any."""
    if path.is_dir():
        run = RunFolder.open(path)[0]
        if not run.adapter.is_file():
            raise UserError(f"{path} has no adapter yet: the run has not come so far. Tune it to the end.")
        return run.adapter, run
    return path, _run_of(path)


def _run_of(file: Path) -> RunFolder | None:
    run = RunFolder(file.absolute().parent)
    return (
        run
        if run.config_file.is_file() and run.info_file.is_file() and run.adapter == file.absolute()
        else None
    )


def _settings(cfg: DictConfig, run: RunFolder) -> list[tuple[str, Any]]:
    """What a run's config says of its tuning, for people."""
    found = [(name, OmegaConf.select(cfg, key, default=None)) for name, key in _SETTINGS.items()]
    hardware = RunFolder.open(run.path)[0].info.get("hardware", {})
    names = [str(hardware[key]) for key in ("name", "device") if hardware.get(key)][:1]
    return [
        *((name, value) for name, value in found if value is not None),
        *(("computed on", each) for each in names),
    ]


def _videos(run: RunFolder, metrics: RunMetrics | None, most: int) -> list[dict[str, Any]]:
    """The run's final videos that are there: their names in the run and the repository, prompt and seed."""
    found: list[dict[str, Any]] = []
    for each in () if metrics is None else metrics.videos:
        file = run.videos / each.file
        if len(found) < most and file.is_file():
            gif = file.with_suffix(".gif")
            found.append(
                {
                    "file": f"{run.videos.name}/{file.name}",
                    "gif": f"{run.videos.name}/{gif.name}" if gif.is_file() and gif != file else None,
                    "prompt": each.prompt or "",
                    "seed": each.seed,
                }
            )
    return found
