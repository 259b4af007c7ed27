"""Functions of a whole collection: counting, adding, extremes, sorting, and set families."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction

from policies.language.builtins.errors import HaltError, OperandError
from policies.language.builtins.operators import add, multiply
from policies.language.numbers import Number, Real, from_fraction, integral, rounded
from policies.language.values import (
    TRUE,
    Boolean,
    Object,
    Set,
    Value,
    boolean,
    order_key,
    ordered,
    type_name,
)

Collection = tuple[Value, ...] | Set


def count(collection: str | Object | Collection) -> int:
    """Number of elements, or of characters of a string."""
    return len(collection)


def _numbers(collection: Collection) -> list[Number]:
    listed = []
    for item in _in_order(collection):
        if not isinstance(item, int | Real):
            raise OperandError(
                f"operand 1 must be {type_name(collection)} of numbers but got "
                f"{type_name(collection)} containing {type_name(item)}"
            )
        listed.append(item)
    return listed


def _in_order(collection: Collection) -> tuple[Value, ...]:
    return collection.ordered_members() if isinstance(collection, Set) else collection


def total(collection: Collection) -> Number:
    """Sum; 0 of nothing."""
    numbers = _numbers(collection)
    result: Number = 0
    for number in numbers:
        result = add(result, number)
    if all(map(_fits, numbers)):
        if not _fits(result):
            raise HaltError("OPA 1.19 has no right answer to a sum of more than 64 bits")
        return result
    return _in_one_kind(numbers, result, Fraction(0), operator.add)


def _fits(number: Number) -> bool:
    """Whether a number is written as an integer of 64 bits, which OPA adds without looking at the carry."""
    return type(number) is int and -(1 << 63) <= number < 1 << 63


def _in_one_kind(
    numbers: list[Number],
    exact: Number,
    start: Fraction,
    calculate: Callable[[Fraction, Fraction], Fraction],
) -> Number:
    """The exact result of whole numbers; with a fraction among them every step is rounded to 64 bits."""
    if all(integral(number) is not None for number in numbers):
        return exact
    for number in numbers:
        start = rounded(calculate(start, rounded(number)))
    return from_fraction(start)


def product(collection: Collection) -> Number:
    """Product; 1 of nothing."""
    numbers = _numbers(collection)
    result: Number = 1
    for number in numbers:
        result = multiply(result, number)
    return _in_one_kind(numbers, result, Fraction(1), operator.mul)


def largest(collection: Collection) -> Value:
    """The greatest element in the total order."""
    if not collection:
        raise OperandError("the maximum of an empty collection is undefined")
    return max(collection, key=order_key)


def smallest(collection: Collection) -> Value:
    """The least element in the total order; in a set null counts only where nothing else is there."""
    if not collection:
        raise OperandError("the minimum of an empty collection is undefined")
    if isinstance(collection, Set) and len(collection) > 1:
        return min((item for item in collection if item is not None), key=order_key)
    return min(collection, key=order_key)


def sort(collection: Collection) -> tuple[Value, ...]:
    """The elements in the total order."""
    return collection.ordered_members() if isinstance(collection, Set) else tuple(ordered(collection))


def every_true(collection: Collection) -> Boolean:
    """Whether all elements are true (deprecated)."""
    return boolean(all(item is TRUE for item in collection))


def some_true(collection: Collection) -> Boolean:
    """Whether an element is true (deprecated)."""
    return boolean(any(item is TRUE for item in collection))


def _sets(collection: Set) -> list[Set]:
    sets = []
    for item in collection:
        if not isinstance(item, Set):
            raise OperandError(f"operand 1 must be set of sets but got set containing {type_name(item)}")
        sets.append(item)
    return sets


def union(collection: Set) -> Set:
    """Union of a set of sets."""
    return Set(frozenset().union(*_sets(collection)))


def intersection(collection: Set) -> Set:
    """Intersection of a set of sets; empty for none."""
    sets = _sets(collection)
    return Set(sets[0].intersection(*sets[1:])) if sets else Set()


def set_difference(left: Set, right: Set) -> Set:
    """Difference of two sets (deprecated)."""
    return Set(left - right)


FUNCTIONS = {
    "count": count,
    "sum": total,
    "product": product,
    "max": largest,
    "min": smallest,
    "sort": sort,
    "all": every_true,
    "any": some_true,
    "union": union,
    "intersection": intersection,
    "set_diff": set_difference,
}
