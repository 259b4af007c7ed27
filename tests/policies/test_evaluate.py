"""The concrete evaluator: what rules mean, what is undefined, what conflicts, and what is bounded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compile import compile_modules, compile_query
from policies.language.concrete.evaluate import (
    UNDEFINED,
    BuiltinFailedError,
    ConflictError,
    Evaluator,
    LimitExceededError,
    Limits,
    Observer,
)
from policies.language.concrete.world import Result
from policies.language.diagnostics import Diagnostics
from policies.language.serial import json_text, parse_json
from policies.language.syntax.parser import parse_module, parse_query
from policies.language.values import EMPTY_OBJECT, TRUE, Object, Value, from_python, to_python


def evaluator(*modules: str, limits: Limits | None = None, observed: bool = False) -> Evaluator:
    """An evaluator of modules given as text; `package test` is added where there is none."""
    texts = [text if text.startswith("package") else f"package test\n\n{text}" for text in modules]
    compiled = compile_modules([parse_module(text, f"m{i}.rego") for i, text in enumerate(texts)], BUILTINS)
    return Evaluator(compiled, limits=limits, observed=observed)


def value(
    *modules: str, path: str = "test.p", given: Any = UNDEFINED, data: Any = None, **options: Any
) -> Any:
    """The document at a path as plain data, or UNDEFINED."""
    found: Result = evaluator(*modules).document(
        tuple(path.split(".")),
        input_document=given if given is UNDEFINED else from_python(given),
        data=EMPTY_OBJECT if data is None else from_python(data),
        **options,
    )
    return UNDEFINED if found is UNDEFINED else to_python(found)


# --- data: rules beside plain data, and numbers among texts, as OPA's store has them ---------------------


def test_plain_data_wins_over_a_rule_of_its_name() -> None:
    data = {"test": {"k": "plain", "o": {"a": 1}}}
    rules = 'k := "rule"\no.b := 2\nother := 3'
    assert value(rules, path="test", data=data) == {"k": "plain", "o": {"a": 1, "b": 2}, "other": 3}


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("p := data.m[2]", "two"),
        ("p := data.m[input.n]", "two"),
        ("p := data[3]", "three"),
        ("p := m[2] if m := data.m", UNDEFINED),
        ("p := data.m.list[1]", "b"),
        ("p := data.m[2.5]", UNDEFINED),
    ],
)
def test_a_number_finds_what_stored_data_holds_under_its_text(rule: str, found: Any) -> None:
    data = {"m": {"2": "two", "list": ["a", "b"]}, "3": "three"}
    assert value(rule, given={"n": 2}, data=data) == found


# --- negation and undefined: the table that was measured with OPA 1.19 -----------------------------------

NEGATIONS = """
h if input.source.x
k := input.source.x
s contains "a"
f(x) if x == "a"
g(x) := object.get(x, "x", "b")
"""

TABLE = [
    # body, default meaning, with the import of future.keywords.not (input.source.x missing)
    ("not input.source.x", True, True),
    ('not input.source.x == "a"', True, True),
    ('not "a" == input.source.x', True, True),
    ('not input.source.x.b == "a"', True, True),
    ("not h", True, True),
    ('not k == "a"', True, True),
    ('not input.source.x != "a"', False, True),
    ("not input.source.x > 5", False, True),
    ('not input.source.x in {"a"}', False, True),
    ('not "a" in input.source.x', False, True),
    ('not startswith(input.source.x, "a")', False, True),
    ("not f(input.source.x)", False, True),
    ('not lower(input.source.x) == "a"', False, True),
    ("not count(input.source.x) > 1", False, True),
    ("not s[input.source.x]", False, True),
    ("not data.roles[input.source.x]", False, True),
    ('not [input.source.x] == ["a"]', False, True),
    ('not object.get(input.source, "x", "d") == "a"', True, True),
    ('not contains($"{input.source.x}", "a")', True, True),
    ('x := input.source.x; not x == "a"', False, False),
]


@pytest.mark.parametrize(("body", "default", "imported"), TABLE)
def test_negation_has_the_two_meanings_that_were_measured(body: str, default: bool, imported: bool) -> None:
    for lines, wanted in (("", default), ("import future.keywords.not\n", imported)):
        module = f"package test\n{lines}\n{NEGATIONS}\np if {{ {body} }}"
        found = value(module, given={"source": {}}, data={"roles": {}})
        assert found is (True if wanted else UNDEFINED), lines


@pytest.mark.parametrize("constant", ['""', "0", "null", "[]", "{}", "set()"])
def test_only_false_and_undefined_fail(constant: str) -> None:
    assert value(f"x := {constant}\np if x") is True
    assert value("x := false\np if x") is UNDEFINED


def test_errors_of_built_ins_are_undefined_unless_strict() -> None:
    assert value('p if not net.cidr_contains("10.0.0.0/33", "10.0.0.1")') is True
    with pytest.raises(BuiltinFailedError, match=r"m0.rego:3:\d+: net.cidr_contains: invalid CIDR") as caught:
        value('p if not net.cidr_contains("10.0.0.0/33", "10.0.0.1")', strict=True)
    assert caught.value.code == "eval_builtin_error"


def test_a_function_of_a_missing_argument_is_undefined() -> None:
    assert value("f(_) := 1\np := f(input.x)", given={}) is UNDEFINED


# --- rules ------------------------------------------------------------------------------------------------


def test_rules_of_every_kind() -> None:
    module = """
