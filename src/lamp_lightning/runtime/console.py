"""What commands share at the terminal: quiet libraries, short paths, threads."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any


def quiet() -> None:
    """Show only what matters: warnings as one line each, and none of the libraries' small talk."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for library in ("httpx", "httpx2"):  # by which the hub is asked; Hydra would print each request
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    if not isinstance(warnings.showwarning, partial):
        warnings.showwarning = partial(_show_warning, warnings.showwarning)


def quiet_libraries() -> None:
    """What must come after the libraries are imported, since they set up their own logging."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_utilities", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # their reports were asked for


def _show_warning(show: Any, message: Any, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
    if Path(__file__).parents[1] in Path(filename).parents or category is UserWarning:
        print(f"Warning: {message}", file=sys.stderr, flush=True)
    else:
        show(message, category, filename, *args, **kwargs)


def threads(wanted: int | None) -> int:
    """CPU threads to compute with: as wanted, else OMP_NUM_THREADS, else all cores of this process."""
    if wanted is not None:
        return wanted
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def short(path: Path) -> str:
    """Relative to where the user is, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def program(name: str) -> str:
    """What calls a program of this environment: its name where the shell finds it, else its path."""
    here, found = Path(sys.executable).parent / name, shutil.which(name)
    return short(here) if here.exists() and (found is None or Path(found).absolute() != here) else name


def call(command: str) -> str:
    """What calls one of our commands, in a shell with or without this environment."""
    return f"{program('python')} -m lamp_lightning.{command}"


def print_results(
    title: str,
    figures: Iterable[str],
    places: Iterable[tuple[str, str | Path]],
) -> None:
    """The end of a command's report: what was done, its figures, and where everything is."""
    print(f"\n{title}")
    for line in figures:
        print(line)
    for name, place in places:
        print(f"  {name:<14}{short(place) if isinstance(place, Path) else place}")
    sys.stdout.flush()


def counted(number: int, word: str) -> str:
    """A number and a word for what is counted: `1 clip`, `2 clips`."""
    return f"{number} {word}{'s' * (number != 1)}"


def is_first_process() -> bool:
    """Whether this is the process that writes and talks, of the several of a multi-GPU run."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
