"""The names that sets of tests speak of, and the classes that they fall into.

A set of a thousand names is common and the same for many workloads; combinations of tests that hold of some
name are few. So the names of small sets are looked at one by one, and those of large sets as whole sets, by
what was worked out about a set before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from policies.proof.language import Language
from policies.proof.probes import Probe

_LARGE: Final = 16
"""Sets with fewer names are looked at name by name."""


class Names:
    """The names in sets of names, each set under the bit of its test."""

    __slots__ = ("_few", "_large")

    def __init__(self, sets: Mapping[int, frozenset[str]]) -> None:
        self._few: dict[str, int] = {}
        self._large: list[tuple[int, frozenset[str]]] = []
        for bit, values in sets.items():
            if len(values) >= _LARGE:
                self._large.append((bit, values))
                continue
            for value in values:
                self._few[value] = self._few.get(value, 0) | bit
        for bit, values in self._large:
            for value in values.intersection(self._few):
                self._few[value] |= bit

    def __contains__(self, name: str) -> bool:
        return name in self._few or any(name in values for _, values in self._large)

    def all(self) -> frozenset[str]:
        """Every name."""
        return frozenset(self._few).union(*(values for _, values in self._large))

    def letters(self) -> list[str]:
        """Texts that hold every character of the names."""
        return [*self._few, *(_letters(values) for _, values in self._large)]

    def classes(self, patterns: Mapping[int, Probe], domain: Language) -> Iterator[tuple[int, str]]:
        """The bits of the tests that hold of some name of the domain, and the shortest such name."""
        alike: dict[int, list[str]] = {}
        for value, holds in self._few.items():
            for bit, pattern in patterns.items():
                if pattern.holds(value):
                    holds |= bit
            alike.setdefault(holds, []).append(value)
        for holds, values in alike.items():
            word = _first(values if len(values) == 1 else sorted(values, key=_shortness), domain)
            if word is not None:
                yield holds, word
        for region in self._regions(patterns):
            word = _first((value for value in _by_shortness(region.origin) if value in region.names), domain)
            if word is not None:
                yield region.holds, word

    def _regions(self, patterns: Mapping[int, Probe]) -> list[_Region]:
        """The names of large sets alone, by the tests that hold."""
        regions: list[_Region] = []
        for bit, values in self._large:
            left = values.difference(self._few)
            cut: list[_Region] = []
            for region in regions:
                cut += region.split(bit, left)
                left = left - region.names
            regions = [*cut, _Region(bit, left, values)] if left else cut
        for bit, pattern in patterns.items():
            regions = [
                part for region in regions for part in region.split(bit, _matching(pattern, region.origin))
            ]
        return regions


class _Region(NamedTuple):
    """Names that no test tells apart, all of them in the large set `origin`."""

    holds: int
    names: frozenset[str]
    origin: frozenset[str]

    def split(self, bit: int, values: frozenset[str]) -> list[_Region]:
        """The names among `values`, for which the test of `bit` holds as well, and the others."""
        inside = self.names & values
        if not inside:
            return [self]
        held = _Region(self.holds | bit, inside, self.origin)
        outside = self.names - values
        return [held, self._replace(names=outside)] if outside else [held]


def _first(values: Iterable[str], domain: Language) -> str | None:
    return next((value for value in values if _belongs(value, domain)), None)


def _shortness(value: str) -> tuple[int, str]:
    return len(value), value


@functools.lru_cache(maxsize=65536)
def _belongs(value: str, domain: Language) -> bool:
    return domain.has(value)


# Workload after workload asks the same of the same large sets.


@functools.lru_cache(maxsize=256)
def _by_shortness(values: frozenset[str]) -> Sequence[str]:
    return sorted(values, key=_shortness)


@functools.lru_cache(maxsize=256)
def _letters(values: frozenset[str]) -> str:
    return "".join(sorted(set().union(*values)))


@functools.lru_cache(maxsize=256)
def _matching(pattern: Probe, values: frozenset[str]) -> frozenset[str]:
    return frozenset(value for value in values if pattern.holds(value))
