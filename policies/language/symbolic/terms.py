"""Terms of at most one value, under each guard under which they have one."""

from __future__ import annotations

from collections.abc import Iterator

from policies.formula import FALSE, TRUE, Formula
from policies.language.compiler.compiled import Shape
from policies.language.diagnostics import ErrorCode
from policies.language.numbers import parse_number
from policies.language.symbolic import calls
from policies.language.symbolic.machine import Environment, Scope, merge, span_of
from policies.language.symbolic.references import References, Row
from policies.language.symbolic.values import Outcome, Symbolic, choices, sequence
from policies.language.syntax import ast
from policies.language.values import boolean


class Terms(References):
    """How a term is evaluated."""

    __slots__ = ()

    def product(
        self, terms: tuple[ast.Term, ...], environment: Environment, scope: Scope
    ) -> Iterator[tuple[Formula, tuple[Symbolic, ...]]]:
        """Every combination of outcomes of several terms."""
        rows: list[tuple[Formula, tuple[Symbolic, ...]]] = [(TRUE, ())]
        for term in terms:
            found = self.term(term, environment, scope)
            rows = [
                (joined, (*values, value))
                for guard, values in rows
                for condition, value in found
                if (joined := guard & condition) is not FALSE
            ]
            if len(rows) > self.limits.outcomes:
                limit = self.limits.outcomes
                raise self.refusal(
                    span_of(term), f"more than {limit} combinations", "split it", ErrorCode.LIMIT
                )
        yield from rows

    def term(
        self, term: ast.ExprNode, environment: Environment, scope: Scope, *, statement: bool = False
    ) -> list[Outcome]:
        """Outcomes of a term of at most one value. `statement`: only its truth is asked for."""
        match term:
            case ast.String():
                return [(TRUE, term.value)]
            case ast.Var() if term.name in environment:
                return [(TRUE, environment[term.name])]
            case ast.Ref() | ast.Var():
                reference = term if isinstance(term, ast.Ref) else ast.Ref(term, (), term.span)
                return merge(
                    (guard, value) for _, guard, value in self.reference(reference, environment, scope)
                )
            case ast.Call():
                return self._call(term, environment, scope, statement)
            case ast.Boolean():
                return [(TRUE, boolean(term.value))]
            case ast.Number():
                return [(TRUE, parse_number(term.text))]
            case ast.Null():
                return [(TRUE, None)]
            case ast.Array():
                return [
                    (guard, sequence(items)) for guard, items in self.product(term.items, environment, scope)
                ]
            case ast.Set():
                rows = self.product(term.items, environment, scope)
                return [
                    (guard, choices("set", [(TRUE, v, v) for v in values], TRUE)) for guard, values in rows
                ]
            case ast.Object():
                return self._object(term, environment, scope)
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                return [(TRUE, self._comprehension(term, environment, scope))]
            case _:
                raise self.refusal(
                    span_of(term), f"{type(term).__name__} has no value here", "rewrite the expression"
                )

    def values(self, term: ast.Term, environment: Environment, scope: Scope) -> Iterator[Row]:
        """Values of a term that may iterate, with what the iteration binds."""
        if isinstance(term, ast.Ref):
            yield from self.reference(term, environment, scope)
        else:
            for guard, value in self.term(term, environment, scope):
                yield environment, guard, value

    def _object(self, term: ast.Object, environment: Environment, scope: Scope) -> list[Outcome]:
        flat = tuple(part for entry in term.entries for part in entry)
        found = []
        for guard, parts in self.product(flat, environment, scope):
            rows = [(TRUE, key, value) for key, value in zip(parts[::2], parts[1::2], strict=True)]
            found.append((guard, choices("object", rows, TRUE)))
        return found

    def _comprehension(self, term: ast.Comprehension, environment: Environment, scope: Scope) -> Symbolic:
        heads = (term.key, term.value) if isinstance(term, ast.ObjectComprehension) else (term.term,)
        rows: list[tuple[Formula, Symbolic, Symbolic]] = []
        for solved, guard in self.solve(term.body, 0, environment, TRUE, scope):
            for condition, values in self.product(heads, solved, scope):
                if (joined := guard & condition) is not FALSE:
                    rows.append((joined, values[0], values[-1]))
        if isinstance(term, ast.ArrayComprehension):
            numbered = [(guard, index, value) for index, (guard, _, value) in enumerate(rows)]
            return choices("array", [*numbered], TRUE)
        united = [
            (guard, key, value)
            for guard, (key, value) in _united((guard, (key, value)) for guard, key, value in rows)
        ]
        return choices("set" if isinstance(term, ast.SetComprehension) else "object", united, TRUE)

    def _call(self, call: ast.Call, environment: Environment, scope: Scope, statement: bool) -> list[Outcome]:
        name = call.name
        found: list[Outcome] = []
        if name.startswith("data."):
            path = tuple(step.value for step in call.operator.operands if isinstance(step, ast.String))
            node = self.modules.tree.at(path)
            if node is None or node.group is None or node.group.shape is not Shape.FUNCTION:
                raise self.refusal(call.span, f"{name} is no function of this policy", "check its name")
            for guard, arguments in self.product(call.arguments, environment, scope):
                found.extend((guard & g, value) for g, value in self.function(node.group, arguments, scope))
            return merge(found)
        for guard, arguments in self.product(call.arguments, environment, scope):
            try:
                answers = calls.call(name, arguments, self.site(call.span), self.input, statement=statement)
            except calls.Undecidable as error:
                raise self.refusal(call.span, error.message, error.hint) from error
            found.extend((guard & condition, value) for condition, value in answers)
        return merge(found)


def _united(
    rows: Iterator[tuple[Formula, tuple[Symbolic, Symbolic]]],
) -> list[tuple[Formula, tuple[Symbolic, Symbolic]]]:
    """Equal members joined: a set has a member once, under the union of its guards."""
    guards: dict[tuple[Symbolic, Symbolic], Formula] = {}
    for guard, row in rows:
        guards[row] = guards.get(row, FALSE) | guard
    return [(guard, row) for row, guard in guards.items()]
