"""Pages of settings, made of the declarations in `lamp_lightning.runtime.settings` while the site is built.

They take the place of a mark in the pages of `docs/settings/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from lamp_lightning.runtime import schema as declared
from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.config import composed, conf_dir
from lamp_lightning.runtime.help_layout import about_option

HIDDEN = "_target_"  # a class, of the configs alone
MARK = "<!-- settings -->"


def write_settings(app: Any, name: str, source: list[str]) -> None:
    """Fill a page `settings/<command>` with its settings, and the overview with the choices."""
    folder, _, command = name.partition("/")
    if folder == "settings" and MARK in source[0]:
        lines = _choices() if command == "index" else _settings(command)
        source[0] = source[0].replace(MARK, "\n".join(lines))


def _settings(command: str) -> Iterator[str]:
    schema = COMMANDS[command]
    yield from ((schema.__doc__ or "").replace("``", "`").strip(), "")
    yield from _examples(conf_dir() / f"{command}.yaml")
    cfg = composed(command)
    groups = {key: declared.group_of(field) for key, field in schema.model_fields.items()}
    plain = [f"{key}" for key, group in groups.items() if group is None]
    if plain:
        yield from ("## Of the command itself", "")
        names = {schema.model_fields[key].alias or key for key in plain}
        yield from _list(((n, f) for n, f in declared.fields_of(schema) if n in names), cfg)
    for key, group in groups.items():
        if group is None:
            continue
        name = schema.model_fields[key].alias or key
        yield from (f"## {name}", "", group.__doc__ or "", "")
        yield from _list(declared.fields_of(group, f"{name}."), cfg)


def _examples(file: Path) -> Iterator[str]:
    comments = [
        line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    calls = [line for line in comments if line.startswith("python -m")]
    yield from ("```bash", *calls, "```", "")


def _list(fields: Iterator[tuple[str, Any]], cfg: Any) -> Iterator[str]:
    written = OmegaConf.to_container(cfg, resolve=False)
    for name, field in fields:
        if not _is_in(written, name) or name.endswith(HIDDEN):
            continue
        words = declared.meaning(field)
        yield f"`{name}`"
        yield f": {_code(field.description)}. {_code(words[0].upper() + words[1:])}."
        yield f"  {_default(declared.default_of(field), _value(cfg, name))}"
        yield ""


def _default(inside: Any, value: Any) -> str:
    """Where a value comes from, and what it is with the tiny model."""
    if value == declared.REQUIRED:
        return "Must be given."
    shown = f"`{_shown(value)}`"
    if isinstance(inside, str) and inside.startswith("${model.recipe."):
        return f"Default: what suits the model, which for `tiny` is {shown}."
    return f"Default: {shown}."


def _is_in(values: Any, name: str) -> bool:
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _value(cfg: Any, name: str) -> Any:
    """A value of a composed config; where it hangs on a setting that must be given, as it is written."""
    if OmegaConf.is_missing(cfg, name):
        return declared.REQUIRED
    try:
        value = OmegaConf.select(cfg, name)
    except InterpolationToMissingValueError:
        return _raw(cfg, name)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _raw(cfg: Any, name: str) -> Any:
    value = OmegaConf.to_container(cfg, resolve=False)
    for key in name.split("."):
        value = value[key]
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def _code(text: str) -> str:
    """A text of the command line as Markdown: what Markdown would take for markup is escaped."""
    return "".join(f"\\{c}" if c in "*_<>[]$" else c for c in text)


def _choices() -> Iterator[str]:
    for group in sorted(path for path in conf_dir().rglob("*") if path.is_dir() and path.name != "shared"):
        files = sorted(group.glob("*.yaml"))
        if not files:
            continue
        name = group.relative_to(conf_dir()).as_posix()
        prefix, _, rest = name.partition("/")
        yield from (f"### {name}", "")
        for file in files:
            yield f"`{prefix}={rest + '/' if rest else ''}{file.stem}`"
            yield f": {_about(file)}"
            yield ""


def _about(file: Path) -> str:
    """The first comment of a config, or what it sets."""
    if comment := about_option(file):
        return _code(comment)
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return _code(_shown({key: value for key, value in values.items() if key != "defaults"}))


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", write_settings)
    return {"parallel_read_safe": True}
