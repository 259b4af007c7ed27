"""Rounding, ranges, conversions between numbers and text, and bits."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.numbers import (
    MAX_DIGITS,
    Number,
    NumberLimitExceededError,
    Real,
    from_fraction,
    integral,
    parse_number,
    rounded,
)
from policies.language.values import FALSE, TRUE, Value, type_name

MAX_RANGE = 1_000_000
"""Most elements that numbers.range may make."""
_HALF = Fraction(1, 2)


def absolute(number: Number) -> Number:
    return from_fraction(abs(Fraction(number)))


def ceiling(number: Number) -> int:
    """The least whole number that is not below, of a number rounded to 64 bits as in every calculation."""
    return math.ceil(_not_fault(rounded(number), "1"))


def floor(number: Number) -> int:
    """The greatest whole number that is not above; rounded as by `ceiling`."""
    return math.floor(_not_fault(rounded(number), "0"))


def nearest(number: Number) -> int:
    """The nearest whole number, halves away from zero; a half is added and then cut off, both in 64 bits."""
    exact = rounded(number)
    return int(rounded(exact + (_HALF if exact >= 0 else -_HALF)))


def _not_fault(exact: Fraction, wrong: str) -> Fraction:
    if -1 < exact < 0:
        raise HaltError(f"OPA 1.19 answers {wrong} to any number between -1 and 0, which is wrong")
    return exact


def _integer(number: Number, position: int) -> int:
    """The operand as an integer; OperandError when it has a fraction."""
    whole = integral(number)
    if whole is None:
        raise OperandError.expected(position, "integer number", "floating-point number")
    return whole


def number_range(start: Number, stop: Number) -> tuple[int, ...]:
    """All integers from start to stop, both included, downwards when stop is smaller."""
    return _range(_integer(start, 1), _integer(stop, 2), 1)


def number_range_step(start: Number, stop: Number, step: Number) -> tuple[int, ...]:
    """As `numbers.range`, taking every step-th; the step is positive in both directions."""
    first, last, width = _integer(start, 1), _integer(stop, 2), _integer(step, 3)
    if width <= 0:
        raise BuiltinError("numbers.range_step: step must be a positive number above zero")
    return _range(first, last, width)


def _range(first: int, last: int, width: int) -> tuple[int, ...]:
    if abs(last - first) // width >= MAX_RANGE:
        raise HaltError(f"a range of more than {MAX_RANGE} numbers was asked for")
    return tuple(range(first, last + 1, width) if last >= first else range(first, last - 1, -width))


def format_integer(number: Number, base: Number) -> str:
    """The number without its fraction in base 2, 8, 10 or 16."""
    if type(base) is not int or base not in (2, 8, 10, 16):
        raise OperandError("operand 2 must be one of {2, 8, 10, 16}")
    whole = number if type(number) is int else int(rounded(number))
    try:
        return format(whole, {2: "b", 8: "o", 10: "d", 16: "x"}[base])
    except ValueError as error:
        raise HaltError(f"the number has more than {MAX_DIGITS} digits") from error


_GO_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_GO_HEXADECIMAL = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
_SPECIAL_FLOAT = re.compile(r"[+-]?(?:inf(?:inity)?|nan)", re.IGNORECASE)


def to_number(source: Value) -> Number:
    """A number from null (0), a boolean (0, 1), a number, or a string that is a JSON number."""
    if source is None or source is FALSE:
        return 0
    if source is TRUE:
        return 1
    if isinstance(source, int | Real):
        return source
    if not isinstance(source, str):
        raise OperandError.expected(1, "one of {null, boolean, number, string}", type_name(source))
    if _SPECIAL_FLOAT.fullmatch(source):
        raise OperandError.expected(1, "valid number string", "string")
    try:
        number = parse_number(source)
    except NumberLimitExceededError as error:
        raise HaltError(str(error)) from error
    except ValueError as error:
        plain = source.replace("_", "")
        if _GO_FLOAT.fullmatch(plain) or _GO_HEXADECIMAL.fullmatch(plain):
            raise HaltError(
                f"to_number: {source!r} is no JSON number; write it in decimal without '+' and '_', with "
                "digits on both sides of the point and without leading zeros"
            ) from error
        raise BuiltinError(f"to_number: parsing {source!r}: invalid syntax") from error
    if math.isinf(float(source)):
        raise BuiltinError("to_number: value out of range")
    return number


# --- bits: integers of any size, negative ones as if infinitely sign-extended ----------------------


def bits_and(left: Number, right: Number) -> int:
    return _integer(left, 1) & _integer(right, 2)


def bits_or(left: Number, right: Number) -> int:
    return _integer(left, 1) | _integer(right, 2)


def bits_xor(left: Number, right: Number) -> int:
    return _integer(left, 1) ^ _integer(right, 2)


def bits_negate(number: Number) -> int:
    return ~_integer(number, 1)


def _shift_width(width: Number) -> int:
    places = _integer(width, 2)
    if places < 0:
        raise OperandError.expected(2, "an unsigned integer number", "a negative integer")
    return places


def bits_left(number: Number, width: Number) -> int:
    value, places = _integer(number, 1), _shift_width(width)
    if value and value.bit_length() + places > 3 * MAX_DIGITS:
        raise HaltError(f"a shift by {places} makes a number of more than {MAX_DIGITS} digits")
    return value << places if value else 0


def bits_right(number: Number, width: Number) -> int:
    value, places = _integer(number, 1), _shift_width(width)
    return value >> places if places <= value.bit_length() else (-1 if value < 0 else 0)


FUNCTIONS = {
    "abs": absolute,
    "ceil": ceiling,
    "floor": floor,
    "round": nearest,
    "numbers.range": number_range,
    "numbers.range_step": number_range_step,
    "format_int": format_integer,
    "to_number": to_number,
    "bits.and": bits_and,
    "bits.or": bits_or,
    "bits.xor": bits_xor,
    "bits.negate": bits_negate,
    "bits.lsh": bits_left,
    "bits.rsh": bits_right,
}
