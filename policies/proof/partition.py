"""Dimensions, tests, and how a set of tests cuts a dimension into classes with a shortest value each.

Texts: values that tests name exactly are classes by themselves; for prefixes and suffixes the classes have a
closed form; anything else walks small automata. Ports and addresses: intervals between the ends that tests
name. Claims: absent, a text, a list (any combination of elements), or something else. Flags: true or false.

Every class carries the tests that hold there and one value; classes are complete: every value of the
dimension satisfies exactly the tests of some class.
"""

import functools
import ipaddress
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import ResourceExhausted
from policies.proof.language import Language, expression_language, fresh_character, shortest
from policies.proof.probes import (
    ABSENT,
    FIRST_IPV6,
    MAPPED_IPV4,
    Constant,
    Dimension,
    Element,
    Ends,
    Interval,
    Matches,
    Other,
    Probe,
    Starts,
    Within,
    quote,
)

MAX_LIST_CLASSES: Final = 4096


@dataclass(frozen=True, slots=True)
class ValueClass:
    """Values that no test tells apart: the tests that hold, the cost and the value shown."""

    cost: int
    value: object
    holds: frozenset[Probe]


def partition(dimension: Dimension, tests: frozenset[Probe]) -> list[ValueClass]:
    """The classes, cheapest first; absence is one where the dimension can be absent."""
    if dimension.kind == "text":
        classes = _texts(dimension, tests)
    elif dimension.kind.startswith("claim"):
        classes = _claims(dimension, tests)
    elif dimension.kind in ("port", "address"):
        classes = _numbers(dimension, tests)
    else:
        classes = [ValueClass(0, True, tests)]
    if not dimension.always:
        classes.append(ValueClass(0, ABSENT, frozenset()))
    return sorted(classes, key=lambda one: (one.cost, str(one.value)))


def _cheapest(found: Iterable[ValueClass]) -> list[ValueClass]:
    best: dict[frozenset[Probe], ValueClass] = {}
    for one in found:
        known = best.get(one.holds)
        if known is None or (one.cost, str(one.value)) < (known.cost, str(known.value)):
            best[one.holds] = one
    return list(best.values())


def _numbers(dimension: Dimension, tests: frozenset[Probe]) -> list[ValueClass]:
    last = 65535 if dimension.kind == "port" else FIRST_IPV6 + (1 << 128) - 1
    starts = {0 if dimension.kind == "port" else 1, FIRST_IPV6 + 1}
    for test in tests:
        if isinstance(test, Interval):
            starts.update(edge for low, high in test.spans for edge in (low, high + 1))
    classes = []
    for start in sorted(starts):
        if not 0 <= start <= last or (
            dimension.kind == "address" and MAPPED_IPV4 <= start <= MAPPED_IPV4 + 0xFFFFFFFF
        ):
            continue
        holds = frozenset(test for test in tests if type(test) is Probe or test.holds(start))
        shown: object = start
        if dimension.kind == "address":
            shown = str(
                ipaddress.IPv6Address(start - FIRST_IPV6)
                if start >= FIRST_IPV6
                else ipaddress.IPv4Address(start)
            )
        classes.append(ValueClass(1, shown, holds))
    return _cheapest(classes)


_LARGE: Final = 16
"""Sets with fewer names are looked at each time."""


def _texts(dimension: Dimension, tests: frozenset[Probe]) -> list[ValueClass]:
    domain = expression_language(dimension.domain)
    always = frozenset(test for test in tests if type(test) is Probe)
    sets: list[Within] = []
    patterns: list[Probe] = []
    for test in tests:
        if isinstance(test, Within):
            sets.append(test)
        elif type(test) is not Probe:
            patterns.append(test)
    # Sets of a thousand names are common, combinations of tests that hold of some name are few: so names are
    # counted by a number with a bit for each test, and become classes only where they are the shortest.
    named: dict[str, int] = {}
    for position, test in enumerate(sets):
        for value in test.values:
            named[value] = named.get(value, 0) | 1 << position
    for position, pattern in enumerate(patterns, len(sets)):
        for value in set().union(*(_matching(pattern, test.values) for test in sets)):
            named[value] |= 1 << position
    alike: dict[int, list[str]] = {}
    for value, bits in named.items():
        alike.setdefault(bits, []).append(value)
    found = []
    for bits, values in alike.items():
        word = _shortest_plausible(dimension, domain, values)
        if word is not None:
            holding = (test for position, test in enumerate([*sets, *patterns]) if bits >> position & 1)
            found.append(ValueClass(1 + len(word), word, always.union(holding)))
    others = _closed_form(dimension, domain, patterns, named.keys(), sets)
    if others is None:
        languages = [_language(test) for test in patterns]
        words = shortest(domain, languages, frozenset(named))
        others = [(word, frozenset(patterns[index] for index in held)) for held, word in words.items()]
    found += [ValueClass(1 + len(word), word, always | held) for word, held in others]
    return _cheapest(found)


