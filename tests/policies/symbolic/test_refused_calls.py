"""Calls of built-ins that OPA answers oddly: the same answer as the concrete evaluator's, or none at all."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from policies.language.concrete.evaluate import Evaluator
from policies.language.diagnostics import Diagnostics
from policies.language.values import TRUE


@pytest.mark.parametrize("glob", ["?", "[!a]", "{?,/a}", "/a/**/c", "{/a/**/c,/b}"])
def test_texts_that_a_glob_matches_beyond_its_notation(glob: str, made: ModuleType) -> None:
    condition = f'glob.match("{glob}", ["/"], input.request.path)'
    text = f"package gatehouse.authz\nallow if {condition}\ndeny if not {condition}\n"
    assert next(made.disagreements(text, random.Random(glob), 150, whole=True), None) is None


@pytest.mark.parametrize(
    "condition",
    [
        'some g in ["a{*,b}"]; glob.match(g, ["/"], input.request.path)',
        'not ceil(-0.5) == 0; input.request.path == "/a"',
    ],
)
def test_what_ends_an_evaluation_is_no_formula(condition: str, made: ModuleType) -> None:
    text = f"package gatehouse.authz\nallow if {{ {condition} }}\ndeny if false\n"
    with pytest.raises(Diagnostics):
        next(made.disagreements(text, random.Random(1), 10, whole=True), None)


@pytest.mark.parametrize(
    "replaced",
    ["graded as 7", "same as 7", "same as graded", "lower as upper", "lower as same", "count as 9"],
)
def test_a_replaced_function_is_no_formula(replaced: str, made: ModuleType) -> None:
    condition = f'graded("GET") == 1; same(lower(input.request.path)) == "/A" with {replaced}'
    helpers = 'graded("GET") := 1\nsame(x) := x'
    text = f"package gatehouse.authz\n{helpers}\nallow if {{ {condition} }}\ndeny if not allow\n"
    with pytest.raises(Diagnostics, match="a function is replaced by `with`"):
        next(made.disagreements(text, random.Random(1), 10, whole=True), None)


def test_a_function_of_constants_that_is_replaced_is_no_formula(made: ModuleType) -> None:
    text = 'package gatehouse.authz\ngraded("GET") := 1\nallow if graded("GET") == 7 with graded as 7\n'
    with pytest.raises(Diagnostics, match="a function is replaced by `with`"):
        next(made.disagreements(f"{text}deny if false\n", random.Random(1), 10, whole=True), None)


def test_a_text_is_a_position_of_stored_data_and_no_formula(made: ModuleType) -> None:
    text = 'package gatehouse.authz\nallow if data.names["1"] == "lab"\n'
    concrete = Evaluator(made.compiled(text))
    assert concrete.document(("gatehouse", "authz", "allow"), data=made.as_data(made.DATA)) is TRUE
    for key in ("input.request.path", '"1"'):
        policy = f'package gatehouse.authz\nallow if data.names[{key}] == "lab"\ndeny if false\n'
        with pytest.raises(Diagnostics, match="an array is read at a text"):
            next(made.disagreements(policy, random.Random(1), 10, whole=True), None)


def test_a_package_without_annotations_is_no_link_of_the_chain(made: ModuleType) -> None:
    """OPA 1.19 leaves it out; only the rule itself is always there."""
    concrete = Evaluator(made.compiled("package p.q\nchain := rego.metadata.chain()\n"))
    link = made.as_data({"path": ("p", "q", "chain")})
    assert concrete.document(("p", "q", "chain"), data=made.as_data({})) == (link,)
