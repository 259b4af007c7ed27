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
from policies.language.symbolic.conditions import Condition, Site, decide
from policies.language.symbolic.input import PartialInput
from policies.language.symbolic.values import Outcome, Symbolic
from policies.language.syntax import ast
from policies.language.values import Object

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


@dataclass(slots=True)
class Machine:
    """The state of one evaluation.

    It serves one input; results that didn't depend on the known part of it are kept in `shared`, which
    evaluators over the same modules and data may have in common.
    """

    modules: CompiledModules
    data: Object
    input: PartialInput
    limits: Limits = field(default_factory=Limits)
    witness: Witness | None = None
    shared: dict[object, object] = field(default_factory=dict)
    own: dict[object, object] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    steps: int = 0
    known_reads: int = 0

    def remembered(self, key: object, compute: Callable[[], Result]) -> Result:
        """The result for `key`, computed once; for every input where it read nothing of this one."""
        for kept in (self.shared, self.own):
            if key in kept:
                if kept is self.own:
                    self.known_reads += 1  # what depends on it depends on the known input as well
                return cast("Result", kept[key])
        before = self.known_reads
        result = compute()
        (self.shared if self.known_reads == before else self.own)[key] = result
        return result

    def site(self, span: Span) -> Site:
        """Where an expression stands, for those who may need an opaque condition."""
        return Site(span, self.conditions)

    def decide(self, digest: str, document: Object, holds: Callable[[Formula], bool]) -> bool:
        """Whether the opaque condition of that digest holds for a whole input document."""
        return decide(self.conditions[digest], document, holds)

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
    guards: dict[Symbolic, list[Formula]] = {}
    for guard, value in outcomes:
        if guard is not FALSE:
            guards.setdefault(value, []).append(guard)
    return [(f.any_of(*found), value) for value, found in guards.items()]


def span_of(term: object) -> Span:
    """Where a term was written."""
    return getattr(term, "span", NOWHERE)
