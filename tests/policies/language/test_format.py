"""Layout: golden pairs, idempotence, meaning kept, and the same text as `opa fmt` where there is one."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.language.layout.format import format_text
from policies.language.syntax.parser import parse_module

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "rego").rglob("*.rego"))
CONFORMANCE = os.environ.get("GATEHOUSE_CONFORMANCE", "")

MESSY = """# head
package   a.b   # trailing

import data.z
import   data.y as   q
import future.keywords.in
a := 1
b = 2
# about c
c := [1,2,
  3]
allow if { true }
allow if x
allow if {
  # why
  input.x == 1; input.y # end


  not input["z"] with input as {"a":1}
      with data.q as 2
}
f(x,y) := z if { z := (x+y)*2 }
deny contains msg if { msg := sprintf("%v",[
 input.x, input.y]) }
else_rule := $"a{ x }"
r := {k: v |
  some k,v in input.m
}
u if { every x in input.xs { x > 1 } }
w := 1 if {
  a
} else := 2 if {
  b
}
# last
else := 3
# end"""

TIDY = """# head
package a.b # trailing

import data.y as q
import data.z
import future.keywords.in

a := 1
b := 2

# about c
c := [
	1, 2,
	3,
]

allow := true
allow if x

allow if {
	# why
	input.x == 1 # end
	input.y

	not input.z with input as {"a": 1}
		with data.q as 2
}

f(x, y) := z if z := (x + y) * 2
deny contains msg if msg := sprintf("%v", [
	input.x, input.y,
])

else_rule := $"a{x}"
r := {k: v |
	some k, v in input.m
}

u if every x in input.xs { x > 1 }
w := 1 if {
	a
} else := 2 if {
	b
}

# last
else := 3

# end
"""


def test_golden() -> None:
    assert format_text(MESSY) == TIDY


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_policies_are_formatted(path: Path) -> None:
    assert format_text(path.read_text()) == path.read_text()


def test_parentheses_that_matter_are_kept() -> None:
    statements = "\n\ta == (b == c)\n\t(a in b) == c\n\ta - (b - c) == d\n\t(a == b) in c\n"
    text = f"package p\n\nq if {{{statements}}}\n"
    assert parse_module(format_text(text)) == parse_module(text)


@pytest.mark.parametrize(
    "rule",
    [
        "q if {\n\t(a | b)\n}",
        "q if {\n\t((a | b) | c) == d\n\te\n}",
        "q if {\n\t(a | b) := c\n}",
        "q if {\n\ta\n} else := 3 if {\n\t(a | b)\n}",
        "q if {\n\ta & b\n}",
        "q if {\n\t{a}\n}",
        "q if {\n\t{a} with input as b\n}",
        "q if {\n\t{a + b: c}\n}",
        "q if {\n\ta\n\t(-1) == b\n}",
        "q if some x in (a in b)",
        "q if every x in (a in b) { x }",
        "q := {(a | b): c | d}",
        "q := {a: (b in c) | d}",
        "import future.keywords.not\n\nq if not ({} + 1)",
    ],
)
def test_what_would_be_read_as_something_else_is_kept_from_it(rule: str) -> None:
    text = f"package p\n\n{rule}\n"
    assert format_text(text) == text


def test_bodies_that_would_begin_a_comprehension_are_kept_from_it() -> None:
    text = "package p\n\nq contains r if\na{b | c\n}\n"
    parts = "package p\n\nq contains r if {\n\ta\n}\n\nq contains r if {\n\t(b | c)\n}\n"
    assert format_text(text) == format_text(parts) == parts


def test_indented_comments_do_not_become_annotations() -> None:
    text = "package p\n\n# a\n #METADATA\n# [\np := 1\n\n# METADATA\n# title: one\n # [\nq := 1\n"
    assert format_text(text) == text
    within = "package p\n\np if {\n #METADATA\n x # METADATA\n}\n"
    assert format_text(within) == "package p\n\np if {\n\t#METADATA\n\tx # METADATA\n}\n"


def test_an_empty_line_that_ends_annotations_is_kept_at_the_end() -> None:
    text = "package p\n\n# a\n# METADATA\n# scope: subpackages\n\n# [\n# b\n"
    assert format_text(text.replace("# a\n", "# a\n\n").replace("# b\n", "\n# b\n")) == text


def test_no_comment_is_lost_before_what_stays_as_written() -> None:
    assert "# one" in format_text("package p\n\nq := {# one\n{# two\n# three\n} | a}\n")


def test_sets_behind_if_stay_sets() -> None:
    texts = ["package p\n\nq if ({a})\nr if b\n", "package p\n\nq if {\n\t{a}\n}\n\nr if b\n"]
    assert [format_text(text) for text in texts] == [texts[1]] * 2


def corpus() -> list[str]:
    if not CONFORMANCE:
        pytest.skip("GATEHOUSE_CONFORMANCE names no conformance directory")
    lines = (Path(CONFORMANCE) / "rego" / "cases.jsonl").read_text().splitlines()
    return list(dict.fromkeys(module for line in lines for module in json.loads(line)["modules"]))


