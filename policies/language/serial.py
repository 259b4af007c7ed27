"""Values of Rego as text: JSON in and out, exactly, and the notation of Rego itself.

`parse_json` keeps every number as written; `json_text` writes what OPA's `json.marshal` writes (keys
sorted, no blanks, `<`, `>` and `&` escaped); `render` writes Rego notation, as string interpolation and
`sprintf("%v")` show it.

Not here: YAML (`builtins.encoding`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from policies.language.numbers import NumberLimitExceededError, number_text, parse_number
from policies.language.values import (
    FALSE,
    MAX_NESTING,
    TRUE,
    Boolean,
    NestingLimitExceededError,
    Object,
    Set,
    Value,
    order_key,
)

_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """Text that is not JSON; the message says where."""


def parse_json(text: str) -> Value:
    """The value of a JSON text. Raises JsonError, NumberLimitExceededError or NestingLimitExceededError.

    A key given twice keeps the last value, as in OPA; documents that must not have duplicates (trust
    bundles) are not read here. Lone surrogates become U+FFFD, as Go's decoder has it.
    """
    try:
        parsed = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise NestingLimitExceededError(f"JSON nested deeper than {MAX_NESTING}") from error
    return _converted(parsed, MAX_NESTING)


def _refuse_constant(name: str) -> Any:
    raise JsonError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    parse_float=parse_number, parse_int=parse_number, parse_constant=_refuse_constant, strict=True
)


def _converted(parsed: Any, nesting: int) -> Value:
    if isinstance(parsed, str):
        return replace_surrogates(parsed)
    if isinstance(parsed, bool):
        return TRUE if parsed else FALSE
    if isinstance(parsed, list):
        if nesting <= 0:
            raise NestingLimitExceededError(f"JSON nested deeper than {MAX_NESTING}")
        return tuple([_converted(item, nesting - 1) for item in parsed])
    if isinstance(parsed, dict):
        if nesting <= 0:
            raise NestingLimitExceededError(f"JSON nested deeper than {MAX_NESTING}")
        return Object(
            {replace_surrogates(key): _converted(item, nesting - 1) for key, item in parsed.items()}
        )
    return parsed  # type: ignore[no-any-return] # None, int and Real are values as they are


def replace_surrogates(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 string can hold."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def json_key(key: Value) -> str:
    """The JSON object key for a Rego key: a string as it is, anything else as its JSON text."""
    return key if isinstance(key, str) else json_text(key)


def json_text(value: Value, *, prefix: str = "", indent: str | None = None) -> str:
    """JSON as OPA's `json.marshal` writes it; with `indent`, one element a line, lines after the first
    prefixed.
    """
    pieces: list[str] = []
    _write(value, pieces.append, None if indent is None else "\n" + prefix, indent or "")
    return "".join(pieces)


def _write(value: Value, put: Any, newline: str | None, indent: str) -> None:
    if value is None:
        put("null")
    elif isinstance(value, str):
        put(json_string(value))
    elif isinstance(value, Boolean):
        put("true" if value is TRUE else "false")
    elif isinstance(value, Object):
        pairs = sorted(((json_key(key), item) for key, item in value.items()), key=lambda pair: pair[0])
        _write_members(
            "{}",
            [(json_string(key) + (":" if newline is None else ": "), item) for key, item in pairs],
            put,
            newline,
            indent,
        )
    elif isinstance(value, tuple):
        _write_members("[]", [("", item) for item in value], put, newline, indent)
    elif isinstance(value, Set):
        _write_members("[]", [("", item) for item in value.ordered_members()], put, newline, indent)
    else:
        put(number_text(value))


def _write_members(
    brackets: str, entries: list[tuple[str, Value]], put: Any, newline: str | None, indent: str
) -> None:
    put(brackets[0])
    inner = None if newline is None else newline + indent
    for position, (lead, item) in enumerate(entries):
        if position:
            put(",")
        if inner is not None:
            put(inner)
        put(lead)
        _write(item, put, inner, indent)
    if entries and newline is not None:
        put(newline)
    put(brackets[1])


_JSON_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\b": "\\b",
    "\f": "\\f",
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_JSON_SPECIAL = re.compile('["\\\\<>&\u2028\u2029\x00-\x1f]')


def json_string(text: str) -> str:
    """A JSON string literal with the escapes that Go's encoder writes."""
    text = replace_surrogates(text)
    return '"' + _JSON_SPECIAL.sub(lambda m: _JSON_ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", text) + '"'


_QUOTE_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quote(text: str) -> str:
    """A string literal as Go's strconv.Quote writes it: what is not printable is escaped."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    pieces = []
    for character in text:
        code = ord(character)
        if character in _QUOTE_ESCAPES:
            pieces.append(_QUOTE_ESCAPES[character])
        elif character.isprintable():
            pieces.append(character)
        elif code < 0x80:
            pieces.append(f"\\x{code:02x}")
        else:
            pieces.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(pieces) + '"'


def render(value: Value) -> str:
    """The value in Rego notation: `{"a": [1, true]}`, `{1, 2}`, `set()`."""
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if isinstance(value, Boolean):
        return "true" if value is TRUE else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(render, value)) + "]"
    if isinstance(value, Object):
        return "{" + ", ".join(f"{render(key)}: {render(item)}" for key, item in value.ordered_items()) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(map(render, value.ordered_members())) + "}" if value else "set()"
    return number_text(value)


__all__ = [
    "JsonError",
    "NestingLimitExceededError",
    "NumberLimitExceededError",
    "json_key",
    "json_string",
    "json_text",
    "order_key",
    "parse_json",
    "quote",
    "render",
    "replace_surrogates",
]