def _matching(pattern: Probe, values: frozenset[str]) -> frozenset[str]:
    """The names for which a test holds; workload after workload asks the same of the same large sets."""
    if len(values) < _LARGE:
        return frozenset(value for value in values if pattern.holds(value))
    return _matching_of_many(pattern, values)


@functools.lru_cache(maxsize=256)
def _matching_of_many(pattern: Probe, values: frozenset[str]) -> frozenset[str]:
    return frozenset(value for value in values if pattern.holds(value))


def _characters(values: frozenset[str]) -> str:
    return _characters_of_many(values) if len(values) >= _LARGE else "".join(values)


@functools.lru_cache(maxsize=256)
def _characters_of_many(values: frozenset[str]) -> str:
    return "".join(sorted(set().union(*values)))


def _shortest_plausible(dimension: Dimension, domain: Language, values: list[str]) -> str | None:
    first = min(values, key=lambda value: (len(value), value))
    if _plausible(dimension, domain, first):
        return first
    others = (value for value in values if _plausible(dimension, domain, value))
    return min(others, key=lambda value: (len(value), value), default=None)


@functools.lru_cache(maxsize=65536)
def _plausible(dimension: Dimension, domain: Language, value: str) -> bool:
    return dimension.domain == "(?s:.)*" or domain.has(value)


def _closed_form(
    dimension: Dimension, domain: Language, patterns: list[Probe], named: Iterable[str], sets: list[Within]
) -> list[tuple[str, frozenset[Probe]]] | None:
    """Words beyond the named ones for prefixes and suffixes only; None where that isn't enough.

    With p the longest prefix and s the longest suffix that a word matches, p + fresh + s matches the same
    tests, fresh being a character that no test names. So trying all pairs is complete, provided that some
    filler keeps each pair inside the domain.
    """
    if not all(isinstance(test, Starts | Ends) for test in patterns):
        return None
    named = frozenset(named)
    starts = {test.text for test in patterns if isinstance(test, Starts)} | {""}
    ends = {test.text for test in patterns if isinstance(test, Ends)} | {""}
    fresh = fresh_character([*starts, *ends, *(_characters(test.values) for test in sets), dimension.head])
    found: dict[frozenset[Probe], str] = {}
    for start, end in itertools.product(sorted(starts), sorted(ends)):
        head = dimension.head if dimension.head.startswith(start) else start
        complete = False
        for filler in (fresh, f"{fresh}/{fresh}"):
            word = head + filler + end
            if domain.has(word):
                complete = True
                _offer(found, patterns, word, named)
                break
        if not complete:
            return None
        for size in range(min(len(head), len(end)), -1, -1):
            word = head + end[size:]
            if head.endswith(end[:size]) and domain.has(word):
                _offer(found, patterns, word, named)
    return [(word, held) for held, word in found.items()]


def _offer(
    found: dict[frozenset[Probe], str], patterns: list[Probe], word: str, named: frozenset[str]
) -> None:
    if word in named:
        return
    held = frozenset(test for test in patterns if test.holds(word))
    known = found.get(held)
    if known is None or (len(word), word) < (len(known), known):
        found[held] = word


def _language(test: Probe) -> Language:
    if isinstance(test, Matches):
        return expression_language(test.expression)
    assert isinstance(test, Starts | Ends)
    return _affix_language(type(test) is Starts, test.text)


@functools.lru_cache(maxsize=8192)
def _affix_language(is_prefix: bool, literal: str) -> Language:
    quoted = quote(literal)
    return expression_language(f"{quoted}(?s:.)*" if is_prefix else f"(?s:.)*{quoted}")


def _claims(dimension: Dimension, tests: frozenset[Probe]) -> list[ValueClass]:
    always = frozenset(test for test in tests if type(test) is Probe)
    on_texts = frozenset(test for test in tests if not isinstance(test, Element | Constant))
    on_elements: Mapping[Probe, Probe] = {test.inner: test for test in tests if isinstance(test, Element)}
    if dimension.kind == "claim-string":
        return _texts(dimension, on_texts)
    classes = _texts(dimension, on_texts) if dimension.kind == "claim" else []
    classes += [
        ValueClass(1 + len(one.json), Other(one.json), always | {one})
        for one in tests
        if isinstance(one, Constant)
    ]
    if dimension.kind == "claim":
        classes.append(ValueClass(2, Other("{}"), always))
    lists: dict[frozenset[Probe], tuple[str, ...]] = {frozenset(): ()}
    if on_elements:
        for element in _texts(dimension, frozenset(on_elements)):
            held = frozenset(on_elements[test] for test in element.holds)
            for known, values in list(lists.items()):
                if known | held not in lists:
                    lists[known | held] = (*values, str(element.value))
            if len(lists) > MAX_LIST_CLASSES:
                raise ResourceExhausted(f"cutting {dimension.key} into classes: more than {MAX_LIST_CLASSES}")
    classes += [
        ValueClass(1 + sum(map(len, values)) + len(values), values, always | held)
        for held, values in lists.items()
    ]
    return _cheapest(classes)
