"""The compile stage: order, hoisting, names, and what it refuses."""
# ruff: noqa: E501 - one case a line

from dataclasses import replace

import pytest

from policies.language.builtins import registry
from policies.language.compiler.compile import compile_modules, compile_query
from policies.language.compiler.compiled import CompiledRule, Shape
from policies.language.diagnostics import Diagnostics
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr, Ref, Term, Var
from policies.language.syntax.parser import parse_module, parse_query

# Declarations alone matter here, not which functions exist so far.
BUILTINS = {
    name: replace(builtin, refusal=registry.REFUSALS.get(name, ""))
    for name, builtin in registry.BUILTINS.items()
}


def rule(text: str, name: str = "allow") -> CompiledRule:
    compiled = compile_modules([parse_module("package p\n" + text)], BUILTINS)
    return compiled.groups[("p", name)].rules[0]


def show(term: object) -> str:
    """A short text of a compiled term."""
    if isinstance(term, Expr):
        suffix = "".join(f" with {show(m.target)} as {show(m.value)}" for m in term.modifiers)
        return ("*" if term.generated else "") + show(term.node) + suffix
    if isinstance(term, Call):
        return f"{term.name}({', '.join(map(show, term.arguments))})"
    if isinstance(term, Ref):
        return show(term.head) + "".join(
            f".{o.value}" if isinstance(o, ast.String) else f"[{show(o)}]" for o in term.operands
        )
    if isinstance(term, Var):
        return term.name
    if isinstance(term, ast.String):
        return f"'{term.value}'"
    if isinstance(term, ast.Number):
        return term.text
    if isinstance(term, ast.Array):
        return f"[{', '.join(map(show, term.items))}]"
    if isinstance(term, ast.Not):
        return f"not {{{'; '.join(map(show, term.body))}}}"
    if isinstance(term, ast.ArrayComprehension):
        return f"[{show(term.term)} | {'; '.join(map(show, term.body))}]"
    if isinstance(term, ast.SetComprehension):
        return f"{{{show(term.term)} | {'; '.join(map(show, term.body))}}}"
    if isinstance(term, ast.Every):
        return f"every {term.value.name} in {show(term.domain)} {{{'; '.join(map(show, term.body))}}}"
    return type(term).__name__


def body(text: str) -> list[str]:
    return [show(expression) for expression in rule(text).body]


STRICT = "import future.keywords.not\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("allow if { x == 1; x = input.a }", ["eq(x, input.a)", "eq(x, 1)"]),
        ("allow if { count(input.xs[_]) > 1 }", ["*eq(~2, input.xs[_~1])", "gt(count(~2), 1)"]),
        ("allow if { some k, v in input.m; v == k }", ["eq(v, input.m[k])", "eq(v, k)"]),
        ("allow if { split(input.x, `/`, y); y[0] }", ["eq(y, split(input.x, '/'))", "y[0]"]),
        ("allow if { [x, 1] = input.a; x }", ["eq([x, 1], input.a)", "x"]),
        ("allow if { x := 1; y := [x | x := 2]; y; x }", ["eq(x, 1)", "eq(y, [x~1 | eq(x~1, 2)])", "y", "x"]),
        ("allow if f(input.x)\nf(a) := a", ["data.p.f(input.x)"]),
        ("allow if { every x in input.xs { x > 1 } }", ["every x in input.xs {gt(x, 1)}"]),
        ('allow if $"a{input.x}"', ["internal.template_string(['a', {~1 | *eq(~1, input.x)}])"]),
        ("allow if f(1).x\nf(a) := a", ["*eq(~1, data.p.f(1))", "~1.x"]),
        ('allow if { print("x", input.x); input.y }', ["Boolean", "input.y"]),
        ("allow if walk(input.a, [p, v])", ["eq([p, v], walk(input.a))"]),
        ("allow if { p := [1 | walk(input.a)]; p }", ["eq(p, [1 | walk(input.a)])", "p"]),
    ],
)
def test_order_and_lowering(text: str, expected: list[str]) -> None:
    assert body(text) == expected


@pytest.mark.parametrize(
    ("negated", "default", "strict"),
    [
        ("input.x", ["not {input.x}"], ["not {input.x}"]),
        ('input.x == "a"', ["not {eq(input.x, 'a')}"], ["not {eq(input.x, 'a')}"]),
        ('"a" == input.x', ["not {eq('a', input.x)}"], ["not {eq('a', input.x)}"]),
        ('input.x != "a"', ["*eq(~1, input.x)", "not {neq(~1, 'a')}"], ["not {neq(input.x, 'a')}"]),
        (
            'startswith(input.x, "a")',
            ["*eq(~1, input.x)", "not {startswith(~1, 'a')}"],
            ["not {startswith(input.x, 'a')}"],
        ),
        (
            'lower(input.x) == "a"',
            ["*eq(~1, lower(input.x))", "not {eq(~1, 'a')}"],
            ["not {eq(lower(input.x), 'a')}"],
        ),
        ("data.roles[input.x]", ["*eq(~1, input.x)", "not {data.roles[~1]}"], ["not {data.roles[input.x]}"]),
        (
            '[input.x] == ["a"]',
            ["*eq(~1, input.x)", "not {eq([~1], ['a'])}"],
            ["not {eq([input.x], ['a'])}"],
        ),
    ],
)
def test_both_meanings_of_not(negated: str, default: list[str], strict: list[str]) -> None:
    assert body(f"allow if not {negated}") == default
    assert body(f"{STRICT}allow if not {negated}") == strict


