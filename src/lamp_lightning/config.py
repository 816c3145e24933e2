"""Configuration: where it is, what values it may hold, and commands that compose it and end in clear words.

The config groups live in ``conf/`` of a checkout and in ``lamp_lightning/conf`` of an installed wheel.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lamp_lightning.errors import UserError
from lamp_lightning.precision import PRECISIONS
from lamp_lightning.runtime import hardware
from lamp_lightning.stopping import Stopped

GROUPS = ("motion", "model", "data", "sampler", "trainer", "logger", "method", "experiment")
# Values that are one piece of text, whatever Hydra's grammar would see in their commas, braces and quotes.
FREE_TEXT = {
    "from", "prompt", "negative_prompt", "first_frame", "out", "run", "resume", "base", "base_config",
    "motion.name", "motion.prompt", "video", "source_prompt", "painter", "painter_config", "prompts", "again",
    "runs", "title", "folder", "truth", "first_frames", "reference", "clip", "fid", "fvd",
    "data.folder", "data.root", "data.cache_dir", "data.captions",
    "model.path", "model.config", "model.painter", "model.painter_config", "model.clip",
    "sampler.negative_prompt", "hydra.run.dir", "hydra.sweep.dir",
}  # fmt: skip
_LISTS = {"runs", "prompt", "first_frame", "run"}  # of these, what stands in brackets is a list
_QUOTED = re.compile(r"""^(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\$\{.*\}|null)$""", re.DOTALL)


def conf_dir() -> Path:
    """The folder with the config groups, of this checkout or of the installed wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(
        f"The config folder is missing: neither {here / 'conf'} nor {here.parents[1] / 'conf'} exists."
    )


def options(group: str) -> list[str]:
    """The names that a config group offers."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def composed(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config ``name`` with overrides, as a command would see it; also inside of a command."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = running


def folder_name(text: Any, max_length: int = 60) -> str:
    """Any text as the name of a folder: letters, digits and ``_.=+-``; never empty, hidden or endless."""
    name = re.sub(r"[^\w.=+-]+", "_", str(text)).strip("._-")
    return name[:max_length].rstrip("._-") or "untitled"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("file_stem", lambda path: Path(str(path)).stem, replace=True)
OmegaConf.register_new_resolver("hardware", hardware.resolver, replace=True)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)


# -- checking values -----------------------------------------------------------------------------------------


def check_config(cfg: DictConfig, may_be_null: Sequence[str] = ()) -> None:
    """Raise UserError naming the first setting whose value cannot be used, and what it may be.

    Settings whose name begins with one of ``may_be_null`` may also have no value.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(_no_value(missing[0]))
    for key, (accepts, meaning) in _RULES.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is _ABSENT:  # `sample` has fewer settings than `train`
            continue
        if value is None and key.startswith(tuple(may_be_null)):
            continue
        if not accepts(value):
            raise UserError(f"{key} must be {meaning}, but is {_shown(value)}. Give it as {key}=<value>.")


def _no_value(key: str) -> str:
    return f"The setting {key} has no value. Give it as {key}=<value>."


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(minimum: int, *, null: bool = False) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        if value is None:
            return null
        return isinstance(value, int) and not isinstance(value, bool) and value >= minimum

    return accepts, f"a whole number of at least {minimum}" + (" or null" if null else "")


def _number(low: float, high: float = math.inf, *, above: bool = False) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        return _is_number(value) and (value > low if above else value >= low) and value <= high

    if high < math.inf:
        return accepts, f"a number from {low:g} to {high:g}"
    return accepts, f"a number {'above' if above else 'of at least'} {low:g}"


def _number_or_null(low: float) -> tuple[Callable[[Any], bool], str]:
    accepts, meaning = _number(low)
    return (lambda value: value is None or accepts(value)), f"{meaning} or null"


def _switch(*, null: bool = False) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        return isinstance(value, bool) or (null and value is None)

    return accepts, "true or false" + (" or null" if null else "")


def _one_of(*names: Any) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), "one of " + ", ".join(
        "null" if name is None else str(name) for name in names
    )


def _text(*, null: bool = True) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        return (value is None and null) or (isinstance(value, str | int | float) and bool(str(value).strip()))

    return accepts, "a text" + (" or null" if null else "")


def _is_size(value: Any) -> bool:
    return OmegaConf.is_list(value) and len(value) == 2 and all(_whole(8)[0](v) for v in value)


def _is_texts(value: Any) -> bool:
    return value is None or (
        OmegaConf.is_list(value) and all(isinstance(v, str) and v.strip() for v in value)
    )


def _is_mapping(value: Any) -> bool:
    return value is None or OmegaConf.is_dict(value)


def _several(accepts: Callable[[Any], bool], what: str) -> tuple[Callable[[Any], bool], str]:
    """One of them or a list of at least one."""

    def all_accepted(value: Any) -> bool:
        return (len(value) > 0 and all(map(accepts, value))) if OmegaConf.is_list(value) else accepts(value)

    return all_accepted, what


