"""Why a policy allows or denies one input, or why a document of it has its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from control_plane.core.errors import NotFound, shown
from policies.explain.asking import Asking
from policies.explain.rules import RuleTracer
from policies.explain.trace import Condition, DocumentTrace, Explanation, Nearest, Outcome, RuleTrace
from policies.formula import Origin
from policies.language.compiler.compiled import CompiledModules, Shape
from policies.language.concrete.world import UNDEFINED, Limits, Result
from policies.language.values import Value
from policies.questions import AUTHZ, SEGMENTATION

Path = tuple[str, ...]

DECISIONS: Final = (AUTHZ, SEGMENTATION)
"""The packages whose `allow` and `deny` decide; a request must pass each that has an `allow`."""

_COST_OF_DESTINATION: Final = 9
_COST_OF_SOURCE: Final = 3
"""A caller changes a request more easily than its identity, and asks for this destination and no other."""


def explain(
    modules: CompiledModules,
    input_document: Result,
    data: Value,
    *,
    rule: Path = (),
    limits: Limits | None = None,
    now_ns: int | None = None,
) -> Explanation:
    """The rules in order with what they read, and what decided.

    `rule` is the path of a document below `data`, or of a package with `allow`; empty asks the decisions.
    Raises NotFound for a path without rules. An error of evaluation is part of the explanation, and denies.
    """
    tracer = RuleTracer(Asking(modules, input_document, data, limits or Limits(), now_ns))
    packages = [path for path in DECISIONS if (*path, "allow") in modules.groups] if not rule else [rule]
    if rule and (*rule, "allow") not in modules.groups:
        return _of_document(modules, tracer, rule)
    if not packages:
        names = " and ".join(".".join(("data", *path, "allow")) for path in DECISIONS)
        raise NotFound(f"explaining a decision: the policy has neither {names}", hint="name a rule")
    answers = [_Answer(modules, tracer, package) for package in packages]
    allowed = all(answer.allowed for answer in answers)
    deciding = [answer for answer in answers if answer.allowed is allowed]
    nearest = [answer.nearest for answer in answers if answer.nearest is not None]
    return Explanation(
        allowed,
        tuple(answer.reason() for answer in deciding),
        tuple(origin for answer in deciding for origin in answer.origins),
        tuple(document for answer in answers for document in answer.documents),
        tuple(nearest),
    )


def _of_document(modules: CompiledModules, tracer: RuleTracer, path: Path) -> Explanation:
    name = ".".join(("data", *path))
    group = modules.groups.get(path)
    if group is None or group.shape is Shape.FUNCTION:
        what = "there is no such rule" if group is None else "a function has a value only where it is called"
        known = sorted(".".join(("data", *one)) for one in modules.groups)
        raise NotFound(f"explaining {shown(name)}: {what}", hint=f"rules: {', '.join(known[:12])}")
    document = tracer.document(path)
    held = tuple(one.origin for one in document.rules if one.held)
    return Explanation(None, (_said_of(document),), held, (document,))


def _said_of(document: DocumentTrace) -> str:
    if document.error:
        return f"{document.name} has no value: {document.error}"
    held = [str(one.origin) for one in document.rules if one.held]
    if held:
        return f"{document.name} is made by {', '.join(held)}"
    if document.default is not None and document.default_applied:
        return f"{document.name} has its default, from {document.default.origin}: no rule holds"
    if document.value is UNDEFINED:
        return f"{document.name} is undefined: no rule holds, and there is no default"
    return f"{document.name}: no rule adds to it"


class _Answer:
    """What one package says: its `allow`, its `deny`, and who decided."""

    def __init__(self, modules: CompiledModules, tracer: RuleTracer, package: Path) -> None:
        self.allow = tracer.document((*package, "allow"))
        has_deny = (*package, "deny") in modules.groups
        self.deny = tracer.document((*package, "deny")) if has_deny else None
        self.denied = self.deny is not None and (self.deny.decides or bool(self.deny.error))
        self.allowed = self.allow.decides and not self.denied
        self.nearest = None if self.allow.decides else _nearest(self.allow)

    @property
    def documents(self) -> tuple[DocumentTrace, ...]:
        return (self.allow,) if self.deny is None else (self.allow, self.deny)

    @property
    def _deciding(self) -> list[RuleTrace]:
        document = self.deny if self.denied and self.deny is not None else self.allow
        return [one for one in document.rules if one.held]

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(one.origin for one in self._deciding) if self.allowed or self.denied else ()

    def reason(self) -> str:
        broken = next((one for one in self.documents if one.error), None)
        if broken is not None:
            return f"denied, since {broken.name} can't be evaluated: {broken.error}"
        if self.allowed or self.denied:
            rule = self._deciding[0]
            title = f" ({rule.title})" if rule.title else ""
            verb = "allowed" if self.allowed else "denied"
            return f"{verb} by {rule.name} at {rule.origin}{title}"
        said = f"denied, since no rule of {self.allow.name} holds"
        if self.nearest is None:
            return said
        missed = self.nearest.missed[0]
        return f"{said}; nearest is {self.nearest.rule.origin}, where `{missed.text}` is {missed.outcome}"


def _nearest(allow: DocumentTrace) -> Nearest | None:
    """The rule that misses least. A rule that holds and says something else than true misses nothing."""
    failed = [
        (sum(map(_cost, one.missed)), position, one)
        for position, one in enumerate(allow.rules)
        if one.missed and one.outcome is not Outcome.NOT_REACHED
    ]
    if not failed:
        return None
    _, _, rule = min(failed, key=lambda entry: entry[:2])
    return Nearest(rule, rule.missed)


def _cost(condition: Condition) -> int:
    read = set(_inputs(condition))
    if any(text.startswith("input.destination") for text in read):
        return _COST_OF_DESTINATION
    return _COST_OF_SOURCE if any(text.startswith("input.source") for text in read) else 1


def _inputs(condition: Condition) -> Iterator[str]:
    """The input that a condition missed by: its own, or of the rules behind it what doesn't hold."""
    for read in condition.reads:
        if read.text.startswith("input."):
            yield read.text
        for rule in read.document.rules if read.document is not None else ():
            for inner in rule.missed:
                yield from _inputs(inner)
    for inner in condition.inner:
        yield from _inputs(inner)
