"""What was worked out already, and what each result read.

A result that read nothing of the known input holds for every input; it is kept in the `Memory` that
evaluators over the same modules and data share. (Where one input lacks what is known of another, its
`elsewhere` says so.) The others are kept by the evaluator that made them. What a result read of `data` is
kept with it, so that it can be told whether it still holds when `data` changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from policies.formula import Formula
from policies.language.compiler.compiled import CompiledModules, RuleGroup
from policies.language.symbolic.conditions import Condition
from policies.language.symbolic.footprint import Footprints
from policies.language.symbolic.joins import Comparison, Index, Lookup, comparisons
from policies.language.symbolic.rule_index import RuleIndex
from policies.language.syntax import ast
from policies.language.values import Object, Value

MAX_RESULTS: Final = 2_000_000
"""Past this many kept results of each kind nothing more is kept; all is worked out anew."""


@dataclass(frozen=True, slots=True)
class KnownInput:
    """Something was read of the input's known part."""


@dataclass(frozen=True, slots=True)
class DataRead:
    """The value at a place of `data`, or that there is none."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowsRead:
    """The rows of the collection at a place of `data` that a lookup finds, with their keys if these count."""

    path: tuple[str, ...]
    lookup: Lookup
    wanted: tuple[Value, ...]
    keyed: bool


@dataclass(frozen=True, slots=True)
class RequestsWeighed:
    """It was asked which requests there are: whether any satisfies a formula (`Machine.witness`)."""


Read = KnownInput | DataRead | RowsRead | RequestsWeighed
Reads = frozenset[Read]
KNOWN: Final = KnownInput()
WEIGHED: Final = RequestsWeighed()
NOTHING: Final[Reads] = frozenset()

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Result]):
    """A result and what it read."""

    result: Result
    reads: Reads


@dataclass(slots=True)
class Memory:
    """A policy with its data, and what its evaluators have in common.

    `parts` are the questions that were asked about whole parts of the input (`parts.Parts`).
    """

    modules: CompiledModules
    data: Object
    footprints: Footprints
    results: dict[object, Kept[object]] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    parts: dict[Formula, tuple[str, ...]] = field(default_factory=dict)
    rule_indexes: dict[int, tuple[RuleGroup, Kept[RuleIndex]]] = field(default_factory=dict)
    _comparisons: dict[tuple[int, str], tuple[ast.Expr, tuple[Comparison, ...]]] = field(default_factory=dict)
    _indexes: dict[tuple[int, Lookup], tuple[Value, Index]] = field(default_factory=dict)

    @staticmethod
    def of(modules: CompiledModules, data: Object) -> Memory:
        """Nothing is worked out yet."""
        return Memory(modules, data, Footprints(modules))

    def rows(
        self, collection: Value, lookup: Lookup, wanted: tuple[Value, ...]
    ) -> tuple[tuple[Value, Value], ...]:
        """Keys and rows of a collection that a lookup finds, in the order of iteration."""
        # Kept with its collection, so that no other object can come to have the same id.
        key = (id(collection), lookup)
        found = self._indexes.get(key)
        if found is None:
            found = self._indexes[key] = (collection, lookup.index(collection))
        return found[1].get(wanted)

    def comparisons(self, body: ast.Body, index: int, variable: str) -> tuple[Comparison, ...]:
        """What a body says of the row that its expression at `index` binds, worked out once."""
        key = (id(body[index]), variable)
        found = self._comparisons.get(key)
        if found is None:
            said = tuple(comparisons(body[index + 1 :], variable, self.modules))
            found = self._comparisons[key] = (body[index], said)
        return found[1]

    def rule_index(self, group: RuleGroup, build: Callable[[], Kept[RuleIndex]]) -> Kept[RuleIndex]:
        """The index of a group's rules, made once."""
        found = self.rule_indexes.get(id(group))
        if found is None:
            found = self.rule_indexes[id(group)] = (group, build())
        return found[1]

    def answer(self, read: Read) -> object:
        """What a read of data gives."""
        if isinstance(read, DataRead):
            return lookup_path(self.data, read.path)
        if isinstance(read, RowsRead):
            base = lookup_path(self.data, read.path)
            rows = self.rows(base[0], read.lookup, read.wanted) if base else ()
            return rows if read.keyed else tuple(row for _, row in rows)
        raise TypeError(f"{read} is no read of data")


def lookup_path(value: Value, path: tuple[str, ...]) -> tuple[Value, ...]:
    """The value at a path below another, as a tuple of one, or nothing."""
    for step in path:
        if not isinstance(value, Object) or step not in value:
            return ()
        value = value[step]
    return (value,)
