"""Where two layers disagree: requests that `authz` allows and `segmentation` never lets through.

Both layers have to admit a request, so nothing is unsafe about such a pair; but whoever wrote the `allow`
rule thought that it would work. Each pair comes with one request and the Rego lines on both sides. This is
about Rego, for all requests there are; what a NetworkPolicy can't say exactly is in its own verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented
from policies.formula import SOURCE_ID, Decision, Origin, PolicySet, Request, WorkloadPolicy, evaluate
from policies.inventory import Inventory, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.probes import Within
from policies.proof.question import QuestionMeaning
from policies.proof.verdict import claim_shapes, concrete

MAX_PAIRS: Final = 200


@dataclass(frozen=True, slots=True)
class Blocked:
    """A caller that authz allows something that segmentation blocks; empty: anybody outside the inventory.

    `entirely`: nothing that authz allows this caller gets through. Without a request it could not be decided,
    and `reason` says why.
    """

    caller: str
    workload: str
    request: Request | None
    allowed_by: tuple[Origin, ...] = ()
    denied_by: tuple[Origin, ...] = ()
    entirely: bool = False
    reason: str = ""

    @property
    def why(self) -> str:
        """What segmentation says about it."""
        lines = ", ".join(map(str, self.denied_by))
        return f"segmentation denies at {lines}" if lines else "no rule of segmentation allows it"


def blocked_pairs(policies: PolicySet, inventory: Inventory) -> tuple[list[Blocked], bool]:
    """The pairs in the order of workloads, MAX_PAIRS at most, and whether there may be more."""
    return first_pairs(blocked_at(policy, inventory) for policy in policies.policies)


def first_pairs(found: Iterable[Iterable[Blocked]]) -> tuple[list[Blocked], bool]:
    """The first MAX_PAIRS of several lists, of which no more is asked for than needed."""
    first: list[Blocked] = []
    for one in found:
        first += one
        if len(first) > MAX_PAIRS:
            return first[:MAX_PAIRS], True
    return first, False


def blocked_at(policy: WorkloadPolicy, inventory: Inventory) -> list[Blocked]:
    """The pairs of one workload, one more than MAX_PAIRS at most."""
    workload = inventory.by_key.get(policy.workload)
    found: list[Blocked] = []
    if workload is not None and policy.authz is not None and policy.segmentation is not None:
        try:
            # Those that were found before an error count.
            found.extend(itertools.islice(_Pairs(policy, workload, inventory).blocked(), MAX_PAIRS + 1))
        except (Unimplemented, ResourceExhausted, InvalidInput) as error:
            found.append(Blocked("", workload.key, None, reason=error.message))
    return found


class _Pairs:
    def __init__(self, policy: WorkloadPolicy, workload: Workload, inventory: Inventory) -> None:
        assert policy.authz is not None
        assert policy.segmentation is not None
        self._authz, self._segmentation = policy.authz, policy.segmentation
        self._workload, self._inventory = workload, inventory
        self._space = sp.Space()
        self._dimensions = Dimensions.of(
            strict=True, claim_shapes=claim_shapes(inventory), authenticated=True
        )
        meaning = QuestionMeaning(self._space, self._dimensions, inventory, workload)
        self._allowed = meaning.of(policy.authz.formula)
        self._passed = meaning.of(policy.segmentation.formula)

    def blocked(self) -> Iterator[Blocked]:
        """Each caller of the inventory once, all others as one."""
        space, identities = self._space, self._inventory.identities
        inside = space.test(Within(self._dimensions.identity, identities))
        remaining = space.all_of([self._allowed, self._passed ^ 1])
        while True:
            witness = space.difference(remaining, sp.FALSE)
            if witness is None:
                return
            request, opaque = concrete(witness, self._workload, self._inventory)
            caller = request.get(SOURCE_ID)
            known = isinstance(caller, str) and caller in identities
            one = (
                space.test(Within(self._dimensions.identity, frozenset({str(caller)})))
                if known
                else inside ^ 1
            )
            through = space.difference(space.all_of([self._allowed, self._passed, one]), sp.FALSE)
            yield Blocked(
                str(caller) if known else "",
                self._workload.key,
                request,
                _holding(self._authz.allow, request, opaque),
                _holding(self._segmentation.deny, request, opaque),
                entirely=through is None,
            )
            remaining = space.all_of([remaining, one ^ 1])


def _holding(decision: Decision, request: Request, opaque: frozenset[str]) -> tuple[Origin, ...]:
    return tuple(
        sorted(
            {
                origin
                for rule in decision.disjuncts
                if evaluate(rule.formula, request, lambda atom: atom.digest in opaque)
                for origin in rule.origins
            }
        )
    )
