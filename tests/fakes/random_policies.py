"""Random policies for the tests of the evaluators: Rego text, and what ours say of it.

Policies are built from fragments that cover the language (`rego_fragments`); inputs from the constants that
occur in the fragments (`random_inputs`). Shared by the comparison of the symbolic evaluator with the concrete
one and by that of both with a real OPA.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping

from random_inputs import DATA, DESTINATION, ODD_VALUES, ROOTS, STARTER_VALUES, VALUES, Case, cases, requests
from rego_fragments import TESTS

from policies.formula import Formula, Opaque, evaluate
from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compile import compile_modules
from policies.language.compiler.compiled import CompiledModules
from policies.language.concrete.evaluate import UNDEFINED, ConflictError, Evaluator
from policies.language.serial import json_text
from policies.language.symbolic import Memory, PartialInput, SymbolicEvaluator
from policies.language.syntax.parser import parse_module
from policies.language.values import FALSE, Object, from_python

__all__ = ["DATA", "DESTINATION", "ODD_VALUES", "STARTER_VALUES", "TESTS", "VALUES", "Case", "requests"]
Path = tuple[str, ...]

# Only under `import future.keywords.not`.
BLOCKS = (
    "not { some r9 in data.routes; r9.at.namespace == payee }",
    'not { input.request.method == "GET"; input.source.namespace == "shop" }',
    "not { some n in data.names; n == input.source.namespace }",
    'not { x20 := input.request.headers["x-team"]; x20 != "evil" }',
    'not { startswith(input.request.path, "/a"); not input.destination.port == 80 }',
)

# What only the request can tell, or what two rules disagree on: refused before any request is known.
REFUSED = (
    'some h in input.request.headers; h == "x"',
    'every g in input.jwt.claims.groups { g == "admin" }',
    "input.request.headers[input.source.namespace]",
    "mode == 1",
    "not mode == 2",
)
CONFLICT = """
mode := 1 if input.request.method == "GET"
mode := 2 if startswith(input.request.path, "/a")
"""

HELPERS = """
default level := "low"
level := "high" if startswith(input.request.path, "/admin")

helper if { input.request.method == "GET"; input.source.namespace == "shop" }
helper if input.destination.port == 443

other if { some n in data.names; input.source.namespace == n; not input.request.method == "POST" }

graded("GET") := 1
graded(m) := 2 if m == "POST"
graded(m) := 3 if { m != "GET"; m != "POST" }

chain := 1 if input.request.method == "GET"
else := 2 if input.source.namespace == "shop"
else := 3

names contains n if { some n in data.names; input.source.namespace == n }
names contains "shop" if input.request.method == "POST"

table[n] := "x" if { some n in data.names; input.request.method == "GET" }

inner if {
	input.request.path == "/a"
	helper with input.request.method as "GET" with input.source.namespace as "shop"
}
inner if { input.source.namespace == "shop"; not other with input.request.method as "POST" }

writers contains w if { some w, roles in data.roles; "write" in roles }

routed if { some r in data.routes; r.to == input.destination.service; r.from == input.source.service_account }

into(r) if r.to == input.destination.service
by(r) if r.from == input.source.service_account
by(r) if { r.at.method == "POST"; input.request.method == r.at.method }
payee := input.destination.service

same(x) := x
ignores(_) := 1
namespace_of(source) := source.namespace

headers := input.request.headers
claims := input.jwt.claims
role_of(token) := token.role

default rate(_) := 0
rate(m) := 5 if m == "GET"

step(p) := 1 if p < 80
else := 2 if { p < 100; input.source.namespace }
else := 3

limits[n] := count(n) - 2 if { some n in data.names; input.source.namespace == n }
limits["any"] := 1

