"""The parser: shapes of the tree, errors with positions, recovery and limits."""

import pytest

from policies.language.diagnostics import Diagnostics, ErrorCode
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr, Number, Ref, RuleKind, String, Var
from policies.language.syntax.parser import parse_module, parse_query


def call(name: str, *arguments: ast.Term) -> Call:
    head, *rest = name.split(".")
    return Call(Ref(Var(head), tuple(String(part) for part in rest)), arguments)


def statement(text: str) -> ast.ExprNode:
    [expression] = parse_query(text)
    return expression.node


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("x := 1", call("assign", Var("x"), Number("1"))),
        ("x = y", call("eq", Var("x"), Var("y"))),
        ("x == y", call("equal", Var("x"), Var("y"))),
        ("a + b * c - d", call("minus", call("plus", Var("a"), call("mul", Var("b"), Var("c"))), Var("d"))),
        ("a | b & c == d", call("equal", call("or", Var("a"), call("and", Var("b"), Var("c"))), Var("d"))),
        ("3 -1", call("minus", Number("3"), Number("1"))),
        ("-1", Number("-1")),
        ("-x", call("minus", Number("0"), Var("x"))),
        ("2 --1", call("minus", Number("2"), Number("-1"))),
        ("-f(1)", call("minus", Number("0"), call("f", Number("1")))),
        ("x in xs", call("internal.member_2", Var("x"), Var("xs"))),
        ("k, v in xs", call("internal.member_3", Var("k"), Var("v"), Var("xs"))),
        ("x == y in xs", call("internal.member_2", call("equal", Var("x"), Var("y")), Var("xs"))),
        ("input.a[b].in", Ref(Var("input"), (String("a"), Var("b"), String("in")))),
        ('input["x-team"]', Ref(Var("input"), (String("x-team"),))),
        ("f(x).y", Ref(call("f", Var("x")), (String("y"),))),
        ("data.a.f(1)", call("data.a.f", Number("1"))),
        ("contains(x, y)", call("contains", Var("x"), Var("y"))),
        ("set()", ast.Set(())),
        ("{}", ast.Object(())),
        ("{1, 2,}", ast.Set((Number("1"), Number("2")))),
        ("[x | x := 1]", ast.ArrayComprehension(Var("x"), (Expr(call("assign", Var("x"), Number("1"))),))),
        ("{x | y}", ast.SetComprehension(Var("x"), (Expr(Var("y")),))),
        ("{k: v | y}", ast.ObjectComprehension(Var("k"), Var("v"), (Expr(Var("y")),))),
        ("some x, y", ast.Some((Var("x"), Var("y")))),
        ("some k, v in xs", ast.SomeIn(Var("k"), Var("v"), Var("xs"))),
        ("every v in xs { v }", ast.Every(None, Var("v"), Var("xs"), (Expr(Var("v")),))),
        ("not x == 1", ast.Not((Expr(call("equal", Var("x"), Number("1"))),), False)),
        ('$"a{x}\\{"', ast.TemplateString(("a", Expr(Var("x")), "{"))),
        ('"\\u00e9\\n"', String("é\n")),
        ("`a\\n`", String("a\\n")),
    ],
)
def test_shape_of_statements(text: str, node: ast.ExprNode) -> None:
    assert statement(text) == node


def test_with_modifiers_belong_to_the_whole_negation() -> None:
    [expression] = parse_query("not x with input.a as 1 with data.b as 2")
    assert isinstance(expression.node, ast.Not)
    assert [str(m.target.span.text) for m in expression.modifiers] == ["input.a", "data.b"]


def test_strict_not_reads_blocks() -> None:
    module = parse_module("package p\nimport future.keywords.not\nallow if { not { a; b }; not x }")
    first, second = (e.node for e in module.rules[0].body)
    assert module.strict_not
    assert isinstance(first, ast.Not) and first.explicit_body and len(first.body) == 2
    assert isinstance(second, ast.Not) and not second.explicit_body


@pytest.mark.parametrize(
    ("text", "kind", "bodies"),
    [
        ("p := 1", RuleKind.COMPLETE, [0]),
        ("p if x", RuleKind.COMPLETE, [1]),
        ("p if { x; y }", RuleKind.COMPLETE, [2]),
        ("p if { a } { b; c }", RuleKind.COMPLETE, [1, 2]),
        ("p contains x if { x := 1 }", RuleKind.PARTIAL_SET, [1]),
        ("p contains 1", RuleKind.PARTIAL_SET, [0]),
        ("p[x] := 1 if x := 2", RuleKind.PARTIAL_OBJECT, [1]),
        ("p.q[x].r := 1 if x := 2", RuleKind.PARTIAL_OBJECT, [1]),
        ('p["a b"] := 1', RuleKind.COMPLETE, [0]),
        ("f(x) := x", RuleKind.FUNCTION, [0]),
        ("default f(_) := 1", RuleKind.FUNCTION, [0]),
        ("default if.f(_) := 1\nif.f(x) := x if x", RuleKind.FUNCTION, [0, 1]),
        ('f("a", _)', RuleKind.FUNCTION, [0]),
        ("p() := 1", RuleKind.COMPLETE, [0]),
        ("default p := {x | x = data.a[_]}", RuleKind.COMPLETE, [0]),
        ("else.foo := 1 if true", RuleKind.COMPLETE, [1]),
        ("default.bar.one := 1", RuleKind.COMPLETE, [0]),
        ("allow if {}", RuleKind.COMPLETE, [1]),
        ("allow if {1, 2} == x", RuleKind.COMPLETE, [1]),
        ('allow if {"a": 1}', RuleKind.COMPLETE, [1]),
    ],
)
def test_rules(text: str, kind: RuleKind, bodies: list[int]) -> None:
    rules = parse_module("package p\n" + text).rules
    assert [rule.kind for rule in rules] == [kind] * len(bodies)
    assert [len(rule.body) for rule in rules] == bodies


