"""Values as far as they are known: what a Rego term is while part of the input is unknown.

A symbolic value is a Rego value (`policies.language.values`) or one of the classes here. Each comes
with a guard, a formula that says under which requests the term has that value (`Outcome`); under no
guard at all it is undefined. Guards of one term exclude one another.

Not here: what follows from a value (relations), where values come from (terms, rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from policies.formula import Attribute, Formula
from policies.language.values import EMPTY_OBJECT, Object, Set, Value


@dataclass(frozen=True, slots=True)
class Unknown:
    """The value of an attribute of the request; its guard says that the attribute is present."""

    attribute: Attribute


Replacement: TypeAlias = "tuple[tuple[str, ...], Symbolic]"
"""A path and what `with` put there."""
Replaced: TypeAlias = "tuple[Replacement, ...]"


@dataclass(frozen=True, slots=True)
class Node:
    """An inner part of the unknown input (`input.source`, `input.request.headers`, `input.jwt.claims.x`).

    It has no value of its own until more of the path is known. `replaced` is what `with` had put below
    `input`, innermost last, where the part was read.
    """

    path: tuple[str, ...]
    replaced: Replaced = ()


@dataclass(frozen=True, slots=True)
class Derived:
    """The result of a built-in function on unknown values: only the evaluator of the policy knows it."""

    function: str
    arguments: tuple[Symbolic, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """An array of known length with an unknown value in it."""

    items: tuple[Symbolic, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """A collection whose members depend on the request: each is there where its guard holds.

    `key` is the position or key of the member; for a set it is the member itself. `total` says that the
    listed members are all there can be, which always holds here and is what makes `not … in` decidable.
    """

    kind: Literal["set", "array", "object"]
    members: tuple[tuple[Formula, Symbolic, Symbolic], ...]


Symbolic: TypeAlias = Value | Unknown | Node | Derived | Sequence | Choices
Outcome: TypeAlias = tuple[Formula, Symbolic]

UNKNOWN: Final = (Unknown, Node, Derived, Sequence, Choices)
"""The classes of what isn't a plain value."""


def is_known(value: Symbolic) -> bool:
    """Whether it is a plain Rego value."""
    return not isinstance(value, UNKNOWN)


def attributes_in(value: Symbolic) -> Iterator[Attribute]:
    """Every attribute that the value depends on, repeats included."""
    if isinstance(value, Unknown):
        yield value.attribute
    elif isinstance(value, Derived):
        for argument in value.arguments:
            yield from attributes_in(argument)
    elif isinstance(value, Sequence):
        for item in value.items:
            yield from attributes_in(item)
    elif isinstance(value, Choices):
        for _, key, member in value.members:
            yield from attributes_in(key)
            yield from attributes_in(member)


def text_of(value: Symbolic) -> str:
    """A canonical text: equal texts mean equal values. It goes into digests and messages."""
    from policies.language.serial import render  # the text form of plain values

    if isinstance(value, Unknown):
        return str(value.attribute)
    if isinstance(value, Node):
        changes = (f" with input.{'.'.join(path)} as {text_of(put)}" for path, put in value.replaced)
        return ".".join(("input", *value.path)) + "".join(changes)
    if isinstance(value, Derived):
        return f"{value.function}({', '.join(map(text_of, value.arguments))})"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(text_of, value.items))}]"
    if isinstance(value, Choices):
        listed = (f"{text_of(key)}: {text_of(member)} if {guard!r}" for guard, key, member in value.members)
        return f"{value.kind}({'; '.join(listed)})"
    return render(value)


def changed(below: Value, path: tuple[str, ...], value: Value) -> Value:
    """A value with another at a path below it, objects made on the way, as `with` does it."""
    if not path:
        return value
    entries: dict[Value, Value] = dict(below.items()) if isinstance(below, Object) else {}
    entries[path[0]] = changed(entries.get(path[0], EMPTY_OBJECT), path[1:], value)
    return Object(entries)


def sequence(items: tuple[Symbolic, ...]) -> Symbolic:
    """An array: plain where every item is known."""
    known = tuple(item for item in items if not isinstance(item, UNKNOWN))
    return known if len(known) == len(items) else Sequence(items)


def choices(
    kind: Literal["set", "array", "object"],
    members: list[tuple[Formula, Symbolic, Symbolic]],
    always: Formula,
) -> Symbolic:
    """A collection: a plain value where every member is known and there under every request (`always`)."""
    plain = [
        (key, member)
        for guard, key, member in members
        if guard is always and not isinstance(key, UNKNOWN) and not isinstance(member, UNKNOWN)
    ]
    if len(plain) < len(members):
        return Choices(kind, tuple(members))
    if kind == "set":
        return Set(member for _, member in plain)
    if kind == "array":
        return tuple(member for _, member in plain)
    return Object(dict(plain))
