"""Functions of a whole collection: counting, adding, extremes, sorting, and set families."""

from __future__ import annotations

from policies.language.builtins.errors import OperandError
from policies.language.builtins.operators import add, multiply
from policies.language.numbers import Number, Real
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
    result: Number = 0
    for number in _numbers(collection):
        result = add(result, number)
    return result


def product(collection: Collection) -> Number:
    """Product; 1 of nothing."""
    result: Number = 1
    for number in _numbers(collection):
        result = multiply(result, number)
    return result


def largest(collection: Collection) -> Value:
    """The greatest element in the total order."""
    if not collection:
        raise OperandError("the maximum of an empty collection is undefined")
    return max(collection, key=order_key)


def smallest(collection: Collection) -> Value:
    """The least element in the total order."""
    if not collection:
        raise OperandError("the minimum of an empty collection is undefined")
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
