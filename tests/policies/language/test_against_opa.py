"""Random rules, compiled and evaluated by us and by a real OPA, under both meanings of `not`.

The rules are made to hit what the compile stage decides: what is hoisted out of a negation, iteration in
arguments, patterns, shadowing in comprehensions, `with`, attributes that are missing. Rules that either side
refuses (types, unsafe variables) take no part in the comparison, but most rules must be accepted by both.
"""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.types import check_types
from policies.language.compiler.compile import compile_modules
from policies.language.concrete.evaluate import Evaluator
from policies.language.diagnostics import Diagnostics
from policies.language.serial import json_text
from policies.language.syntax.parser import parse_module
from policies.language.values import from_python

RULES = 200
HELPERS = """
h := 1 if input.a == 1
hm := 2 if input.missing
q := {"a": 1}
st contains x if some x in input.xs
fs(x) := x
fg(_) := "g"
f2(x, y) := [x, y] if x != y
"""
INPUT = {
    "a": 1, "b": False, "m": {"k": "a", "a": 2}, "xs": ["a", "b", 1], "s": "a",
    "nested": {"a": {"b": None}}, "objs": [{"n": 1}, {"n": "b"}, {}],
}  # fmt: skip
DATA = {"d": {"roles": {"a": ["b"], "c": [1]}, "n": 5, "lists": [[1, 2], ["a"]]}}
REFERENCES = [
    "input.a",
    "input.b",
    "input.m",
    "input.xs",
    "input.xs[0]",
    "input.m.k",
    "input.missing",
    "input.m[input.s]",
    "input.s",
    "data.d.roles",
    "data.d.roles[input.s]",
    "data.p.q",
    "data.p.st",
    "h",
    "hm",
    "data.d.n",
    "input.nested.a.b",
]
ITERATIONS = (
    "input.xs[_] input.m[_] data.d.roles[_] st[_] data.d.lists[_][_] input.objs[_].n input.missing[_]"
)
CONSTANTS = ["1", "2", '"a"', '"b"', "true", "false", "null", '"k"', "[1, 2]", '{"a"}', "{}", "set()"]


class Rules:
    """Makes random rules from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.count = 0

    def variable(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def term(self, variables: list[str], depth: int = 2, iterate: bool = True) -> str:
        pick, inner = self.dice.choice, lambda: self.term(variables, depth - 1, iterate)
        kind = self.dice.randrange(13) if depth else self.dice.randrange(4)
        if kind < 3:
            return pick(REFERENCES + variables * 3)
        if kind == 3:
            return pick(CONSTANTS)
        if kind in (4, 5):
            brackets = "[]" if kind == 4 else "{}"
            return f"{brackets[0]}{inner()}, {inner()}{brackets[1]}"
        if kind == 6:
            return f'{{"k": {inner()}}}'
        if kind == 7:
            return f"{pick(['count', 'upper', 'to_number', 'is_string', 'fs', 'fg'])}({inner()})"
        if kind == 8:
            return f"{pick(['startswith', 'concat', 'contains', 'f2'])}({inner()}, {inner()})"
        if kind == 9:
            return f"({inner()} {pick(['==', '!=', '<', '>=', '+', 'in', '|', '-'])} {inner()})"
        if kind == 10:
            return f'$"x{{{self.term(variables, depth - 1, False)}}}"'
        if kind == 11:
            return f"{{z | some z in {inner()}; z != {inner()}}}"
        return pick(ITERATIONS.split()) if iterate else pick(REFERENCES)

    def statement(self, variables: list[str]) -> str:
        term = self.term(variables)
        kind = self.dice.randrange(8)
        if kind == 0:
            return term
        if kind == 1:
            variables.append(self.variable())
            return f"{variables[-1]} := {term}"
        if kind == 2:
            variables.append(self.variable())
            return f"some {variables[-1]} in {term}"
        if kind in (3, 4):
            return f"not {self.term(variables, 3, False)}"
        if kind == 5:
            return f"{term} {self.dice.choice(['==', '!=', '=', '<', 'in'])} {self.term(variables)}"
        if kind == 6:
            name = self.variable()
            test = f"{self.term([*variables, name], 2, False)} != {self.term(variables, 1, False)}"
            return f"every {name} in {term} {{ {name}; {self.dice.choice(['', 'not '])}{test} }}"
        target = self.dice.choice(["a", "m.k", "missing", "s"])
        return f"not {self.term(variables, 2, False)} with input.{target} as {self.term(variables, 1, False)}"

    def rule(self, name: str) -> str:
        variables: list[str] = []
        body = "; ".join(self.statement(variables) for _ in range(self.dice.randrange(1, 4)))
        kind = self.dice.randrange(4)
        if kind == 0 or not variables:
            return f'{name} if {{ {body} }} else := "else"'
        if kind == 1:
            return f"{name} contains {self.term(variables, 1)} if {{ {body} }}"
        if kind == 2:
            return f"{name}[{self.dice.choice(variables)}] := true if {{ {body} }}"
        return f"{name} contains [{variables[0]}, {variables[-1]}] if {{ {body} }}"


def accepted(text: str) -> bool:
    try:
        return not check_types(compile_modules([parse_module(text)], BUILTINS), BUILTINS)
    except Diagnostics:
        return False


def accepted_by_opa(opa: Path, file: Path, head: str, rules: dict[str, str]) -> dict[str, str]:
    """The rules without those that `opa check` refuses, which it names by row."""
    for _ in range(10):
        file.write_text(head + "".join(text + "\n" for text in rules.values()))
        command = [opa, "check", "--max-errors", "10000", "--format", "json", file]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode == 0:
            return rules
        rows = {e["location"]["row"] for e in json.loads(result.stderr)["errors"] if "location" in e}
        first = head.count("\n") + 1
        bad = {row - first for row in rows}
        assert bad, result.stderr
        rules = {name: text for index, (name, text) in enumerate(rules.items()) if index not in bad}
    raise AssertionError("opa still refuses rules after ten rounds")


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("imports", ["", "import future.keywords.not\n"], ids=["default", "strict"])
def test_random_rules(seed: int, imports: str, peer: Callable[[str], Path], tmp_path: Path) -> None:
    opa = peer("opa")
    head = f"package p\n{imports}{HELPERS}"
    made = Rules(seed)
    rules: dict[str, str] = {}
    for index in range(RULES * 20):
        text = made.rule(f"r{index}")
        if accepted(f"{head}{text}\n"):
            rules[f"r{index}"] = text
        if len(rules) == RULES:
            break
    rules = accepted_by_opa(opa, tmp_path / "p.rego", head, rules)
    assert len(rules) > RULES * 0.7
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    (tmp_path / "input.json").write_text(json.dumps(INPUT))
    command: list[Any] = [opa, "eval", "--format", "json", "--data", tmp_path / "p.rego"]
    command += ["--data", tmp_path / "data.json", "--input", tmp_path / "input.json", "data.p"]
    answer = json.loads(
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    )
    theirs = answer["result"][0]["expressions"][0]["value"]
    compiled = compile_modules([parse_module((tmp_path / "p.rego").read_text())], BUILTINS)
    document = Evaluator(compiled).document(("p",), input_document=from_python(INPUT), data=from_python(DATA))
    ours = json.loads(json_text(document))  # type: ignore[arg-type] # data.p is defined
    different = {
        text: (ours.get(name), theirs.get(name))
        for name, text in rules.items()
        if ours.get(name) != theirs.get(name)
    }
    assert different == {}