def test_a_constant_in_a_template_is_text_and_what_occurs_twice_counts_once() -> None:
    assert statement('$"{1e2}, {true}{x}{"a"}b"') == ast.TemplateString(("1e2, true", Expr(Var("x")), "ab"))
    assert statement('$`{"\\\\"}`') == ast.TemplateString((Expr(String("\\")),))
    assert statement("{2, x, 2, _, x, _}") == ast.Set((Number("2"), Var("x"), Var("_"), Var("_")))
    assert statement("{1: a, 2: b, 1: c}") == ast.Object(((Number("1"), Var("c")), (Number("2"), Var("b"))))


@pytest.mark.parametrize("word", ["and", "or"])
def test_keywords_that_opa_has_as_an_experiment_are_refused_by_name(word: str) -> None:
    with pytest.raises(Diagnostics) as caught:
        parse_module(f"package p\nimport future.keywords.{word}\np if true {word} true")
    first = caught.value.diagnostics[0]
    assert (first.code, first.span.text) == (ErrorCode.UNSUPPORTED, f"future.keywords.{word}")


@pytest.mark.parametrize("text", ["--1", "-(1)", "-[1]", '-"x"', "-true", "- - x", "-" * 1000 + "x"])
def test_a_minus_sign_stands_before_numbers_and_names_alone(text: str) -> None:
    with pytest.raises(Diagnostics) as caught:
        parse_module(f"package p\na := {text}")
    assert "a number or a name" in caught.value.diagnostics[0].expected


def test_else_chain() -> None:
    [rule] = parse_module("package p\np := 1 if a\nelse := 2 if b\nelse := 3").rules
    assert rule.otherwise and rule.otherwise.otherwise and rule.otherwise.otherwise.otherwise is None
    assert rule.otherwise.otherwise.head.value == Number("3")


def test_several_errors_at_once_with_positions() -> None:
    with pytest.raises(Diagnostics) as caught:
        parse_module("package p\n\na := )\n\nb if {\n  x := [1\n}\n\nc := 'q'\n", "policy.rego")
    places = [str(d.span) for d in caught.value.diagnostics]
    assert places == ["policy.rego:3:6", "policy.rego:7:1", "policy.rego:9:6"]


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("allow { input.x }", "allow if { input.x }"),
        ("deny[msg] { msg := 1 }", "deny contains msg if { msg := 1 }"),
        ("f(x) = y { y := x }", "f(x) = y if { y := x }"),
        ("p := 1 if x\nelse = 2 { y }", "else = 2 if { y }"),
    ],
)
def test_v0_is_refused_with_the_line_rewritten(text: str, replacement: str) -> None:
    with pytest.raises(Diagnostics) as caught:
        parse_module("package p\n" + text)
    assert {d.replacement for d in caught.value.diagnostics} == {replacement}


def test_a_deep_caller_gets_a_named_error_too() -> None:
    text = "package p\np := " + "[x | x := " * 55 + "1" + "]" * 55

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            parse_module(text)

    deep(0)
    with pytest.raises(Diagnostics) as caught:
        deep(600)
    assert caught.value.diagnostics[0].code is ErrorCode.LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000,
        "+".join("x" * 1000),
        "(" * 70 + "x" + "+x)" * 70,
        "x" + "[y" * 1000,
        '$"{' * 1000,
        "f(" * 1000,
    ],
)
def test_deep_terms_are_a_named_error(text: str) -> None:
    with pytest.raises(Diagnostics) as caught:
        parse_module("package p\np := " + text)
    codes = {d.code for d in caught.value.diagnostics}
    assert codes <= {ErrorCode.LIMIT, ErrorCode.PARSE} and ErrorCode.LIMIT in codes


@pytest.mark.parametrize(
    "text",
    [
        "package p # METADATA\n\n# title: a\nallow if input.x\n",
        "package p # METADATA\n# title: a\nallow if input.x\n",
        "package p\n\n  # METADATA\n\nallow if input.x\n",
        "package p\n\n# METADATA\n# title: a\nallow if {\n\tinput.x # METADATA\n\tinput.y\n}\n",
    ],
)
def test_annotations_begin_at_the_start_of_a_line(text: str) -> None:
    """Measured on OPA 1.19: comments behind code or indented are nothing but comments."""
    [rule] = parse_module(text).rules
    assert len(rule.annotations) == text.count("\n# METADATA")


def test_an_indented_comment_ends_a_block() -> None:
    [rule] = parse_module("package p\n\n# METADATA\n# title: b\n  # authors: 1\nallow if input.x\n").rules
    assert [one.title for one in rule.annotations] == ["b"]
    with pytest.raises(Diagnostics):
        parse_module("package p\n\n# METADATA\n  # title: a\nallow if input.x\n")
