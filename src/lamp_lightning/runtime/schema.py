"""How settings are declared: a typed field with its default, its range and the sentence that explains it.

From a declaration come the defaults of a config, the lines of `--help`, and the checks of command lines and
files.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import Schema, shortened
from lamp_lightning.runtime.reading import describe as describe_fault

MANY = 10**12  # more than any count
REQUIRED = "???"  # OmegaConf's mark of a setting that the user must give


@dataclass(frozen=True)
class Means:
    """What a value may be, in words, where its type does not say it well."""

    words: str


class Settings(Schema):
    """A group of settings. Its fields are declared with `setting`, or are groups themselves."""


def setting(
    default: Any, sentence: str, *, config: Any = PydanticUndefined, recipe: str | None = None, **limits: Any
) -> Any:
    """The declaration of a setting.

    Args:
        default: `...` for a setting that must be given.
        sentence: what it is for, without a period.
        config: what stands in configs in place of the default.
        recipe: or which value of `model.recipe` stands there.
        limits: those of pydantic's `Field`.
    """
    if recipe is not None:
        config = f"${{model.recipe.{recipe}}}"
    extra = {} if config is PydanticUndefined else {"config": config}
    return Field(default, description=sentence, json_schema_extra=extra, **limits)


# -- types of values -----------------------------------------------------------------------------------------


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def _not_blank(text: str) -> str:
    if not text.strip() or "\0" in text:  # no path or prompt has a zero byte
        raise ValueError("it is no text")
    return text


def is_plain(value: Any) -> bool:
    """Whether a value holds no others."""
    return value is None or isinstance(value, str | int | float)


def plain_options(value: Any, levels: int = 2) -> Any:
    """Names with plain values or lists of them, in two levels."""
    if not isinstance(value, Mapping):
        raise ValueError("it is no mapping")
    for key, each in value.items():
        if not isinstance(key, str) or key.startswith("_"):
            raise ValueError(f"{key!r} is no name of an option")
        if isinstance(each, list) and all(map(is_plain, each)):
            continue
        if not is_plain(each):
            if levels == 1:
                raise ValueError("it is nested too deeply")
            plain_options(each, levels - 1)
    return value


Text = Annotated[str, BeforeValidator(_as_text), AfterValidator(_not_blank), Means("a text")]
AnyText = Annotated[str, BeforeValidator(_as_text), Means("a text")]  # which may be empty
Texts = Annotated[
    list[Annotated[str, AfterValidator(_not_blank)]], Means("a list of texts, like [a lake,a river]")
]
Options = Annotated[Any, AfterValidator(plain_options), Means("options like {timestep_spacing: trailing}")]


T = TypeVar("T")
S = TypeVar("S", bound=Schema)
OneOrSeveral: TypeAlias = T | Annotated[list[T], Field(min_length=1)]


# -- what a declaration says ---------------------------------------------------------------------------------


def fields_of(schema: type[Schema], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted names and declarations of all settings, those of inner groups included."""
    for key, field in schema.model_fields.items():
        name = f"{prefix}{field.alias or key}"
        if (inner := group_of(field)) is not None:
            yield from fields_of(inner, f"{name}.")
        else:
            yield name, field


def group_of(field: FieldInfo) -> type[Settings] | None:
    """The group that a field is, or None where it is a setting."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind
    return None


def defaults(
    schema: type[Schema], *, null: bool = False, without: Mapping[str, type[Schema]] = MappingProxyType({})
) -> dict[str, Any]:
    """The node of a config with all settings of a group but the inner groups `without`.

    With `null` every setting is None, which means "as it was before".
    """
    node: dict[str, Any] = {}
    for key, field in schema.model_fields.items():
        name, inner = field.alias or key, group_of(field)
        if inner is None:
            node[name] = None if null else default_of(field)
        elif without.get(name) is not inner and type(None) not in get_args(field.annotation):
            node[name] = defaults(inner, null=null)
    return node


def completed(schema: type[Schema], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file, and the defaults of settings that came after it was written.

    A group that names what it is given to (`_target_`) stays as it is: that has defaults of its own.
    """
    whole = dict(values)
    if "_target_" in values:
        return whole
    for key, field in schema.model_fields.items():
        name, inner = field.alias or key, group_of(field)
        if inner is not None and isinstance(values.get(name), Mapping):
            whole[name] = completed(inner, values[name])
        elif not field.is_required() and name not in whole:
            value = field.get_default(call_default_factory=True)
            if isinstance(value, Settings):
                value = value.model_dump(by_alias=True)
            whole[name] = list(value) if isinstance(value, tuple) else value
    return whole


def is_text(field: FieldInfo) -> bool:
    """Whether a setting may be any text."""
    return str in _kinds(field.annotation)


def is_list_of_texts(field: FieldInfo) -> bool:
    """Whether a setting may be a text or a list of texts."""
    return any(
        get_origin(kind) is list and str in _kinds(get_args(kind)[0]) for kind in _kinds(field.annotation)
    )