def test_formatting_keeps_the_meaning_and_is_stable() -> None:
    for text in corpus():
        formatted = format_text(text)
        assert format_text(formatted) == formatted
        before, after = parse_module(text), parse_module(formatted)
        assert [rule.head.reference for rule in before.rules] == [rule.head.reference for rule in after.rules]
        bodies = [rule.body for rule in before.rules if not rule.body or rule.body[0].span.text != "true"]
        assert [body for body in bodies if body not in [rule.body for rule in after.rules]] == []
        comments = sorted(comment.text.rstrip() for comment in before.comments)
        assert sorted(comment.text.rstrip() for comment in after.comments) == comments


def test_same_as_opa_fmt(peer: Callable[[str], Path], tmp_path: Path) -> None:
    opa = peer("opa")
    texts = [*corpus(), *(path.read_text() for path in SHIPPED), MESSY]
    files = [tmp_path / f"{index}.rego" for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode())
    subprocess.run([opa, "fmt", "-w", *files], check=True, capture_output=True, timeout=100)
    differ = [
        index
        for index, (file, text) in enumerate(zip(files, texts, strict=True))
        if file.read_bytes().decode() != format_text(text)
    ]
    assert [texts[index] for index in differ] == [
        text for text in texts if any(mark in text for mark in WHERE_OPA_CHANGES_THE_POLICY)
    ]


WHERE_OPA_CHANGES_THE_POLICY = ('(2 in {"bar": 2}) in {"foo": true}',)
"""All that is known: without the parentheses, which `opa fmt` drops, the rule no longer holds."""


TWICE = """package p
q contains r if { r := sprintf("%v", [
 input.x]) } s := 1
u if {x := 1
} else := 2
v if not w else := 2
x := 3
"""


def test_once_does_what_opa_fmt_does_in_two_runs(peer: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "twice.rego"
    file.write_text(TWICE)
    written = []
    for _ in range(2):
        subprocess.run([peer("opa"), "fmt", "-w", file], check=True, capture_output=True, timeout=100)
        written.append(file.read_text())
    assert written[0] != written[1] == format_text(TWICE) == format_text(written[0])


def test_same_as_opa_fmt_where_layout_is_odd(peer: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "odd.rego"
    file.write_text(ODD)
    subprocess.run([peer("opa"), "fmt", "-w", file], check=True, capture_output=True, timeout=100)
    assert file.read_text() == format_text(ODD) == format_text(format_text(ODD))


ODD = """package odd["if"].else
import data["in"].x as y
# METADATA
# title: one
# METADATA
# title: two
a := (input.first | input.second)[_]
b := {80, 443, 80, "x"}
c := {"k": 1, "other": 2, "k": 3}
d := $"{42} {1e2}{"q\\"{"}, {true}\\u00e9"
e := $`{42}
{"raw"} {input.x} \\{ {null}`
import data.late # beside
import data.earlier
f(1)
g(1) if { true }
h(x) := sprintf(
  "%d", [x],
) if x
i if {
  some v1, v2, # first
    v3, # second
    v4
  count([v1, v2, v3, v4], 4)
  plus(v1, 1, 2)
  not true with input.a as 1
  every z in [1] { z; z }
}
j if { # head
  true with input.a as 1
} { # second
  false
}
k := { # on the bracket
  "a": 1,
}
settings := {
    # set to enable
      "b": {"c": 2}
}
l if { input.x
  # right below
  input.y

  # below an empty line
  input.z
}
m := $"{[
1, 2,
3]}"
"""
"""One of each: what authors rarely write and `opa fmt` has an answer for."""


def test_keywords_are_dropped_that_v1_brings_along() -> None:
    imports = ["future.keywords.if", "future.keywords.not", "rego.v1"]
    text = "package p\n\n" + "".join(f"import {name}\n" for name in imports) + "\nq := 1\n"
    assert format_text(text) == text.replace("import future.keywords.if\n", "")
    assert format_text(text.replace("import rego.v1\n", "")) == text.replace("import rego.v1\n", "")


def test_variables_of_the_compiler_are_laid_out_on_one_row() -> None:
    """`opa fmt` takes a text with `__local0__` for the compiler's, whose rows mean nothing."""
    text = 'package p\n\nq if {\n\tf({\n\t\t"a": 1,\n\t}, {"a"}, __local0__)\n}\n'
    assert format_text(text) == text
    named = text.replace("__local0__", "x")
    assert format_text(named) == named.replace(
        'f({\n\t\t"a": 1,\n\t}, {"a"}, x)', 'f(\n\t\t{\n\t\t\t"a": 1,\n\t\t},\n\t\t{"a"}, x,\n\t)'
    )


def test_a_second_body_on_the_row_of_the_first_gets_a_line_between() -> None:
    """OPA 1.19 writes `}t if {` on one line here, which it can't read again."""
    formatted = format_text("package p\nt if\npo{ d := 1\n}\n")
    assert formatted == "package p\n\nt if {\n\tpo\n}\n\nt if {\n\td := 1\n}\n"
    assert format_text(formatted) == formatted
