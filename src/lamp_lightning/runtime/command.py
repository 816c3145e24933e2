"""Commands: they compose their config, print their help, and end in clear messages."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.config import (
    OWN_FOLDER,
    conf_dir,
    folder_name,
    motion_folders,
    offer_motions,
    options,
)
from lamp_lightning.runtime.console import call
from lamp_lightning.runtime.errors import UserError, is_out_of_memory, with_causes
from lamp_lightning.runtime.files import is_full, no_space, remove_empty
from lamp_lightning.runtime.help_layout import help_of
from lamp_lightning.runtime.locks import release_kept
from lamp_lightning.runtime.mistakes import check_additions, corrected, unknown_choice, unknown_setting
from lamp_lightning.runtime.names import is_unicode
from lamp_lightning.runtime.reading import literal
from lamp_lightning.runtime.schema import fields_of, is_list_of_texts, is_text, no_value
from lamp_lightning.runtime.stopping import (
    Stopped,
    StopRequest,
    Terminated,
    is_interrupt,
    say_stopped,
    terminated_as_interrupted,
)

_FIELDS = [pair for schema in COMMANDS.values() for pair in fields_of(schema)]
# Values that are one piece of text, whatever Hydra's grammar would see in their commas, braces and quotes.
FREE_TEXT = {name for name, field in _FIELDS if is_text(field)} | {"hydra.run.dir", "hydra.sweep.dir"}
# Of these, what is in brackets is a list.
_LISTS = {name for name, field in _FIELDS if is_list_of_texts(field)}
_QUOTED = re.compile(r"""^(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\$\{.*\}|null)$""", re.DOTALL)


def run_command(task: Callable[[DictConfig], Any], config_name: str, argv: Sequence[str]) -> int:
    """Compose `config_name` with the overrides in `argv`, run `task` on it, return the exit status.

    It is that of `run_plainly`. In a sweep (`-m`) a job that cannot run is reported and the others go on.
    """
    if "--help" in argv or "-h" in argv:

        def show_help() -> None:
            for root in data_roots(argv):
                offer_motions(root)
            given = [word for word in shell_overrides(argv) if not word.startswith("-")]
            print(help_of(config_name, corrected(given, config_name)))

        return run_plainly(show_help)
    failed = []
    here = os.getpid()

    def job(cfg: DictConfig) -> Any:
        results: list[Any] = []

        def check_and_run() -> None:
            check_additions(cfg, config_name, HydraConfig.get().overrides.task)
            results.append(task(cfg))

        status = run_plainly(check_and_run)
        if status:  # Hydra has made a folder for it, which may be empty still
            remove_empty(Path(HydraConfig.get().runtime.output_dir))
        if status > 128:  # stopped by a signal: the sweep ends here
            raise SystemExit(status)
        if status and os.getpid() != here:  # a launcher's worker: an exception finds its way back
            raise _JobFailed(status)
        if status:
            failed.append(status)
        return results[0] if results else None  # for a sweeper

    job.__module__, job.__qualname__ = task.__module__, task.__qualname__
    old_argv = sys.argv
    hydra_full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the messages are ours

    def compose_and_run() -> None:
        check_unicode(argv)
        for root in data_roots(argv):
            offer_motions(root)
        sys.argv = [old_argv[0], *corrected(shell_overrides(argv), config_name)]
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_config_message(error, config_name)) from error

    try:
        status = run_plainly(compose_and_run)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except _JobFailed as failure:
        return failure.status
    finally:
        release_kept()
        sys.argv = old_argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if hydra_full is not None:
            os.environ["HYDRA_FULL_ERROR"] = hydra_full
    return status or int(bool(failed))


def run_command_of_motion(task: Callable[[DictConfig], Any], config_name: str, argv: Sequence[str]) -> int:
    """`run_command`, where `motion=` says what `run=` says, as in training; and so in messages.

    `motion=` is a group of configs for Hydra, so it has to become `run=` before that looks.
    """
    overrides = [re.sub("^motion=", "run=", word) for word in argv]

    def as_typed(cfg: DictConfig) -> None:
        try:
            task(cfg)
        except UserError as error:
            raise UserError(re.sub(r"\brun=", "motion=", str(error))) from error

    as_typed.__module__, as_typed.__qualname__ = task.__module__, task.__qualname__
    return run_command(task if overrides == list(argv) else as_typed, config_name, overrides)


def data_roots(argv: Sequence[str]) -> list[str]:
    """The folders below which motions have theirs: those that the command line names, else the default."""
    named = [word.removeprefix("data.root=").strip("'") for word in argv if word.startswith("data.root=")]
    return [root for text in named for root in (text, *text.split(","))] or ["data"]


def check_unicode(argv: Sequence[str]) -> None:
    """Raise UserError where an override or the current folder is no UTF-8: no file could hold it."""
    for text in (*argv, os.getcwd()):
        if not is_unicode(text):
            raise UserError(f"{text!a} is no UTF-8 text. Rename the file or folder, or give another text.")


class _JobFailed(Exception):
    """A sweep's job in another process ended with this status, and said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run_plainly(task: Callable[[], Any]) -> int:
    """Run `task` and return the exit status: 130 or 143 after Ctrl-C or SIGTERM.

    What a user can mend ends in one message on stderr, and status 1; LAMP_FULL_ERROR=1 shows the traceback.
    """
    StopRequest.interrupted = False
    try:
        with terminated_as_interrupted():
            task()
    except Stopped as stop:
        return stop.status
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            say_stopped()
            return 143 if any(isinstance(each, Terminated) for each in with_causes(error)) else 130
        message = readable(error)
        if message is None or _full_errors():
            raise
        print(f"Error: {message}", file=sys.stderr)
        return 1
    return 0