default level := 0
level := 1 if input.x == 1 else := 2 if input.x == 2
names contains n if some n in input.names
lengths[n] := count(n) if some n in names
deep[a][b] := a * b if { some a in [1, 2]; some b in [3, 4] }
groups[g] contains n if some [g, n] in input.pairs
double(x) := y if y := 2 * x
default safe(_) := "none"
safe(x) := x if x > 0
p := {"level": level, "names": names, "lengths": lengths, "deep": deep, "groups": groups,
      "double": double(4), "safe": [safe(1), safe(-1)]}
"""
    given = {"x": 2, "names": ["b", "aa", "b"], "pairs": [["g", 1], ["g", 2], ["h", 3]]}
    assert value(module, given=given) == {
        "level": 2,
        "names": ["aa", "b"],
        "lengths": {"aa": 2, "b": 1},
        "deep": {"1": {"3": 3, "4": 4}, "2": {"3": 6, "4": 8}},
        "groups": {"g": [1, 2], "h": [3]},
        "double": 8,
        "safe": [1, "none"],
    }


def test_iteration_runs_in_the_order_of_keys() -> None:
    module = "p := [[k, v] | some k, v in input]"
    assert value(module, given={"b": 1, "a": 2}) == [["a", 2], ["b", 1]]
    assert value("p := [x | some x in {3, 1, 2}]") == [1, 2, 3]


def test_rules_and_plain_data_make_one_document() -> None:
    found = value("q := 1\nr := 2 if false", path="test", data={"test": {"q2": 3}})
    assert found == {"q": 1, "q2": 3}
    assert value("p := data.pkg.x", "package pkg\n\nx := 1", data={"pkg": {"x": 2, "y": 3}}) == 1
    assert value("p := [k | data.pkg[k]]", "package pkg\n\nx := 1", data={"pkg": {"y": 3}}) == ["x", "y"]
    assert value("p := {}", path="test.nothing") is UNDEFINED


def test_rules_with_computed_keys_unite_with_rules_below_them() -> None:
    module = 'q[x] := 1 if some x in ["a", "b"]\nq.c.d := 2\np := q'
    assert value(module) == {"a": 1, "b": 1, "c": {"d": 2}}


def test_unification_takes_patterns_apart() -> None:
    assert value('p := [x, y] if [{"a": x}, [y, 3]] = [{"a": 1}, [2, 3]]') == [1, 2]
    assert value("p := [x, y, z] if [x, y, 3] = [1, 2, z]") == [1, 2, 3]
    assert value("p if [1, x] = [x, 1]") is True
    assert value("p if [1, 2] = [x, x]") is UNDEFINED
    assert value('f([x, 1], {"k": y}) := x + y\np := f([5, 1], {"k": 2})') == 7
    assert value("f([x, 1]) := x\np := f([5, 2])") is UNDEFINED


def test_every_needs_all_and_holds_for_none() -> None:
    assert value("p if every x in [1, 2] { x > 0 }") is True
    assert value("p if every x in [1, -2] { x > 0 }") is UNDEFINED
    assert value("p if every x in [] { x > 0 }") is True
    assert value('p if every k, v in {"a": 1} { k == "a"; v == 1 }') is True
    assert value("p if every x in input.missing { x }", given={}) is UNDEFINED


def test_with_replaces_documents_and_functions_for_one_expression() -> None:
    module = """
