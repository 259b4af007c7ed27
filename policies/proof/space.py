"""The space of requests, cut along its dimensions: Boolean formulas over tests, compared with witnesses.

A dimension is one thing a proxy can look at (peer identity, port, path, one header, one claim ...); a test is
a question about one dimension. Formulas are kept as an arena of n-ary ORs with complement edges, each shape
once. Comparing two formulas picks a dimension, cuts its values into classes that no test in sight tells
apart, and goes on with what each class leaves over; classes that leave the same are one. That is exact, and
the cheapest class first gives a shortest witness.

This module knows neither Istio nor Rego. Cost is length of texts, so that witnesses are short.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import ResourceExhausted
from policies.proof.partition import ValueClass, partition
from policies.proof.probes import ABSENT, Dimension, Probe

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
        self._support: list[int] = [0]
        self._by_test: dict[Probe, Literal] = {}
        self._by_children: dict[tuple[Literal, ...], Literal] = {}
        self._dimensions: dict[Dimension, int] = {}
        self._order: list[Dimension] = []
        self._restricted: dict[tuple[int, int], Literal] = {}
        self._visible: dict[tuple[int, int], frozenset[Probe]] = {}
        self._indexes: dict[tuple[int, int], tuple[Literal, list[Literal], dict[Probe, list[Literal]]]] = {}
        self._partitions: dict[tuple[int, frozenset[Probe]], list[tuple[int, ValueClass]]] = {}
        self._class_count = 0
        self._found: dict[tuple[Literal, Literal], Witness | None] = {}
        self._steps = 0

    def test(self, test: Probe) -> Literal:
        """The formula that asks one question."""
        found = self._by_test.get(test)
        if found is None:
            index = self._dimensions.setdefault(test.dimension, len(self._order))
            if index == len(self._order):
                self._order.append(test.dimension)
            found = self._by_test[test] = self._add(test, (), 1 << index)
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

    def _add(self, test: Probe | None, children: tuple[Literal, ...], support: int) -> Literal:
        self._tests.append(test)
        self._children.append(children)
        self._support.append(support)
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
        support = self._support[left >> 1] | self._support[right >> 1]
        index = min(_bits(support), key=lambda bit: self._order[bit].rank)
        tests = self._tests_of(left >> 1, index) | self._tests_of(right >> 1, index)
        best: Witness | None = None
        tried: set[tuple[Literal, Literal]] = set()
        for number, one in self._classes(index, tests):
            if best is not None and one.cost >= best.cost:
                break
            pair = (self._restrict(left, index, number, one), self._restrict(right, index, number, one))
            if pair in tried:
                continue
            tried.add(pair)
            rest = self.difference(*pair)
            if rest is not None and (best is None or rest.cost + one.cost < best.cost):
                best = Witness(rest.cost + one.cost, ((self._order[index], one.value), *rest.values))
        self._found[key] = best
        return best

    def _classes(self, index: int, tests: frozenset[Probe]) -> list[tuple[int, ValueClass]]:
        found = self._partitions.get((index, tests))
        if found is None:
            classes = partition(self._order[index], tests)
            found = [(self._class_count + offset, one) for offset, one in enumerate(classes)]
            self._class_count += len(classes)
            self._partitions[(index, tests)] = found
        return found

    def _tests_of(self, node: int, index: int) -> frozenset[Probe]:
        """Every test of one dimension below `node`."""
        if not self._support[node] >> index & 1:
            return frozenset()
        found = self._visible.get((node, index))
        if found is None:
            test = self._tests[node]
            collected = {test} if test is not None else set[Probe]()
            for child in self._children[node]:
                collected |= self._tests_of(child >> 1, index)
            found = self._visible[(node, index)] = frozenset(collected)
        return found

    def _restrict(self, literal: Literal, index: int, number: int, chosen: ValueClass) -> Literal:
        """What `literal` leaves over once its dimension `index` has a value of class `chosen`."""
        node, sign = literal >> 1, literal & 1
        if not self._support[node] >> index & 1:
            return literal
        found = self._restricted.get((node, number))
        if found is None:
            test = self._tests[node]
            children = self._children[node]
            if test is not None:
                found = TRUE if test in chosen.holds else FALSE
            elif len(children) < _INDEX_FROM:
                support = self._support
                found = self.any_of(
                    [
                        self._restrict(child, index, number, chosen)
                        if support[child >> 1] >> index & 1
                        else child
                        for child in children
                    ]
                )
            else:
                kept, rest, guarded = self._index(node, index)
                alive = [kept, *(self._restrict(child, index, number, chosen) for child in rest)]
                for held in (
                    chosen.holds & guarded.keys() if len(guarded) < len(chosen.holds) else chosen.holds
                ):
                    alive += [self._restrict(child, index, number, chosen) for child in guarded.get(held, ())]
                found = self.any_of(alive)
            self._restricted[(node, number)] = found
        return found ^ sign

    def _index(self, node: int, index: int) -> tuple[Literal, list[Literal], dict[Probe, list[Literal]]]:
        """The children of a wide OR: without the dimension, with it, and those that need one test to hold.

        A guarded child is skipped wholesale where its test fails; without this, thousands of rules with one
        caller each would cost a step for every rule and caller.
        """
        found = self._indexes.get((node, index))
        if found is None:
            kept, rest, guarded = list[Literal](), list[Literal](), dict[Probe, list[Literal]]()
            for child in self._children[node]:
                inner = child >> 1
                if not self._support[inner] >> index & 1:
                    kept.append(child)
                    continue
                guard = self._guard(child, index)
                if guard is None:
                    rest.append(child)
                else:
                    guarded.setdefault(guard, []).append(child)
            found = self._indexes[(node, index)] = (self.any_of(kept), rest, guarded)
        return found

    def _guard(self, child: Literal, index: int) -> Probe | None:
        """A test of the dimension without which `child` is false."""
        node = child >> 1
        if not child & 1:
            return self._tests[node]
        for part in self._children[node]:
            test = self._tests[part >> 1]
            if part & 1 and test is not None and self._support[part >> 1] >> index & 1:
                return test
        return None


def _bits(mask: int) -> Iterable[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
