"""From a compiled policy and an inventory to the questions of every workload.

For each workload the destination is known and the request is not. `data.gatehouse.authz` and
`data.gatehouse.segmentation` are evaluated with that much known; what remains is, for each rule, a formula
over the request (`policies.formula.decision`). Where several services lead to one port, no guard can tell by
which of them a request comes: it has to be allowed by each, and none may deny it. A rule set without `allow`
isn't asked. `deny` may be a boolean or a set of reasons; any reason denies.

`data.inventory` is what policies see of the inventory: `inventory_document` gives its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented
from policies import formula as f
from policies.formula import (
    FALSE,
    TRUE,
    Decision,
    Disjunct,
    Formula,
    Origin,
    PolicySet,
    Question,
    WorkloadPolicy,
)
from policies.inventory import Inventory, Workload
from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup, Shape
from policies.language.diagnostics import Diagnostic, Diagnostics, ErrorCode
from policies.language.source import Span
from policies.language.symbolic import Limits, Memory, PartialInput, SymbolicEvaluator
from policies.language.symbolic.memory import KNOWN, Read
from policies.language.symbolic.relations import equal
from policies.language.symbolic.rule_index import Need
from policies.language.syntax.ast import Boolean as BooleanTerm
from policies.language.values import TRUE as REGO_TRUE
from policies.language.values import Object, from_python
from policies.proof.satisfiable import request_for

AUTHZ: Final = ("gatehouse", "authz")
SEGMENTATION: Final = ("gatehouse", "segmentation")
INVARIANTS: Final = ("gatehouse", "invariants", "never")
_LABELS: Final = ("destination", "labels")
_SERVICE: Final = ("destination", "service")
_ALWAYS_THERE: Final = frozenset({("source",), ("connection",)})
"""Every connection has an address and is mTLS or not; `input.request` and `input.jwt` may be missing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about one workload, and what the answer follows from, besides rules and the workload.

    `violations` is what must never be admitted there. `reads` are the places of data that evaluation looked
    at, and WEIGHED where it looked whether some request of this inventory satisfies a formula.
    """

    policy: WorkloadPolicy
    violations: Decision
    reads: frozenset[Read]


_Way = tuple[Sequence[SymbolicEvaluator], Formula]
"""Ports as a formula, and an evaluator for each of the services that lead there."""


@dataclass(slots=True)
class Questions:
    """Evaluates one policy version for the workloads of one inventory."""

    memory: Memory
    inventory: Inventory
    limits: Limits = field(default_factory=Limits)

    @staticmethod
    def of(
        modules: CompiledModules,
        inventory: Inventory,
        data: Mapping[str, object] | None = None,
        *,
        limits: Limits | None = None,
        decides: bool = True,
    ) -> Questions:
        """A policy with `data` beside the inventory.

        Raises Diagnostics for a bad default and for a `deny` without an `allow`, InvalidInput for a policy
        that decides nothing: its manifests would be none, and leave the workloads open. Who answers no where
        nothing is asked passes `decides=False`.
        """
        if decides:
            _check_decides(modules)
        for package in (AUTHZ, SEGMENTATION):
            for name in ("allow", "deny"):
                _check_default(modules, (*package, name))
        document = from_python({**(data or {}), "inventory": inventory_document(inventory)})
        assert isinstance(document, Object)
        return Questions(Memory.of(modules, document), inventory, limits or Limits())

    def all(self, bundle_digest: str) -> PolicySet:
        """The policy of every workload."""
        return PolicySet.of(bundle_digest, *map(self.workload, self.inventory.workloads))

    def workload(self, workload: Workload) -> WorkloadPolicy:
        """Both questions of one workload. Raises Diagnostics where a rule can't be compiled."""
        return self._policy(workload, list(self._evaluators(workload)))

    def asked(self, workload: Workload) -> Asked:
        """The questions of one workload and its violations, with what they were made from.

        Raises Diagnostics where a rule can't be compiled. An origin of a violation names the line and, as its
        rule, the member of `data.gatehouse.invariants.never`.
        """
        asked = list(self._evaluators(workload))
        policy, violations = self._policy(workload, asked), self._violations(asked)
        reads = frozenset().union(*(one.reads for several, _ in asked for one in several)) - {KNOWN}
        return Asked(policy, violations, reads)

    def rules(self, workload: Workload, path: tuple[str, ...]) -> tuple[CompiledRule, ...]:
        """The rules at a path that can hold for a workload, in their order; of small groups all of them."""
        found = {
            id(rule): rule
            for several, _ in self._evaluators(workload)
            for one in several
            for rule in one.possible(path)
        }
        return tuple(found.values())

    def needs(self, rule: CompiledRule) -> Iterator[Need]:
        """What a rule asks of the destination, whatever else it says: an attribute, and values for it."""
        unknown = SymbolicEvaluator(
            Memory.of(self.memory.modules, self.memory.data), PartialInput(), self.limits
        )
        for found in unknown.needs(rule):
            yield from found

    def _policy(self, workload: Workload, asked: Iterable[_Way]) -> WorkloadPolicy:
        return WorkloadPolicy(workload.key, self._question(AUTHZ, asked), self._question(SEGMENTATION, asked))

    def _question(self, package: tuple[str, ...], asked: Iterable[_Way]) -> Question | None:
        if _group(self.memory.modules, (*package, "allow")) is None:
            return None
        allow: list[Disjunct] = []
        deny: list[Disjunct] = []
        for several, guard in asked:
            allow.extend(_by_all(_disjuncts(one, (*package, "allow"), guard) for one in several))
            for one in several:
                deny.extend(_disjuncts(one, (*package, "deny"), guard))
        return Question(Decision.of(*allow), Decision.of(*deny))

    @property
    def has_invariants(self) -> bool:
        """Whether the policy says what must never be."""
        return _group(self.memory.modules, INVARIANTS) is not None

    def _violations(self, asked: Iterable[_Way]) -> Decision:
        found = []
        for evaluator, guard in ((one, guard) for several, guard in asked for one in several):
            for condition, name, span in evaluator.set_members(INVARIANTS):
                said = name if isinstance(name, str) else self._written(span)
                origin = Origin(span.source.file, span.row, said)
                found.append(Disjunct(condition & guard, (origin,)))
        return Decision.of(*found)

    def _written(self, rule: Span) -> str:
        """The member of `never` that a rule adds, as it is written: what it is depends on the request."""
        group = _group(self.memory.modules, INVARIANTS)
        members = (one.member for one in group.rules if one.span == rule) if group is not None else ()
        return next((" ".join(one.span.text.split()) for one in members if one is not None), "never")

    def _evaluators(self, workload: Workload) -> Iterator[_Way]:
        """For ports that the same services lead to, one evaluator for each of them."""

        def conflict(both: Formula) -> object | None:
            try:
                return request_for(both, workload, self.inventory)
            except (Unimplemented, ResourceExhausted):
                return "a request that the proof can't rule out"

        for known, guard in _destinations(workload):
            yield [SymbolicEvaluator(self.memory, one, self.limits, conflict) for one in known], guard


