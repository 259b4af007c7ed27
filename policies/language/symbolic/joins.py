"""Iterating over large data without looking at every row.

`some edge in data.edges; edge.to == name` keeps, for a known name, the rows of one index entry. An expression
further on in the same body that compares a field of the row with known values can only leave rows out, so
looking at it first changes nothing but the time: 20,000 rows for each of 1,000 workloads are out of reach
otherwise. The expression itself is still evaluated for the rows that are left.

Understood are `row.a.b == term`, `row.a in term`, `term in row.a`, and functions of one rule that say so of
the row they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from policies.language.compiler.compiled import CompiledModules
from policies.language.syntax import ast
from policies.language.values import Object, Set, Value, members

WORTH_AN_INDEX = 32
"""Smaller collections are walked: an index would cost more than it saves."""

Row = tuple[Value, Value]
"""Key and value of a member of a collection."""
Field = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Iteration:
    """`variable = collection[key]`."""

    variable: str
    collection: ast.Ref
    key: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field of a row has (or, with `inside`, holds) one of the values that a term says.

    With `members` the term says a collection of values.
    """

    field: Field
    term: ast.Term
    inside: bool = False
    members: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """How rows are found: by the values of several fields, or (`inside`) by a member of the one field."""

    fields: tuple[Field, ...]
    inside: bool = False

    def index(self, collection: Value) -> Index:
        """Rows by what they are found by; those without the fields are left out."""
        found: dict[object, list[tuple[int, Row]]] = {}
        for position, row in enumerate(members(collection)):
            values = [_at(row[1], field) for field in self.fields]
            if () in values:
                continue
            if self.inside:
                for _, value in members(values[0][0]):
                    listed = found.setdefault(value, [])
                    if not listed or listed[-1][0] != position:
                        listed.append((position, row))
            else:
                name = values[0][0] if len(values) == 1 else tuple(value[0] for value in values)
                found.setdefault(name, []).append((position, row))
        return Index(found)


@dataclass(frozen=True, slots=True)
class Index:
    """Rows of one collection with their position."""

    rows: Mapping[object, list[tuple[int, Row]]]

    def get(self, wanted: tuple[Value, ...]) -> tuple[Row, ...]:
        """The rows found by any of the values, in the order of the collection."""
        if len(wanted) == 1:
            return tuple(row for _, row in self.rows.get(wanted[0], ()))
        found = {position: row for value in wanted for position, row in self.rows.get(value, ())}
        return tuple(found[position] for position in sorted(found))


_NONE: Final[tuple[Value, ...]] = ()


def _at(value: Value, field: Field) -> tuple[Value, ...]:
    for step in field:
        if not isinstance(value, Object) or step not in value:
            return _NONE
        value = value[step]
    return (value,)


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


def comparisons(body: ast.Body, variable: str, modules: CompiledModules) -> Iterator[Comparison]:
    """What the expressions of a body say of a row."""
    for expression in body:
        node = expression.node
        if expression.modifiers or not isinstance(node, ast.Call):
            continue
        yield from _said(node, variable)
        yield from _said_by_function(node, variable, modules)


def _said(call: ast.Call, variable: str) -> Iterator[Comparison]:
    name, arguments = call.name, call.arguments
    if len(arguments) != 2:
        return
    for side, other in (arguments, arguments[::-1]):
        field = _field(side, variable)
        if field is None:
            continue
        if name == "eq":
            yield Comparison(field, other)
        elif name == "internal.member_2":
            yield Comparison(field, other, inside=side is arguments[1], members=side is arguments[0])


def _said_by_function(call: ast.Call, variable: str, modules: CompiledModules) -> Iterator[Comparison]:
    """What a function of one rule says of the row; terms with variables of its own are left out."""
    if not call.name.startswith("data."):
        return
    path = tuple(step.value for step in call.operator.operands if isinstance(step, ast.String))
    node = modules.tree.at(path)
    group = node.group if node is not None else None
    if group is None or len(group.rules) != 1 or group.default is not None:
        return
    rule = group.rules[0]
    if rule.otherwise is not None or rule.value not in (None, ast.Boolean(True)):
        return
    for pattern, argument in zip(rule.arguments, call.arguments, strict=False):
        if isinstance(pattern, ast.Var) and isinstance(argument, ast.Var) and argument.name == variable:
            for expression in rule.body:
                if not expression.modifiers and isinstance(expression.node, ast.Call):
                    yield from (one for one in _said(expression.node, pattern.name) if _is_closed(one.term))


def _field(term: ast.Term, variable: str) -> Field | None:
    """`variable.a.b` as ("a", "b")."""
    if not (isinstance(term, ast.Ref) and isinstance(term.head, ast.Var) and term.head.name == variable):
        return None
    steps = tuple(step.value for step in term.operands if isinstance(step, ast.String))
    return steps if steps and len(steps) == len(term.operands) else None


def _is_closed(term: ast.Term) -> bool:
    """Whether a term of the plain kinds holds no local variable."""
    match term:
        case ast.String() | ast.Number() | ast.Boolean():
            return True
        case ast.Ref(ast.Var(name), operands):
            return name in ("input", "data") and all(map(_is_closed, operands))
        case ast.Call():
            return all(map(_is_closed, term.arguments))
        case ast.Array() | ast.Set():
            return all(map(_is_closed, term.items))
        case _:
            return False


def is_wildcard(variable: str) -> bool:
    """Whether nobody can ask for a variable's value: `_`, as the compile stage names it."""
    return variable.startswith("_~")


def place(reference: ast.Ref) -> Field | None:
    """`data.a.b` as ("a", "b"); None for any other reference."""
    if isinstance(reference.head, ast.Var) and reference.head.name == "data":
        steps = tuple(step.value for step in reference.operands if isinstance(step, ast.String))
        return steps if len(steps) == len(reference.operands) else None
    return None


def values_of(collection: Value) -> tuple[Value, ...]:
    """The members of a collection, without their keys."""
    return (
        tuple(value for _, value in members(collection))
        if isinstance(collection, tuple | Object | Set)
        else ()
    )
