"""Numbers: exact integers, fractions as OPA rounds and prints them, and bounds on both."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language.numbers import (
    MANTISSA_BITS,
    NumberLimitExceededError,
    add,
    divide,
    integral,
    multiply,
    number_text,
    parse_number,
    rounded,
    subtract,
)

OPERATIONS = {"+": add, "-": subtract, "*": multiply, "/": divide}


@pytest.mark.parametrize(
    ("left", "operator", "right", "result"),
    [
        ("0.1", "+", "0.2", "0.3"),
        ("1", "/", "3", "0.33333333333333333334"),
        ("9007199254740992", "+", "1", "9007199254740993"),
        ("100000000000000000000", "+", "1", "100000000000000000001"),
        ("1234567.5", "*", "1", "1.2345675e+06"),
        ("10000000000", "/", "3", "3.3333333333333333333e+09"),
        ("0.0001", "*", "0.5", "5e-05"),
        ("1e2", "*", "1", "100"),
        ("1.0", "+", "0", "1"),
        ("1e21", "+", "0.5", "1000000000000000000000"),
        ("10", "/", "4", "2.5"),
    ],
)
def test_arithmetic_prints_what_opa_prints(left: str, operator: str, right: str, result: str) -> None:
    assert number_text(OPERATIONS[operator](parse_number(left), parse_number(right))) == result


@given(st.integers(), st.integers())
def test_integers_are_exact(left: int, right: int) -> None:
    assert add(left, right) == left + right
    assert subtract(left, right) == left - right
    assert multiply(left, right) == left * right
    if right and left % right == 0:
        assert divide(left, right) == left // right


@given(st.fractions(max_denominator=10**12).filter(bool))
def test_rounding_keeps_64_bits(exact: Fraction) -> None:
    near = rounded(exact)
    assert abs(near - exact) <= abs(exact) / (1 << MANTISSA_BITS)
    assert rounded(near) == near


@given(st.decimals(-(10**6), 10**6, places=6))
def test_what_a_result_prints_is_that_result(number: object) -> None:
    left = parse_number(f"{number:f}")
    result = add(left, parse_number("0.25"))
    assert parse_number(number_text(result)) == result


@pytest.mark.parametrize("text", ["", "+1", "01", "1.", ".5", "1e", "0x10", " 1", "1_000", "NaN", "١"])
def test_other_notations_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError):
        parse_number(text)


@pytest.mark.parametrize("text", ["9" * 5_000, "1e999999999", "1e-999999999", "0." + "1" * 5_000])
def test_size_is_bounded(text: str) -> None:
    with pytest.raises(NumberLimitExceededError):
        parse_number(text)


def test_products_are_bounded() -> None:
    with pytest.raises(NumberLimitExceededError):
        multiply(10**3_900, 10**3_900)


def test_integral_numbers_are_recognised() -> None:
    assert integral(parse_number("1e3")) == 1000
    assert integral(parse_number("1.5")) is None