def inventory_document(inventory: Inventory) -> dict[str, object]:
    """`data.inventory` as plain JSON values.

    {"trust_domain": …, "segments": {name: [workload, …]},
     "workloads": {"ns/name": {"name", "namespace", "service_account", "spiffe_id", "labels", "services"}}}
    """
    return {
        "trust_domain": inventory.mesh.trust_domain,
        "segments": {name: list(keys) for name, keys in inventory.segments.items()},
        "workloads": {
            workload.key: {
                "name": workload.name,
                "namespace": workload.namespace,
                "service_account": workload.service_account,
                "spiffe_id": workload.spiffe_id,
                "labels": dict(workload.labels),
                "services": [service.name for service in workload.services],
            }
            for workload in inventory.workloads
        },
    }


def destination_document(workload: Workload, service: str | None) -> dict[str, object]:
    """`input.destination` as far as the inventory knows it."""
    document: dict[str, object] = {
        "spiffe_id": workload.spiffe_id,
        "trust_domain": workload.spiffe_id.removeprefix("spiffe://").partition("/")[0],
        "namespace": workload.namespace,
        "service_account": workload.service_account,
        "labels": dict(workload.labels),
    }
    return document if service is None else document | {"service": service}


def _destinations(workload: Workload) -> Iterator[tuple[list[PartialInput], Formula]]:
    """What is known of the destination, once for ports that the same services lead to."""
    services = workload.services
    if len(services) <= 1:
        yield [_partial(workload, services[0].name if services else None)], TRUE
        return
    ports: dict[tuple[str, ...], list[int]] = {}
    for port in workload.ports:
        ports.setdefault(workload.services_at(port), []).append(port)
    for names, several in ports.items():
        yield [_partial(workload, name) for name in names], f.one_of(f.PORT, several)


