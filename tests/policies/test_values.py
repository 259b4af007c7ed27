"""Values: equality that never confuses booleans with numbers, one total order, JSON without loss."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import InvalidInput
from policies.language.concrete.evaluate import Evaluator
from policies.language.numbers import Real, parse_number
from policies.language.serial import JsonError, json_text, parse_json, quote, render
from policies.language.values import (
    FALSE,
    MAX_NESTING,
    TRUE,
    NestingLimitExceededError,
    Object,
    Set,
    Value,
    compare,
    from_python,
    ordered,
    to_python,
)
from policies.project import Project

numbers = st.integers() | st.decimals(-1000, 1000, places=3).map(lambda d: parse_number(f"{d:f}"))
scalars = st.none() | st.sampled_from([TRUE, FALSE]) | numbers | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(Set)
        | st.dictionaries(inner, inner, max_size=3).map(Object)
    ),
    max_leaves=8,
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_booleans_are_no_numbers() -> None:
    assert TRUE != 1
    assert FALSE != 0
    assert len(Set([TRUE, 1, FALSE, 0])) == 4
    assert Object({TRUE: "boolean", 1: "number"})[1] == "number"
    assert (TRUE,) != (1,)


def test_numbers_are_equal_however_they_are_written() -> None:
    assert parse_number("1.0") == 1
    assert len(Set([1, parse_number("1.0"), parse_number("1e0")])) == 1
    assert Object({parse_number("2.0"): "two"})[2] == "two"


@pytest.mark.parametrize("text", ["1.0", "1e2", "0.10", "-0.5", "12345678901234567890", "2.50"])
def test_the_spelling_of_a_number_survives_json(text: str) -> None:
    assert json_text(parse_json(text)) == text


def test_kinds_stand_in_the_order_of_rego() -> None:
    kinds: list[Value] = [None, FALSE, TRUE, -1, parse_number("0.5"), 2, "", "a", "é", "🎉"]
    kinds += [(), (1,), Object(), Object({"a": 1}), Set(), Set([1])]
    for left, right in itertools.combinations(range(len(kinds)), 2):
        assert compare(kinds[left], kinds[right]) == -1, (kinds[left], kinds[right])
        assert compare(kinds[right], kinds[left]) == 1
    assert ordered(reversed(kinds)) == kinds


@given(values, values, values)
def test_the_order_is_total(left: Value, middle: Value, right: Value) -> None:
    assert compare(left, middle) == -compare(middle, left)
    assert (compare(left, middle) == 0) == (left == middle)
    if compare(left, middle) <= 0 and compare(middle, right) <= 0:
        assert compare(left, right) <= 0


@given(st.text(max_size=6), st.text(max_size=6))
def test_strings_stand_in_the_order_of_their_bytes(left: str, right: str) -> None:
    by_bytes = (left.encode() > right.encode()) - (left.encode() < right.encode())
    assert compare(left, right) == by_bytes


@given(documents)
def test_json_goes_round(document: object) -> None:
    value = from_python(document)
    text = json_text(value)
    assert json.loads(text) == document
    assert parse_json(text) == value
    assert to_python(value) == document


@given(values)
def test_equal_values_hash_alike_and_print_alike(value: Value) -> None:
    copy = from_python(to_python(value)) if not isinstance(value, Set | Object) else value
    if copy == value:
        assert hash(copy) == hash(value)
    assert render(value) == render(value)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "NaN", "'a'", "01", "1.", "[1 2]", '{"a":1,}', "+1"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises((JsonError, ValueError)):
        parse_json(text)


def test_depth_is_bounded() -> None:
    deep = "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1)
    with pytest.raises(NestingLimitExceededError):
        parse_json(deep)
    with pytest.raises(NestingLimitExceededError):
        parse_json("[" * 1_000_000)


def test_objects_can_not_be_changed() -> None:
    made = Object({"a": 1})
    with pytest.raises(TypeError):
        made["b"] = 2
    with pytest.raises(TypeError):
        made.update({"b": 2})
    assert made == {"a": 1}


def test_text_is_written_as_go_writes_it() -> None:
    assert json_text("<&>\u2028\x01") == '"\\u003c\\u0026\\u003e\\u2028\\u0001"'
    assert json_text(Object({1: 2, (1,): None, "a": Set([3])})) == '{"1":2,"[1]":null,"a":[3]}'
    assert quote('a"\n\u00e9\x7f') == '"a\\"\\n\u00e9\\x7f"'
    assert render(Set()) == "set()"
    assert render(Object({"a": (1, TRUE)})) == '{"a": [1, true]}'


def test_a_float_is_no_value() -> None:
    with pytest.raises(TypeError):
        from_python({"a": 0.1})
    assert isinstance(from_python(parse_number("0.1")), Real)


@pytest.mark.parametrize(("name", "text"), [("data.json", '{"x": 1.10}'), ("data.yaml", "x: 1.10\n")])
def test_numbers_of_data_files_are_exact(name: str, text: str) -> None:
    project = Project.of({"a.rego": "package p\n\nr if data.x == 1.1\n\ns := data.x * 10\n", name: text})
    evaluator = Evaluator(project.compiled())
    data = from_python(project.data)
    assert evaluator.document(("p", "r"), data=data) is TRUE
    assert evaluator.document(("p", "s"), data=data) == 11


@pytest.mark.parametrize("text", ['{"x": NaN}', '{"x": Infinity}', '{"x": 1e999999999999}'])
def test_numbers_that_are_none_are_refused_in_data_files(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"reading data\.json"):
        Project.of({"a.rego": "package p\n\nr := 1\n", "data.json": text})