def _kinds(kind: Any) -> list[Any]:
    """The types that a type is a union of."""
    if get_origin(kind) is Annotated:
        return _kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [each for inner in get_args(kind) for each in _kinds(inner)]
    return [kind]


def default_of(field: FieldInfo) -> Any:
    """The default that stands in configs."""
    extra = cast(dict[str, Any], field.json_schema_extra or {})
    if "config" in extra:
        return extra["config"]
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def choices_of(field: FieldInfo | None) -> tuple[Any, ...]:
    """What a setting may be, where that is one of a few values; else none."""
    kind = None if field is None else field.annotation
    return get_args(kind) if get_origin(kind) is Literal else ()


def meaning(field: FieldInfo) -> str:
    """What a setting may be, in words: "a whole number from 1 to 1,000"."""
    return _words(field.annotation, field.metadata)


def _words(kind: Any, metadata: Sequence[Any]) -> str:
    inside = get_args(kind)
    told = next((each.words for each in reversed(metadata) if isinstance(each, Means)), None)
    if told is None and get_origin(kind) is Annotated:
        own = [m for each in inside[1:] for m in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return _words(inside[0], (*metadata, *own))
    if get_origin(kind) in (Union, types.UnionType):
        told = told or " or ".join(_words(each, metadata) for each in inside if each is not type(None))
        return (
            told + ("," if "," in told and not told.startswith("a whole") else "") + " or null"
            if type(None) in inside
            else told
        )
    if told is not None:
        return told
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, inside))
    number = {int: "a whole number", float: "a number"}.get(kind)
    if number is None:
        return {bool: "true or false", str: "a text"}.get(kind, "a value")
    limits = {
        key: getattr(each, key) for each in metadata for key in ("ge", "gt", "le") if hasattr(each, key)
    }
    if "gt" in limits:
        return f"{number} above {limits['gt']}"
    if limits.get("le", MANY) != MANY:
        return f"{number} from {limits['ge']:,} to {limits['le']:,}"
    return f"{number} of at least {limits['ge']}" if "ge" in limits else number


# -- checking ------------------------------------------------------------------------------------------------


def setting_at(schema: type[Schema], place: Sequence[Any]) -> tuple[str, FieldInfo | None]:
    """The dotted name of the setting with a fault, and its declaration unless it is a group."""
    path, inner, field = [], schema, None
    for key in place:
        field = next((f for k, f in inner.model_fields.items() if key == (f.alias or k)), None)
        path.append(str(key))
        group = None if field is None else group_of(field)
        if group is None:
            return ".".join(path), field
        inner = group
    return ".".join(path), None


def check_settings(schema: type[Settings], cfg: DictConfig, may_be_null: tuple[str, ...] = ()) -> None:
    """Check the composed settings of a command; those that its schema does not know are the user's own.

    Args:
        schema: of the command.
        cfg: its config.
        may_be_null: beginnings of names of settings that may also have no value.

    Raises:
        UserError: names the first setting whose value cannot be used, and what it may be.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(no_value(missing[0]))
    values = OmegaConf.to_container(cfg, resolve=True)
    try:
        schema.model_validate(values)
        return
    except ValidationError as error:
        errors = error.errors(include_url=False)
    for fault in errors:
        name, field = setting_at(schema, fault["loc"])
        found = value_at(values, name)
        if fault["type"] in ("missing", "extra_forbidden") or (
            found is None and name.startswith(may_be_null)
        ):
            continue
        words = "a group of settings" if field is None else meaning(field)
        shown = "null" if found is None else repr(found)
        near = [each for each in choices_of(field) if str(each).startswith(f"{found}-")]
        hint = f"Did you mean {name}={' or '.join(near)}?" if near else f"Give it as {name}=<value>."
        raise UserError(f"{name} must be {words}, but is {shown}. {hint}")


def usable(schema: type[S], group: str, values: Mapping[str, Any]) -> S:
    """The settings of a group that a program gives. Raises UserError with the first value that is wrong."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, field = setting_at(schema, first["loc"])
        may_be = first["msg"].lower() if field is None else f"must be {meaning(field)}"
        raise UserError(f"{group}.{name} {may_be}, but is {first['input']!r}.") from error


def describe(schema: type[Schema], error: ValidationError) -> str:
    """The first fault that pydantic found in settings of a file: its name, what was found, what it may be."""
    first = error.errors(include_url=False)[0]
    name, field = setting_at(schema, first["loc"])
    if field is None or _is_absent(first, name):
        return describe_fault(error)
    return f"{name!r} is {shortened(first['input'])}: it must be {meaning(field)}"


def _is_absent(error: Any, name: str) -> bool:
    """Whether pydantic found a setting missing or unknown, and not a part of its value."""
    return error["type"] in ("missing", "extra_forbidden") and len(error["loc"]) == name.count(".") + 1


def value_at(values: Any, name: str) -> Any:
    """The value of a dotted name in nested mappings."""
    for key in name.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def no_value(name: str) -> str:
    """What is said of a setting that must be given and is not."""
    return f"The setting {name} has no value. Give it as {name}=<value>."
