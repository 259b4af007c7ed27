"""Settings from a TOML file, the environment and flags, into frozen dataclasses; later ones win.

The dataclass is the schema: field names are the keys, nested dataclasses are tables, tuples of dataclasses
are arrays of tables (in files only), defaults are defaults.
Every problem is found before anything is raised, each with its source, and an unknown key with the nearest
right one. What a setting means is not known here.

Types: str, int, float, bool, Path, Secret[str], enums, tuples of these, `X | None`, and classes with a
`parse` class method. Fields that end in `_seconds` also take texts such as "90s" or "1h30m". The metadata
keys `minimum` and `maximum` bound numbers.
"""

import dataclasses
import difflib
import enum
import functools
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from control_plane.core.errors import GatehouseError, InvalidInput, shown
from control_plane.core.secret import Secret
from control_plane.runtime.files import read_bounded

T = TypeVar("T")
MAX_FILE_BYTES = 1 << 20

_hints = functools.cache(typing.get_type_hints)  # of a dozen schemas, each looked at several times
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")


class SettingsError(InvalidInput):
    """The settings can't be used; `problems` has one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("settings: " + "; ".join(problems), hint="correct them and start again")
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    value: object
    source: str


def load(
    schema: type[T],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    prefix: str = "GATEHOUSE_",
    ignore: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> T:
    """Reads settings for `schema`.

    `environment` names are `prefix` and the path of keys in upper case, joined by underscores; names that
    start with one of `ignore` are others' business. `flags` are dotted paths; None means not given.

    Raises:
        SettingsError: with every problem that was found.
    """
    problems: list[str] = []
    paths = dict(_paths(schema, ()))
    given: dict[tuple[str, ...], _Given] = {}
    if file is not None:
        _from_table(_read(file, problems), schema, (), str(file), given, problems)
    _from_environment(environment or {}, prefix, ignore, paths, given, problems)
    for name, value in (flags or {}).items():
        path = tuple(name.replace("-", "_").split("."))
        if value is None:
            continue
        if path in paths:
            given[path] = _Given(value, "--" + name.replace("_", "-"))
        else:
            problems.append(_unknown("flag", name, (".".join(each) for each in paths)))
    settings = _build(schema, (), given, problems)
    if problems:
        raise SettingsError(problems)
    return cast(T, settings)


def _read(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        raw = read_bounded(file, MAX_FILE_BYTES)
    except OSError as error:
        problems.append(f"{file}: can't be read ({error.strerror})")
        return {}
    except InvalidInput as error:
        problems.append(error.message)
        return {}
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except ValueError as error:  # tomllib's own, a text that isn't UTF-8, a number of too many digits
        problems.append(f"{file}: is no TOML ({error})")
    except RecursionError:
        problems.append(f"{file}: is no TOML that is read here (too deeply nested)")
    return {}


def _is_table(kind: Any) -> bool:
    """A nested dataclass, unless it has a text form of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and not hasattr(kind, "parse")


def _paths(schema: type, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """All leaves of the schema with their types."""
    found: list[tuple[tuple[str, ...], Any]] = []
    hints = _hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if _is_table(kind):
            found += _paths(kind, (*path, field.name))
        else:
            found.append(((*path, field.name), kind))
    return found


def _from_table(
    table: Mapping[str, Any],
    schema: type,
    path: tuple[str, ...],
    source: str,
    given: dict[tuple[str, ...], _Given],
    problems: list[str],
) -> None:
    hints = _hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]
    for key, value in table.items():
        where = (*path, key)
        kind = hints.get(key) if key in names else None
        if kind is None:
            problems.append(
                f"{source}: " + _unknown("key", ".".join(where), (".".join((*path, n)) for n in names))
            )
        elif _is_table(kind):
            if isinstance(value, dict):
                _from_table(value, kind, where, source, given, problems)
            else:
                problems.append(f"{source}: {'.'.join(where)} is {shown(value)}, expected a table")
        else:
            given[where] = _Given(value, source)


def _from_environment(
    environment: Mapping[str, str],
    prefix: str,
    ignore: Sequence[str],
    paths: Mapping[tuple[str, ...], Any],
    given: dict[tuple[str, ...], _Given],
    problems: list[str],
) -> None:
    names = {prefix + "_".join(path).upper(): path for path in paths}
    for name, value in environment.items():
        if name in names:
            given[names[name]] = _Given(value, name)
        elif name.startswith(prefix) and not name.startswith(tuple(ignore)):
            problems.append(_unknown("environment variable", name, names))