def test_shapes_paths_and_keys() -> None:
    text = """package a.b
p.q[k].r := v if some k, v in input.m
s contains x if some x in input.xs
f(x, [y]) := x + y
default f(_, _) := 0
"""
    groups = compile_modules([parse_module(text)], BUILTINS).groups
    assert set(groups) == {("a", "b", "p", "q"), ("a", "b", "s"), ("a", "b", "f")}
    [dynamic] = groups[("a", "b", "p", "q")].rules
    assert [show(key) for key in dynamic.keys] == ["k", "'r'"]
    assert groups[("a", "b", "s")].shape is Shape.SET
    function = groups[("a", "b", "f")]
    assert function.arity == 2 and function.default is not None and len(function.rules) == 1


def test_query_variables() -> None:
    compiled = compile_modules([parse_module("package p\nq := 1")], BUILTINS)
    query = compile_query(parse_query("data.p.q = x; y := x; z := [w | w := y]"), compiled, BUILTINS)
    assert [name for name, _ in query.variables] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("text", "code", "message", "place"),
    [
        ("p if is_admn\nis_admin if true", "rego_unsafe_var_error", "var is_admn is unsafe", "2:6"),
        ("p if input.headers.x-team", "rego_unsafe_var_error", "var team is unsafe", "2:22"),
        ("p if { not input.xs[_] == 1 }", "rego_unsafe_var_error", "var _ is unsafe", "2:21"),
        ("p := x if true", "rego_unsafe_var_error", "var x is unsafe", "2:6"),
        ("p if starts_with(input.x, 1)", "rego_type_error", "undefined function starts_with", "2:6"),
        ("f(a, b) := a\np if f(1)", "rego_type_error", "function data.p.f has arity 2, got 1 argument", "3:6"),
        ("p if q\nq if p", "rego_recursion_error", "rule data.p.p is recursive: data.p.p -> data.p.q -> data.p.p", "2:1"),
        ("p := 1\np contains 1", "rego_type_error", "conflicting rules data.p.p found", "3:1"),
        ("default p := 1\ndefault p := 2", "rego_type_error", "multiple default rules data.p.p found", "3:1"),
        ("p if { some x }", "rego_compile_error", "declared var x unused", "2:13"),
        ("p if { every k, v in [1] { v } }", "rego_compile_error", "declared var k unused", "2:14"),
        ("p if { input := 1 }", "rego_compile_error", "variables must not shadow input", "2:8"),
        ("p if { input.x := 1 }", "rego_compile_error", "cannot assign to ref", "2:8"),
        ("p if { x := 1; x := 2 }", "rego_compile_error", "var x assigned above", "2:16"),
        ("p if { x == 1; x := 2 }", "rego_compile_error", "var x referenced above", "2:16"),
        ("f(x) := y if { x := 1; y := x }", "rego_compile_error", "arg x redeclared", "2:16"),
        ("p if true with foo as 1", "rego_type_error",
         "with keyword target must reference existing input, data, or a function", "2:16"),
        ("f(x) := x\np if data.p.f", "rego_type_error", "function data.p.f used as reference, not called", "3:6"),
        ("import data.a.x\nimport data.b.x\np := x", "rego_compile_error", "import must not shadow import data.a.x", "3:1"),
        ("p if http.send({})", "rego_unsupported_error",
         "built-in http.send can't be used: a policy that is compiled can't ask other services; "
         "put what it needs into data", "2:6"),
    ],
)  # fmt: skip
def test_errors(text: str, code: str, message: str, place: str) -> None:
    with pytest.raises(Diagnostics) as caught:
        rule(text, "p")
    first = caught.value.diagnostics[0]
    assert (str(first.code), first.message, f"{first.span.row}:{first.span.column}") == (code, message, place)


def test_strict_findings() -> None:
    text = "package p\nimport data.a\np if { x := 1 }\nf(y) := 1"
    with pytest.raises(Diagnostics) as caught:
        compile_modules([parse_module(text)], BUILTINS, strict=True)
    messages = sorted(d.message for d in caught.value.diagnostics)
    assert messages == [
        "assigned var x unused",
        "import data.a unused",
        "unused argument y. (hint: use _ (wildcard variable) instead)",
    ]


def test_terms_are_shown() -> None:
    term: Term = Var("x")
    assert show(term) == "x"