allow if input.user == data.admin
now := time.now_ns()
twice(x) := x * 2
fake(_) := 7
p := [a, b, c, d, twice(1), input.user] if {
    a := allow with input.user as "a" with data.admin as "a"
    b := now with time.now_ns as 5
    c := twice(1) with data.test.twice as fake
    d := count([1]) with count as fake
}
"""
    assert value(module, given={"user": "b"}, data={"admin": "c"}) == [True, 5, 7, 7, 2, "b"]
    assert value("q := 1\np := x if x := q with data.test.q as 2") == 2
    assert value("q := 1\nr := q\np := [r, x] if { x := r with data.test.q as 2 }") == [1, 2]


def test_a_replacement_may_call_what_it_replaces() -> None:
    assert value("mine(x) := count(x) + 10\np := n if n := count([1]) with count as mine") == 11


@pytest.mark.parametrize(
    "module",
    [
        "p := 1\np := 2",
        "p := x if some x in [1, 2]",
        "f(_) := 1\nf(_) := 2\np := f(0)",
        'q[k] := v if { some k in ["a"]; some v in [1, 2] }\np := q',
        'p := {k: v | some k in ["a"]; some v in [1, 2]}',
    ],
)
def test_two_values_in_one_place_conflict(module: str) -> None:
    with pytest.raises(ConflictError) as caught:
        value(module)
    assert caught.value.code == "eval_conflict_error"


def test_a_conflict_elsewhere_does_not_disturb_a_lookup() -> None:
    module = 'q[k] := v if { some k, vs in {"a": [1, 2], "b": [3]}; some v in vs }\n'
    assert value(module + 'p := q["b"]') == 3
    with pytest.raises(ConflictError):
        value(module + 'p := q["a"]')


def test_queries_bind_variables() -> None:
    compiled = compile_modules([parse_module("package test\n\nq contains x if some x in [2, 1]")], BUILTINS)
    query = compile_query(parse_query("data.test.q[x]; y := x * 10"), compiled, BUILTINS)
    found = Evaluator(compiled).query(query)
    assert [(one["x"], one["y"]) for one in found] == [(1, 10), (2, 20)]


def test_the_present_moment_is_an_argument() -> None:
    assert value("p := time.now_ns()", now_ns=17) == 17
    with pytest.raises(BuiltinFailedError, match="no present moment"):
        value("p := time.now_ns()")


def test_observers_see_rules_and_places() -> None:
    seen: list[tuple[int, Value]] = []
    rows: list[int] = []
    observer = Observer(
        on_rule=lambda rule, result: seen.append((rule.span.row, result)),
        on_expression=lambda span, _frame: rows.append(span.row),
    )
    made = evaluator("p if {\n\tinput.a\n\tq\n}\nq if input.b == 2", observed=True)
    given = from_python({"a": 1, "b": 2})
    assert made.document(("test", "p"), input_document=given, observer=observer) is TRUE
    assert seen == [(7, TRUE), (3, TRUE)]
    assert sorted(set(rows)) == [4, 5, 7]


# --- refusals and limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ['http.send({"url": "x"})', "opa.runtime()", 'rand.intn("x", 3)', 'uuid.rfc4122("x")']
)
def test_what_is_not_implemented_is_refused_when_the_policy_is_loaded(call: str) -> None:
    with pytest.raises(Diagnostics, match=call.partition("(")[0]):
        evaluator(f"p := 1\nq := {call}")


def test_a_refused_function_may_be_replaced() -> None:
    assert value('q := http.send({"url": "x"}).body\np := b if b := q with http.send as {"body": 1}') == 1


def limited(module: str, limits: Limits, given: Any = UNDEFINED) -> str:
    with pytest.raises(LimitExceededError) as caught:
        evaluator(module, limits=limits).document(("test", "p"), input_document=given)
    return caught.value.limit


def test_large_joins_and_comprehensions_are_bounded() -> None:
    given = from_python({"xs": list(range(1_000))})
    few = Limits(steps=100_000)
    assert limited("p if { some a in input.xs; some b in input.xs; a + b == -1 }", few, given) == "steps"
    assert limited("p := [[a, b] | some a in input.xs; some b in input.xs]", few, given) == "steps"
    assert limited("p contains [a, b] if { some a in input.xs; some b in input.xs }", few, given) == "steps"
    assert limited("p if every a in input.xs { every b in input.xs { a + b >= 0 } }", few, given) == "steps"
    assert limited("p := count([x | walk(input, x); walk(input, y); y == 1])", few, given) == "steps"


def test_a_million_element_cross_product_ends_quickly() -> None:
    given = from_python({"xs": list(range(1_000))})
    assert (
        limited(
            "p if { some a in input.xs; some b in input.xs; some c in input.xs; a + b + c == -1 }",
            Limits(steps=1_000_000),
            given,
        )
        == "steps"
    )


def test_results_are_bounded() -> None:
    doubling = "\n".join(f'x{i + 1} := concat("", [x{i}, x{i}])' for i in range(40))
    assert limited(f'x0 := "0123456789"\n{doubling}\np := x40', Limits()) == "text"
    arrays = "\n".join(f"x{i + 1} := array.concat(x{i}, x{i})" for i in range(40))
    assert limited(f"x0 := [1, 2]\n{arrays}\np := x40", Limits()) == "elements"


def chained(step: str, first: str) -> str:
    rules = "\n".join(step.format(a=f"x{i}", b=f"x{i + 1}") for i in range(60))
    return f"x0 := {first}\n{rules}\np := x60"


@pytest.mark.parametrize(
    ("step", "first"),
    [
        ("{b} := [{a}, {a}]", "[1]"),
        ('{b} := {{"k": {a}, "l": {a}}}', "{}"),
        ("{b} := {{[{a}, 1], [{a}, 2]}}", "[1]"),
        ("{b} := [y | some y in [{a}, {a}]]", "[[1]]"),
        ("{b} := array.concat([{a}], [{a}])", "[1]"),
    ],
)
def test_values_that_share_their_parts_are_bounded(step: str, first: str) -> None:
    assert limited(chained(step, first), Limits()) == "weight"


def test_elements_that_are_scalars_count_wherever_they_are_shared() -> None:
    for made in ("numbers.range(1, 3000)", "[x | some x in numbers.range(1, 3000)]"):
        assert limited(f"a := {made}\nb := [a | some _ in a]\np := json.marshal(b)", Limits()) == "weight"


@pytest.mark.parametrize(
    ("step", "first", "reason"),
    [
        ('{b} := sprintf("%s%s", [{a}, {a}])', '"ab"', "longer than"),
        ('{b} := replace({a}, "a", "aaaa")', '"a"', "longer than"),
        ("{b} := {a} * {a}", "9999999", "digits"),
        ('{b} := object.union({a}, {{"k": {a}, "l": {a}}})', "{}", "keys to merge"),
    ],
)
def test_built_ins_that_grow_end_with_an_error_not_undefined(step: str, first: str, reason: str) -> None:
    with pytest.raises((BuiltinFailedError, LimitExceededError), match=reason):
        value(chained(step, first))


def test_long_chains_of_rules_are_bounded_by_name() -> None:
    chain = "\n".join(f"x{i + 1} := x{i} + 1" for i in range(5_000))
    assert limited(f"x0 := 0\n{chain}\np := x5000", Limits()) == "nesting"


def test_a_long_body_is_no_deep_one() -> None:
    body = "\n".join(f"input.x != {i}" for i in range(2_000))
    assert value(f"p if {{\n{body}\n}}", given={"x": -1}) is True


# --- the same programs in a real OPA ------------------------------------------------------------

PROGRAMS = [
    "p.q[x].r := y if { some x in input.xs; y := x * 2 }\np.q.z := 1",
    "p[x] contains y if { some x, ys in input.o; some y in ys }",
    "p := [y | some x in input.xs; y := x % 2; y == 1]",
    "p := {k: [v | v := vs[_]; v > 1] | vs := input.o[k]}",
    "p := x if { x := input.xs[i]; i == 1 }",
    "a := 1 if input.n > 1 else := 2 if input.n > 0 else := 3\np := a",
    'f(x, y) := z if { z := x + y } else := z if { z := [x, y] }\np := [f(1, 2), f(1, "a")]',
    "p := {x | input.xs[_] = x; not x == 2}",
    "p if { input.o.a[_] == input.xs[_] }",
    "p := [i | input.xs[i] > 1]",
    'p := input["o"]["a"][0]',
    "p := walked if { walked := [path | walk(input.o, [path, 2])] }",
    "q := {1, 2}\np := q & {2, 3} | {9}",
    'p contains "x" if input.n == 1\np contains z if { some z in input.xs; z > 2 }',
    'r contains {"k": x} if some x in input.xs\np := [x | r[{"k": x}]]',
    "p := [a, b] if { [a, b] := [input.n, input.xs[0]] }",
    "default p := false\np if { every x in input.xs { x > 0 } }",
    'p := $"n={input.n} m={input.missing} {[input.xs]}"',
    'p := object.get(input, ["o", "a", 1], "none")',
    "p[k] := v if { some k, v in input.o }\nq := p.a",
    "s contains [x, y] if { x := input.xs[_]; y := input.xs[_]; x < y }\np := [y | s[[1, y]]]",
    'p := x if { x := {"a": 1, "b": input.n}[input.key] }',
    "t.a.b := 1\nt.a.c := 2 if input.n == 2\np := t",
    "p if { x := input.n; x == 1; y := x; y == 1 }",
    "p := count(input.xs) if { not input.o.zz; input.o.a }",
    "g := [1, 2, 3]\np := [g[i] | some i; g[i] >= input.n]",
    "p := x if some x in input.xs with input.xs as [9]",
    'p := y if { y := [x | some x in input.xs] with input as {"xs": [7]} }',
]
INPUTS: list[Any] = [
    {"n": 1, "xs": [1, 2, 3], "o": {"a": [1, 2], "b": []}, "key": "a"},
    {"n": 2, "xs": [3, 2], "o": {"a": [2, 2]}, "key": "b"},
    {"n": "a", "xs": [], "o": {}, "key": None},
    {"xs": [True, 1, "1"], "o": {"a": None}},
    {},
]


ORACLE = """package oracle

