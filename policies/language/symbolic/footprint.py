"""Which variables an expression depends on, and which of their fields.

`path_fits(edge)` depends on `edge.paths` alone if that is all that the function reads of its argument. So
its result for one row is its result for every row with the same paths: of 20,000 rows that differ, most
expressions see only a few different things. `Footprints.key` names what an expression sees.

Not here: what an expression reads of `input` and `data` (memory).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup
from policies.language.symbolic.values import Symbolic, Unknown
from policies.language.syntax import ast
from policies.language.values import Boolean, Object, Set

Use = tuple[str, str | None]
"""A variable and the field of it that is read; None where the whole value may matter."""

MAX_SIZE: Final = 64
"""Values with more parts than this take no part in keys: looking at them would cost more than it saves."""

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Footprint:
    """`binds` are variables that the expression could bind: those outside nested bodies.

    `number` tells expressions apart.
    """

    number: int
    binds: tuple[str, ...]
    uses: tuple[Use, ...]


@dataclass(slots=True)
class Footprints:
    """Footprints of the expressions of one policy, each worked out once.

    They are found again by the identity of the expression, which is kept for that.
    """

    modules: CompiledModules
    _expressions: dict[int, tuple[ast.Expr, Footprint]] = field(default_factory=dict)
    _parameters: dict[tuple[int, int], frozenset[str] | None] = field(default_factory=dict)

    def of(self, expression: ast.Expr) -> Footprint:
        """The footprint of an expression."""
        found = self._expressions.get(id(expression))
        if found is None:
            uses = set(self.uses(expression))
            whole = {name for name, part in uses if part is None}
            least = sorted((name, part or "") for name, part in uses if part is None or name not in whole)
            made = Footprint(
                id(expression),
                tuple(dict.fromkeys(variables(expression.node))),
                tuple((name, None if name in whole else part) for name, part in least),
            )
            found = self._expressions[id(expression)] = (expression, made)
        return found[1]

    @staticmethod
    def key(footprint: Footprint, environment: Mapping[str, Symbolic]) -> tuple[object, ...] | None:
        """What an expression sees of its variables; None where that has no small, exact name."""
        parts: list[object] = [footprint.number]
        for name, part in footprint.uses:
            value: object = environment.get(name, _ABSENT)
            if part is not None and type(value) is Object:
                value = value.get(part, _ABSENT)
            kind = type(value)
            if not (kind is str or value is _ABSENT or kind is int or _is_small(value)):
                return None
            parts.append(value)
        return tuple(parts)

    # --- what is used ----------------------------------------------------------------------------------

    def uses(self, node: object) -> Iterator[Use]:
        """Every variable below a node of the syntax tree, those of nested bodies included."""
        match node:
            case ast.Var():
                if node.name not in ("input", "data"):
                    yield node.name, None
            case ast.Ref(ast.Var(name), (ast.String(part), *rest)) if name not in ("input", "data"):
                yield name, part
                yield from self._all(rest)
            case ast.Ref():
                yield from self.uses(node.head)
                yield from self._all(node.operands)
            case ast.Call():
                yield from self._call(node)
            case ast.Array() | ast.Set():
                yield from self._all(node.items)
            case ast.Object():
                yield from self._all(part for entry in node.entries for part in entry)
            case ast.ArrayComprehension() | ast.SetComprehension():
                yield from self._all((node.term, *node.body))
            case ast.ObjectComprehension():
                yield from self._all((node.key, node.value, *node.body))
            case ast.Every():
                yield from self._all((node.key, node.value, node.domain, *node.body))
            case ast.Not():
                yield from self._all(node.body)
            case ast.Expr():
                yield from self.uses(node.node)
                yield from self._all(modifier.value for modifier in node.modifiers)
            case _:
                return

    def _all(self, nodes: Iterable[object]) -> Iterator[Use]:
        for node in nodes:
            yield from self.uses(node)

    def _call(self, call: ast.Call) -> Iterator[Use]:
        arguments = call.arguments
        match call.name, arguments:
            case "object.get", (ast.Var(name), ast.String(part), *rest):
                yield name, part
                yield from self._all(rest)
                return
        group = self._function(call)
        for position, argument in enumerate(arguments):
            parts = self._fields(group, position) if group and isinstance(argument, ast.Var) else None
            if parts is None or not isinstance(argument, ast.Var):
                yield from self.uses(argument)
            else:
                yield from ((argument.name, part) for part in parts)

    def _function(self, call: ast.Call) -> RuleGroup | None:
        if not call.name.startswith("data."):
            return None
        path = tuple(step.value for step in call.operator.operands if isinstance(step, ast.String))
        node = self.modules.tree.at(path)
        return node.group if node is not None else None

    def _fields(self, group: RuleGroup, position: int) -> frozenset[str] | None:
        """The fields that a function reads of an argument, None where it may read all of it."""
        key = (id(group), position)
        if key not in self._parameters:
            self._parameters[key] = self._read_fields(group, position)
        return self._parameters[key]

    def _read_fields(self, group: RuleGroup, position: int) -> frozenset[str] | None:
        found: set[str] = set()
        for rule in _branches(group):
            if position >= len(rule.arguments):
                return None
            pattern = rule.arguments[position]
            others = (*rule.arguments[:position], *rule.arguments[position + 1 :])
            if not isinstance(pattern, ast.Var):
                return None
            for name, part in self._all((*others, *rule.keys, rule.value, rule.member, *rule.body)):
                if name == pattern.name:
                    if part is None:
                        return None
                    found.add(part)
        return frozenset(found)


def _branches(group: RuleGroup) -> Iterator[CompiledRule]:
    for rule in (*group.rules, *((group.default,) if group.default else ())):
        branch: CompiledRule | None = rule
        while branch is not None:
            yield branch
            branch = branch.otherwise


def _is_small(value: object) -> bool:
    """Whether a value is small, and equal only to values that every built-in treats the same.

    Numbers written as 1 and 1.0 are equal and print differently, so no `Real` is.
    """
    left = MAX_SIZE
    waiting = [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        kind = type(one)
        if kind is tuple or kind is Set:
            if len(one) > left:  # type: ignore[arg-type]  # a collection, as its type says
                return False
            waiting.extend(one)  # type: ignore[arg-type]
        elif kind is Object:
            if len(one) > left:  # type: ignore[arg-type]
                return False
            waiting.extend(one.keys())  # type: ignore[attr-defined]
            waiting.extend(one.values())  # type: ignore[attr-defined]
        elif not (
            kind is str or kind is int or kind is Boolean or kind is Unknown or one is None or one is _ABSENT
        ):
            return False
    return left > 0


def variables(node: ast.ExprNode) -> Iterator[str]:
    """Variables that an expression could bind: those outside nested bodies."""
    match node:
        case ast.Var():
            if node.name not in ("input", "data"):
                yield node.name
        case ast.Ref():
            yield from variables(node.head)
            for operand in node.operands:
                yield from variables(operand)
        case ast.Call():
            for argument in node.arguments:
                yield from variables(argument)
        case ast.Array() | ast.Set():
            for item in node.items:
                yield from variables(item)
        case ast.Object():
            for key, value in node.entries:
                yield from variables(key)
                yield from variables(value)
        case _:
            return