def _unknown(what: str, name: str, known: Any) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.3)
    return f"unknown {what} {shown(name)}" + (f", did you mean {nearest[0]}?" if nearest else "")


def _build(
    schema: type, path: tuple[str, ...], given: Mapping[tuple[str, ...], _Given], problems: list[str]
) -> object:
    """An instance of the schema, or None when a value is missing or wrong; the reason is in `problems`."""
    hints = _hints(schema)
    values: dict[str, object] = {}
    whole = True
    for field in dataclasses.fields(schema):
        kind, where = hints[field.name], (*path, field.name)
        if _is_table(kind):
            values[field.name] = nested = _build(kind, where, given, problems)
            whole &= nested is not None
        elif where in given:
            found = given[where]
            try:
                values[field.name] = value = _convert(found.value, kind, field.name)
                _check_bounds(value, field.metadata)
            except (GatehouseError, ValueError) as error:
                whole = False
                problems.append(f"{found.source}: {'.'.join(where)}: {error}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            whole = False
            problems.append(f"{'.'.join(where)} is required and wasn't given")
    if not whole:
        return None
    try:
        return schema(**values)
    except GatehouseError as error:  # rules between fields, in the schema's __post_init__
        problems.append(str(error))
        return None


def _convert(value: object, kind: Any, name: str) -> object:
    """`value` as `kind`. Raises ValueError or a GatehouseError saying what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(each for each in arguments if each is not type(None)), name)
    if origin is tuple:
        if _is_table(arguments[0]):
            return _tables(value, arguments[0], name)
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError(f"is {shown(value)}, expected a list")
        return tuple(
            _convert(part.strip() if isinstance(part, str) else part, arguments[0], name) for part in parts
        )
    if origin is Secret:
        return value if isinstance(value, Secret) else Secret(_text(value))
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    return _convert_scalar(value, kind, name)


def path_of(text: str, setting: str) -> Path:
    """A path as people write it in settings, `~` for a home. Raises InvalidInput."""
    if "\0" in text:
        raise InvalidInput(f"{setting} is {shown(text)}: no path has a NUL in it")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidInput(
            f"{setting} is {shown(text)}: there is no such user, or no home", hint="write the path from / on"
        ) from error


def _tables(value: object, schema: type, name: str) -> tuple[object, ...]:
    """An array of tables, each as an instance of the schema."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"is {shown(value)}, expected an array of tables ([[{name}]] in a file)")
    found: list[object] = []
    for position, table in enumerate(value, 1):
        problems: list[str] = []
        given: dict[tuple[str, ...], _Given] = {}
        _from_table(table, schema, (), f"number {position}", given, problems)
        built = _build(schema, (), given, problems)
        if problems:
            raise ValueError("; ".join(problems))
        found.append(built)
    return tuple(found)


def _convert_scalar(value: object, kind: Any, name: str) -> object:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise ValueError(f"is {shown(value)}, expected true or false")
    if kind in (int, float):
        return _number(value, kind, name)
    if kind is str:
        return _text(value)
    if kind is Path:
        return path_of(_text(value), name)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            choices = ", ".join(str(member.value) for member in kind)
            raise ValueError(f"is {shown(value)}, expected one of {choices}") from None
    if hasattr(kind, "parse"):
        return kind.parse(_text(value))
    raise TypeError(f"settings can't hold a {kind!r}")


def _number(value: object, kind: type, name: str) -> int | float:
    if isinstance(value, str):
        if name.endswith("_seconds") and _DURATION.fullmatch(value):
            seconds = sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _DURATION_PART.findall(value))
            return kind(seconds)  # type: ignore[no-any-return]
        try:
            return kind(value)  # type: ignore[no-any-return]
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return kind(value)  # type: ignore[no-any-return]
    expected = (
        "a number of seconds or a text such as 90s or 1h30m" if name.endswith("_seconds") else "a number"
    )
    raise ValueError(f"is {shown(value)}, expected {expected}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {shown(value)}, expected a text")
    return value


def _check_bounds(value: object, metadata: Mapping[str, Any]) -> None:
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if isinstance(value, int | float) and (
        (minimum is not None and value < minimum) or (maximum is not None and value > maximum)
    ):
        bounds = " and ".join(
            f"{word} {bound}"
            for word, bound in (("at least", minimum), ("at most", maximum))
            if bound is not None
        )
        raise ValueError(f"is {value}, must be {bounds}")
