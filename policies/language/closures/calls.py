"""Built-in functions of what the input gives: common conditions on one text directly, others by `Builtin`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.builtins.globs import compile_glob, delimiter_text
from policies.language.builtins.registry import Builtin
from policies.language.builtins.regular import compile_pattern
from policies.language.closures.conditions import (
    MISSING,
    WRONG_WAY,
    Known,
    Read,
    Test,
    Unknown,
    member_test,
    plain_value,
)
from policies.language.concrete.errors import BuiltinFailedError
from policies.language.values import FALSE, Set


def called(builtin: Builtin, operands: list[Known | Unknown]) -> Known | Unknown:
    """The result of a built-in; a value when all operands are known."""
    if any(isinstance(operand, Known) and operand.value is MISSING for operand in operands):
        return Known(MISSING)
    if all(isinstance(operand, Known) for operand in operands):
        return Known(
            _applied(builtin, tuple(operand.value for operand in operands if isinstance(operand, Known)))
        )
    fast = _fast(builtin.name, operands)
    if fast is not None:
        return fast
    reads = [_reader(operand) for operand in operands]

    def read(document: Any) -> Any:
        values = tuple([plain_value(one(document)) for one in reads])
        return MISSING if MISSING in values else _applied(builtin, values)

    return Unknown(read)


def _reader(operand: Known | Unknown) -> Read:
    if isinstance(operand, Unknown):
        return operand.read
    value = operand.value
    return lambda _document: value


def _applied(builtin: Builtin, values: tuple[Any, ...]) -> Any:
    assert builtin.function is not None  # refused before
    try:
        if not builtin.signature.variadic:
            builtin.check_operands(values)
        return builtin.function(*values)
    except BuiltinError as error:
        if builtin.tolerant:
            return FALSE
        if isinstance(error, HaltError):
            raise BuiltinFailedError(f"{builtin.name}: {error}", code=error.code) from error
        return MISSING


def _fast(name: str, operands: list[Known | Unknown]) -> Unknown | None:
    """Common conditions of one unknown string, without the way through `Builtin`."""
    match name, operands:
        case "startswith", [Unknown() as field, Known(value=str() as part)]:
            return _text_condition(field, lambda text: text.startswith(part), prefix=part)
        case "endswith", [Unknown() as field, Known(value=str() as part)]:
            return _text_condition(field, lambda text: text.endswith(part))
        case "contains", [Unknown() as field, Known(value=str() as part)]:
            return _text_condition(field, lambda text: part in text)
        case "internal.member_2", [Unknown(read=read) as field, Known(value=Set() | tuple() as collection)]:
            known = frozenset(collection)

            def is_in(document: Any) -> Any:
                found = read(document)
                return MISSING if found is MISSING else plain_value(found) in known

            return Unknown(is_in, test=member_test(field, known))
        case "regex.match", [Known(value=str() as pattern), Unknown() as field]:
            return _matcher(field, lambda: compile_pattern(pattern))
        case "glob.match", [
            Known(value=str() as pattern),
            Known(value=delimiters),
            Unknown() as field,
        ] if not (
            "?" in pattern or "[" in pattern  # text that is not ASCII needs the slow way's check
        ):
            return _matcher(field, lambda: compile_glob(pattern, delimiter_text(delimiters)))
    return None


def _matcher(field: Unknown, compile_it: Callable[[], Any]) -> Unknown | None:
    try:
        search = compile_it().search
    except BuiltinError:
        return None  # the slow way says what is wrong, or that the call is undefined
    return _text_condition(field, lambda text: search(text) is not None)


def _text_condition(field: Unknown, holds: Callable[[str], bool], prefix: str | None = None) -> Unknown:
    """A condition on a string; undefined for anything else."""
    read = field.read

    def value(document: Any) -> Any:
        found = read(document)
        return holds(found) if type(found) is str else MISSING

    test: Test
    if field.path is not None and len(field.path) == 2:
        test = _prefix_of_two(field.path, prefix) if prefix is not None else _text_of_two(field.path, holds)
    else:

        def test(document: Any) -> bool:
            found = read(document)
            return type(found) is str and holds(found)

    return Unknown(value, test=test)


# A field two levels deep (`input.request.path`) is the common case; reading it in place saves a call.


def _prefix_of_two(path: tuple[Any, ...], prefix: str) -> Test:
    first, second = path

    def test(document: Any) -> bool:
        try:
            found = document[first][second]
        except WRONG_WAY:
            return False
        return type(found) is str and found.startswith(prefix)

    return test


def _text_of_two(path: tuple[Any, ...], holds: Callable[[str], bool]) -> Test:
    first, second = path

    def test(document: Any) -> bool:
        try:
            found = document[first][second]
        except WRONG_WAY:
            return False
        return type(found) is str and holds(found)

    return test
