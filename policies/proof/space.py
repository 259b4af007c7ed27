"""The space of requests, cut along its dimensions: Boolean formulas over tests, compared with witnesses.

A dimension is one thing a proxy can look at (peer identity, port, path, one header, one claim ...); a test is
a question about one dimension. Formulas are kept as an arena of n-ary ORs with complement edges, each shape
once. Comparing two formulas picks a dimension, cuts its values into classes that no test in sight tells
apart, and goes on with what each class leaves over; classes that leave the same are one. That is exact, and
the cheapest class first gives a shortest witness.

This module knows neither Istio nor Rego. Cost is length of texts, so that witnesses are short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import ResourceExhausted
from policies.proof.axis import Axis, Cut, bits
from policies.proof.probes import ABSENT, Dimension, Probe, Within

Literal = int
"""A node of the arena, with the lowest bit for negation."""

FALSE: Final[Literal] = 0
TRUE: Final[Literal] = 1
MAX_STEPS: Final = 300_000
_INDEX_FROM: Final = 5


@dataclass(frozen=True, slots=True)
class Witness:
    """A value for each dimension that matters; the others may have any value."""

    cost: int
    values: tuple[tuple[Dimension, object], ...]

    def get(self, dimension: Dimension) -> object:
        """The value, ABSENT where the dimension must be absent or doesn't matter."""
        return dict(self.values).get(dimension, ABSENT)


