"""Iterating over large data without looking at every row.

`some edge in data.edges; edge.to == name` keeps, for a known name, the rows of one index entry. An expression
further on in the same body that compares a field of the row with a known value can only leave rows out, so
looking at it first changes nothing but the time: 20,000 rows for each of 1,000 workloads are out of reach
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policies.language.syntax import ast
from policies.language.values import Object, Value, members

WORTH_AN_INDEX = 32
"""Smaller collections are walked: an index would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """`variable = collection[key]`: the row, the place of its collection, and its key."""

    variable: str
    collection: ast.Ref
    key: str


def iteration(node: ast.ExprNode) -> Iteration | None:
    """The expression as an iteration, if it is one of the plain form."""
    if not (isinstance(node, ast.Call) and node.name == "eq"):
        return None
    row, source = node.arguments
    if isinstance(row, ast.Ref):
        row, source = source, row
    if not (isinstance(row, ast.Var) and isinstance(source, ast.Ref) and source.operands):
        return None
    key = source.operands[-1]
    if not isinstance(key, ast.Var) or key.name == row.name:
        return None
    return Iteration(row.name, ast.Ref(source.head, source.operands[:-1], source.span), key.name)


def comparisons(body: ast.Body, variable: str) -> Iterator[tuple[str, ast.Term]]:
    """Fields of a row that later expressions compare with another term: (field, that term)."""
    for expression in body:
        node = expression.node
        if expression.modifiers or not (isinstance(node, ast.Call) and node.name == "eq"):
            continue
        for side, other in (node.arguments, node.arguments[::-1]):
            if isinstance(side, ast.Ref) and isinstance(side.head, ast.Var) and side.head.name == variable:
                field = side.operands[0] if len(side.operands) == 1 else None
                if isinstance(field, ast.String):
                    yield field.value, other


def index(collection: Value, field: str) -> dict[Value, list[tuple[Value, Value]]]:
    """Rows by the value of a field, in the order of iteration; rows without the field are left out."""
    found: dict[Value, list[tuple[Value, Value]]] = {}
    for key, row in members(collection):
        if isinstance(row, Object) and field in row:
            found.setdefault(row[field], []).append((key, row))
    return found
