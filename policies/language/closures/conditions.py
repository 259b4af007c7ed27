"""The conditions that a specialised decision is made of: closures over plain JSON data.

A test takes the input and answers whether it holds. Plain Python data needs care in two places, and
only here: True equals 1 in Python but not in Rego, and a string can be indexed in Python but not in
Rego.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.language.values import FALSE, TRUE, Value, from_python

Test = Callable[[Any], bool]
Read = Callable[[Any], Any]


class _Missing:
    """The absence of a value."""

    __slots__ = ()


MISSING: Final = _Missing()


def HOLDS(_document: Any) -> bool:  # noqa: N802 - a constant that happens to be a function
    """The test that always holds."""
    return True


def FAILS(_document: Any) -> bool:  # noqa: N802 - a constant that happens to be a function
    """The test that never holds."""
    return False


@dataclass(frozen=True, slots=True)
class Known:
    """A value that does not depend on the input; MISSING when it is undefined."""

    value: Any


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is read from the input: plain data or a value, MISSING when undefined.

    `path` of a plain field; `test` where the value is true or nothing else matters: whether it is true.
    """

    read: Read
    path: tuple[Any, ...] | None = None
    test: Test | None = None


WRONG_WAY: Final = (KeyError, TypeError, IndexError)
"""What reading a place raises that isn't there."""


def path_reader(path: tuple[Any, ...]) -> Read:
    """Reads a field by its string keys."""
    if len(path) == 1:
        (only,) = path

        def one(document: Any) -> Any:
            try:
                return document[only]
            except WRONG_WAY:
                return MISSING

        return one
    if len(path) == 2:
        first, second = path

        def two(document: Any) -> Any:
            try:
                return document[first][second]
            except WRONG_WAY:
                return MISSING

        return two

    def many(document: Any) -> Any:
        try:
            for key in path:
                document = document[key]
        except WRONG_WAY:
            return MISSING
        return document

    return many


def plain_value(plain: Any) -> Any:
    """The Rego value of plain data (MISSING stays)."""
    kind = type(plain)
    return plain if kind is str or kind is int or plain is MISSING else from_python(plain)


# --- connectives ----------------------------------------------------------------------------------


def all_of(tests: list[Test]) -> Test:
    """All tests, in order."""
    tests = [flattened(test) for test in tests if test is not HOLDS]
    if any(test is FAILS for test in tests):
        return FAILS
    if not tests:
        return HOLDS
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda document: first(document) and second(document)
    if len(tests) == 3:
        first, second, third = tests
        return lambda document: first(document) and second(document) and third(document)
    head, rest = all_of(tests[:3]), all_of(tests[3:])
    return lambda document: head(document) and rest(document)


def any_of(tests: list[Test]) -> Test:
    """One of the tests; comparisons of one field with strings become one membership test."""
    if any(test is HOLDS for test in tests):
        return HOLDS
    tests = _gathered([test for test in tests if test is not FAILS])
    if not tests:
        return FAILS
    if len(tests) == 1:
        return tests[0]
    tests = [flattened(test) for test in tests]
    if len(tests) == 2:
        first, second = tests
        return lambda document: first(document) or second(document)
    options = tuple(tests)

    def one_holds(document: Any) -> bool:
        for test in options:  # noqa: SIM110 - a generator would cost more than the tests
            if test(document):
                return True
        return False

    return one_holds


def _gathered(tests: list[Test]) -> list[Test]:
    by_field: dict[tuple[Any, ...], list[_FieldIs]] = {}
    for test in tests:
        if isinstance(test, _FieldIs):
            by_field.setdefault(test.path, []).append(test)
    gathered: list[Test] = [test for test in tests if not isinstance(test, _FieldIs)]
    for path, same in by_field.items():
        if len(same) == 1:
            gathered.append(same[0])
        else:
            gathered.append(
                member_test(Unknown(path_reader(path), path), frozenset(test.text for test in same))
            )
    return gathered