def _partial(workload: Workload, service: str | None) -> PartialInput:
    known = from_python({"destination": destination_document(workload, service)})
    assert isinstance(known, Object)
    elsewhere = frozenset({_SERVICE} if service is None else ())
    return PartialInput(known, frozenset({_LABELS}), _ALWAYS_THERE, elsewhere)


def _disjuncts(evaluator: SymbolicEvaluator, path: tuple[str, ...], guard: Formula) -> Iterator[Disjunct]:
    name = ".".join(("data", *path))
    group = _group(evaluator.modules, path)
    if group is not None and group.shape is Shape.SET:
        found = [(condition, span) for condition, _, span in evaluator.set_members(path)]
    else:
        found = [
            (condition & equal(value, REGO_TRUE, evaluator.site(span)), span)
            for condition, value, span in evaluator.outcomes(path)
        ]
    for condition, span in found:
        if (joined := condition & guard) is not FALSE:
            yield Disjunct(joined, (_origin(span, name),))


def _by_all(services: Iterable[Iterable[Disjunct]]) -> Iterator[Disjunct]:
    """What is allowed by whichever of several services a request comes.

    What each of them allows alike stays as it is: only rules about services are taken together.
    """
    listed = [dict.fromkeys(one) for one in services]
    alike = set(listed[0]).intersection(*listed[1:])
    yield from (one for one in listed[0] if one in alike)
    first, *others = (Question(Decision(tuple(one for one in found if one not in alike))) for found in listed)
    for other in others:
        first = first.and_also(other)
    yield from first.allow.disjuncts


def _origin(span: Span, rule: str) -> Origin:
    return Origin(span.source.file, span.row, rule)


def _group(modules: CompiledModules, path: tuple[str, ...]) -> RuleGroup | None:
    node = modules.tree.at(path)
    return node.group if node is not None else None


def _check_decides(modules: CompiledModules) -> None:
    groups = [(package, _group(modules, (*package, "allow"))) for package in (AUTHZ, SEGMENTATION)]
    for package, allow in groups:
        deny = _group(modules, (*package, "deny"))
        first = None if deny is None else deny.rules[0] if deny.rules else deny.default
        if allow is None and first is not None:
            name = ".".join(("data", *package))
            message = f"{name} has a deny and no allow: this question would not be asked at all"
            hint = "add the rules that allow, or `default allow := false` to let nobody in"
            raise Diagnostics([Diagnostic(first.span, ErrorCode.COMPILE, message, hint=hint)])
    if all(allow is None for _, allow in groups):
        raise InvalidInput(
            "reading the policy: it decides nothing, since there is no rule `allow` in data.gatehouse.authz "
            "or data.gatehouse.segmentation",
            hint="`gatehouse policy check` names decisions in packages that nothing asks",
        )


def _check_default(modules: CompiledModules, path: tuple[str, ...]) -> None:
    """What no rule decides is denied: a default of anything but false would decide it."""
    group = _group(modules, path)
    default = group.default if group is not None else None
    if default is not None and default.value != BooleanTerm(False):
        name = ".".join(("data", *path))
        raise Diagnostics(
            [
                Diagnostic(
                    default.span,
                    ErrorCode.COMPILE,
                    f"the default of {name} must be false",
                    hint="say in rules what holds; the default is what holds when nobody thought of it",
                )
            ]
        )