def _full_errors() -> bool:
    return os.environ.get("LAMP_FULL_ERROR", "0") not in ("", "0")


def shell_overrides(argv: Sequence[str]) -> list[str]:
    """Overrides as people type them, in Hydra's grammar.

    The shell has eaten the quotes of `prompt="a dog, running"`: texts and paths are quoted again, except in
    sweeps. A motion that has no config but comes with `data.folder=` is the config `custom` of that name;
    `data.folder=` alone is a motion that is called like the folder.
    """
    argv = list(argv)
    sweep = any(word in ("-m", "--multirun") for word in argv)
    if not sweep:
        argv = [_quoted(word) for word in argv]
    given = {key: (i, value) for i, word in enumerate(argv) for key, eq, value in [word.partition("=")] if eq}
    if "data.folder" not in given or "motion.name" in given:
        return argv
    if "motion" in given:
        i, name = given["motion"]
        if re.fullmatch(r"[\w.-]+", name) and name not in options("motion"):
            argv[i : i + 1] = ["motion=custom", f"motion.name={name}"]
    else:
        name = folder_name(Path(given["data.folder"][1].strip("'")).absolute().name)
        if sweep and "," in given["data.folder"][1]:
            name = OWN_FOLDER
        own = [f"motion={name}"] if name in options("motion") else ["motion=custom", f"motion.name={name}"]
        i = given["data.folder"][0]  # beside it: words before and after an -m cannot be read
        argv[i:i] = own
    return argv


def _quoted(word: str) -> str:
    key, eq, value = word.partition("=")
    if not eq or key.lstrip("+") not in FREE_TEXT or _QUOTED.match(value):
        return word
    if key in _LISTS and value.startswith("[") and value.endswith("]"):
        return word
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """A text as a value of an override, whatever is in it: in quotes, and without interpolations."""
    # In Hydra a backslash counts only before a quote: runs of them before one, and at the end, double.
    escaped = re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", text)
    return "'" + literal(re.sub(r"(\\+)$", lambda m: m[1] * 2, escaped)) + "'"


def readable(error: BaseException) -> str | None:
    """One message for the person at the keyboard, or None where the error is a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_message(error)
    if isinstance(error, ValueError) and str(error) == "No trials are completed yet.":  # says Optuna
        return "No job of the sweep ended with a number: what went wrong with them stands above."
    if is_full(error):
        name = getattr(error, "filename", None)
        return str(no_space("A file" if name is None else os.fsdecode(name)))
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"Cannot use {os.fsdecode(error.filename)}: {error.strerror}. Check the path and what may "
            "be written there; hydra.run.dir=<folder> puts a run elsewhere."
        )
    if is_out_of_memory(error):
        return (
            f"The device ran out of memory ({(str(error).splitlines() or ['no more to be had'])[0]}). Try "
            "data.batch_size=1, model.gradient_checkpointing=true, trainer.precision=bf16-mixed or a smaller "
            "data.size."
        )
    if isinstance(error, UnicodeEncodeError):
        found = error.object[max(0, error.start - 60) : error.end + 20]
        return f"{found!a} cannot be written as {error.encoding}. Rename what has such a name."
    return None


def _config_message(error: BaseException, command: str | None = None) -> str:
    for cause in with_causes(error):
        if isinstance(cause, UserError):
            return str(cause)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as <setting>=<value>: {str(error).splitlines()[0]}. Text "
            "that holds = , quotes or brackets stands in quotes of its own, inside the shell's: "
            "'prompt=\"rain, at night\"', 'words=[\"model=sd15\"]'."
        )
    missing = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
    if missing:
        return no_value(missing[1])
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).startswith("motion/"):
        return _no_motion(str(error.missing_cfg_file).removeprefix("motion/"))
    if isinstance(error, MissingConfigException) and "/" in (name := str(error.missing_cfg_file)):
        group, _, choice = name.rpartition("/")
        return unknown_choice(group, choice, error.options or ())
    if several := re.search(r"Ambiguous value for argument '([^']+)'", str(error)):
        return (
            f"{several[1]} gives several values, of which one run takes one. A sweep has a run for each: "
            f"{call(command or 'train')} -m {several[1]}"
        )
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        text += " " + " ".join(str(error.__cause__).split())
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", str(error))
    if unknown:
        return unknown_setting((unknown[1] or unknown[2]).lstrip("+~"), command)
    return text


def _no_motion(name: str) -> str:
    """What to say where a motion has neither a folder nor a config."""
    (root, *_) = data_roots(sys.argv[1:])
    there = sorted({*options("motion"), *motion_folders(root)} - {"custom"})
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    return (
        f"There is no motion {name!r}: no folder {Path(root) / name}, and no config of that name."
        + (f" Did you mean {near[0]}?" if near else "")
        + f" There are {', '.join(there)}. Put 8-16 clips of yours into that folder, or say where they are "
        "with data.folder=<folder>."
    )
