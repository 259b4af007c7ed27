"""Expressions and what OPA 1.19 answered when it was asked; ours must be equal, number spelling aside.

`measured.json` maps an expression to its value, or to "undefined!" where OPA had none.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compile import compile_modules
from policies.language.concrete.evaluate import UNDEFINED, BuiltinFailedError, ConflictError, Evaluator
from policies.language.concrete.world import Result
from policies.language.serial import json_text, parse_json
from policies.language.syntax.parser import parse_module
from policies.language.values import TRUE, Object, Value

MEASURED = parse_json((Path(__file__).parent / "measured.json").read_text("utf-8"))
assert isinstance(MEASURED, Object)


def evaluated(expression: str) -> Result:
    """The value of an expression, errors of built-ins being undefined."""
    modules = compile_modules([parse_module(f"package test\n\nresult := {expression}\n")], BUILTINS)
    return Evaluator(modules).document(("test", "result"), now_ns=0)


@pytest.mark.parametrize(("expression", "wanted"), MEASURED.items())
def test_ours_is_what_opa_measured(expression: str, wanted: Value) -> None:
    found = evaluated(expression)
    if wanted == "undefined!":
        assert found is UNDEFINED
    else:
        assert found is not UNDEFINED
        assert parse_json(json_text(found)) == wanted


@pytest.mark.parametrize("expression", ["ceil(-0.5)", "floor(-0.5)", "ceil(-1e-9)"])
def test_numbers_that_opa_rounds_to_the_wrong_side_are_refused(expression: str) -> None:
    """OPA 1.19 answers 1 to ceil(-0.5) and 0 to floor(-0.5); that is a fault, not a meaning."""
    with pytest.raises(BuiltinFailedError, match="between -1 and 0"):
        evaluated(expression)


def test_rounding_of_small_negative_numbers_is_mathematics() -> None:
    assert evaluated("round(-0.5)") == -1
    assert evaluated("ceil(-1.5)") == -1
    assert evaluated("floor(-1.5)") == -2


@pytest.mark.parametrize("numbers", ["[9223372036854775807, 1]", "{-9223372036854775808, -1}"])
def test_a_sum_that_opa_wraps_around_is_refused(numbers: str) -> None:
    with pytest.raises(BuiltinFailedError, match="more than 64 bits"):
        evaluated(f"sum({numbers})")


def test_blocks_of_two_kinds_that_opa_mixes_up_are_refused() -> None:
    with pytest.raises(BuiltinFailedError, match="merge each kind alone"):
        evaluated('net.cidr_merge(["50.0.0.0/8", "2000::/3"])')


@pytest.mark.parametrize(
    ("glob", "delimiters"),
    [
        ("***", '["/"]'),
        ("a***", '["/"]'),
        ("a{*,b}", '["/"]'),
        ("/a{**,b,?}", "null"),
        ("{a*,a}", '["/"]'),
        ("{a?,?}", '["/"]'),
        ("{a}*", '["/"]'),
        ("**{/,}", '["/"]'),
        ("a{}", '["/"]'),
        ("*?", '["/", "."]'),
        ("{/*/*/c,/*/*/c/**}", '["/"]'),
        ("{/**/a,/**/ab}", '["/"]'),
        ("{/*/b,/*/b}", '["/"]'),
    ],
)
def test_globs_that_opa_reads_unlike_their_notation_are_refused(glob: str, delimiters: str) -> None:
    """It matches less than is written, more, or ends its process; see `unclear`."""
    with pytest.raises(BuiltinFailedError, match="unlike its notation"):
        evaluated(f'glob.match("{glob}", {delimiters}, "a")')


@pytest.mark.parametrize("text", ["+5", ".5", "007", "5.", "1_0", "0x1p4"])
def test_numbers_that_make_opa_print_broken_json_are_an_error(text: str) -> None:
    with pytest.raises(BuiltinFailedError, match="no JSON number"):
        evaluated(f'to_number("{text}")')


@pytest.mark.parametrize(
    "expression",
    [
        "numbers.range(0, 100000000)",
        'net.cidr_expand("10.0.0.0/8")',
        "bits.lsh(1, 1000000000)",
        'regex.replace(concat("", [x | some x in numbers.range(1, 9)]), "", "x")',
    ],
)
def test_what_would_take_all_memory_ends_with_an_error_or_nothing(expression: str) -> None:
    try:
        assert evaluated(expression) is UNDEFINED
    except BuiltinFailedError as error:
        assert "more than" in str(error)


def test_two_values_in_an_object_comprehension_conflict() -> None:
    with pytest.raises(ConflictError):
        evaluated('{x: i | some i, x in ["a", "a"]}')


def test_a_single_character_beside_others_is_no_guess_for_text_that_is_not_ascii() -> None:
    assert evaluated('glob.match("?", ["/"], "é")') is TRUE
    with pytest.raises(BuiltinFailedError, match="counts bytes"):
        evaluated('glob.match("/a/?/b", ["/"], "/a/é/b")')