rows := [row |
    some c in input.cases
    row := {n: v | some n in names; v := value(n) with input as c}
]

"""


def test_programs_mean_what_opa_says(peer: Callable[[str], Path], tmp_path: Path) -> None:
    opa = peer("opa")
    for index, program in enumerate(PROGRAMS):
        batch = tmp_path / f"p{index}.rego"
        batch.write_text(f"package p{index}\n\n{program}\n", "utf-8")
    oracle = ORACLE
    oracle += "names := [" + ", ".join(f'"{i}"' for i in range(len(PROGRAMS))) + "]\n\n"
    oracle += "\n".join(f'value("{i}") := data.p{i}.p' for i in range(len(PROGRAMS))) + "\n"
    (tmp_path / "oracle.rego").write_text(oracle, "utf-8")
    (tmp_path / "input.json").write_text(json.dumps({"cases": INPUTS}), "utf-8")
    command = [
        str(opa),
        "eval",
        "-d",
        str(tmp_path),
        "-i",
        str(tmp_path / "input.json"),
        "-f",
        "raw",
        "data.oracle.rows",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows = parse_json(answer.stdout)
    assert isinstance(rows, tuple)
    for given, row in zip(INPUTS, rows, strict=True):
        assert isinstance(row, Object)
        for index, program in enumerate(PROGRAMS):
            found = evaluator(f"package p{index}\n\n{program}").document(
                (f"p{index}", "p"), input_document=from_python(given)
            )
            ours = "undefined" if found is UNDEFINED else json_text(found)
            theirs = json_text(row[str(index)]) if str(index) in row else "undefined"
            assert ours == theirs, (program, given)