deep[n][m] := true if {
	some n in data.names
	some m in ["GET", "POST"]
	input.request.method == m
	n == input.source.namespace
}
"""


def policy(randomness: random.Random, package: str = "gatehouse.authz") -> str:
    strict = randomness.random() < 0.5
    odd = randomness.random() < 0.05
    fragments = TESTS + BLOCKS * 3 if strict else TESTS
    rules = []
    for name in ("allow", "allow", "deny"):
        lines = [randomness.choice(fragments) for _ in range(randomness.randint(1, 3))]
        if odd and name == "deny":
            lines.append(randomness.choice(REFUSED))
        body = "\n".join(f"\t{line}" for line in _without_repeats(lines))
        rules.append(f"{name} if {{\n{body}\n}}\n")
    keyword = "import future.keywords.not\n" if strict else ""
    return f"package {package}\n{keyword}{HELPERS}{CONFLICT if odd else ''}\n" + "\n".join(rules)


def _without_repeats(lines: list[str]) -> Iterator[str]:
    """Lines whose variables no line before declares, which would be an error."""
    declared: set[str] = set()
    for line in dict.fromkeys(lines):
        found = re.match(r"some ([\w, \"]+) in ", line)
        names = set(re.findall(r"(?<!\")\b[a-z]\w*\b(?!\")", found[1])) if found else set()
        if not names & declared:
            yield line
        declared |= names


CONFLICTING = "conflict"
NOTHING = "undefined"


def concrete_answer(evaluator: Evaluator, path: Path, case: Case, data: Object) -> object:
    """What the concrete evaluator says, as JSON; NOTHING where undefined, CONFLICTING for two values."""
    try:
        found = evaluator.document(path, input_document=case.document, data=data)
    except ConflictError:
        return CONFLICTING
    return NOTHING if found is UNDEFINED else json.loads(json_text(found))  # type: ignore[arg-type]  # it is defined


def partial_input(known: Mapping[str, object], *, whole: bool) -> PartialInput:
    """The input as far as `known`, with its labels closed; `whole` as for a case."""
    value = from_python(known)
    assert isinstance(value, Object)
    return PartialInput(value, frozenset({("destination", "labels")}), ROOTS if whole else frozenset())


class Symbolic:
    """What the symbolic evaluator makes of one document. Raises Diagnostics where it refuses."""

    def __init__(self, compiled: CompiledModules, path: Path, data: Object, known: PartialInput) -> None:
        self.evaluator = SymbolicEvaluator(Memory.of(compiled, data), known)
        self.is_set = bool(rows := self.evaluator.set_members(path))
        self.rows = rows or self.evaluator.outcomes(path)

    def answer(self, case: Case) -> object:
        """True where a rule of a complete document holds; of a set, its members in order."""
        decided: dict[str, bool] = {}

        def decide(atom: Opaque) -> bool:
            if atom.digest not in decided:
                decided[atom.digest] = self.evaluator.decide(atom.digest, case.document, holds)
            return decided[atom.digest]

        def holds(guard: Formula) -> bool:
            return evaluate(guard, case.request, decide)

        if self.is_set:
            return sorted({str(value) for guard, value, _ in self.rows if holds(guard)})
        return any(value is not FALSE and holds(guard) for guard, value, _ in self.rows)


def as_data(value: Mapping[str, object]) -> Object:
    """Python's plain values as Rego's."""
    made = from_python(value)
    assert isinstance(made, Object)
    return made


def compiled(*texts: str) -> CompiledModules:
    """Modules compiled together."""
    return compile_modules(
        [parse_module(text, f"{index}.rego") for index, text in enumerate(texts)], BUILTINS
    )


def disagreements(text: str, randomness: random.Random, count: int, *, whole: bool) -> Iterator[str]:
    """Inputs on which the formula of a policy says another thing than its concrete evaluation."""
    modules = compiled(text)
    concrete = Evaluator(modules)
    data = as_data(DATA)
    known = partial_input({"destination": DESTINATION}, whole=whole)
    drawn = cases(randomness, count, whole=whole)
    for name in ("allow", "deny"):
        path = ("gatehouse", "authz", name)
        symbolic = Symbolic(modules, path, data, known)
        for case in drawn:
            expected = concrete_answer(concrete, path, case, data)
            formula = symbolic.answer(case)
            if formula != (expected not in (NOTHING, False)):
                said = f"concrete {expected}, formula {formula}"
                yield f"{name} for {case.text}: {said}\n{symbolic.rows}\n{text}"
