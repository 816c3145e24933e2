"""`python -m lamp_lightning.evaluate run=<folder>` or `folder=<videos>`: measure videos, write tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Evaluate
from lamp_lightning.runtime.console import quiet, quiet_libraries, threads
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import check_settings

LEFT_OUT = 3  # the exit status where something could not be measured and the rest was


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 3 where something was left out, 1 for an error."""
    quiet()
    return run_command(evaluate, "evaluate", list(sys.argv[1:] if argv is None else argv))


def evaluate(cfg: DictConfig) -> None:
    """Measure what the config names. Raises SystemExit(3) where something was left out."""
    check_settings(Evaluate, cfg, may_be_null=("runs",))
    asked = [key for key in ("run", "runs", "folder") if cfg[key] is not None]
    if len(asked) != 1:
        found = "none of them" if not asked else " and ".join(f"{key}=" for key in asked)
        raise UserError(
            f"Give one of run=<run folder>, runs=<folder of runs> and folder=<folder of videos>, not {found}."
        )
    only_folder = [key for key in ("prompts", "truth", "first_frames") if cfg[key] is not None]
    if only_folder and cfg.folder is None:
        raise UserError(
            f"{only_folder[0]}= belongs to a folder of videos: give folder=<run folder>/videos, not run=."
        )
    import torch  # it takes seconds, so not before the config is right

    from lamp_lightning.evaluate.run import evaluate_folder, evaluate_runs

    quiet_libraries()
    torch.set_num_threads(threads(cfg.threads))
    if cfg.folder is not None:
        complete = evaluate_folder(Path(str(cfg.folder)).expanduser(), cfg)
    else:
        complete = evaluate_runs(_folders(cfg), cfg)
    if not complete:
        raise SystemExit(LEFT_OUT)


def _folders(cfg: DictConfig) -> list[Path]:
    """The run folders that `run` or `runs` names."""
    asked = cfg.run if cfg.runs is None else cfg.runs
    texts = [str(text) for text in asked] if OmegaConf.is_list(asked) else [str(asked)]
    if cfg.runs is None:
        return [Path(text).expanduser() for text in texts]
    from lamp_lightning.report.runs import find_runs

    return find_runs(texts)


if __name__ == "__main__":
    sys.exit(main())