class Space:
    """One arena. Literals of different arenas must not meet."""

    def __init__(self) -> None:
        self._tests: list[Probe | None] = [None]
        self._children: list[tuple[Literal, ...]] = [()]
        self._support: list[int] = [0]  # a bit for each dimension
        self._bit: list[int] = [0]  # of a test among those of its dimension
        self._by_test: dict[Probe, Literal] = {}
        self._by_children: dict[tuple[Literal, ...], Literal] = {}
        self._dimensions: dict[Dimension, Axis] = {}
        self._axes: list[Axis] = []
        self._first_cut: dict[int, Axis] = {}
        self._found: dict[tuple[Literal, Literal], Witness | None] = {}
        self._steps = 0

    def test(self, test: Probe) -> Literal:
        """The formula that asks one question."""
        found = self._by_test.get(test)
        if found is None:
            axis = self._dimensions.get(test.dimension)
            if axis is None:
                axis = self._dimensions[test.dimension] = Axis(test.dimension, 1 << len(self._axes))
                self._axes.append(axis)
            found = self._by_test[test] = self._add(test, (), axis.support, axis.number(test))
        return found

    def any_of(self, literals: Iterable[Literal]) -> Literal:
        """Disjunction; of nothing it is FALSE."""
        flat: set[Literal] = set()
        for one in literals:
            if one == TRUE:
                return TRUE
            if one == FALSE:
                continue
            if not one & 1 and self._children[one >> 1]:
                flat.update(self._children[one >> 1])
            else:
                flat.add(one)
        return self._joined(flat)

    def _joined(self, flat: set[Literal]) -> Literal:
        """The disjunction of literals of which none is a constant or a disjunction itself."""
        if not flat:
            return FALSE
        if len(flat) == 1:
            return flat.pop()
        for one in flat:
            if one & 1 and one ^ 1 in flat:
                return TRUE
        children = tuple(sorted(flat))
        found = self._by_children.get(children)
        if found is None:
            support = 0
            for one in children:
                support |= self._support[one >> 1]
            found = self._by_children[children] = self._add(None, children, support)
        return found

    def all_of(self, literals: Iterable[Literal]) -> Literal:
        """Conjunction; of nothing it is TRUE."""
        return self.any_of([one ^ 1 for one in literals]) ^ 1

    def one_of(self, literals: Iterable[Literal]) -> Literal:
        """Disjunction as a field's list of values has it: names on one dimension become one set of names."""
        names: dict[Dimension, list[Literal]] = {}
        others: list[Literal] = []
        for one in literals:
            test = None if one & 1 else self._tests[one >> 1]
            if isinstance(test, Within):
                names.setdefault(test.dimension, []).append(one)
            else:
                others.append(one)
        for dimension, several in names.items():
            if len(several) > 1:
                sets = [test.values for one in several if isinstance(test := self._tests[one >> 1], Within)]
                several = [self.test(Within(dimension, frozenset().union(*sets)))]
            others += several
        return self.any_of(others)

    def _add(self, test: Probe | None, children: tuple[Literal, ...], support: int, bit: int = 0) -> Literal:
        self._tests.append(test)
        self._children.append(children)
        self._support.append(support)
        self._bit.append(bit)
        return (len(self._tests) - 1) << 1

    def holds(self, literal: Literal, values: Mapping[Dimension, object]) -> bool:
        """The truth of a formula for concrete values; a dimension that isn't there is absent."""
        node = literal >> 1
        test = self._tests[node]
        if test is not None:
            value = values.get(test.dimension, ABSENT)
            return test.holds(value) != bool(literal & 1)
        if not node:
            return literal == TRUE
        return any(self.holds(one, values) for one in self._children[node]) != bool(literal & 1)

    def difference(self, left: Literal, right: Literal) -> Witness | None:
        """A shortest witness of `left` and not `right`; None proves that left implies right.

        Raises ResourceExhausted where the question is too large to decide.
        """
        if left in (FALSE, right) or right == TRUE:
            return None
        if left == TRUE and right == FALSE:
            return Witness(0, ())
        key = (left, right)
        if key in self._found:
            return self._found[key]
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ResourceExhausted(f"comparing two policies: more than {MAX_STEPS} cases")
        axis = self._axis_of(self._support[left >> 1] | self._support[right >> 1])
        best: Witness | None = None
        tried: set[tuple[Literal, Literal]] = set()
        for one in axis.classes(self._tests_of(left >> 1, axis) | self._tests_of(right >> 1, axis)):
            value = one.value
            if best is not None and value.cost >= best.cost:
                break
            pair = (self._restrict(left, axis, one), self._restrict(right, axis, one))
            if pair in tried:
                continue
            tried.add(pair)
            rest = self.difference(*pair)
            if rest is not None and (best is None or rest.cost + value.cost < best.cost):
                best = Witness(rest.cost + value.cost, ((axis.dimension, value.value), *rest.values))
        self._found[key] = best
        return best

    def _axis_of(self, support: int) -> Axis:
        """The dimension to cut first, of those in `support`."""
        found = self._first_cut.get(support)
        if found is None:
            among = (axis for axis in self._axes if axis.support & support)
            found = self._first_cut[support] = min(among, key=lambda axis: axis.dimension.rank)
        return found

    def _tests_of(self, node: int, axis: Axis) -> int:
        """The bits of the tests of one dimension below `node`."""
        if not self._support[node] & axis.support:
            return 0
        if self._bit[node]:
            return self._bit[node]
        found = axis.below.get(node)
        if found is None:
            found = 0
            for child in self._children[node]:
                found |= self._tests_of(child >> 1, axis)
            axis.below[node] = found
        return found

    def _restrict(self, literal: Literal, axis: Axis, chosen: Cut) -> Literal:
        """What `literal` leaves over once its dimension has a value of class `chosen`."""
        node, sign = literal >> 1, literal & 1
        if not self._support[node] & axis.support:
            return literal
        if self._bit[node]:
            return (TRUE if self._bit[node] & chosen.value.holds else FALSE) ^ sign
        found = chosen.left.get(node)
        if found is None:
            children: Iterable[Literal] = self._children[node]
            flat: set[Literal] = set()
            if len(self._children[node]) >= _INDEX_FROM:
                kept, children = self._alive(node, axis, chosen.value.holds)
                flat.update(kept)
            for child in children:
                part = self._restrict(child, axis, chosen)
                if part == TRUE:
                    flat = {TRUE}
                    break
                if not part & 1 and self._children[part >> 1]:
                    flat.update(self._children[part >> 1])
                elif part != FALSE:
                    flat.add(part)
            found = chosen.left[node] = self._joined(flat)
        return found ^ sign

    def _alive(self, node: int, axis: Axis, holds: int) -> tuple[Iterable[Literal], Iterable[Literal]]:
        """The children of a wide OR without the dimension, and those with it that may hold.

        A child that needs one test to hold is skipped wholesale where that test fails; without this,
        thousands of rules with one caller each would cost a step for every rule and caller.
        """
        found = axis.indexes.get(node)
        if found is None:
            kept, rest, guarded, guards = list[Literal](), list[Literal](), dict[int, list[Literal]](), 0
            for child in self._children[node]:
                if not self._support[child >> 1] & axis.support:
                    kept.append(child)
                    continue
                guard = self._guard(child, axis)
                guards |= guard
                if guard:
                    guarded.setdefault(guard, []).append(child)
                else:
                    rest.append(child)
            found = axis.indexes[node] = (kept, rest, guarded, guards)
        kept, rest, guarded, guards = found
        alive = [child for bit in bits(holds & guards) for child in guarded[bit]]
        return kept, rest + alive

    def _guard(self, child: Literal, axis: Axis) -> int:
        """The bit of a test of the dimension without which `child` is false, 0 where there is none."""
        node = child >> 1
        if not child & 1:
            return self._bit[node]
        for part in self._children[node]:
            if part & 1 and self._bit[part >> 1] and self._support[part >> 1] & axis.support:
                return self._bit[part >> 1]
        return 0
