"""Rows of large collections, looked up by what a body says of them further on; `joins` says how."""

from __future__ import annotations

from collections.abc import Iterable

from policies.formula import TRUE
from policies.language.diagnostics import Diagnostics
from policies.language.symbolic import joins
from policies.language.symbolic.footprint import variables
from policies.language.symbolic.machine import Environment, Scope, Solution
from policies.language.symbolic.memory import RowsRead, lookup_path
from policies.language.symbolic.terms import Terms
from policies.language.symbolic.values import UNKNOWN, Outcome
from policies.language.syntax import ast
from policies.language.values import Object, Value


class Rows(Terms):
    """How an iteration is narrowed."""

    __slots__ = ()

    def joined(
        self, body: ast.Body, index: int, environment: Environment, scope: Scope
    ) -> list[Solution] | None:
        """The rows of an iteration that later comparisons leave, found by index; None where it can't be."""
        rows = None if body[index].modifiers else joins.iteration(body[index].node)
        if rows is None or rows.variable in environment or rows.key in environment:
            return None
        if any(name not in environment for name in variables(rows.collection)):
            return None
        compared = self.memory.comparisons(body, index, rows.variable)
        if not compared:
            return None
        path = self._plain_data(rows.collection, scope)
        if path is not None:
            sources: list[Outcome] = [(TRUE, value) for value in lookup_path(self.memory.data, path)]
        else:
            sources = self.term(rows.collection, environment, scope)
        if len(sources) != 1:
            return None
        guard, collection = sources[0]
        if not isinstance(collection, tuple | Object) or len(collection) < joins.WORTH_AN_INDEX:
            return None
        found = self._lookup(compared, environment, scope)
        if found is None:
            return None
        if path is not None:
            self.reads.add(RowsRead(path, *found, keyed=not joins.is_wildcard(rows.key)))
        return [
            ({**environment, rows.key: key, rows.variable: row}, guard)
            for key, row in self.memory.rows(collection, *found)
        ]

    def _lookup(
        self, compared: Iterable[joins.Comparison], environment: Environment, scope: Scope
    ) -> tuple[joins.Lookup, tuple[Value, ...]] | None:
        """By which fields of a row to look it up, and the values that are wanted; the narrowest way."""
        single: dict[joins.Field, Value] = {}
        several: list[tuple[joins.Comparison, tuple[Value, ...]]] = []
        for one in compared:
            wanted = self._wanted(one, environment, scope)
            if wanted is not None and len(wanted) == 1 and not one.inside:
                single.setdefault(one.field, wanted[0])
            elif wanted is not None:
                several.append((one, wanted))
        if single:
            fields = tuple(sorted(single))
            values = tuple(single[field] for field in fields)
            return joins.Lookup(fields), values if len(values) == 1 else (values,)
        if several:
            one, wanted = min(several, key=lambda pair: len(pair[1]))
            return joins.Lookup((one.field,), one.inside), wanted
        return None

    def _wanted(
        self, comparison: joins.Comparison, environment: Environment, scope: Scope
    ) -> tuple[Value, ...] | None:
        """The values that a field may have, None where they aren't known before the request is."""
        if any(name not in environment for name, _ in self.memory.footprints.uses(comparison.term)):
            return None
        try:
            outcomes = self.term(comparison.term, environment, scope)
        except Diagnostics:
            return None  # it is told where the expression is reached
        found: dict[Value, None] = {}
        for _, value in outcomes:
            if isinstance(value, UNKNOWN):
                return None
            found.update(dict.fromkeys(joins.values_of(value) if comparison.members else (value,)))
        return tuple(found)

    def _plain_data(self, reference: ast.Ref, scope: Scope) -> tuple[str, ...] | None:
        """The place of a collection that stands in `data` as it is, with no rule and no `with` near it."""
        path = joins.place(reference)
        if path is None or scope.data or self.modules.tree.at(path) is not None:
            return None
        above = (self.modules.tree.at(path[:size]) for size in range(len(path)))
        return None if any(node is not None and node.group is not None for node in above) else path