def negated(test: Test) -> Test:
    """The opposite."""
    if test is HOLDS or test is FAILS:
        return FAILS if test is HOLDS else HOLDS
    inner = flattened(test)
    return lambda document: not inner(document)


# --- conditions -----------------------------------------------------------------------------------


def defined(term: Known | Unknown, *, false_too: bool = False) -> Test:
    """Whether the term has a value that is not false (or any value, with `false_too`)."""
    if isinstance(term, Known):
        return FAILS if term.value is MISSING or (term.value is FALSE and not false_too) else HOLDS
    if term.test is not None and not false_too:
        return term.test
    read = term.read
    if false_too:
        return lambda document: read(document) is not MISSING

    def test(document: Any) -> bool:
        found = read(document)
        return found is not MISSING and found is not False and found is not FALSE

    return test


class _FieldIs:
    """Whether a field of the input is a given string."""

    __slots__ = ("_read", "path", "text")

    def __init__(self, path: tuple[Any, ...], text: str) -> None:
        self.path, self.text = path, text
        self._read = path_reader(path)

    def __call__(self, document: Any) -> bool:
        return bool(self._read(document) == self.text)


def _field_is(path: tuple[Any, ...], text: str) -> Test:
    return _FieldIs(path, text)


def flattened(test: Test) -> Test:
    """The test as a plain function: a call of an object with `__call__` costs more."""
    if not isinstance(test, _FieldIs):
        return test
    path, text = test.path, test.text
    if len(path) == 2:
        first, second = path

        def two(document: Any) -> bool:
            try:
                return bool(document[first][second] == text)
            except WRONG_WAY:
                return False

        return two
    read = path_reader(path)
    return lambda document: bool(read(document) == text)


def compared(left: Known | Unknown, right: Known | Unknown) -> Test:
    """Whether both sides have equal values."""
    if isinstance(left, Known) and isinstance(right, Known):
        return HOLDS if left.value is not MISSING and left.value == right.value else FAILS
    if isinstance(left, Known):
        left, right = right, left
    assert isinstance(left, Unknown)  # one side is
    read = left.read
    if isinstance(right, Unknown):
        other = right.read

        def equal(document: Any) -> bool:
            ours = plain_value(read(document))
            return ours is not MISSING and bool(ours == plain_value(other(document)))

        return equal
    wanted = right.value
    if wanted is MISSING:
        return FAILS
    if isinstance(wanted, str):
        if left.path:
            return _field_is(left.path, wanted)
        return lambda document: bool(read(document) == wanted)
    if wanted is TRUE:
        return lambda document: read(document) in _TRUTHS if type(read(document)) is not int else False
    return lambda document: bool(plain_value(read(document)) == wanted)


_TRUTHS = (True, TRUE)


def member_test(field: Unknown, collection: frozenset[Value]) -> Test:
    """Whether a field's value is in a known collection."""
    if field.path is None or len(field.path) != 2:
        read = field.read

        def test(document: Any) -> bool:
            found = read(document)
            if type(found) is str:
                return found in collection
            return found is not MISSING and plain_value(found) in collection

        return test
    first, second = field.path

    def test_of_two(document: Any) -> bool:
        try:
            found = document[first][second]
        except WRONG_WAY:
            return False
        return (found if type(found) is str else plain_value(found)) in collection

    return test_of_two


def lookup_table(key: Unknown, cases: Mapping[Value, Test]) -> Test:
    """The case that stands at a key which the input gives."""
    table = {value: flattened(test) for value, test in cases.items() if test is not FAILS}
    if not table:
        return FAILS
    read = key.read
    if all(test is HOLDS for test in table.values()):
        return member_test(key, frozenset(table))

    def holds(document: Any) -> bool:
        found = read(document)
        test = table.get(found if type(found) is str else plain_value(found))
        return test is not None and test(document)

    return holds
