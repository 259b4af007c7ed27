"""Why a document has its value: each rule that may contribute, `else` branches after what they follow."""

from __future__ import annotations

from typing import Final

from policies.explain.asking import Asking, Bindings
from policies.explain.bodies import MAX_DEPTH, BodyTracer, argument_body
from policies.explain.reads import Reader
from policies.explain.trace import Condition, DocumentTrace, Outcome, RuleTrace
from policies.language.compiler.compiled import CompiledRule, RuleGroup, Shape
from policies.language.concrete.errors import EvaluationError
from policies.language.concrete.world import UNDEFINED, Result, Undefined
from policies.language.syntax import ast
from policies.language.values import Object, Set, Value

MAX_CLOSELY: Final = 200
"""Of a document with more rules only those are looked at closely that hold or came furthest."""

Operands = tuple[Value, ...] | None


class RuleTracer:
    """Traces documents; each is followed once, later readers only get its value."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._depth = 0
        self._followed: set[tuple[tuple[str, ...], Operands]] = set()
        self._reader = Reader(asking, self.follow)
        self._bodies = BodyTracer(asking, self._reader)

    def follow(self, path: tuple[str, ...], operands: Operands) -> DocumentTrace | None:
        """The rules at a path; None for those without a condition, which have the value that they say."""
        group = self._asking.modules.groups[path]
        if all(not rule.body and not rule.arguments for rule in group.rules):
            return None
        return self.document(path, operands)

    def document(self, path: tuple[str, ...], operands: Operands = None) -> DocumentTrace:
        """A document that rules make, or one call of a function."""
        group, name = self._asking.modules.groups[path], ".".join(("data", *path))
        try:
            value, error = self._value(path, operands), ""
        except EvaluationError as failure:
            value, error = UNDEFINED, str(failure)
        key = (path, operands)
        if key in self._followed or self._depth >= MAX_DEPTH or self._bodies.left <= 0:
            return DocumentTrace(name, value, error=error)
        self._followed.add(key)
        self._depth += 1
        try:
            closely = self._closely(group)
            rules = tuple(
                trace
                for rule in group.rules
                for trace in self._chain(rule, group, name, operands, closely=id(rule) in closely)
            )
            any_held = any(rule.held for rule in rules)
            default = self._default(group, name, operands, applied=not any_held)
        finally:
            self._depth -= 1
        return DocumentTrace(name, value, rules, default, default is not None and default.held, error)

    def _closely(self, group: RuleGroup) -> set[int]:
        rules = group.rules
        if len(rules) > MAX_CLOSELY:
            rules = tuple(sorted(rules, key=self._asking.progress, reverse=True)[:MAX_CLOSELY])
        return {id(rule) for rule in rules}

    def _value(self, path: tuple[str, ...], operands: Operands) -> Result:
        if operands is None:
            return self._asking.document(path)
        operator = ast.Ref(ast.Var("data"), tuple(map(ast.String, path)))
        names = _argument_names(len(operands))
        return self._asking.value(
            ast.Call(operator, tuple(map(ast.Var, names))), dict(zip(names, operands, strict=True))
        )

    def _default(self, group: RuleGroup, name: str, operands: Operands, *, applied: bool) -> RuleTrace | None:
        rule = group.default
        if rule is None:
            return None
        if not applied:
            return RuleTrace(name, rule.span, "", Outcome.NOT_REACHED)
        return self._rule(rule, group.shape, name, operands, is_else=False)

    def _chain(
        self, rule: CompiledRule, group: RuleGroup, name: str, operands: Operands, *, closely: bool
    ) -> list[RuleTrace]:
        found: list[RuleTrace] = []
        branch: CompiledRule | None = rule
        decided = not closely
        while branch is not None:
            is_else = branch is not rule
            if decided:
                title = _title(branch)
                trace = RuleTrace(name, branch.span, title, Outcome.NOT_REACHED, is_else=is_else)
            else:
                trace = self._rule(branch, group.shape, name, operands, is_else=is_else)
            found.append(trace)
            decided = decided or trace.held or trace.outcome is Outcome.ERROR
            branch = branch.otherwise
        return found

    def _rule(
        self, rule: CompiledRule, shape: Shape, name: str, operands: Operands, *, is_else: bool
    ) -> RuleTrace:
        given: Bindings = {}
        if operands:
            names = _argument_names(len(operands))
            arguments = dict(zip(names, operands, strict=True))
            conditions, solutions = self._bodies.body(
                argument_body(rule.arguments, names), arguments, self._depth
            )
            if not solutions:
                missed = tuple(_unmatched(one) for one in conditions if not one.held)
                return RuleTrace(name, rule.span, _title(rule), Outcome.FALSE, UNDEFINED, missed, is_else)
            given = {key: value for key, value in solutions[0].items() if key not in arguments}
        conditions, solutions = self._bodies.body(rule.body, given, self._depth)
        if not solutions:
            failed = next((one for one in conditions if not one.held), None)
            outcome = failed.outcome if failed is not None else Outcome.ERROR
            return RuleTrace(name, rule.span, _title(rule), outcome, UNDEFINED, tuple(conditions), is_else)
        try:
            value = self._made(rule, shape, solutions)
        except EvaluationError as error:
            conditions.append(Condition(rule.span, _head(rule), Outcome.ERROR, note=error.message))
            return RuleTrace(
                name, rule.span, _title(rule), Outcome.ERROR, UNDEFINED, tuple(conditions), is_else
            )
        if value is UNDEFINED:
            term = rule.member if rule.member is not None else rule.value
            reads = self._reader.reads(term, solutions[0]) if term is not None else ()
            note = "what the rule would say has no value"
            conditions.append(Condition(rule.span, _head(rule), Outcome.UNDEFINED, reads, note=note))
        outcome = Outcome.UNDEFINED if value is UNDEFINED else Outcome.HOLDS
        return RuleTrace(name, rule.span, _title(rule), outcome, value, tuple(conditions), is_else)

    def _made(self, rule: CompiledRule, shape: Shape, solutions: list[Bindings]) -> Result:
        """What the rule contributes: its value, the members of a set, the entries of an object."""
        last = rule.member if shape is Shape.SET else rule.value
        term: ast.Term = last if last is not None else ast.Boolean(True)
        if shape is not Shape.SET and not rule.keys:
            return self._first(term, solutions)
        found: dict[Value, Value] = {}
        for solution in solutions:
            keys = tuple(self._asking.value(key, solution) for key in rule.keys)
            value = self._asking.value(term, solution)
            path = tuple(key for key in keys if not isinstance(key, Undefined))
            if not isinstance(value, Undefined) and len(path) == len(keys):
                found[(path[0] if len(path) == 1 else path) if path else value] = value
        if not found:
            return UNDEFINED
        return Object(found) if rule.keys else Set(found)

    def _first(self, term: ast.Term, solutions: list[Bindings]) -> Result:
        for solution in solutions:
            value = self._asking.value(term, solution)
            if value is not UNDEFINED:
                return value
        return UNDEFINED


def _argument_names(count: int) -> tuple[str, ...]:
    return tuple(f"~argument{position}" for position in range(count))


def _unmatched(condition: Condition) -> Condition:
    return Condition(
        condition.span, condition.text, Outcome.FALSE, condition.reads, note="the argument doesn't match"
    )


def _head(rule: CompiledRule) -> str:
    return " ".join(rule.span.text.partition(" if")[0].split())


def _title(rule: CompiledRule) -> str:
    return next((one.title for one in rule.annotations if one.title and one.scope == "rule"), "")
