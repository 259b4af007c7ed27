"""Numbers of Rego: exact integers, and everything else as a decimal that keeps how it was written.

An integer is a Python `int`. Any other literal (`0.5`, `1.0`, `1e2`) is a `Real`: a `Decimal` with the
text that a reader sees again in JSON and in `sprintf`. `Real("1.0") == 1` and both hash alike, so sets
and objects need no help.

Sums, differences and products of whole numbers (`1e30` is one) are exact at any size. As soon as a fraction
takes part, and in every quotient, operands and result are rounded to a binary mantissa of 64 bits and the
result is written with the fewest digits that name it: that is what OPA does (Go's `big.Float` at its default
precision), and why `1 / 3` is 0.33333333333333333334 and `0.1 + 0.2 == 0.3` holds.

Not here: which built-in accepts which number, and comparison with other types (`values`).
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

MANTISSA_BITS = 64
MAX_DIGITS = 4_000
"""Longest number text accepted; Python itself refuses to print integers beyond 4,300 digits."""
MAX_EXPONENT = 4_000
"""Largest decimal exponent accepted, so that no short text ("1e999999999") asks for gigabytes."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class NumberLimitExceededError(ValueError):
    """A number needs more digits or a larger exponent than the evaluator handles."""


class Real(Decimal):
    """A number that is not written as a plain integer; `text` is its spelling, used wherever it is
    printed.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, value: Decimal, text: str) -> Real:
        made = super().__new__(cls, value)
        made.text = text
        return made

    def __repr__(self) -> str:
        return f"Real({self.text})"

    def __copy__(self) -> Real:
        return self

    def __deepcopy__(self, _memo: object) -> Real:
        return self


Number = int | Real


def parse_number(text: str) -> Number:
    """The number a JSON (and Rego) literal stands for; ValueError when `text` is not one."""
    if len(text) > MAX_DIGITS:
        raise NumberLimitExceededError(f"a number of {len(text)} characters is longer than {MAX_DIGITS}")
    if _INTEGER.fullmatch(text) and text != "-0":
        return int(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"not a number: {text[:40]!r}")
    return _real(text)


def _real(text: str) -> Real:
    exponent = re.search(r"[eE]([+-]?[0-9]+)\Z", text)
    if exponent and (len(exponent[1]) > 6 or abs(int(exponent[1])) > MAX_EXPONENT):
        raise NumberLimitExceededError(f"the exponent of {text[:40]!r} is beyond {MAX_EXPONENT}")
    return Real(Decimal(text), text)


def number_text(number: Number) -> str:
    """How the number is printed."""
    if type(number) is int:
        try:
            return str(number)
        except ValueError as error:
            raise NumberLimitExceededError(
                f"an integer of more than {MAX_DIGITS} digits can't be printed"
            ) from error
    assert isinstance(number, Real)
    return number.text


def integral(number: Number) -> int | None:
    """The integer that `number` equals, or None when it has a fraction."""
    if type(number) is int:
        return number
    exact = Decimal(number)
    return int(exact) if exact == exact.to_integral_value() else None


def written_integer(number: Number) -> int | None:
    """The integer `number` is written as; `1.0` is none, though it equals 1 (array positions are read so)."""
    if type(number) is int:
        return number
    return 0 if number_text(number) == "-0" else None


# --- arithmetic ------------------------------------------------------------------------------------


def add(left: Number, right: Number) -> Number:
    first, second = integral(left), integral(right)
    if first is not None and second is not None:
        return _bounded(first + second)
    return from_fraction(rounded(left) + rounded(right))


def subtract(left: Number, right: Number) -> Number:
    first, second = integral(left), integral(right)
    if first is not None and second is not None:
        return _bounded(first - second)
    return from_fraction(rounded(left) - rounded(right))


def multiply(left: Number, right: Number) -> Number:
    first, second = integral(left), integral(right)
    if first is not None and second is not None:
        if first.bit_length() + second.bit_length() > 4 * MAX_DIGITS:
            raise NumberLimitExceededError("the product has too many digits")
        return _bounded(first * second)
    return from_fraction(rounded(left) * rounded(right))


def divide(left: Number, right: Number) -> Number:
    """`left / right`; ZeroDivisionError when `right` is 0."""
    if not right:
        raise ZeroDivisionError("divide by zero")
    if type(left) is int and type(right) is int and left % right == 0 and left.bit_length() <= MANTISSA_BITS:
        return left // right
    return from_fraction(rounded(left) / rounded(right))


def _bounded(number: int) -> int:
    if number.bit_length() > 3 * MAX_DIGITS:
        raise NumberLimitExceededError(f"an integer grew beyond {MAX_DIGITS} digits")
    return number


def rounded(number: Number | Fraction) -> Fraction:
    """`number` with at most 64 significant bits, ties to even (Go math/big, Float.SetString)."""
    exact = Fraction(number)
    if not exact:
        return exact
    excess = _binary_exponent(exact) - MANTISSA_BITS + 1
    scaled = exact / (1 << excess) if excess >= 0 else exact * (1 << -excess)
    mantissa = round(scaled)
    return Fraction(mantissa * (1 << excess)) if excess >= 0 else Fraction(mantissa, 1 << -excess)


def _binary_exponent(exact: Fraction) -> int:
    """e such that 2**e <= |exact| < 2**(e+1)."""
    numerator, denominator = abs(exact.numerator), exact.denominator
    guess = numerator.bit_length() - denominator.bit_length()
    below = numerator < (denominator << guess) if guess >= 0 else (numerator << -guess) < denominator
    return guess - 1 if below else guess


def from_fraction(exact: Fraction) -> Number:
    """The number an arithmetic result is: rounded to 64 bits, written with the fewest digits that name it."""
    value = rounded(exact)
    if value.denominator == 1:
        # An integral result keeps its digits; OPA would print the shortest name of the 64-bit value here too.
        return int(_shortest(value)) if abs(value) >= 1 << MANTISSA_BITS else int(value)
    shortest = _shortest(value)
    if abs(shortest.adjusted()) > MAX_EXPONENT:
        raise NumberLimitExceededError("the result's exponent is out of range")
    return Real(shortest, _general_format(shortest))


def _shortest(value: Fraction) -> Decimal:
    for digits in (18, 19, 20, 21, 22):
        context = Context(prec=digits, rounding=ROUND_HALF_EVEN, Emax=10**6, Emin=-(10**6))
        candidate = context.divide(Decimal(value.numerator), Decimal(value.denominator))
        if rounded(Fraction(candidate)) == value:
            return candidate.normalize(context)
    raise AssertionError("22 digits name every 64-bit mantissa")


def _general_format(value: Decimal) -> str:
    """Go's %g at shortest precision: an exponent is written when it is below -4 or at least 6."""
    sign, digits, _ = value.as_tuple()
    text = "".join(map(str, digits))
    exponent = value.adjusted()
    prefix = "-" if sign else ""
    if exponent < -4 or exponent >= 6:
        mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
        return f"{prefix}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return prefix + format(abs(value), "f")
