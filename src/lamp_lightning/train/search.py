"""How a sweep of the train command ends: its jobs in order, the best first; a search by Optuna is kept."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lamp_lightning.runtime.console import call, is_first_process, print_results, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.sweeps import SWEEP_FILE

STUDY = "study.db"  # of Optuna, in the sweep's folder
SHOWN = 10  # jobs at the end of a sweep


class BestJob(Callback):
    """Hydra's callback that prepares a search by Optuna, and shows the best job of any sweep at its end."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not is_first_process() or not _is_search(config):
            return
        try:
            prepare_search(config)
        except UserError as error:  # Hydra would warn of it, and go on
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if is_first_process():
            show_jobs(config)


def prepare_search(config: DictConfig) -> None:
    """Let Optuna keep its study in the sweep's folder, from seeded trials.

    A sweep that goes on begins its study anew: the same trials come again, and finished jobs tell what they
    found. Raises UserError where a job would return nothing to optimise.
    """
    if config.optimized_metric is None:
        raise UserError(
            "hydra/sweeper=optuna needs to know what is best: optimized_metric=val/loss with held-out clips "
            "(data.validation=0.25), or loss, clip_score or another number of a run's metrics.json."
        )
    folder, sweeper = Path(str(config.hydra.sweep.dir)), config.hydra.sweeper
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / SWEEP_FILE)  # as Hydra's own sweeper does
    with read_write(config), open_dict(config):
        if sweeper.storage is None:
            (folder / STUDY).unlink(missing_ok=True)
            sweeper.storage = f"sqlite:///{folder.absolute() / STUDY}"
        sweeper.study_name = sweeper.study_name or folder.name
        if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
            sweeper.sampler.seed = config.seed % 2**32
        if not any(word.startswith("hydra.sweeper.direction=") for word in config.hydra.overrides.hydra):
            sweeper.direction = "maximize" if _more_is_better(config.optimized_metric) else "minimize"
    _quiet_optuna()


def show_jobs(config: DictConfig) -> None:
    """Print the jobs of a sweep that are finished, the best first, and where everything is."""
    folder = Path(str(config.hydra.sweep.dir))
    found = dict(_jobs(folder))
    if len(found) < 2:
        return
    name = _measure(config, [numbers for numbers, _ in found.values()])
    jobs = {job: (numbers[name], words) for job, (numbers, words) in found.items() if name in numbers}
    if not jobs:
        return
    order = sorted(jobs, key=lambda job: jobs[job][0], reverse=_maximised(config, name))
    print(f"\nThe jobs of {short(folder)}, the best {name} first:")
    for job in order[:SHOWN]:
        value, words = jobs[job]
        print(f"  {value:<12.6g}{words or job.name}")
    places: list[tuple[str, str | Path]] = []
    if len({value for value, _ in jobs.values()}) == 1:
        print(f"All have the same {name}: optimized_metric=clip_score, say, orders them by their videos.")
    else:
        places += [("folder", order[0])]
    if (folder / STUDY).is_file():
        places += [*_importance(folder), ("study", folder / STUDY)]
    places += [("all jobs", f"{call('collect')} runs={short(folder)}")]
    print_results(f"Best job: {jobs[order[0]][1] or order[0].name}", {}, places)


def _jobs(folder: Path) -> Iterator[tuple[Path, tuple[Mapping[str, float], str]]]:
    """The finished jobs below a sweep's folder: their numbers, and the settings in which they differ."""
    from lamp_lightning.metrics.metrics_json import read_metrics
    from lamp_lightning.report.runs import differing, read_run

    found = [read_run(file.parent) for file in sorted(folder.glob("*/metrics.json"))]
    runs = [run for run in found if not isinstance(run, str)]
    if not runs:
        return
    columns, _ = differing(runs)
    for run in runs:
        values = {key: run.settings.get(key, "null") for key in ("motion.name", *columns.values(), "seed")}
        differ = [key for key in values if len({each.settings.get(key) for each in runs}) > 1]
        words = [f"{key}={values[key]}" for key in differ]
        yield run.folder, (read_metrics(run.folder / "metrics.json").numbers, " ".join(words))


def _measure(config: DictConfig, found: list[Mapping[str, float]]) -> str:
    """The number that jobs are ordered by: the one that is asked for, else a loss that all of them have."""
    asked = config.get("optimized_metric")
    common = set.intersection(*(set(numbers) for numbers in found))
    return asked if asked in common else "val/loss" if "val/loss" in common else "loss"


def _is_search(config: DictConfig) -> bool:
    return "optuna" in str(config.hydra.sweeper.get("_target_")).lower()


def _maximised(config: DictConfig, name: str) -> bool:
    if _is_search(config):
        return "maximize" in str(config.hydra.sweeper.direction)
    return _more_is_better(name)


def _more_is_better(name: str) -> bool:
    from lamp_lightning.metrics.registry import MEASURES

    return name in MEASURES and MEASURES[name].better == "higher"


def _importance(folder: Path) -> Iterator[tuple[str, str]]:
    """What Optuna says of the share that each setting has in the result, where several were searched."""
    with contextlib.suppress(ImportError, ValueError, RuntimeError):
        import optuna
        from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

        study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder.absolute() / STUDY}")
        shares = get_param_importances(study, evaluator=MeanDecreaseImpurityImportanceEvaluator(seed=0))
        if len(shares) > 1:
            yield "importance", ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _quiet_optuna() -> None:
    """Without its remarks on each trial and on parts of it that may change."""
    import optuna

    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", module="optuna")
