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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from packaging.version import Version

from lamp_lightning.runtime.console import program, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder

APPENDS = Version("0.30")  # of W&B: from here on it is a setting whether a run is appended to


class StepLogger(WandbLogger):
    """A `WandbLogger` whose step is that of the training: the number of optimiser steps that are done.

    So W&B's own axis counts training steps, in `wandb leet`, too, and a resumed run goes on where it was.
    Numbers of a step that W&B has closed already join its latest one: it would drop them.

    Args:
        trainer: where the steps are counted; without one they are those that `log_metrics` is given.
    """

    trainer: Any = None
    samples: Any = None  # the growing table of sample videos

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self.trainer is not None:
            step = max(step or 0, self.trainer.global_step)
        if step is None:
            self.experiment.log(dict(metrics))
        else:
            row = {**metrics, "trainer/global_step": step}
            self.experiment.log(row, step=max(step, self.experiment.step))


def wandb_logger(
    run: RunFolder,
    project: str = "lamp-lightning",
    entity: str | None = None,
    mode: str = "auto",
    tags: Sequence[str] = (),
) -> StepLogger:
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
        "tags": list(tags or ()),
        "job_type": run.info.get("job_type", "train"),
    }
    online = _wanted_mode(mode) == "online"
    experiment = _online(settings, required=mode == "online") if online else None
    if experiment is None:
        # Offline there is nothing to resume from: the id alone ties the parts of a resumed run together.
        settings.pop("resume")
        experiment = wandb.init(**settings, mode="offline", settings=wandb.Settings(silent=True))
    return StepLogger(experiment=experiment, project=project, save_dir=str(run.path))


def csv_logger(run: RunFolder) -> CSVLogger:
    """`csv/metrics.csv` in the run folder."""
    return CSVLogger(save_dir=run.path, name="", version="csv", flush_logs_every_n_steps=10)


def tensorboard_logger(run: RunFolder) -> TensorBoardLogger:
    """Event files in `tensorboard/` of the run folder."""
    try:
        return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard needs TensorBoard: pip install tensorboard. Or use logger=csv."
        ) from error


def no_logger(run: RunFolder) -> None:
    """Only the files in the run folder."""
    return None


def log_media(
    logger: Logger | None,
    captions: Mapping[Path, str],
    sheet: Path,
    *,
    name: str,
    step: int,
    facts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Show videos (mp4 or gif files) with captions, and their contact sheet (PNG), under `name`.

    `facts` of each video, such as prompt, seed and measures, make W&B's tables: `<name>/table` of these
    videos, and `samples/table`, to which the videos of all steps are added.
    """
    if isinstance(logger, WandbLogger):
        import wandb

        def shown(file: Path, caption: str | None = None) -> Any:
            kind: Any = file.suffix[1:]
            return wandb.Video(str(file), caption=caption, format=kind)

        media = {f"{name}/{i}": shown(*each) for i, each in enumerate(captions.items())}
        if facts and isinstance(logger, StepLogger):
            columns: list[Any] = ["step", "video", *(key for key in facts[0] if key != "file")]
            tables = {f"{name}/table": wandb.Table(columns=columns)} if name != "samples" else {}
            logger.samples = logger.samples or wandb.Table(columns=columns, log_mode="INCREMENTAL")
            tables["samples/table"] = logger.samples
            for table in tables.values():
                for file, fact in zip(captions, facts, strict=True):
                    row: dict[Any, Any] = {"step": step, "video": shown(file), **fact}
                    table.add_data(*(row.get(column) for column in table.columns))
            media |= tables
        logger.log_metrics(media, step)
    log_picture(logger, sheet, name=f"{name}/contact_sheet", step=step)


def log_picture(logger: Logger | None, file: Path, *, name: str, step: int) -> None:
    """Show a picture (PNG) under `name`."""
    if isinstance(logger, WandbLogger):
        import wandb

        picture: Any = wandb.Image(str(file), caption=f"step {step}")
        logger.log_metrics({name: picture}, step)
    elif isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        pixels = np.array(Image.open(file, formats=["PNG"]).convert("RGB"))
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")


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
    failed = True
    try:
        yield logger
        failed = False
    finally:
        close(logger, failed=failed)


def where_to_look(logger: Logger | None) -> list[tuple[str, str]]:
    """What to tell the user about the records: (what, where or which command)."""
    if isinstance(logger, WandbLogger):
        experiment = logger.experiment
        folder = Path(experiment.dir).parent
        if not getattr(experiment, "offline", experiment.settings._offline):
            return [("W&B", str(experiment.url))]
        parts = sorted(folder.parent.glob(f"offline-run-*-{experiment.id}")) or [folder]
        return [
            ("W&B, look", f"{program('wandb')} leet {short(folder)}"),
            ("W&B, upload", f"{_sync(len(parts))} {' '.join(map(short, parts))}"),
        ]
    if isinstance(logger, CSVLogger):
        return [("numbers", short(Path(logger.log_dir) / "metrics.csv"))]
    if isinstance(logger, TensorBoardLogger):
        return [("TensorBoard", f"{program('tensorboard')} --logdir {short(Path(logger.log_dir))}")]
    return []


def _sync(parts: int) -> str:
    """The command that uploads so many parts of one run, of which a later one goes on with the earlier."""
    upload = f"{program('wandb')} sync"
    if parts == 1:
        return upload
    return f"WANDB_RESUME=allow {upload}" if Version(version("wandb")) >= APPENDS else f"{upload} --append"


def _wanted_mode(mode: str) -> str:
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto")
    if mode in ("offline", "disabled", "dryrun"):
        return "offline"
    return "online" if mode == "online" or logged_in() else "offline"


def logged_in() -> bool:
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
        if not logged_in():  # wandb.init would ask
            raise UserError("you are not logged in: run `wandb login` first")
        return wandb.init(**settings, mode="online", settings=wandb.Settings(silent=True, init_timeout=30))
    except (UserError, wandb.errors.Error, OSError) as error:
        wandb.teardown()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if required:
            raise UserError(f"logger.mode=online, but W&B cannot be reached: {reason}") from error
        print(f"W&B cannot be reached ({reason}); logging offline.")
        return None
