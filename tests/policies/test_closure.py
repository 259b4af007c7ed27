"""Specialised decisions: never another answer than the evaluator's, no evaluator where none is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.language.builtins.registry import BUILTINS
from policies.language.closures.closure import Closure, compile_closure
from policies.language.compiler.compile import compile_modules
from policies.language.compiler.compiled import CompiledModules
from policies.language.concrete.evaluate import Evaluator
from policies.language.syntax.parser import parse_module
from policies.language.values import TRUE, from_python

DATA = {
    "roles": {"a": ["reader"], "b": ["writer", "reader"], "c": []},
    "blocked": ["b"],
    "prefixes": ["/x/", "/y/"],
    "limits": {"a": 3, "b": True, "1": "one"},
    "flag": True,
    "ports": {"1": "GET", "2": "HEAD"},
    "by": {"a": {"1": True}, "1": {"0": True}},
}

SPECIALISED = [
    "allow if data.ports[input.n] == input.m",
    "allow if data.by[input.sa][input.n]",
    'allow if { input.m == "GET"; startswith(input.r.path, "/x/") }',
    'allow if { some role in data.roles[input.sa]; role == "reader" }',
    "allow if data.roles[input.sa]",
    "allow if { not input.sa in data.blocked; input.sa }",
    'allow if { not input.sa == "a" }',
    'allow if { not startswith(input.r.path, "/x/") }',
    "allow if { some prefix in data.prefixes; startswith(input.r.path, prefix) }",
    "allow if { input.n == data.limits[input.sa] }",
    "allow if { input.n == 1 }",
    "allow if { input.n == true }",
    "allow if { input.n == input.k }",
    "allow if input.n",
    "allow if not input.n",
    'default allow := false\nallow if denied_not\ndenied_not if not deny\ndeny if input.sa == "b"',
    'allow if { data.flag; input.m in {"GET", "HEAD"} }',
    'to(x) if input.sa == x\nallow if { to("a"); input.m == "GET" }\nallow if to("c")',
    'allow if { glob.match("/x/**", ["/"], input.r.path) }',
    'allow if { regex.match("^/[xy]/", input.r.path) }',
    "allow if { count(input.xs) > 1 }",
    'allow if { x := input.sa; lower(x) == "a" }',
    'wanted := concat("", ["G", "ET"])\nallow if input.m == wanted',
    "allow if { input.n > 0 }",
    'allow if input.sa == "a"\nallow if input.sa == "b"\nallow if { input.sa == "c"; input.m == "GET" }',
    "allow if { some i; data.prefixes[i] == input.r.path; i > 0 }",
    "allow if false",
    "allow if input.m in data.roles[input.sa]",
    "allow if not input.m in data.roles[input.sa]",
    'below := {"a": {"b"}, "b": {"c", "GET"}}\nallow if { input.sa == input.k; input.m in below[input.sa] }',
    "allow if startswith(input.r.path, data.prefixes[_])",
    "allow if input.n > data.limits[input.sa]",
    "allow if startswith(data.roles[input.sa][_], input.m)",
]

LEFT_TO_THE_EVALUATOR = [
    "allow if { some x in input.xs; x == 1 }",
    "allow if { every x in input.xs { x > 0 } }",
    "allow if { x := [y | y := input.xs[_]]; count(x) > 1 }",
    'allow if { input.m == "GET" } else := false',
    "allow := input.n",
    'allow if { q with input.sa as "a" }\nq if input.sa == "a"',
    "xs contains x if some x in input.xs\nallow if 1 in xs",
]

scalars = st.sampled_from(
    [None, True, False, 0, 1, 2, "", "a", "b", "c", "A", "GET", "HEAD", "1", "/x/", "/x/y", "/y/"]
)
inputs = st.fixed_dictionaries(
    {},
    optional={
        "m": scalars,
        "sa": scalars | st.just(["a"]) | st.just({"a": 1}),
        "n": scalars,
        "k": scalars,
        "r": st.fixed_dictionaries({}, optional={"path": scalars}) | scalars,
        "xs": st.lists(scalars, max_size=3) | scalars,
    },
)


def compiled(policy: str) -> CompiledModules:
    return compile_modules([parse_module(f"package test\n\n{policy}\n")], BUILTINS)


def closure(policy: str) -> tuple[Closure, CompiledModules]:
    modules = compiled(policy)
    return compile_closure(modules, ("test", "allow"), from_python(DATA)), modules


@pytest.mark.parametrize("policy", SPECIALISED)
@settings(max_examples=40)
@given(document=inputs)
def test_a_specialised_decision_is_the_evaluators(policy: str, document: Any) -> None:
    decided, wanted = _decided(policy, document)
    assert decided is wanted


@pytest.mark.parametrize("policy", LEFT_TO_THE_EVALUATOR)
@settings(max_examples=40)
@given(document=inputs)
def test_so_is_one_that_is_left_to_it(policy: str, document: Any) -> None:
    decided, wanted = _decided(policy, document)
    assert decided is wanted


_MADE: dict[str, tuple[Closure, Evaluator]] = {}


def _decided(policy: str, document: Any) -> tuple[bool, bool]:
    """What the closure decides, and what the evaluator does."""
    if policy not in _MADE:
        decide, modules = closure(policy)
        _MADE[policy] = decide, Evaluator(modules)
    decide, evaluator = _MADE[policy]
    wanted = evaluator.document(
        ("test", "allow"), input_document=from_python(document), data=from_python(DATA)
    )
    return decide(document), wanted is TRUE


@pytest.mark.parametrize("policy", SPECIALISED)
def test_small_policies_need_no_evaluator(policy: str) -> None:
    decide, _ = closure(policy)
    assert decide.specialised, decide.reason


@pytest.mark.parametrize("policy", LEFT_TO_THE_EVALUATOR)
def test_what_is_outside_the_fragment_says_why(policy: str) -> None:
    decide, _ = closure(policy)
    assert not decide.specialised
    assert decide.reason


@pytest.mark.parametrize("document", [None, [], "text", 1, True, {"r": "text"}, {"r": ["x"]}])
def test_inputs_of_any_shape_are_answered(document: Any) -> None:
    for policy in SPECIALISED:
        decided, wanted = _decided(policy, document)
        assert decided is wanted
