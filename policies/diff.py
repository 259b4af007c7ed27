"""The difference of two policy versions: who gains and who loses access, each with one request.

For every workload whose question changed, the two meanings are compared as formulas: callers that the
inventory knows one by one, all others together. Each change carries a shortest request and the Rego lines on
both sides: what admits it in the version that does, and what refuses it in the other.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented
from policies.formula import (
    FALSE,
    SOURCE_ID,
    Decision,
    Origin,
    PolicySet,
    Question,
    Request,
    WorkloadPolicy,
    evaluate,
)
from policies.inventory import Inventory, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.probes import Probe, Within
from policies.proof.question import QuestionMeaning
from policies.proof.verdict import claim_shapes, concrete

MAX_CALLERS = 50
"""Callers listed one by one for a workload and direction; the rest is counted."""


class Direction(enum.StrEnum):
    """Which way access changed; `undecided` where the versions could not be compared."""

    GAINS = "gains"
    LOSES = "loses"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Change:
    """One caller of one workload. `caller` is a SPIFFE ID, or empty for callers outside the inventory."""

    workload: str
    question: str
    direction: Direction
    caller: str
    request: Request | None
    before: tuple[Origin, ...] = ()
    after: tuple[Origin, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        who = self.caller or "a caller outside the inventory"
        lines = f" [{_lines(self.before)} -> {_lines(self.after)}]"
        what = f"{self.direction} {self.question} access to {self.workload}"
        return f"{who} {what}: {self.request or self.reason}{lines}"


def compare_policies(old: PolicySet, new: PolicySet, inventory: Inventory) -> list[Change]:
    """Every change, in stable order; an ungoverned workload counts as one that nobody may call."""
    before, after = ({one.workload: one for one in version.policies} for version in (old, new))
    changes: list[Change] = []
    for key in sorted(before.keys() | after.keys()):
        workload = inventory.by_key.get(key)
        if workload is None:
            continue
        for name in ("authz", "segmentation"):
            left, right = _question(before.get(key), name), _question(after.get(key), name)
            if left.formula is not right.formula:
                changes += _changes(left, right, workload, name, inventory)
    return changes


def _question(policy: WorkloadPolicy | None, name: str) -> Question:
    asked = None if policy is None else policy.authz if name == "authz" else policy.segmentation
    return Question() if asked is None else asked


def _changes(
    left: Question, right: Question, workload: Workload, name: str, inventory: Inventory
) -> Iterable[Change]:
    space = sp.Space()
    # What answers authz refuses plain text whatever a policy says: nobody without an identity gains or loses.
    dimensions = Dimensions.of(
        strict=True, claim_shapes=claim_shapes(inventory), authenticated=name == "authz"
    )
    try:
        meaning = QuestionMeaning(space, dimensions, inventory, workload)
        old, new = meaning.of(left.formula), meaning.of(right.formula)
        return [
            *_one_way(old, new, Direction.LOSES, left, right, workload, name, inventory, space, dimensions),
            *_one_way(new, old, Direction.GAINS, left, right, workload, name, inventory, space, dimensions),
        ]
    except (Unimplemented, ResourceExhausted, InvalidInput) as error:
        return [Change(workload.key, name, Direction.UNDECIDED, "", None, reason=error.message)]


def _one_way(
    has: sp.Literal,
    lacks: sp.Literal,
    direction: Direction,
    left: Question,
    right: Question,
    workload: Workload,
    name: str,
    inventory: Inventory,
    space: sp.Space,
    dimensions: Dimensions,
) -> Iterator[Change]:
    """Callers for whom `has` admits what `lacks` doesn't, each found by leaving out those before."""
    remaining = has
    for _ in range(MAX_CALLERS):
        witness = space.difference(remaining, lacks)
        if witness is None:
            return
        request, opaque = concrete(witness, workload, inventory)
        caller = request.get(SOURCE_ID)
        known = isinstance(caller, str) and caller in inventory.identities
        before = _responsible(left, request, opaque)
        after = _responsible(right, request, opaque)
        yield Change(workload.key, name, direction, str(caller) if known else "", request, before, after)
        if known:
            done = space.test(Within(dimensions.identity, frozenset({str(caller)})))
            remaining = space.all_of([remaining, done ^ 1])
        else:
            # Callers outside the inventory are one: only those inside are looked at from here on.
            inside = space.test(Within(dimensions.identity, inventory.identities))
            remaining = space.all_of([remaining, inside, space.test(Probe(dimensions.identity))])


def _responsible(question: Question, request: Request, opaque: frozenset[str]) -> tuple[Origin, ...]:
    """The lines that decide a request: the denying rules that hold, else the allowing ones."""

    def holding(decision: Decision) -> tuple[Origin, ...]:
        found = [
            one.origins
            for one in decision.disjuncts
            if one.formula is not FALSE and evaluate(one.formula, request, lambda atom: atom.digest in opaque)
        ]
        return tuple(sorted({origin for origins in found for origin in origins}))

    return holding(question.deny) or holding(question.allow)


def markdown(changes: Iterable[Change]) -> str:
    """The changes as a table for a pull request; a sentence where there are none."""
    rows = list(changes)
    if not rows:
        return "No request gains or loses access.\n"
    lines = [
        f"{sum(one.direction is Direction.GAINS for one in rows)} gain, "
        f"{sum(one.direction is Direction.LOSES for one in rows)} lose access.",
        "",
        "| | caller | workload | one request that shows it | before | after |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        caller = f"`{one.caller}`" if one.caller else "outside the inventory"
        shown = _cell(essence(one.request) if one.request is not None else one.reason)
        workload = f"{one.workload} ({one.question})"
        lines.append(
            "| "
            + " | ".join([one.direction, caller, workload, shown, _lines(one.before), _lines(one.after)])
            + " |"
        )
    return "\n".join(lines) + "\n"


def essence(request: Request) -> str:
    """A request without what caller and workload say already."""
    said = (
        "connection.mtls",
        "destination.",
        "source.spiffe_id",
        "source.namespace",
        "source.labels",
        "source.service",
        "source.trust",
    )
    kept = {
        place: value
        for place, value in request.values.items()
        if not place.name.startswith(said) or place.name == "destination.port"
    }
    return str(Request.of(kept))


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ") + "`"


def _lines(origins: tuple[Origin, ...]) -> str:
    return ", ".join(map(str, origins)) or "no rule"
