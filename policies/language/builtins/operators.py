"""The functions behind operators: arithmetic, comparison, set algebra, membership.

Unification (`=`) binds variables and is the evaluator's; `eq` and `equal` here only compare.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.language import numbers
from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.numbers import Number
from policies.language.values import FALSE, TRUE, Boolean, Object, Set, Value, compare, type_name


def _limited(operation: Callable[[Number, Number], Number]) -> Callable[[Number, Number], Number]:
    def apply(left: Number, right: Number) -> Number:
        try:
            return operation(left, right)
        except numbers.NumberLimitExceededError as error:
            raise HaltError(str(error)) from error

    return apply


add = _limited(numbers.add)
multiply = _limited(numbers.multiply)
_subtract = _limited(numbers.subtract)
_divide = _limited(numbers.divide)


def minus(left: Value, right: Value) -> Value:
    """Difference of two numbers or of two sets."""
    if isinstance(left, Set) and isinstance(right, Set):
        return Set(left - right)
    for position, operand in ((1, left), (2, right)):
        if isinstance(operand, Set) != isinstance(left, Set):
            raise OperandError.expected(position, type_name(left), type_name(operand))
    return _subtract(left, right)  # type: ignore[arg-type] # both are numbers: the signature admits no third


def divide(left: Number, right: Number) -> Number:
    """Quotient; not a whole number unless it is one."""
    if not right:
        raise BuiltinError("divide by zero")
    return _divide(left, right)


def remainder(left: Number, right: Number) -> Number:
    """Remainder with the sign of the left operand; whole numbers only."""
    dividend, divisor = numbers.integral(left), numbers.integral(right)
    if dividend is None or divisor is None:
        raise BuiltinError("modulo on floating-point number")
    if divisor % (1 << 64) == 0:  # OPA looks at the lowest 64 bits alone
        raise BuiltinError("modulo by zero")
    rest = abs(dividend) % abs(divisor)
    return -rest if dividend < 0 else rest


def equal(left: Value, right: Value) -> Boolean:
    return TRUE if left == right else FALSE


def not_equal(left: Value, right: Value) -> Boolean:
    return TRUE if left != right else FALSE


def less(left: Value, right: Value) -> Boolean:
    return TRUE if compare(left, right) < 0 else FALSE


def less_or_equal(left: Value, right: Value) -> Boolean:
    return TRUE if compare(left, right) <= 0 else FALSE


def greater(left: Value, right: Value) -> Boolean:
    return TRUE if compare(left, right) > 0 else FALSE


def greater_or_equal(left: Value, right: Value) -> Boolean:
    return TRUE if compare(left, right) >= 0 else FALSE


def intersect(left: Set, right: Set) -> Set:
    return Set(left & right)


def unite(left: Set, right: Set) -> Set:
    return Set(left | right)


def is_member(member: Value, collection: Value) -> Boolean:
    """Whether `member` is among the values of a collection; false for what is no collection."""
    if isinstance(collection, Set | tuple):
        return TRUE if member in collection else FALSE
    return TRUE if isinstance(collection, Object) and member in collection.values() else FALSE


def is_member_at(key: Value, member: Value, collection: Value) -> Boolean:
    """Whether the collection has `member` at `key` (position, key, or the member itself for a set)."""
    if isinstance(collection, Object):
        return TRUE if key in collection and collection[key] == member else FALSE
    if isinstance(collection, Set):
        return TRUE if key == member and member in collection else FALSE
    if isinstance(collection, tuple) and type(key) is int and 0 <= key < len(collection):
        return TRUE if collection[key] == member else FALSE
    return FALSE


FUNCTIONS = {
    "plus": add,
    "minus": minus,
    "mul": multiply,
    "div": divide,
    "rem": remainder,
    "eq": equal,
    "equal": equal,
    "assign": equal,
    "neq": not_equal,
    "lt": less,
    "lte": less_or_equal,
    "gt": greater,
    "gte": greater_or_equal,
    "and": intersect,
    "or": unite,
    "internal.member_2": is_member,
    "internal.member_3": is_member_at,
}
