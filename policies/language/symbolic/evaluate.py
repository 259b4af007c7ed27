"""The evaluator with unknowns: rules of a compiled policy as formulas over the request.

A body is solved as a concrete evaluator solves it, expression by expression, except that a test doesn't
decide whether to go on: it adds to the guard of the solution. So a solution is an environment and a
formula, a rule's value is a list of outcomes (guard and value), and a negation is the complement of the
union of guards. What is known is computed at once, with the built-ins of the concrete evaluator.

Refused, with the line: iteration over the input, `input` indexed by input, rules whose values conflict
for some request, built-ins without a meaning at compile time. Bounded: `Limits`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from policies import formula as f
from policies.formula import FALSE, TRUE, Formula
from policies.language.compiler.compiled import CompiledRule, RuleGroup, Shape
from policies.language.diagnostics import Diagnostics
from policies.language.source import Span
from policies.language.symbolic import rule_index
from policies.language.symbolic.bodies import Bodies
from policies.language.symbolic.input import PartialInput
from policies.language.symbolic.machine import OUTSIDE, Environment, RuleKey, Scope, Solution, merge
from policies.language.symbolic.memory import KNOWN, WEIGHED, Kept, Memory
from policies.language.symbolic.rule_index import RuleIndex
from policies.language.symbolic.values import Outcome, Symbolic, choices, text_of
from policies.language.syntax import ast

Row = tuple[Formula, Symbolic, Span]
"""A value of a rule, where it has it, and the branch that gives it."""

_EMPTY: Final[Environment] = {}


class SymbolicEvaluator(Bodies):
    """Evaluates rules against known data and a partly known input; see `machine.Machine` for its state."""

    __slots__ = ()

    def outcomes(self, path: tuple[str, ...]) -> list[Row]:
        """The values of the complete rule at `path` with the line that gives each; its default is left out.

        Raises Diagnostics where a part of the policy can't be decided before the request is known.
        """
        node = self.modules.tree.at(path)
        group = node.group if node else None
        if group is None or group.shape is not Shape.VALUE or group.arity:
            return []
        for rule in group.rules:
            if rule.keys:
                raise self.refusal(rule.span, "this rule makes an object, not one value", "give it one value")
        chains = [self._chain(rule, OUTSIDE) for rule in self._possible(group, OUTSIDE)]
        self._check_conflicts(chains)
        return [row for chain in chains for row in chain]

    def set_members(self, path: tuple[str, ...]) -> list[Row]:
        """The members of the set rule at `path`, each with its guard and line."""
        node = self.modules.tree.at(path)
        group = node.group if node else None
        if group is None or group.shape is not Shape.SET:
            return []
        return [
            (guard, value, rule.span)
            for rule in self._possible(group, OUTSIDE)
            for guard, _, value in self._contributions(rule, OUTSIDE)
        ]

    def group(self, group: RuleGroup, scope: Scope) -> list[Outcome]:
        return self.remembered(("group", group.path, scope), lambda: self._document_of(group, scope))

    def _document_of(self, group: RuleGroup, scope: Scope) -> list[Outcome]:
        if group.shape is Shape.SET or any(rule.keys for rule in group.rules):
            return [(TRUE, self._collection(group, scope))]
        chains = [self._chain(rule, scope) for rule in self._possible(group, scope)]
        self._check_conflicts(chains)
        merged = merge((guard, value) for chain in chains for guard, value, _ in chain)
        if group.default is not None:
            rest = ~f.any_of(*(guard for guard, _ in merged))
            merged += [
                (rest & guard, value) for guard, value, _ in self._rule(group.default, _EMPTY, TRUE, scope)
            ]
        return merge(merged)

    def _collection(self, group: RuleGroup, scope: Scope) -> Symbolic:
        rows = [row for rule in self._possible(group, scope) for row in self._contributions(rule, scope)]
        is_set = group.shape is Shape.SET
        depth = max((len(keys) for _, keys, _ in rows), default=0)
        if is_set and depth == 0:
            return choices("set", _united((guard, value, value) for guard, _, value in rows), TRUE)
        return self._nested(rows, is_set)

    def _nested(self, rows: list[tuple[Formula, tuple[Symbolic, ...], Symbolic]], is_set: bool) -> Symbolic:
        """Rows with key paths as objects in objects; the innermost of a set rule are sets."""
        below: dict[Symbolic, list[tuple[Formula, tuple[Symbolic, ...], Symbolic]]] = {}
        for guard, keys, value in rows:
            below.setdefault(keys[0], []).append((guard, keys[1:], value))
        listed: list[tuple[Formula, Symbolic, Symbolic]] = []
        for key, inner in below.items():
            present = f.any_of(*(guard for guard, _, _ in inner))
            if all(not keys for _, keys, _ in inner):
                if is_set:
                    made = choices("set", _united((guard, value, value) for guard, _, value in inner), TRUE)
                    listed.append((present, key, made))
                else:
                    listed.extend((guard, key, value) for guard, value in merge((g, v) for g, _, v in inner))
            else:
                listed.append((present, key, self._nested([row for row in inner if row[1]], is_set)))
        return choices("object", listed, TRUE)

    def possible(self, path: tuple[str, ...]) -> Sequence[CompiledRule]:
        """The rules at a path that can hold for what is known of the input; of a small group all of them."""
        node = self.modules.tree.at(path)
        return self._possible(node.group, OUTSIDE) if node is not None and node.group is not None else ()

    def _possible(self, group: RuleGroup, scope: Scope) -> Sequence[CompiledRule]:
        """The rules of a group that can hold for what is known of the input."""
        if len(group.rules) < rule_index.WORTH_AN_INDEX or scope is not OUTSIDE:
            return group.rules
        kept = self.memory.rule_index(group, lambda: self._rule_index(group))
        self.reads |= kept.reads
        self.reads.add(KNOWN)
        return kept.result.possible(self.input.known)

    def _rule_index(self, group: RuleGroup) -> Kept[RuleIndex]:
        """What each rule asks of the destination, where nothing is known of that."""
        unknown = SymbolicEvaluator(Memory.of(self.modules, self.memory.data), PartialInput(), self.limits)
        needs = [next(filter(None, unknown.needs(rule)), []) for rule in group.rules]
        return Kept(RuleIndex.of(group.rules, needs), frozenset(unknown.reads - {KNOWN}))

    def needs(self, rule: CompiledRule) -> Iterator[list[rule_index.Need]]:
        """What each expression of a rule asks of the destination, for those that stand for themselves."""
        bound: set[str] = set()
        for expression in rule.body if rule.otherwise is None else ():
            footprint = self.memory.footprints.of(expression)
            if not footprint.binds and not any(name in bound for name, _ in footprint.uses):
                try:
                    yield [*rule_index.needs(self.condition(expression, footprint, _EMPTY, OUTSIDE))]
                except Diagnostics:
                    continue  # it is told where the expression is reached
            bound.update(footprint.binds)

    def _chain(self, rule: CompiledRule, scope: Scope) -> list[Row]:
        """Outcomes of a rule without arguments."""
        return self.remembered(
            RuleKey(id(rule), "outcomes", scope), lambda: self._rule(rule, _EMPTY, TRUE, scope)
        )

    def _contributions(
        self, rule: CompiledRule, scope: Scope
    ) -> list[tuple[Formula, tuple[Symbolic, ...], Symbolic]]:
        """Guard, keys and value of each row that a rule adds to a set or an object."""
        return self.remembered(RuleKey(id(rule), "members", scope), lambda: [*self._added(rule, scope)])

    def _added(
        self, rule: CompiledRule, scope: Scope
    ) -> Iterator[tuple[Formula, tuple[Symbolic, ...], Symbolic]]:
        head = rule.member if rule.member is not None else rule.value
        terms = (*rule.keys, head if head is not None else ast.Boolean(True))
        for environment, guard in self.solve(rule.body, 0, _EMPTY, TRUE, scope):
            for condition, values in self.product(terms, environment, scope):
                joined = guard & condition
                if joined is not FALSE:
                    yield joined, values[:-1], values[-1]

    def _rule(self, rule: CompiledRule, environment: Environment, given: Formula, scope: Scope) -> list[Row]:
        """Outcomes of a rule and its `else` branches: each branch holds where none before it does."""
        found: list[Row] = []
        branch: CompiledRule | None = rule
        while branch is not None and given is not FALSE:
            merged = merge(self._given(branch, environment, given, scope))
            found.extend((guard, value, branch.span) for guard, value in merged)
            branch = branch.otherwise
            if branch is not None:
                given &= ~f.any_of(*(guard for guard, _ in merged))
        return found

    def _given(
        self, branch: CompiledRule, environment: Environment, given: Formula, scope: Scope
    ) -> Iterator[Outcome]:
        """The value of one branch for each solution of its body."""
        value = branch.value if branch.value is not None else ast.Boolean(True)
        if isinstance(value, ast.Boolean | ast.String):  # the same for all solutions: one will do
            where = self.somewhere(branch.body, environment, given, scope)
            if where is not FALSE:
                yield from ((where & guard, result) for guard, result in self.term(value, environment, scope))
            return
        for solved, guard in self.solve(branch.body, 0, environment, given, scope):
            yield from ((guard & condition, result) for condition, result in self.term(value, solved, scope))

    def function(self, group: RuleGroup, arguments: tuple[Symbolic, ...], scope: Scope) -> list[Outcome]:
        key = ("call", group.path, arguments, scope)
        return self.remembered(key, lambda: self._function_outcomes(group, arguments, scope))

    def _function_outcomes(
        self, group: RuleGroup, arguments: tuple[Symbolic, ...], scope: Scope
    ) -> list[Outcome]:
        chains: list[list[Row]] = []
        for rule in (*group.rules, *((group.default,) if group.default else ())):
            starts: list[Solution] = [(_EMPTY, TRUE)]
            for pattern, argument in zip(rule.arguments, arguments, strict=True):
                starts = [
                    (extended, guard & condition)
                    for environment, guard in starts
                    for extended, condition in self.match(pattern, argument, environment, scope)
                ]
            if rule is group.default:
                rest = ~f.any_of(*(guard for chain in chains for guard, _, _ in chain))
                starts = [(environment, guard & rest) for environment, guard in starts]
            chains.append(
                [row for environment, guard in starts for row in self._rule(rule, environment, guard, scope)]
            )
        self._check_conflicts(chains)
        return merge((guard, value) for chain in chains for guard, value, _ in chain)

    def _check_conflicts(self, chains: list[list[Row]]) -> None:
        """Refuses rules that give one document two values for some request (`eval_conflict_error` in OPA).

        The branches of one chain exclude one another, so only their own solutions are compared.
        """
        if len({value for chain in chains for _, value, _ in chain}) < 2:
            return
        for first, second in itertools.combinations_with_replacement(chains, 2):
            for left, right in itertools.product(first, second):
                if left[1] != right[1] and (first is not second or left[2] is right[2]):
                    self._check_apart(left, right)

    def _check_apart(self, left: Row, right: Row) -> None:
        both = left[0] & right[0]
        if both is FALSE:
            return
        self.reads.add(WEIGHED)
        request = self.witness(both) if self.witness else "some request"
        if request is not None:
            raise self.refusal(
                left[2],
                f"one request makes this {text_of(left[1])[:60]}, and {text_of(right[1])[:60]} at {right[2]}",
                f"let the conditions exclude one another; they meet at: {request}",
            )


def _united(rows: Iterable[tuple[Formula, Symbolic, Symbolic]]) -> list[tuple[Formula, Symbolic, Symbolic]]:
    """Members with equal key and value joined under the union of their guards."""
    guards: dict[tuple[Symbolic, Symbolic], Formula] = {}
    for guard, key, value in rows:
        guards[key, value] = guards.get((key, value), FALSE) | guard
    return [(guard, key, value) for (key, value), guard in guards.items()]
