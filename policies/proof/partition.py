"""How a set of tests cuts a dimension into classes, with a shortest value each.

Texts: values that tests name exactly are classes by themselves; for prefixes and suffixes the classes have a
closed form; anything else walks small automata. Ports and addresses: intervals between the ends that tests
name. Claims: absent, a text, a list (any combination of elements), or something else. Flags: true or false.

Every class carries the tests that hold there and one value; classes are complete: every value of the
dimension satisfies exactly the tests of some class. A set of tests is a number with a bit for each.
"""

import ipaddress
import itertools
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from control_plane.core.errors import ResourceExhausted
from policies.proof.language import Language, expression_language, fresh_character, shortest
from policies.proof.names import Names
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

Tests = Mapping[int, Probe]
"""Tests of one dimension, each under its bit."""


class ValueClass(NamedTuple):
    """Values that no test tells apart: the cost and the value shown, and the bits of the tests that hold."""

    cost: int
    value: object
    holds: int


def partition(dimension: Dimension, tests: Tests) -> list[ValueClass]:
    """The classes, cheapest first; absence is one where the dimension can be absent."""
    if dimension.kind == "text":
        classes = _texts(dimension, tests)
    elif dimension.kind.startswith("claim"):
        classes = _claims(dimension, tests)
    elif dimension.kind in ("port", "address"):
        classes = _numbers(dimension, tests)
    else:
        classes = [ValueClass(0, True, sum(tests))]
    if not dimension.always:
        classes.append(ValueClass(0, ABSENT, 0))
    return sorted(classes, key=_order)


def _order(one: ValueClass) -> tuple[int, str]:
    return one.cost, str(one.value)


def _cheapest(found: Iterable[ValueClass]) -> list[ValueClass]:
    best: dict[int, ValueClass] = {}
    for one in found:
        known = best.get(one.holds)
        if known is None or _order(one) < _order(known):
            best[one.holds] = one
    return list(best.values())


def _presence(tests: Tests) -> int:
    """The tests that hold wherever the dimension is there."""
    return sum(bit for bit, test in tests.items() if type(test) is Probe)


def _numbers(dimension: Dimension, tests: Tests) -> list[ValueClass]:
    last = 65535 if dimension.kind == "port" else FIRST_IPV6 + (1 << 128) - 1
    starts = {0 if dimension.kind == "port" else 1, FIRST_IPV6 + 1}
    for test in tests.values():
        if isinstance(test, Interval):
            starts.update(edge for low, high in test.spans for edge in (low, high + 1))
    classes = []
    for start in sorted(starts):
        if not 0 <= start <= last or (
            dimension.kind == "address" and MAPPED_IPV4 <= start <= MAPPED_IPV4 + 0xFFFFFFFF
        ):
            continue
        holds = sum(bit for bit, test in tests.items() if test.holds(start))
        shown: object = start
        if dimension.kind == "address":
            shown = str(
                ipaddress.IPv6Address(start - FIRST_IPV6)
                if start >= FIRST_IPV6
                else ipaddress.IPv4Address(start)
            )
        classes.append(ValueClass(1, shown, holds))
    return _cheapest(classes)


def _texts(dimension: Dimension, tests: Tests) -> list[ValueClass]:
    domain = expression_language(dimension.domain)
    always = _presence(tests)
    patterns = {
        bit: test for bit, test in tests.items() if type(test) is not Probe and not isinstance(test, Within)
    }
    named = Names({bit: test.values for bit, test in tests.items() if isinstance(test, Within)})
    found = [ValueClass(1 + len(word), word, always | held) for held, word in named.classes(patterns, domain)]
    others = _closed_form(dimension, domain, patterns, named)
    if others is None:
        bits, languages = list(patterns), [_language(test) for test in patterns.values()]
        words = shortest(domain, languages, named.all())
        others = {sum(bits[index] for index in held): word for held, word in words.items()}
    found += [ValueClass(1 + len(word), word, always | held) for held, word in others.items()]
    return _cheapest(found)


def _closed_form(
    dimension: Dimension, domain: Language, patterns: Tests, named: Names
) -> dict[int, str] | None:
    """Words beyond the named ones for prefixes and suffixes only; None where that isn't enough.

    With p the longest prefix and s the longest suffix that a word matches, p + fresh + s matches the same
    tests, fresh being a character that no test names. So trying all pairs is complete, provided that some
    filler keeps each pair inside the domain.
    """
    if not all(isinstance(test, Starts | Ends) for test in patterns.values()):
        return None
    starts = {test.text for test in patterns.values() if isinstance(test, Starts)} | {""}
    ends = {test.text for test in patterns.values() if isinstance(test, Ends)} | {""}
    fresh = fresh_character([*starts, *ends, *named.letters(), dimension.head])
    found: dict[int, str] = {}

    def offer(word: str) -> None:
        if word in named:
            return
        held = sum(bit for bit, test in patterns.items() if test.holds(word))
        known = found.get(held)
        if known is None or (len(word), word) < (len(known), known):
            found[held] = word

    for start, end in itertools.product(sorted(starts), sorted(ends)):
        head = dimension.head if dimension.head.startswith(start) else start
        for filler in (fresh, f"{fresh}/{fresh}"):
            word = head + filler + end
            if domain.has(word):
                offer(word)
                break
        else:
            return None
        for size in range(min(len(head), len(end)), -1, -1):
            word = head + end[size:]
            if head.endswith(end[:size]) and domain.has(word):
                offer(word)
    return found


def _language(test: Probe) -> Language:
    if isinstance(test, Matches):
        return expression_language(test.expression)
    assert isinstance(test, Starts | Ends)
    quoted = quote(test.text)
    return expression_language(f"{quoted}(?s:.)*" if isinstance(test, Starts) else f"(?s:.)*{quoted}")


def _claims(dimension: Dimension, tests: Tests) -> list[ValueClass]:
    always = _presence(tests)
    on_texts = {bit: test for bit, test in tests.items() if not isinstance(test, Element | Constant)}
    on_elements = {bit: test.inner for bit, test in tests.items() if isinstance(test, Element)}
    if dimension.kind == "claim-string":
        return _texts(dimension, on_texts)
    classes = _texts(dimension, on_texts) if dimension.kind == "claim" else []
    classes += [
        ValueClass(1 + len(one.json), Other(one.json), always | bit)
        for bit, one in tests.items()
        if isinstance(one, Constant)
    ]
    if dimension.kind == "claim":
        classes.append(ValueClass(2, Other("{}"), always))
    lists: dict[int, tuple[str, ...]] = {0: ()}
    if on_elements:
        for element in _texts(dimension, on_elements):
            for known, values in list(lists.items()):
                if known | element.holds not in lists:
                    lists[known | element.holds] = (*values, str(element.value))
            if len(lists) > MAX_LIST_CLASSES:
                raise ResourceExhausted(f"cutting {dimension.key} into classes: more than {MAX_LIST_CLASSES}")
    classes += [
        ValueClass(1 + sum(map(len, values)) + len(values), values, always | held)
        for held, values in lists.items()
    ]
    return _cheapest(classes)
