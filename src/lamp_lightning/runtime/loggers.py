"""Where a run is reported: Weights & Biases, a CSV table, TensorBoard, or only the run folder.

Each of the config group `logger` is a function of the run that returns a Lightning logger or None. A logger
that cannot show pictures and videos gets none: all are files anyway.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder


def wandb_logger(
    run: RunFolder,
    project: str = "lamp-lightning",
    entity: str | None = None,
    mode: str = "auto",
    tags: Sequence[str] = (),
) -> WandbLogger:
    """A W&B run of its own for this training run, grouped with the jobs of its sweep.

    `mode` is `online`, `offline`, or `auto`: online where a login is found (`wandb login` or
    `WANDB_API_KEY`), else offline. Never asks for a login.
    """
    import wandb

    if mode not in ("auto", "online", "offline"):
        raise UserError(f"logger.mode must be auto, online or offline, but is {mode!r}.")
    wandb.finish()  # a run that is still open would swallow this one's records
    logging.getLogger("wandb").setLevel(logging.ERROR)
    settings = {
        "project": project,
        "entity": entity,
        "name": run.name,
        "group": run.info.get("group"),
        "id": run.info["id"],
        "resume": "allow",
        "dir": str(run.path),
        "tags": list(tags),
        "job_type": run.info.get("job_type", "train"),
    }
    online = _wanted_mode(mode) == "online"
    experiment = _online(settings, required=mode == "online") if online else None
    if experiment is None:
        # Offline there is nothing to resume from: the id alone ties the parts of a resumed run together.
        settings.pop("resume")
        experiment = wandb.init(**settings, mode="offline", settings=wandb.Settings(silent=True))
    return WandbLogger(experiment=experiment, project=project, save_dir=str(run.path))


def csv_logger(run: RunFolder) -> CSVLogger:
    """`csv/metrics.csv` in the run folder."""
    return CSVLogger(save_dir=run.path, name="", version="csv", flush_logs_every_n_steps=10)


def tensorboard_logger(run: RunFolder) -> TensorBoardLogger:
    """Event files in `tensorboard/` of the run folder."""
    try:
        return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard needs TensorBoard: pip install 'lamp-lightning[tensorboard]'. "
            "Or use logger=csv."
        ) from error


def no_logger(run: RunFolder) -> None:
    """Only the files in the run folder."""
    return None


def log_media(
    logger: Logger | None, captions: Mapping[Path, str], sheet: Path, *, name: str, step: int
) -> None:
    """Show videos (mp4 or gif files) with captions, and their contact sheet (PNG), under `name`."""
    if isinstance(logger, WandbLogger):
        import wandb

        media: dict[str, Any] = {}
        for i, (file, caption) in enumerate(captions.items()):
            kind: Any = file.suffix[1:]
            media[f"{name}/{i}"] = wandb.Video(str(file), caption=caption, format=kind)
        media[f"{name}/contact_sheet"] = wandb.Image(str(sheet), caption=f"step {step}")
        logger.experiment.log({**media, "trainer/global_step": step})
    elif isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        picture = np.array(Image.open(sheet, formats=["PNG"]).convert("RGB"))
        logger.experiment.add_image(f"{name}/contact_sheet", picture, step, dataformats="HWC")


def log_adapter(logger: Logger | None, run: RunFolder, metadata: dict[str, Any]) -> None:
    """Keep the motion adapter as a W&B artifact."""
    if isinstance(logger, WandbLogger) and run.adapter.is_file():
        import wandb

        artifact = wandb.Artifact(f"motion-{run.info['id']}", type="motion-adapter", metadata=metadata)
        artifact.add_file(str(run.adapter), policy="immutable")  # not copied a second time
        logger.experiment.log_artifact(artifact)


def summarise(logger: Logger | None, values: dict[str, float]) -> None:
    """Set what W&B's table of runs shows for this run."""
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(values)


def close(logger: Logger | None, *, failed: bool = False) -> None:
    """End the run's records, so that the next job of a sweep begins its own."""
    if logger is None:
        return
    with contextlib.suppress(Exception):
        logger.finalize("failed" if failed else "success")
    if isinstance(logger, WandbLogger):
        import wandb

        wandb.finish(exit_code=int(failed))


@contextlib.contextmanager
def result_logger(logger_cfg: Any, folder: Path, job_type: str) -> Iterator[Logger | None]:
    """The logger that a command's config names, for results in a folder that is no run; closed at the end."""
    info = {"id": secrets.token_hex(4), "group": None, "job_type": job_type}
    logger = instantiate(logger_cfg, _partial_=True, _convert_="all")(RunFolder(folder.absolute(), info))
    yield logger
    close(logger)


def where_to_look(logger: Logger | None) -> list[tuple[str, str]]:
    """What to tell the user about the records: (what, where or which command)."""
    if isinstance(logger, WandbLogger):
        experiment = logger.experiment
        folder = Path(experiment.dir).parent
        if not getattr(experiment, "offline", experiment.settings._offline):
            return [("W&B", str(experiment.url))]
        parts = sorted(folder.parent.glob(f"offline-run-*-{experiment.id}")) or [folder]  # several if resumed
        return [
            ("W&B, look", f"wandb leet {short(folder)}"),
            ("W&B, upload", f"wandb sync {' '.join(map(short, parts))}"),
        ]
    if isinstance(logger, CSVLogger):
        return [("numbers", short(Path(logger.log_dir) / "metrics.csv"))]
    if isinstance(logger, TensorBoardLogger):
        return [("TensorBoard", f"tensorboard --logdir {short(Path(logger.log_dir))}")]
    return []


def _wanted_mode(mode: str) -> str:
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto")
    if mode in ("offline", "disabled", "dryrun"):
        return "offline"
    return "online" if mode == "online" or _logged_in() else "offline"


def _logged_in() -> bool:
    """Whether W&B has credentials here; asks nobody."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(Exception):
        if "prompt" in inspect.signature(wandb.login).parameters:
            return bool(wandb.login(prompt=False, verify=False))
        from netrc import netrc

        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
        return netrc().authenticators(host) is not None
    return False


def _online(settings: dict[str, Any], *, required: bool) -> Any:
    import wandb

    try:
        if not _logged_in():  # wandb.init would ask
            raise UserError("you are not logged in: run `wandb login` first")
        return wandb.init(**settings, mode="online", settings=wandb.Settings(silent=True, init_timeout=30))
    except (UserError, wandb.errors.Error, OSError) as error:
        wandb.teardown()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if required:
            raise UserError(f"logger.mode=online, but W&B cannot be reached: {reason}") from error
        print(f"W&B cannot be reached ({reason}); logging offline.")
        return None
