"""Published conformance cases of OPA, and the report about them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from policies.language.conformance import Report, run_cases

MAY_BE_REFUSED = ("graphql.", "providers.aws.", "io.jwt.encode_sign")


@pytest.fixture(scope="module")
def cases() -> list[str]:
    folder = os.environ.get("GATEHOUSE_CONFORMANCE")
    if not folder:
        pytest.skip("GATEHOUSE_CONFORMANCE names no folder with rego/cases.jsonl")
    return (Path(folder) / "rego" / "cases.jsonl").read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def report(cases: list[str]) -> Report:
    return run_cases(cases, time.perf_counter)


def test_no_case_is_wrong(report: Report) -> None:
    assert report.of("wrong") == []


def test_nearly_all_cases_are_right(cases: list[str], report: Report) -> None:
    excused = [one for one in report.of("refused") if one.construct.startswith(MAY_BE_REFUSED)]
    assert len(report.outcomes) == len(cases)
    assert len(report.of("right")) >= 0.98 * (len(cases) - len(excused))


def test_no_case_is_slow(report: Report) -> None:
    # The promise is a second on an idle machine; other tests run beside this one.
    assert max(one.seconds for one in report.outcomes) < 3


def case(**fields: object) -> str:
    return json.dumps({"id": "one", "query": "data.test.p = x", "modules": [], **fields})


def test_bindings_are_compared_in_any_order_where_the_case_says_so() -> None:
    module = "package test\n\np := [2, 1]"
    lines = [
        case(id="given", modules=[module], want_result=[{"x": [1, 2]}]),
        case(id="sorted", modules=[module], want_result=[{"x": [1, 2]}], sort_bindings=True),
        case(id="fewer", modules=[module], want_result=[{"x": [1]}], sort_bindings=True),
    ]
    assert [one.kind for one in run_cases(lines).outcomes] == ["wrong", "right", "wrong"]


def test_outcomes_are_told_apart() -> None:
    module = "package test\n\np := 1 / input.n"
    lines = [
        case(id="right", modules=[module], input={"n": 2}, want_result=[{"x": 0.5}]),
        case(id="undefined", modules=[module], input={"n": 0}, want_result=[]),
        case(
            id="strict",
            modules=[module],
            input={"n": 0},
            want_error_code="eval_builtin_error",
            strict_error=True,
        ),
        case(id="sets", modules=["package test\n\np := {2, 1}"], want_result=[{"x": [1, 2]}]),
        case(id="other", modules=[module], input={"n": 1}, want_result=[{"x": 2}]),
        case(id="no error", modules=[module], input={"n": 1}, want_error_code="eval_builtin_error"),
        case(id="refused", modules=['package test\n\np := rand.intn("a", 2)'], want_result=[{"x": 1}]),
        "",
    ]
    told = run_cases(lines).to_json()
    assert told["right"] == {"count": 4, "cases": ["right", "undefined", "strict", "sets"]}
    assert [one["id"] for one in told["wrong"]["cases"]] == ["other", "no error"]
    assert told["refused"]["count"] == 1
    assert told["refused"]["cases"][0]["construct"] == "rand.intn"


@pytest.mark.parametrize("line", ["[]", '{"modules": []}'])
def test_a_line_that_is_no_case_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="line 1 is not a conformance case"):
        run_cases([line])


@pytest.mark.parametrize("member", ["modules", "want_result"])
def test_a_case_whose_lists_are_none_is_no_case(member: str) -> None:
    with pytest.raises(ValueError, match=f"line 2 is not a conformance case: {member} is no list"):
        run_cases(["", json.dumps({"query": "true", member: "text"})])
