"""What an explanation is made of: rules, their conditions, and the values that these read.

Only values; how they come about is in `bodies` and `rules`, how they look is the command line's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from policies.formula import Origin
from policies.language.concrete.world import UNDEFINED, Result
from policies.language.source import Span
from policies.language.values import TRUE, Set


class Outcome(StrEnum):
    """How a condition or a rule ended. Rego tells false from undefined only in what `not` makes of it."""

    HOLDS = "holds"
    FALSE = "false"
    UNDEFINED = "undefined"
    NOT_REACHED = "not reached"
    """It needs a variable that a condition before it would have bound; a rule, because an `else` decided
    earlier, or because it is one of very many that didn't come far."""
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Read:
    """One thing that a condition looked at, as the author wrote it, with the value that it had."""

    text: str
    value: Result
    missing: str = ""
    """Where there is no value: which part isn't there, or why a function gave none."""
    document: DocumentTrace | None = None
    """The rules behind it, where it is a rule or a function of the policy."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement of a body. `inner` is what `not` or `every` looked at."""

    span: Span
    text: str
    outcome: Outcome
    reads: tuple[Read, ...] = ()
    inner: tuple[Condition, ...] = ()
    note: str = ""
    tried: int = 1
    """How many combinations of values came to this condition: more than one where something iterates."""

    @property
    def held(self) -> bool:
        """Whether it held."""
        return self.outcome is Outcome.HOLDS


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """One rule (one branch of an `else` chain), in the order of evaluation of its conditions."""

    name: str
    span: Span
    title: str
    outcome: Outcome
    value: Result = UNDEFINED
    conditions: tuple[Condition, ...] = ()
    is_else: bool = False

    @property
    def held(self) -> bool:
        """Whether the rule gave a value."""
        return self.outcome is Outcome.HOLDS

    @property
    def missed(self) -> tuple[Condition, ...]:
        """The conditions that would have to change for the rule to hold."""
        return tuple(one for one in self.conditions if not one.held)

    @property
    def origin(self) -> Origin:
        """The rule's place, as verdicts and differences name it."""
        return Origin(self.span.source.file, self.span.row, self.name)


@dataclass(frozen=True, slots=True)
class DocumentTrace:
    """A rule's document (or one call of a function): its value, and every rule that may contribute to it.

    `rules` is empty where the same document is followed elsewhere in the explanation, or too deep.
    """

    name: str
    value: Result
    rules: tuple[RuleTrace, ...] = ()
    default: RuleTrace | None = None
    default_applied: bool = False
    error: str = ""

    @property
    def decides(self) -> bool:
        """As an `allow` or `deny`, whether it says so: true, or a set with a reason in it."""
        return self.value is TRUE or (isinstance(self.value, Set) and len(self.value) > 0)

    def every_rule(self) -> Iterator[RuleTrace]:
        """Rules in order, the default last."""
        yield from self.rules
        if self.default is not None:
            yield self.default


@dataclass(frozen=True, slots=True)
class Nearest:
    """The rule that would have allowed a request with the least change, and what missed."""

    rule: RuleTrace
    missed: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a policy decides as it does about one input.

    `allowed` is None where a document other than the decisions was asked. `reasons` has a sentence for each
    question that decided; `origins` are the rules that did: none where a default decided.
    """

    allowed: bool | None
    reasons: tuple[str, ...]
    origins: tuple[Origin, ...]
    documents: tuple[DocumentTrace, ...]
    nearest: tuple[Nearest, ...] = ()

    @property
    def reason(self) -> str:
        """All reasons as one text."""
        return "; ".join(self.reasons)
