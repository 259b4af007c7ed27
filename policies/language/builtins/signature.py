"""The notation in which built-in functions declare their types, and the check of a call's operands.

A `Shape` is the type of a value as far as built-ins declare it. The checker turns shapes into its own
types; the evaluator only asks which kinds of value an operand may have at the top (`Shape.kinds`): deeper
requirements are the function's own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.language.numbers import Real
from policies.language.values import Boolean, Object, Set

Kind = Literal[
    "any", "null", "boolean", "number", "string", "array", "tuple", "set", "object", "union", "nothing"
]

_CLASSES: dict[str, frozenset[type]] = {
    "null": frozenset({type(None)}),
    "boolean": frozenset({Boolean}),
    "number": frozenset({int, Real}),
    "string": frozenset({str}),
    "array": frozenset({tuple}),
    "tuple": frozenset({tuple}),
    "set": frozenset({Set}),
    "object": frozenset({Object}),
}
_ALL_CLASSES = frozenset().union(*_CLASSES.values())


@dataclass(frozen=True, slots=True)
class Shape:
    """A declared type. `of`: the element of array and set, key and value of object, members of tuple and
    union.
    """

    kind: Kind
    of: tuple[Shape, ...] = ()

    def classes(self) -> frozenset[type]:
        """The Python classes of the values that this shape admits at its top."""
        if self.kind == "any":
            return _ALL_CLASSES
        if self.kind == "union":
            return frozenset().union(*(member.classes() for member in self.of))
        return _CLASSES[self.kind]

    def __str__(self) -> str:
        if self.kind == "union":
            return "any<" + ", ".join(map(str, self.of)) + ">"
        if self.kind == "object":
            return f"object[{self.of[0]}: {self.of[1]}]"
        if self.kind == "tuple":
            return f"array<{', '.join(map(str, self.of))}>"
        return self.kind + (f"[{self.of[0]}]" if self.of else "")


@dataclass(frozen=True, slots=True)
class Signature:
    """Types of the arguments and of the result; `variadic`: any number of arguments; result None: no
    value.
    """

    arguments: tuple[Shape, ...]
    result: Shape | None
    variadic: bool = False


def parse_signature(text: str) -> Signature:
    """`"string array[any]|set[any] -> boolean"` as a Signature; ValueError when it is not in the notation."""
    left, arrow, right = text.rpartition("->")
    if not arrow:
        raise ValueError(f"no '->' in the signature {text!r}")
    words = left.split()
    variadic = words == ["any*"]
    result = right.strip()
    return Signature(
        arguments=() if variadic else tuple(map(parse_shape, words)),
        result=None if result == "nothing" else parse_shape(result),
        variadic=variadic,
    )


def parse_shape(text: str) -> Shape:
    """One type of the notation."""
    shape, rest = _alternatives(text)
    if rest:
        raise ValueError(f"unexpected {rest!r} in the type {text!r}")
    return shape


def _alternatives(text: str) -> tuple[Shape, str]:
    members = []
    while True:
        shape, text = _single(text)
        members.append(shape)
        if not text.startswith("|"):
            return (members[0] if len(members) == 1 else Shape("union", tuple(members))), text
        text = text[1:]


def _single(text: str) -> tuple[Shape, str]:
    end = 0
    while end < len(text) and text[end].isalpha():
        end += 1
    kind, rest = text[:end], text[end:]
    if kind not in ("any", "null", "boolean", "number", "string", "array", "tuple", "set", "object"):
        raise ValueError(f"unknown type {kind!r}")
    parts: list[Shape] = []
    if rest.startswith("["):
        rest = rest[1:]
        while True:
            part, rest = _alternatives(rest)
            parts.append(part)
            if rest.startswith("]"):
                rest = rest[1:]
                break
            if not rest.startswith((",", ":")):
                raise ValueError(f"unclosed bracket before {rest!r}")
            rest = rest[1:]
    return Shape(kind, tuple(parts)), rest  # type: ignore[arg-type] # the tuple above is Kind's names
