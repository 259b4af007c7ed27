"""Classes of names: many names in few sets, beside prefixes and suffixes, each class by its shortest name."""

import itertools

from policies.proof.partition import partition
from policies.proof.probes import ABSENT, Dimension, Ends, Probe, Starts, Within

NAMES = [f"{part}/{'x' * size}{index}" for part, size, index in itertools.product("ab", (1, 2), range(20))]
PLACE = Dimension(1, "name", "text")


def test_names_in_large_sets_fall_into_the_classes_that_trying_each_finds() -> None:
    several = [
        Probe(PLACE),
        Within(PLACE, frozenset(NAMES)),
        Within(PLACE, frozenset(NAMES[::2])),
        Within(PLACE, frozenset(NAMES[20:60])),
        Within(PLACE, frozenset(NAMES[:3])),
        Within(PLACE, frozenset({"elsewhere"})),
        Starts(PLACE, "a/"),
        Ends(PLACE, "7"),
    ]
    tests = {1 << position: test for position, test in enumerate(several)}

    def bits(value: object) -> int:
        return sum(bit for bit, test in tests.items() if test.holds(value))

    found = {one.holds: one.value for one in partition(PLACE, tests)}
    for name in (*NAMES, "elsewhere", "a/", "b7", "a/zz7", "other", ABSENT):
        assert bits(name) in found, name
        if isinstance(name, str):
            shown = found[bits(name)]
            assert isinstance(shown, str)
            assert len(shown) <= len(name)
            assert bits(shown) == bits(name)
