"""Who reaches whom under a policy version, and whether an invariant holds for every request there is.

A request is admitted where every question asked about the workload says yes (segmentation and authz). What
is proved here is proved about Rego; manifests admit no more than that. Each answer carries a shortest request
and the Rego lines that admit it.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput, NotFound, ResourceExhausted, Unimplemented, shown
from policies.formula import (
    SOURCE_ID,
    Decision,
    Formula,
    Origin,
    PolicySet,
    Request,
    WorkloadPolicy,
    evaluate,
)
from policies.inventory import Inventory, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.probes import Within
from policies.proof.question import QuestionMeaning
from policies.proof.verdict import claim_shapes, concrete

MAX_CALLERS = 10_000


@dataclass(frozen=True, slots=True)
class Access:
    """A caller that may reach a workload; an empty caller is anybody outside the inventory."""

    caller: str
    workload: str
    request: Request
    origins: tuple[Origin, ...]

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.origins))
        return (
            f"{self.caller or 'a caller outside the inventory'} -> {self.workload}: {self.request} ({lines})"
        )


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that doesn't hold, or (`reason`) could not be decided, which counts as broken."""

    workload: str
    invariant: tuple[Origin, ...]
    request: Request | None
    admitted_by: tuple[Origin, ...]
    reason: str = ""

    def __str__(self) -> str:
        rule = ", ".join(map(str, self.invariant)) or "an invariant"
        shown_by = f"{self.request} is admitted by {', '.join(map(str, self.admitted_by))}"
        return f"{rule} is broken at {self.workload}: {self.reason or shown_by}"


def callers_of(policies: PolicySet, inventory: Inventory, workload: str) -> list[Access]:
    """Everybody who may reach a workload by some request, in the order of shortest requests.

    Raises NotFound for a workload that isn't governed, Unimplemented where it can't be decided.
    """
    policy, known = policies.find(workload), inventory.by_key.get(workload)
    if policy is None or known is None:
        raise NotFound(f"asking who reaches {shown(workload)}: no governed workload has that name")
    return list(_Admitted(policy, known, inventory).callers())


def reachable_from(policies: PolicySet, inventory: Inventory, caller: str) -> list[Access]:
    """Every governed workload that a SPIFFE ID may reach by some request."""
    found = []
    for policy in policies.policies:
        workload = inventory.by_key.get(policy.workload)
        if workload is not None:
            access = _Admitted(policy, workload, inventory).by(caller)
            found += [access] if access is not None else []
    return found


def broken_invariants(
    policies: PolicySet, inventory: Inventory, violations: Mapping[str, Decision]
) -> list[Breach]:
    """For each workload the rules of `violations` that some admitted request satisfies.

    A violation is a condition that must never be admitted, as evaluated for that workload.
    """
    found: list[Breach] = []
    for policy in policies.policies:
        workload = inventory.by_key.get(policy.workload)
        decision = violations.get(policy.workload)
        if workload is None or decision is None:
            continue
        for rule in decision.disjuncts:
            try:
                access = _Admitted(policy, workload, inventory).by_violation(rule.formula)
            except (Unimplemented, ResourceExhausted, InvalidInput) as error:
                found.append(Breach(workload.key, rule.origins, None, (), error.message))
                continue
            if access is not None:
                found.append(Breach(workload.key, rule.origins, access.request, access.origins))
    return found


class _Admitted:
    """What one workload admits, as a formula over dimensions; every governed workload refuses plain text."""

    def __init__(self, policy: WorkloadPolicy, workload: Workload, inventory: Inventory) -> None:
        self._policy = policy
        self._workload = workload
        self._inventory = inventory
        self._space = sp.Space()
        self._dimensions = Dimensions.of(
            strict=True, claim_shapes=claim_shapes(inventory), authenticated=True
        )
        self._meaning = QuestionMeaning(self._space, self._dimensions, inventory, workload)

    @functools.cached_property
    def _admitted(self) -> sp.Literal:
        asked = [one for one in (self._policy.authz, self._policy.segmentation) if one is not None]
        admitted = self._space.all_of([self._meaning.of(one.formula) for one in asked])
        return admitted if asked else sp.FALSE

    def callers(self) -> Iterator[Access]:
        """Each caller of the inventory once, all others as one."""
        space, remaining = self._space, self._admitted
        inside = space.test(Within(self._dimensions.identity, self._inventory.identities))
        for _ in range(MAX_CALLERS):
            access = self._access(remaining)
            if access is None:
                return
            yield access
            if access.caller:
                one = space.test(Within(self._dimensions.identity, frozenset({access.caller})))
                remaining = space.all_of([remaining, one ^ 1])
            else:
                remaining = space.all_of([remaining, inside])

    def by(self, caller: str) -> Access | None:
        """A request of one caller."""
        one = self._space.test(Within(self._dimensions.identity, frozenset({caller})))
        return self._access(self._space.all_of([self._admitted, one]))

    def by_violation(self, violation: Formula) -> Access | None:
        """An admitted request that satisfies a condition.

        Where authz admits none, segmentation isn't asked: what holds of callers there changes nothing.
        """
        space, broken, authz = self._space, self._meaning.of(violation), self._policy.authz
        if authz is not None:
            allowed = space.all_of([self._meaning.of(authz.formula), broken])
            if space.difference(allowed, sp.FALSE) is None:
                return None
        return self._access(space.all_of([self._admitted, broken]))

    def _access(self, literal: sp.Literal) -> Access | None:
        witness = self._space.difference(literal, sp.FALSE)
        if witness is None:
            return None
        request, opaque = concrete(witness, self._workload, self._inventory)
        caller = request.get(SOURCE_ID)
        known = isinstance(caller, str) and caller in self._inventory.identities
        asked = [one for one in (self._policy.authz, self._policy.segmentation) if one is not None]
        origins = {
            origin
            for question in asked
            for rule in question.allow.disjuncts
            if evaluate(rule.formula, request, lambda atom: atom.digest in opaque)
            for origin in rule.origins
        }
        return Access(str(caller) if known else "", self._workload.key, request, tuple(sorted(origins)))
