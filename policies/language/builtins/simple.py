"""Small families: types, casts, semantic versions, units, UUIDs, graphs, walking, and what only reports.

The UUID time of versions 1 and 2 is in nanoseconds since 1970 and wraps at 64 bits, as in OPA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.numbers import Number, parse_number
from policies.language.serial import render
from policies.language.values import (
    Boolean,
    Object,
    Set,
    Value,
    boolean,
    members,
    type_name,
)

# --- types ------------------------------------------------------------------------------------------


def _is(name: str) -> Callable[[Value], Boolean]:
    return lambda value: boolean(type_name(value) == name)


def _cast(name: str) -> Callable[[Value], Value]:
    def cast(value: Value) -> Value:
        if type_name(value) != name:
            raise OperandError.expected(1, name, type_name(value))
        return value

    return cast


def cast_array(value: Value) -> Value:
    if isinstance(value, Set):
        return value.ordered_members()
    return _cast("array")(value)


def cast_set(value: Value) -> Value:
    return Set(value) if isinstance(value, tuple) else _cast("set")(value)


# --- semantic versions -----------------------------------------------------------------------------

_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"v?([0-9]+)\.([0-9]+)\.([0-9]+)(?:-({_IDENTIFIERS}|))?(?:\+({_IDENTIFIERS}|))?")
_MAX_PART = 1 << 63


def _version(text: Value, position: int) -> tuple[tuple[int, ...], list[str]]:
    found = _VERSION.fullmatch(text) if isinstance(text, str) and len(text) < 1_000 else None
    parts = tuple(int(found[number]) for number in (1, 2, 3)) if found else ()
    if found is None or any(part >= _MAX_PART for part in parts):
        raise BuiltinError(f'semver.compare: operand {position}: string "{text}" is not a valid SemVer')
    return parts, found[4].split(".") if found[4] else []


def semver_compare(left: str, right: str) -> int:
    """-1, 0, 1 by the precedence of semver.org; build metadata does not count."""
    first, before = _version(left, 1)
    second, after = _version(right, 2)
    if first != second:
        return 1 if first > second else -1
    if not before or not after:
        return bool(after) - bool(before)
    for ours, theirs in zip(before, after, strict=False):
        if ours == theirs:
            continue
        if ours.isdigit() and theirs.isdigit():
            if int(ours) != int(theirs):
                return 1 if int(ours) > int(theirs) else -1
        elif ours.isdigit() != theirs.isdigit():
            return -1 if ours.isdigit() else 1
        else:
            return 1 if ours > theirs else -1
    return (len(before) > len(after)) - (len(before) < len(after))


def semver_is_valid(value: Value) -> Boolean:
    try:
        _version(value, 1)
    except BuiltinError:
        return boolean(False)
    return boolean(True)


# --- units -----------------------------------------------------------------------------------------

_AMOUNT = re.compile(r"[-+]?[0-9.]*(?:[eE][-+]?[0-9]+)?")
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50, "ei": 2**60}
_UNITS: dict[str, Fraction] = {name: Fraction(size) for name, size in {**_DECIMAL, **_BINARY}.items()}
_BYTE_UNITS = {**_UNITS, **{name + "b": size for name, size in _UNITS.items() if name}}


def _split_amount(text: str, function: str, what: str) -> tuple[Fraction, str]:
    text = text.replace('"', "")
    if " " in text:
        raise BuiltinError(f"{function}: spaces not allowed in resource strings")
    found = _AMOUNT.match(text)
    amount, unit = (text[: found.end()], text[found.end() :]) if found else ("", text)
    if not amount:
        raise BuiltinError(f"{function}: no {what} provided")
    if len(amount) > 60 or ((exponent := re.search(r"[eE][-+]?([0-9]+)", amount)) and len(exponent[1]) > 3):
        raise HaltError(f"{function}: the amount {amount[:60]!r} has too many digits")
    try:
        return Fraction(amount), unit
    except (ValueError, ZeroDivisionError) as error:
        raise BuiltinError(f"{function}: could not parse {what} to a number") from error


def units_parse(text: str) -> Number:
    """`1.5Ki` as a number; `m` is milli and `M` mega, other units in either case."""
    amount, unit = _split_amount(text, "units.parse", "amount")
    size = Fraction(1, 1000) if unit == "m" else _UNITS.get(unit.lower())
    if size is None:
        raise BuiltinError(f"units.parse: unit {unit} not recognized")
    return _decimal_places(amount * size, 10)


def _decimal_places(exact: Fraction, places: int) -> Number:
    if exact.denominator == 1:
        return exact.numerator
    scaled = round(exact * 10**places)
    sign, digits = "-" if scaled < 0 else "", str(abs(scaled)).rjust(places + 1, "0")
    return parse_number(f"{sign}{digits[:-places]}.{digits[-places:]}")


def units_parse_bytes(text: str) -> int:
    """`10KB` as a whole number of bytes."""
    amount, unit = _split_amount(text, "units.parse_bytes", "byte amount")
    size = _BYTE_UNITS.get(unit.lower())
    if size is None:
        raise BuiltinError(f"units.parse_bytes: byte unit {unit} not recognized")
    return int(amount * size)


# --- UUIDs -----------------------------------------------------------------------------------------

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_HUNDRED_NS_TO_1970 = 0x01B21DD213814000
_VARIANTS = ((0x80, 0x00, "Reserved"), (0xC0, 0x80, "RFC4122"), (0xE0, 0xC0, "Microsoft"))
_DOMAINS = {0: "Person", 1: "Group", 2: "Org"}


def uuid_parse(text: str) -> Object:
    """Version, variant, and for versions 1 and 2 what they encode."""
    data = _uuid_bytes(text)
    version = data[6] >> 4
    variant = next((name for mask, bits, name in _VARIANTS if data[8] & mask == bits), "Future")
    fields: dict[Value, Value] = {"version": version, "variant": variant}
    if version in (1, 2):
        node = data[10:]
        macs = ("local" if node[0] & 2 else "global") + ":" + ("multicast" if node[0] & 1 else "unicast")
        low, middle, high = data[0:4], data[4:6], int.from_bytes(data[6:8], "big") & 0x0FFF
        ticks = high << 48 | int.from_bytes(middle, "big") << 32 | int.from_bytes(low, "big")
        sequence = (data[8] & 0x3F) << 8 | data[9]
        fields |= {
            "nodeid": node.hex("-"),
            "macvariables": macs,
            "time": _wrapped((ticks - _HUNDRED_NS_TO_1970) * 100),
            "clocksequence": sequence,
        }
        if version == 2:
            fields |= {"id": int.from_bytes(low, "big"), "domain": _DOMAINS.get(data[9], f"Domain{data[9]}")}
    return Object(fields)


def _wrapped(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _uuid_bytes(text: str) -> bytes:
    if len(text) == 32 and re.fullmatch(r"[0-9a-fA-F]{32}", text):
        return bytes.fromhex(text)
    inner = text
    if len(text) == 45 and text[:9].lower() == "urn:uuid:":
        inner = text[9:]
    elif len(text) == 38:
        inner = text[1:-1]
    if not _UUID.fullmatch(inner):
        raise BuiltinError("invalid UUID")
    return bytes.fromhex(inner.replace("-", ""))


# --- graphs ----------------------------------------------------------------------------------------

MAX_PATHS = 100_000
"""Most paths that graph.reachable_paths may return; their number can be exponential."""


def reachable(graph: Object, initial: Value) -> Set:
    """The nodes that can be reached, the initial ones included, as far as the graph knows them."""
    seen: set[Value] = set()
    waiting = _neighbours(initial)
    while waiting:
        node = waiting.pop()
        if node in graph and node not in seen:
            seen.add(node)
            waiting.extend(_neighbours(graph[node]))
    return Set(seen)


def _neighbours(collection: Value) -> list[Value]:
    if isinstance(collection, Set):
        return list(collection.ordered_members())
    return list(collection) if isinstance(collection, tuple) else []


def reachable_paths(graph: Object, initial: Value) -> Set:
    """All longest paths without a repeated node."""
    paths: set[Value] = set()
    waiting: list[tuple[Value, ...]] = [(node,) for node in _neighbours(initial) if node in graph]
    while waiting:
        path = waiting.pop()
        # A node that points at itself is followed once when it is where the path begins, as in OPA.
        onward = [n for n in _neighbours(graph[path[-1]]) if n in graph and (n not in path or len(path) == 1)]
        if not _neighbours(graph[path[-1]]) or not onward:
            paths.add(path)
        else:
            waiting.extend((*path, node) for node in onward)
            if any(n not in graph or (n in path and len(path) > 1) for n in _neighbours(graph[path[-1]])):
                paths.add(path)
        if len(paths) + len(waiting) > MAX_PATHS:
            raise HaltError(f"graph.reachable_paths: more than {MAX_PATHS} paths")
    return Set(paths)


# --- walking, reporting ----------------------------------------------------------------------------


def walk(document: Value) -> Iterator[Value]:
    """`[path, value]` of a document and of everything in it."""
    return _walk((), document)


def _walk(path: tuple[Value, ...], value: Value) -> Iterator[Value]:
    yield path, value
    if isinstance(value, tuple | Object | Set):
        for key, item in members(value):
            yield from _walk((*path, key), item)


def template_string(parts: tuple[Value, ...]) -> str:
    """The text of an interpolated string: strings as they are, other values in Rego notation."""
    pieces = []
    for part in parts:
        value: Value = part
        if isinstance(part, Set):
            if not part:
                pieces.append("<undefined>")
                continue
            if len(part) > 1:
                raise HaltError("an interpolated expression has more than one value")
            value = part.ordered_members()[0]
        pieces.append(value if isinstance(value, str) else render(value))
    return "".join(pieces)


def say_nothing(*_values: Value) -> Boolean:
    """`print` and `trace`: decisions have no output."""
    return boolean(True)


FUNCTIONS = {
    "type_name": type_name,
    "is_null": _is("null"),
    "is_boolean": _is("boolean"),
    "is_number": _is("number"),
    "is_string": _is("string"),
    "is_array": _is("array"),
    "is_object": _is("object"),
    "is_set": _is("set"),
    "cast_null": _cast("null"),
    "cast_boolean": _cast("boolean"),
    "cast_string": _cast("string"),
    "cast_object": _cast("object"),
    "cast_array": cast_array,
    "cast_set": cast_set,
    "semver.compare": semver_compare,
    "semver.is_valid": semver_is_valid,
    "units.parse": units_parse,
    "units.parse_bytes": units_parse_bytes,
    "uuid.parse": uuid_parse,
    "graph.reachable": reachable,
    "graph.reachable_paths": reachable_paths,
    "walk": walk,
    "internal.template_string": template_string,
    "internal.print": say_nothing,
    "internal.test_case": say_nothing,
    "print": say_nothing,
    "trace": say_nothing,
}
