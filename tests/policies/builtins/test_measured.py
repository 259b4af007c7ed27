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


@pytest.mark.parametrize(
    ("expression", "wanted"), [("ceil(-0.5)", 0), ("floor(-0.5)", -1), ("round(-0.5)", -1)]
)
def test_rounding_of_small_negative_numbers_is_mathematics(expression: str, wanted: int) -> None:
    """OPA 1.19 answers 1 to ceil(-0.5); that is a fault, not a meaning."""
    assert evaluated(expression) == wanted


@pytest.mark.parametrize("text", ["+5", ".5", "007", "5."])
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
