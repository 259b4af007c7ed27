"""One decision as one Python function: a policy specialised against the data that is known when it is
loaded.

    decide = compile_closure(modules, ("gatehouse", "authz", "allow"), data)
    decide({"request": {"method": "GET", …}, …})   -> bool: is the document exactly true?

    find = compile_finder(modules, ("gatehouse", "authz", "deny"), data)
    find({…})   -> the place of a rule that holds, or None

Everything that does not depend on the input is worked out once. Conditions become small closures over
plain JSON data (dict, list, str, int, bool, None; numbers with a fraction as `numbers.parse_number`
reads them), a lookup in known data by an input field becomes one dict lookup whose entries are already
specialised, and iteration over known data becomes a membership test or a disjunction.

What is outside this fragment (comprehensions over input, `every`, `with`, rules with several values …)
is not approximated: the closure then asks the evaluator, and `specialised` is False with the reason.
Errors of evaluation are raised; callers deny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policies.language.closures.conditions import flattened, plain_value
from policies.language.closures.specialise import OutsideError, Specialiser
from policies.language.compiler.compiled import CompiledModules, CompiledRule
from policies.language.concrete.evaluate import EvaluationError, Evaluator, Limits, Observer
from policies.language.concrete.world import Path
from policies.language.source import Span
from policies.language.values import TRUE, Set, Value, from_python


@dataclass(frozen=True, slots=True)
class Closure:
    """A decision function. `reason` says why it is not specialised, or is empty."""

    test: Callable[[Any], bool]
    reason: str = ""

    @property
    def specialised(self) -> bool:
        """Whether the decision is made without the evaluator."""
        return not self.reason

    def __call__(self, input_document: Any) -> bool:
        """Whether the document is true for an input. Raises EvaluationError."""
        return self.test(input_document)


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds a rule that makes a document hold. `reason` says why it is not specialised, or is empty."""

    find: Callable[[Any], Span | None]
    reason: str = ""

    def __call__(self, input_document: Any) -> Span | None:
        """The first rule that holds, by place; None if the document is neither true nor a set with members.
        Raises EvaluationError."""
        return self.find(input_document)


def compile_closure(
    modules: CompiledModules, path: Path, data: Value, *, limits: Limits | None = None
) -> Closure:
    """The decision at a path below `data`. Raises RefusedError as the evaluator does."""
    evaluator = Evaluator(modules, limits=limits)
    try:
        return Closure(flattened(Specialiser(modules, evaluator, data).document(path)))
    except (OutsideError, EvaluationError, RecursionError) as error:
        reason = str(error) or type(error).__name__

    def ask(input_document: Any) -> bool:
        return evaluator.document(path, input_document=from_python(input_document), data=data) is TRUE

    return Closure(ask, reason)


def compile_finder(
    modules: CompiledModules, path: Path, data: Value, *, limits: Limits | None = None
) -> Finder:
    """What makes the boolean or the set at a path hold. Raises RefusedError as the evaluator does."""
    evaluator = Evaluator(modules, limits=limits, observed=True)
    try:
        rules = Specialiser(modules, evaluator, data).rules(path)
    except (OutsideError, EvaluationError, RecursionError) as error:
        return Finder(_asking(evaluator, path, data), str(error) or type(error).__name__)
    tests = [(span, flattened(test)) for span, test in rules]

    def find(input_document: Any) -> Span | None:
        return next((span for span, test in tests if test(input_document)), None)

    return Finder(find)


def _asking(evaluator: Evaluator, path: Path, data: Value) -> Callable[[Any], Span | None]:
    group = evaluator.program.modules.groups.get(path)
    first = group.rules[0].span if group is not None and group.rules else None

    def find(input_document: Any) -> Span | None:
        held: list[Span] = []

        def note(rule: CompiledRule, _value: Value) -> None:
            if rule.path == path and not rule.is_default:
                held.append(rule.span)

        document = evaluator.document(
            path, input_document=from_python(input_document), data=data, observer=Observer(on_rule=note)
        )
        if document is TRUE or (isinstance(document, Set) and len(document) > 0):
            # An observer that missed the rule must not turn what holds into what doesn't.
            return held[0] if held else first
        return None

    return find


__all__ = ["Closure", "Finder", "compile_closure", "compile_finder", "plain_value"]
