"""Bodies: solving the expressions of a rule one after another, collecting guards instead of deciding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from policies import formula as f
from policies.formula import FALSE, TRUE, Formula
from policies.language.compiler.compiled import Shape
from policies.language.source import NOWHERE, Span
from policies.language.symbolic.footprint import Footprint, Footprints
from policies.language.symbolic.machine import OUTSIDE, Environment, Scope, Solution, span_of
from policies.language.symbolic.parts import without_implied
from policies.language.symbolic.relations import equal, truth
from policies.language.symbolic.rows import Rows
from policies.language.symbolic.values import (
    UNKNOWN,
    Replacement,
    Sequence,
    Symbolic,
    changed,
    is_known,
)
from policies.language.syntax import ast
from policies.language.values import Object

_FEW: Final = 64
"""More solutions of one expression than this aren't kept."""


class Bodies(Rows):
    """How a body is solved."""

    __slots__ = ()

    def solve(
        self, body: ast.Body, index: int, environment: Environment, guard: Formula, scope: Scope
    ) -> Iterator[Solution]:
        """The solutions of `body` from the expression at `index` on; none has an impossible guard."""
        for solved, conditions in self._solved(body, index, environment, guard, scope):
            joined = without_implied(f.all_of(*conditions), self.memory.parts)
            if joined is not FALSE:
                yield solved, joined

    def somewhere(self, body: ast.Body, environment: Environment, guard: Formula, scope: Scope) -> Formula:
        """Where a body has any solution at all."""
        solutions = self._solved(body, 0, environment, guard, scope)
        parts = self.memory.parts
        return f.any_of_all(
            [without_implied(f.all_of(*conditions), parts)] if parts else conditions
            for _, conditions in solutions
        )

    def _solved(
        self, body: ast.Body, index: int, environment: Environment, guard: Formula, scope: Scope
    ) -> Iterator[tuple[Environment, list[Formula]]]:
        """Solutions with what must hold for each: joined by whoever knows how many there are."""
        self.count_step(body[index].span if index < len(body) else NOWHERE)
        conditions = [guard]
        while index < len(body):
            expression = body[index]
            index += 1
            footprint = self.memory.footprints.of(expression)
            if not footprint.binds or all(name in environment for name in footprint.binds):
                condition = self.condition(expression, footprint, environment, scope)
                if condition is FALSE:
                    return
                conditions.append(condition)
                continue
            rows = self.joined(body, index - 1, environment, scope)
            found = rows if rows is not None else self._solutions(expression, footprint, environment, scope)
            if isinstance(found, list) and len(found) == 1:
                environment, condition = found[0]
                conditions.append(condition)
                continue
            guard = f.all_of(*conditions)
            if guard is FALSE:
                return
            for extended, condition in found:
                joined = guard & condition
                if joined is not FALSE:
                    yield from self._solved(body, index, extended, joined, scope)
            return
        yield environment, conditions

    def condition(
        self, expression: ast.Expr, footprint: Footprint, environment: Environment, scope: Scope
    ) -> Formula:
        """Where an expression that binds nothing is true, worked out once for all that it sees."""
        key = Footprints.key(footprint, environment)
        if key is None:
            return self._holds(expression, environment, scope)
        return self.remembered(
            ("holds", scope, key) if scope is not OUTSIDE else key,
            lambda: self._holds(expression, environment, scope),
        )

    def _solutions(
        self, expression: ast.Expr, footprint: Footprint, environment: Environment, scope: Scope
    ) -> list[Solution] | Iterator[Solution]:
        """Solutions of an expression that binds variables; where they are few, kept for all that it sees."""
        key = Footprints.key(footprint, environment)
        if key is None:
            return self._bindings(expression, environment, scope)
        names = [name for name in footprint.binds if name not in environment]

        def compute() -> list[tuple[dict[str, Symbolic], Formula]] | None:
            first = [*itertools.islice(self._bindings(expression, environment, scope), _FEW + 1)]
            if len(first) > _FEW:
                return None
            return [({name: bound[name] for name in names if name in bound}, guard) for bound, guard in first]

        kept = self.remembered(("binds", scope, key), compute)
        if kept is None:
            return self._bindings(expression, environment, scope)
        return [({**environment, **bound}, guard) for bound, guard in kept]

    def _holds(self, expression: ast.Expr, environment: Environment, scope: Scope) -> Formula:
        """Where an expression that binds nothing is true."""
        node = expression.node
        found = FALSE
        for condition, inner in self.scopes(expression, environment, scope):
            if isinstance(node, ast.Not):
                found |= condition & ~self.somewhere(node.body, environment, TRUE, inner)
            elif isinstance(node, ast.Every):
                found |= condition & self._every(node, environment, inner)
            elif isinstance(node, ast.Call) and node.name == "eq":
                for guard, (left, right) in self.product(node.arguments, environment, inner):
                    found |= condition & guard & equal(left, right, self.site(expression.span))
            elif isinstance(node, ast.Some | ast.SomeIn):
                raise self.refusal(
                    expression.span, "an unresolved `some`", "this is a fault of ours; report it"
                )
            else:
                for guard, value in self.term(node, environment, inner, statement=True):
                    found |= condition & guard & truth(value, self.site(expression.span))
        return found

    def _every(self, node: ast.Every, environment: Environment, scope: Scope) -> Formula:
        found = FALSE
        for guard, domain in self.term(node.domain, environment, scope):
            parts = []
            for condition, key, value in self.elements(domain, node.span):
                bound = dict(environment)
                bound[node.value.name] = value
                if node.key is not None:
                    bound[node.key.name] = key
                solved = self.somewhere(node.body, bound, TRUE, scope)
                parts.append(~condition | solved)
            found |= guard & f.all_of(*parts)
        return found

    def _bindings(self, expression: ast.Expr, environment: Environment, scope: Scope) -> Iterator[Solution]:
        """Solutions of an expression that binds variables."""
        node = expression.node
        for condition, inner in self.scopes(expression, environment, scope):
            if isinstance(node, ast.Call) and node.name == "eq":
                left, right = node.arguments
                solutions = self._unify(left, right, environment, inner)
            elif isinstance(node, ast.Call):
                solutions = self._unify_output(node, environment, inner)
            elif isinstance(node, ast.Ref):
                solutions = (
                    (bound, guard & truth(value, self.site(expression.span)))
                    for bound, guard, value in self.reference(node, environment, inner)
                )
            else:
                raise self.refusal(expression.span, "this can't bind its variables", "bind them before")
            for bound, guard in solutions:
                yield bound, condition & guard

    def _unify(
        self, left: ast.Term, right: ast.Term, environment: Environment, scope: Scope
    ) -> Iterator[Solution]:
        if self._is_pattern(left, environment) and not self._is_pattern(right, environment):
            for bound, guard, value in self.values(right, environment, scope):
                for matched, condition in self.match(left, value, bound, scope):
                    yield matched, guard & condition
        elif self._is_pattern(right, environment) and not self._is_pattern(left, environment):
            yield from self._unify(right, left, environment, scope)
        elif isinstance(left, ast.Array) and isinstance(right, ast.Array):
            if len(left.items) == len(right.items):
                yield from self._unify_each(left.items, right.items, environment, scope)
        else:
            for bound, guard, value in self.values(left, environment, scope):
                for again, condition, other in self.values(right, bound, scope):
                    yield again, guard & condition & equal(value, other, self.site(span_of(left)))

    def _unify_each(
        self, left: tuple[ast.Term, ...], right: tuple[ast.Term, ...], environment: Environment, scope: Scope
    ) -> Iterator[Solution]:
        if not left:
            yield environment, TRUE
            return
        for bound, guard in self._unify(left[0], right[0], environment, scope):
            for again, condition in self._unify_each(left[1:], right[1:], bound, scope):
                yield again, guard & condition

    def _unify_output(self, call: ast.Call, environment: Environment, scope: Scope) -> Iterator[Solution]:
        """A call with one argument more than declared: its result is unified with the last one."""
        inner = ast.Call(call.operator, call.arguments[:-1], call.span)
        for bound, guard, value in self.values(inner, environment, scope):
            for matched, condition in self.match(call.arguments[-1], value, bound, scope):
                yield matched, guard & condition

    def _is_pattern(self, term: ast.Term, environment: Environment) -> bool:
        """Whether a term holds unbound variables outside references, where matching binds them."""
        if isinstance(term, ast.Var):
            return term.name not in environment and term.name not in ("input", "data")
        if isinstance(term, ast.Array):
            return any(self._is_pattern(item, environment) for item in term.items)
        if isinstance(term, ast.Object):
            return any(self._is_pattern(value, environment) for _, value in term.entries)
        return False

    def match(
        self, pattern: ast.Term, value: Symbolic, environment: Environment, scope: Scope
    ) -> Iterator[Solution]:
        """Solutions in which a pattern equals a value."""
        if (
            isinstance(pattern, ast.Var)
            and pattern.name not in environment
            and pattern.name not in ("input", "data")
        ):
            yield {**environment, pattern.name: value}, TRUE
        elif isinstance(pattern, ast.Array) and self._is_pattern(pattern, environment):
            items = (
                value.items if isinstance(value, Sequence) else value if isinstance(value, tuple) else None
            )
            if items is None and not is_known(value):
                raise self.refusal(
                    pattern.span, "an unknown value is taken apart as an array", "name its fields"
                )
            if items is not None and len(items) == len(pattern.items):
                yield from self._match_each(pattern.items, items, environment, scope)
        elif isinstance(pattern, ast.Object) and self._is_pattern(pattern, environment):
            yield from self._match_object(pattern, value, environment, scope)
        else:
            for guard, found in self.term(pattern, environment, scope):
                yield environment, guard & equal(found, value, self.site(span_of(pattern)))

    def _match_each(
        self,
        patterns: tuple[ast.Term, ...],
        values: tuple[Symbolic, ...],
        environment: Environment,
        scope: Scope,
    ) -> Iterator[Solution]:
        if not patterns:
            yield environment, TRUE
            return
        for bound, guard in self.match(patterns[0], values[0], environment, scope):
            for again, condition in self._match_each(patterns[1:], values[1:], bound, scope):
                yield again, guard & condition

    def _match_object(
        self, pattern: ast.Object, value: Symbolic, environment: Environment, scope: Scope
    ) -> Iterator[Solution]:
        if not is_known(value):
            raise self.refusal(
                pattern.span, "an unknown value is taken apart as an object", "name its fields"
            )
        if not isinstance(value, Object):
            return
        for guard, keys in self.product(tuple(key for key, _ in pattern.entries), environment, scope):
            plain = [key for key in keys if is_known(key)]
            if (
                len(plain) == len(keys)
                and len(set(plain)) == len(value)
                and all(key in value for key in plain)
            ):
                parts = tuple(value[key] for key in plain)  # type: ignore[index]  # plain values, checked above
                terms = tuple(part for _, part in pattern.entries)
                for bound, condition in self._match_each(terms, parts, environment, scope):
                    yield bound, guard & condition

    def scopes(
        self, expression: ast.Expr, environment: Environment, scope: Scope
    ) -> Iterator[tuple[Formula, Scope]]:
        """The scope inside an expression, one for each combination of its `with` values."""
        if not expression.modifiers:
            yield TRUE, scope
            return
        targets = [self._target(modifier) for modifier in expression.modifiers]
        values = tuple(modifier.value for modifier in expression.modifiers)
        for guard, found in self.product(values, environment, scope):
            inputs, data = list(scope.inputs), list(scope.data)
            for modifier, (root, path), value in zip(expression.modifiers, targets, found, strict=True):
                self._replace(inputs if root == "input" else data, path, value, modifier.span)
            yield guard, Scope(tuple(inputs), tuple(data))

    def _target(self, modifier: ast.With) -> tuple[str, tuple[str, ...]]:
        """What `with` replaces: input or data, and the place in it."""
        head, operands = modifier.target.head, modifier.target.operands
        path = tuple(step.value for step in operands if isinstance(step, ast.String))
        root = head.name if isinstance(head, ast.Var) else ""
        group = self.modules.groups.get(path) if root == "data" else None
        is_function = group is not None and group.shape is Shape.FUNCTION
        if root not in ("input", "data") or len(path) != len(operands) or is_function:
            raise self.refusal(
                modifier.span, "a function is replaced by `with`", "replace input or data instead"
            )
        return root, path

    def _replace(self, by: list[Replacement], path: tuple[str, ...], value: Symbolic, span: Span) -> None:
        """Adds what `with` puts at `path`: it covers what lies below, and changes what lies above."""
        by[:] = [(place, put) for place, put in by if place[: len(path)] != path]
        for index, (place, put) in enumerate(by):
            if path[: len(place)] == place:
                if isinstance(put, UNKNOWN) or isinstance(value, UNKNOWN):
                    raise self.refusal(
                        span, "`with` changes a part of a value that isn't known", "replace the whole value"
                    )
                by[index] = (place, changed(put, path[len(place) :], value))
                return
        by.append((path, value))
