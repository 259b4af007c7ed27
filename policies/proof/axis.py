"""One dimension of an arena of formulas: its tests by number, and how sets of them cut its values.

What was worked out about a dimension is kept here by node; what nodes are is the arena's business.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.proof.partition import ValueClass, partition
from policies.proof.probes import Dimension, Probe

Literal = int


class Cut:
    """A class of values of one dimension, and what formulas of the arena leave over there, by node."""

    __slots__ = ("left", "value")

    def __init__(self, value: ValueClass) -> None:
        self.value = value
        self.left: dict[int, Literal] = {}


class Axis:
    """One dimension of one arena: its tests, and how sets of them cut it.

    `support` is its bit among dimensions; a test has a bit among those of its dimension.
    """

    __slots__ = ("_cuts", "_tests", "below", "dimension", "indexes", "support")

    def __init__(self, dimension: Dimension, support: int) -> None:
        self.dimension = dimension
        self.support = support
        self.below: dict[int, int] = {}
        self.indexes: dict[int, tuple[list[Literal], list[Literal], dict[int, list[Literal]], int]] = {}
        self._tests: list[Probe] = []
        self._cuts: dict[int, list[Cut]] = {}

    def number(self, test: Probe) -> int:
        """The bit of a new test."""
        self._tests.append(test)
        return 1 << len(self._tests) - 1

    def classes(self, tests: int) -> list[Cut]:
        """The classes of values that these tests tell apart, cheapest first."""
        found = self._cuts.get(tests)
        if found is None:
            chosen = {bit: self._tests[bit.bit_length() - 1] for bit in bits(tests)}
            found = self._cuts[tests] = [Cut(one) for one in partition(self.dimension, chosen)]
        return found


def bits(mask: int) -> Iterator[int]:
    """The bits of a number, one by one."""
    while mask:
        lowest = mask & -mask
        yield lowest
        mask ^= lowest