_FORMATS = ("mp4", "gif", "webp", "png")
_SIZE = "[height,width] in pixels, both at least 8, like [64,64]"
_ABSENT = object()
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _whole(0),
    "seeds": _several(_whole(0, null=True)[0], "a list of whole numbers, like [1,5,9], or null"),
    "prompt": _several(_text()[0], "a text, a list like [a lake,a river], or null"),
    "first_frame": _several(_text()[0], "a file, a folder, a list of files, or null"),
    "format": _several(
        lambda value: value in _FORMATS, f"one or some of {', '.join(_FORMATS)}, like [mp4,png]"
    ),
    "fit": _one_of("crop", "pad"),
    "batch": (lambda value: value == "auto" or _whole(1)[0](value), "auto or a whole number of at least 1"),
    "run": _several(_text()[0], "a run folder, an adapter file, or several like [waterfall:0.7,rain:0.5]"),
    "runs": _several(_text(null=False)[0], "a run folder, a folder or pattern of runs, or a list of these"),
    "title": _text(),
    "folder": _text(),
    "prompts": _text(),
    "truth": _text(),
    "first_frames": _text(),
    "reference": _text(),
    "clip": _text(),
    "fid": _text(),
    "fvd": _text(),
    "fid_arguments": (_is_mapping, "arguments like {return_features: true}, or null"),
    "fvd_arguments": (_is_mapping, "arguments like {rescale: true}, or null"),
    "decode_timeout": _number(0, above=True),
    "videos": _whole(0),
    "base": _text(),
    "base_config": _text(),
    "count": _whole(1),
    "precision": _one_of(None, *PRECISIONS),
    "strength": _number(0, 1),
    "follow": _number(0, 1),
    "paint_follow": _number(0, 1),
    "motion_strength": _number(0, 2),
    "paint_from": _one_of("inversion", "noise"),
    "overwrite": _switch(),
    "num_frames": _whole(2, null=True),
    "size": (lambda value: value == "auto" or _is_size(value), f"auto, or {_SIZE}"),
    "threads": _whole(1, null=True),
    "save_every": _whole(1),
    "motion.name": _text(null=False),
    "motion.prompt": _text(),
    "motion.prompts": (_is_texts, "a list of prompts, like [a lake,a river], or null"),
    "model.path": _text(null=False),
    "model.config": _text(),
    "model.variant": _text(),
    "model.painter": _text(),
    "model.painter_config": _text(),
    "model.painter_variant": _text(),
    "model.clip": _text(),
    "model.norm": _one_of("joint", "per_frame"),
    "model.dtype": _one_of("float32", "float16", "bfloat16"),
    "model.layers.kind": _one_of("lamp", "animatediff"),
    "model.layers.gate": _switch(),
    "model.layers.temporal_conv": _switch(),
    "model.layers.causal": _switch(),
    "model.layers.self_attention": _one_of("first_frame", "own", "first_and_former"),
    "model.layers.temporal_attention": _switch(),
    "model.gradient_checkpointing": _switch(),
    "model.attention_slicing": _switch(),
    "model.vae_slicing": _switch(),
    "model.vae_tiling": _switch(),
    "attention_slicing": _switch(null=True),
    "vae_slicing": _switch(null=True),
    "vae_tiling": _switch(null=True),
    "data.num_frames": _whole(2),
    "data.frame_stride": _whole(1),
    "data.batch_size": _whole(1),
    "data.num_workers": _whole(0),
    "data.use_captions": _switch(),
    "data.max_clips": _whole(1, null=True),
    "data.decode_timeout": _number(0, above=True),
    "data.flip": _switch(),
    "data.size": (_is_size, _SIZE),
    "tuner.optimizer": _one_of("adamw", "adamw8bit"),
    "tuner.learning_rate": _number(0, above=True),
    "tuner.weight_decay": _number(0),
    "tuner.schedule": _one_of("constant", "cosine"),
    "tuner.warmup_steps": _whole(0),
    "tuner.first_frame": _switch(),
    "tuner.tuned": (_is_texts, "a list of parameter sets, like [conv1d,attn1.to_q], or null"),
    "sampler.num_inference_steps": _whole(1),
    "sampler.guidance_scale": _number(0),
    "sampler.paint_guidance_scale": _number_or_null(0),
    "sampler.paint_steps": _whole(1, null=True),
    "sampler.shared_noise": _number(0, 1),
    "sampler.window": _whole(4),
    "sampler.overlap": _whole(1),
    "sampler.noise_sharing": _one_of("authors", "variance_preserving"),
    "sampler.start": _one_of("noise", "inversion", "warp", "still"),
    "sampler.warp_strength": _number(0),
    "sampler.guidance_rescale": _number(0, 1),
    "sampler.adain": _switch(),
    "sampler.histogram_matching": _switch(),
    "sampler.fps": _number(0, above=True),
    "trainer.max_steps": _whole(0),
    "trainer.precision": _one_of(*PRECISIONS),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.log_every_n_steps": _whole(1),
    "samples.every": _whole(1, null=True),
    "samples.while_training": _whole(0),
    "samples.final": _whole(0),
    "samples.seed": _whole(0),
    "motions": (lambda value: _is_texts(value) and bool(value), "a list of motions, like [waterfall,rain]"),
    "scenes": _whole(1),
    "steps": _whole(1, null=True),
    "entries": (
        lambda value: value is None or (_is_texts(value) and bool(value)),
        "a list of the suite's methods, like [lamp,untuned], or null",
    ),
    "words": (
        lambda value: value is not None and _is_texts(value),
        'a list of words of the train command, like \'words=["model=sd15","trainer=gpu"]\'',
    ),
    "quick": _switch(),
    "out": _text(),
}


