"""One compilation: a project and an inventory to manifests, and the proof that these admit nothing more.

    check -> questions of each workload -> pipeline: target -> manifests -> proof from the manifests' text

The result is a value; whether it may be applied is `accepted`: what isn't proved isn't shipped.
`policies.kept` comes to the same `Result` from what earlier runs left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.budget import Budget, unbounded
from policies.formula import Decision, Origin, PolicySet
from policies.inventory import Inventory, Mode, Waypoint, Workload
from policies.language.diagnostics import Diagnostic
from policies.layers import Blocked, blocked_pairs
from policies.pipeline import Compilation, compile_policies
from policies.project import Project
from policies.proof.verdict import Outcome, Verdict
from policies.questions import Asked, Questions
from policies.reach import Breach, broken_invariants
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS
from policies.targets.shortfall import Shortfall
from policies.unheld import unheld_rules

MODES: Final[Mapping[str, Mode]] = {
    "istio-sidecar": Mode.SIDECAR,
    "istio-waypoint": Mode.WAYPOINT,
    "istio-ztunnel": Mode.AMBIENT,
    "envoy-rbac": Mode.ENVOY,
}
"""The mode that a target guards; network policies guard every mode, below the mesh."""


@dataclass(frozen=True, slots=True)
class Result:
    """What there is to say about a compilation. `blocked` and `files` are worked out when they are asked for.

    `blocked`: pairs that authz allows and segmentation blocks, and whether there may be more of them.
    `files`: the manifests by file name, with the kustomization that lists them.
    """

    target: str
    bundle_digest: str
    objects: int
    refused: bool
    verdicts: tuple[Verdict, ...]
    shortfalls: tuple[Shortfall, ...]
    breaches: tuple[Breach, ...]
    warnings: tuple[Diagnostic, ...]
    blocked: Callable[[], tuple[list[Blocked], bool]] = field(compare=False, repr=False)
    files: Callable[[], Mapping[str, str]] = field(compare=False, repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the manifests admit nothing more than Rego, and Rego breaks no invariant."""
        return not self.refused and not self.breaches and all(one.accepted for one in self.verdicts)

    @property
    def exact(self) -> bool:
        """Whether the manifests say just what Rego says."""
        return self.accepted and all(one.outcome is Outcome.EXACT for one in self.verdicts)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one version of a policy becomes for one target: its questions, and the proved manifests."""

    policies: PolicySet
    proved: Compilation
    breaches: tuple[Breach, ...]
    warnings: tuple[Diagnostic, ...]

    def blocked(self) -> tuple[list[Blocked], bool]:
        """Pairs that authz allows and segmentation blocks, and whether there may be more of them."""
        return blocked_pairs(self.policies, self.proved.inventory)

    @property
    def accepted(self) -> bool:
        """Whether the manifests admit nothing more than Rego, and Rego breaks no invariant."""
        return self.result.accepted

    @property
    def exact(self) -> bool:
        """Whether the manifests say just what Rego says."""
        return self.result.exact

    def files(self) -> Mapping[str, str]:
        """The manifests by file name, with the kustomization that lists them."""
        return files(self.proved.emission.manifests)

    @property
    def result(self) -> Result:
        """The compilation as what there is to say about it."""
        emission = self.proved.emission
        return Result(
            self.proved.target,
            self.policies.bundle_digest,
            len(emission.manifests),
            bool(emission.refused),
            self.proved.verdicts,
            emission.shortfalls,
            self.breaches,
            self.warnings,
            self.blocked,
            self.files,
        )


def compile_project(
    project: Project,
    inventory: Inventory,
    target: str,
    options: Options | None = None,
    budget: Budget = unbounded,
) -> Compiled:
    """Compiles and proves.

    Raises Diagnostics, InvalidInput for the target, ResourceExhausted past the budget.
    """
    options = options or Options()
    placed = guarded_by(target, inventory, options)
    checked = project.checked()
    questions = Questions.of(checked.compiled, placed, project.data)
    asked = []
    for workload in placed.workloads:
        budget(workload.key)
        asked.append(questions.asked(workload))
    policies = PolicySet.of(project.digest, *(one.policy for one in asked))
    violations: Mapping[str, Decision] = (
        {one.policy.workload: one.violations for one in asked} if questions.has_invariants else {}
    )
    breaches = tuple(broken_invariants(policies, placed, violations))
    proved = compile_policies(policies, placed, target, options, budget)
    unheld = unheld_rules(questions, _origins(asked))
    return Compiled(policies, proved, breaches, (*checked.warnings, *unheld))


def _origins(asked: Iterable[Asked]) -> Iterator[Origin]:
    """The lines of all decisions."""
    for one in asked:
        for question in (one.policy.authz, one.policy.segmentation):
            if question is not None:
                for rule in (*question.allow.disjuncts, *question.deny.disjuncts):
                    yield from rule.origins


def guarded_by(target: str, inventory: Inventory, options: Options) -> Inventory:
    """The inventory as a target sees it: every workload guarded in the target's own way, or as it is by mode.

    Raises InvalidInput for an unknown target, and for an inventory without workloads: its manifests would be
    none, which leave open whatever there is.
    """
    if target not in TARGETS:
        raise InvalidInput(
            f"compiling for target {target!r}: there is no such target", hint=f"known: {', '.join(TARGETS)}"
        )
    if not inventory.workloads:
        raise InvalidInput(
            "compiling the policy: the inventory has no workload to guard", hint="list them under `workloads`"
        )
    mode = MODES.get(target)
    if mode is None or options.by_mode:
        return inventory
    workloads = tuple(_in_mode(workload, mode, inventory) for workload in inventory.workloads)
    return dataclasses.replace(inventory, workloads=workloads)


def otherwise_guarded(target: str, inventory: Inventory) -> dict[str, Mode]:
    """Workloads that the inventory guards in another way than a target does, each with its mode there."""
    mode = MODES.get(target)
    found = inventory.workloads if mode is not None else ()
    return {one.key: one.mode for one in found if one.mode is not mode}


def _in_mode(workload: Workload, mode: Mode, inventory: Inventory) -> Workload:
    waypoint = workload.waypoint
    if workload.mode is mode and (mode is Mode.WAYPOINT) == (waypoint is not None):
        return workload
    if mode is Mode.WAYPOINT and waypoint is None:
        identity = f"spiffe://{inventory.mesh.trust_domain}/ns/{workload.namespace}/sa/waypoint"
        waypoint = Waypoint("waypoint", identity)
    return dataclasses.replace(workload, mode=mode, waypoint=waypoint if mode is Mode.WAYPOINT else None)
