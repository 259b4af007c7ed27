"""Opaque conditions: what no atom can say, kept so that it can still be decided for one request.

A condition is a relation between symbolic values. Its digest is made of its text, so one condition is one
atom wherever it stands, and its negation is its complement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from policies import formula as f
from policies.formula import Formula
from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.registry import BUILTINS
from policies.language.concrete.world import UNDEFINED, Result, Undefined
from policies.language.source import Span
from policies.language.symbolic.values import (
    Choices,
    Derived,
    Node,
    Sequence,
    Symbolic,
    Unknown,
    attributes_in,
    changed,
    text_of,
)
from policies.language.values import FALSE, Object, Set, Value, compare, members

Holds = Callable[[Formula], bool]


@dataclass(frozen=True, slots=True)
class Condition:
    """`relation` is true, false, defined, equal, member, lt, lte, gt or gte; of one value or of two."""

    relation: str
    values: tuple[Symbolic, ...]

    @property
    def digest(self) -> str:
        """The name of the condition, 16 hexadecimal digits."""
        texts = [text_of(value) for value in self.values]
        if self.relation == "equal":
            texts.sort()
        return hashlib.sha256(f"{self.relation}: {' '.join(texts)}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Site:
    """Where an expression stands, and where the conditions that it needs are written down."""

    span: Span
    conditions: dict[str, Condition]

    def opaque(self, relation: str, values: tuple[Symbolic, ...], reason: str) -> Formula:
        """A condition as an atom."""
        condition = Condition(relation, values)
        digest = condition.digest
        self.conditions.setdefault(digest, condition)
        reads = {attribute for value in values for attribute in attributes_in(value)}
        return f.opaque(digest, str(self.span), reason, reads)


def decide(condition: Condition, document: Object, holds: Holds) -> bool:
    """Whether a condition holds for one input document; `holds` answers the guards of collections."""
    found = [concrete(value, document, holds) for value in condition.values]
    plain = [value for value in found if not isinstance(value, Undefined)]
    if len(plain) < len(found):
        return False
    if condition.relation == "defined":
        return True
    if condition.relation in ("true", "false"):
        return (plain[0] is FALSE) == (condition.relation == "false")
    left, right = plain
    if condition.relation == "equal":
        return left == right
    if condition.relation == "member":
        return any(value == left for _, value in members(right))
    order = compare(left, right)
    return {"lt": order < 0, "lte": order <= 0, "gt": order > 0, "gte": order >= 0}[condition.relation]


def concrete(value: Symbolic, document: Object, holds: Holds) -> Result:
    """A symbolic value for one input document, or UNDEFINED."""
    match value:
        case Unknown():
            return _at(document, (*value.attribute.name.split("."), *value.attribute.path))
        case Node():
            return _at(_as_replaced(value, document, holds), value.path)
        case Sequence():
            return _all(tuple(concrete(item, document, holds) for item in value.items))
        case Choices():
            return _collection(value, document, holds)
        case Derived():
            arguments = _all(tuple(concrete(one, document, holds) for one in value.arguments))
            return _call(value.function, arguments) if isinstance(arguments, tuple) else UNDEFINED
        case _:
            return value


def _as_replaced(node: Node, document: Object, holds: Holds) -> Value:
    """The document with what `with` had put into it where a part of it was read."""
    made: Value = document
    for path, value in node.replaced:
        put = concrete(value, document, holds)
        if not isinstance(put, Undefined):
            made = changed(made, path, put)
    return made


def _all(values: tuple[Result, ...]) -> Result:
    plain = tuple(value for value in values if not isinstance(value, Undefined))
    return plain if len(plain) == len(values) else UNDEFINED


def _collection(value: Choices, document: Object, holds: Holds) -> Result:
    rows = [
        (concrete(key, document, holds), concrete(member, document, holds))
        for guard, key, member in value.members
        if holds(guard)
    ]
    plain: dict[Value, Value] = {
        key: member
        for key, member in rows
        if not isinstance(key, Undefined) and not isinstance(member, Undefined)
    }
    if value.kind == "set":
        return Set(plain.values())
    return tuple(plain.values()) if value.kind == "array" else Object(plain)


def _call(function: str, arguments: tuple[Value, ...]) -> Result:
    if function == "element":
        collection, key = arguments
        return next((value for own, value in members(collection) if own == key), UNDEFINED)
    builtin = BUILTINS[function]
    if builtin.function is None:
        return UNDEFINED
    try:
        builtin.check_operands(arguments)
        result: Value = builtin.function(*arguments)
    except BuiltinError:
        return UNDEFINED
    return result


def _at(document: Value, path: tuple[str, ...]) -> Result:
    for step in path:
        if not isinstance(document, Object) or step not in document:
            return UNDEFINED
        document = document[step]
    return document