# -- commands ------------------------------------------------------------------------------------------------


def run_command(task: Callable[[DictConfig], Any], config_name: str, argv: Sequence[str]) -> int:
    """Compose ``config_name`` with the overrides in ``argv``, run ``task`` on it, return the exit status.

    What a user can mend ends in one message on stderr and status 1; Ctrl-C or SIGTERM in 130 or 143. In a
    sweep (``-m``) a job that cannot run is reported and the others go on.
    """
    failed = []
    here = os.getpid()

    def job(cfg: DictConfig) -> None:
        status = run_plainly(lambda: task(cfg))
        if status > 128:  # stopped by a signal: the sweep ends here
            raise SystemExit(status)
        if status and os.getpid() != here:  # a launcher's worker: an exception finds its way back
            raise _JobFailed(status)
        if status:
            failed.append(status)

    job.__module__, job.__qualname__ = task.__module__, task.__qualname__
    old_argv, sys.argv = sys.argv, [sys.argv[0], *shell_overrides(argv)]
    hydra_full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the words for the user are ours
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except _JobFailed as failure:
        return failure.status
    except (HydraException, OmegaConfBaseException, OSError, UserError) as error:
        if _full_errors():
            raise
        print(f"Error: {readable(error)}", file=sys.stderr)
        return 1
    finally:
        sys.argv = old_argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if hydra_full is not None:
            os.environ["HYDRA_FULL_ERROR"] = hydra_full
    return 1 if failed else 0


class _JobFailed(Exception):
    """A sweep's job in another process ended with this status, and said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run_plainly(task: Callable[[], Any]) -> int:
    """Run ``task`` and return the exit status; what a user can mend becomes one message on stderr.

    ``LAMP_FULL_ERROR=1`` shows the traceback of such errors, too.
    """
    try:
        task()
    except Stopped as stop:
        return stop.status
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
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

    The shell has eaten the quotes of ``prompt="a dog, running"``: texts and paths are quoted again, except in
    sweeps, where commas separate values. A motion that has no config but comes with ``data.folder=`` is the
    config ``custom`` under that name.
    """
    argv = list(argv)
    sweep = any(word in ("-m", "--multirun") for word in argv)
    if not sweep:
        argv = [_quoted(word) for word in argv]
    given = {key: (i, value) for i, word in enumerate(argv) for key, eq, value in [word.partition("=")] if eq}
    if "motion" in given and "data.folder" in given and "motion.name" not in given:
        i, name = given["motion"]
        if re.fullmatch(r"[\w.-]+", name) and name not in options("motion"):
            argv[i : i + 1] = ["motion=custom", f"motion.name={name}"]
    return argv


def _quoted(word: str) -> str:
    key, eq, value = word.partition("=")
    if not eq or key.lstrip("+") not in FREE_TEXT or _QUOTED.match(value):
        return word
    if key in _LISTS and value.startswith("[") and value.endswith("]"):
        return word
    # In Hydra a backslash counts only before a quote: runs of them before one, and at the end, double.
    escaped = re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", value)
    escaped = re.sub(r"(\\+)$", lambda m: m[1] * 2, escaped).replace("${", r"\${")
    return f"{key}='{escaped}'"


def readable(error: BaseException) -> str | None:
    """One message for the person at the keyboard, or None where the error is a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_message(error)
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"Cannot use {os.fsdecode(error.filename)}: {error.strerror}. Check the path and what may "
            "be written there; hydra.run.dir=<folder> puts a run elsewhere."
        )
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"The device ran out of memory ({str(error).splitlines()[0]}). Try data.batch_size=1, "
            "model.gradient_checkpointing=true, trainer.precision=bf16-mixed or a smaller data.size."
        )
    return None


def _config_message(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if cause is not None:
        return str(cause)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as <setting>=<value>: {str(error).splitlines()[0]}. Text "
            "that holds = , quotes or brackets stands in quotes of its own, inside the shell's: "
            "'prompt=\"rain, at night\"', 'words=[\"model=sd15\"]'."
        )
    missing = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
    if missing:
        return _no_value(missing[1])
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        text += " " + " ".join(str(error.__cause__).split())
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", str(error))
    if unknown:
        key = (unknown[1] or unknown[2]).lstrip("+~")
        top = key.split(".")[0].split("@")[0].split("/")[0]
        near = difflib.get_close_matches(top, GROUPS, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}{key[len(top) :]}?" if near and near[0] != top else ""
        known = (
            f" There are the groups {', '.join(GROUPS)}; --help shows every setting."
            if "." not in key
            else ""
        )
        return f"There is no setting {key!r}.{hint}{known or ' --help shows every setting.'}"
    return text
