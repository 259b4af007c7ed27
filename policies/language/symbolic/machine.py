"""What the parts of the symbolic evaluator share: the policy, the known values, bounds and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from policies import formula as f
from policies.formula import FALSE, Formula
from policies.language.compiler.compiled import CompiledModules, RuleGroup
from policies.language.diagnostics import Diagnostic, Diagnostics, ErrorCode
from policies.language.source import NOWHERE, Span
from policies.language.symbolic.conditions import Site, decide
from policies.language.symbolic.input import PartialInput
from policies.language.symbolic.memory import KNOWN, MAX_RESULTS, DataRead, Kept, Memory, Read, lookup_path
from policies.language.symbolic.values import Outcome, Symbolic
from policies.language.syntax import ast
from policies.language.values import Object, Value

Environment = Mapping[str, Symbolic]
Solution = tuple[Environment, Formula]
Witness = Callable[[Formula], object | None]
"""One request that satisfies a formula, or None where none does."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one evaluation; each is far above what a policy that people can read needs."""

    steps: int = 5_000_000
    outcomes: int = 50_000


@dataclass(frozen=True, slots=True)
class Scope:
    """What `with` replaced, innermost last: paths below `input` and below `data`."""

    inputs: tuple[tuple[tuple[str, ...], Symbolic], ...] = ()
    data: tuple[tuple[tuple[str, ...], Symbolic], ...] = ()


OUTSIDE = Scope()


@dataclass(frozen=True, slots=True)
class RuleKey:
    """What is kept about a rule, which is found by its identity."""

    rule: int
    what: str
    scope: Scope


@dataclass(slots=True)
class Machine:
    """The state of one evaluation: it serves one input.

    `memory` holds the policy, its data and what is known of them for every input; `own` are results that
    read the known part of this input, and `reads` is what the result being worked out has read so far.
    """

    memory: Memory
    input: PartialInput
    limits: Limits = field(default_factory=Limits)
    witness: Witness | None = None
    own: dict[object, Kept[object]] = field(default_factory=dict)
    reads: set[Read] = field(default_factory=set)
    steps: int = 0

    @property
    def modules(self) -> CompiledModules:
        """The policy."""
        return self.memory.modules

    def remembered(self, key: object, compute: Callable[[], Result]) -> Result:
        """The result for `key`, computed once; for every input where it read nothing of this one."""
        kept = self.memory.results.get(key) or self.own.get(key)
        if kept is None:
            outside, self.reads = self.reads, set()
            try:
                result = compute()
            finally:
                inside, self.reads = self.reads, outside
            kept = Kept(result, frozenset(inside))
            results = self.own if KNOWN in inside else self.memory.results
            if len(results) < MAX_RESULTS:
                results[key] = kept
        if kept.reads:
            self.reads |= kept.reads  # who uses the result has read what it read
        return cast("Result", kept.result)

    def read_data(self, path: tuple[str, ...]) -> Value | None:
        """The value at a place of `data` that no rule makes, None where there is none."""
        self.reads.add(DataRead(path))
        found = lookup_path(self.memory.data, path)
        return found[0] if found else None

    def site(self, span: Span) -> Site:
        """Where an expression stands, for those who may need an opaque condition."""
        return Site(span, self.memory.conditions)

    def decide(self, digest: str, document: Object, holds: Callable[[Formula], bool]) -> bool:
        """Whether the opaque condition of that digest holds for a whole input document."""
        return decide(self.memory.conditions[digest], document, holds)

    def count_step(self, span: Span) -> None:
        """One more step. Raises Diagnostics past the limit."""
        self.steps += 1
        if self.steps > self.limits.steps:
            raise self.refusal(
                span, f"deciding this takes more than {self.limits.steps} steps", "split it", ErrorCode.LIMIT
            )

    def refusal(
        self, span: Span, message: str, hint: str, code: ErrorCode = ErrorCode.COMPILE
    ) -> Diagnostics:
        """The error to raise where the policy can't be compiled because of this place."""
        return Diagnostics([Diagnostic(span, code, message, hint=hint)])

    # What the parts ask of one another; each is defined in the part that its comment names.

    def solve(
        self, body: ast.Body, index: int, environment: Environment, guard: Formula, scope: Scope
    ) -> Iterator[Solution]:
        """bodies: the solutions of a body from an expression on."""
        raise TypeError("bodies are solved by Bodies")

    def term(
        self, term: ast.ExprNode, environment: Environment, scope: Scope, *, statement: bool = False
    ) -> list[Outcome]:
        """terms: the outcomes of a term of at most one value."""
        raise TypeError("terms are evaluated by Terms")

    def group(self, group: RuleGroup, scope: Scope) -> list[Outcome]:
        """rules: the document that the rules at one path make."""
        raise TypeError("rules are evaluated by SymbolicEvaluator")

    def function(self, group: RuleGroup, arguments: tuple[Symbolic, ...], scope: Scope) -> list[Outcome]:
        """rules: the result of a function of the policy."""
        raise TypeError("rules are evaluated by SymbolicEvaluator")


def merge(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Outcomes with equal values joined; those that never happen are left out."""
    listed = list(outcomes)
    if len(listed) == 1:
        return listed if listed[0][0] is not FALSE else []
    guards: dict[Symbolic, list[Formula]] = {}
    for guard, value in listed:
        if guard is not FALSE:
            guards.setdefault(value, []).append(guard)
    return [(f.any_of(*found), value) for value, found in guards.items()]


def span_of(term: object) -> Span:
    """Where a term was written."""
    return getattr(term, "span", NOWHERE)
