"""One compilation: a project and an inventory to manifests, and the proof that these admit nothing more.

    check -> questions of each workload -> pipeline: target -> manifests -> proof from the manifests' text

The result is a value; whether it may be applied is `accepted`: what isn't proved isn't shipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.formula import Decision, PolicySet
from policies.inventory import Inventory, Mode, Waypoint, Workload
from policies.kept_proofs import KeptProofs
from policies.language.diagnostics import Diagnostic
from policies.layers import Blocked, blocked_pairs
from policies.pipeline import Compilation, compile_policies
from policies.project import Project
from policies.proof.verdict import Outcome
from policies.questions import Questions
from policies.reach import Breach, broken_invariants
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS

MODES: Final[Mapping[str, Mode]] = {
    "istio-sidecar": Mode.SIDECAR,
    "istio-waypoint": Mode.WAYPOINT,
    "istio-ztunnel": Mode.AMBIENT,
    "envoy-rbac": Mode.ENVOY,
}
"""The mode that a target guards; network policies guard every mode, below the mesh."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one version of a policy becomes for one target: its questions, and the proved manifests."""

    policies: PolicySet
    proved: Compilation
    breaches: tuple[Breach, ...]
    warnings: tuple[Diagnostic, ...]
    questions: Questions
    violations: Mapping[str, Decision]

    def blocked(self) -> tuple[list[Blocked], bool]:
        """Pairs that authz allows and segmentation blocks, and whether there may be more of them."""
        return blocked_pairs(self.policies, self.proved.inventory)

    @property
    def accepted(self) -> bool:
        """Whether the manifests admit nothing more than Rego, and Rego breaks no invariant."""
        return self.proved.accepted and not self.breaches

    @property
    def exact(self) -> bool:
        """Whether the manifests say just what Rego says."""
        return self.accepted and all(one.outcome is Outcome.EXACT for one in self.proved.verdicts)

    def files(self) -> Mapping[str, str]:
        """The manifests by file name, with the kustomization that lists them."""
        return files(self.proved.emission.manifests)


def compile_project(
    project: Project,
    inventory: Inventory,
    target: str,
    options: Options | None = None,
    proofs: KeptProofs | None = None,
    before: Compiled | None = None,
) -> Compiled:
    """Compiles and proves, except what `proofs` has, or `before`, an earlier version's compilation.

    Raises Diagnostics, or InvalidInput for the target.
    """
    if target not in TARGETS:
        raise InvalidInput(
            f"compiling for target {target!r}: there is no such target", hint=f"known: {', '.join(TARGETS)}"
        )
    checked = project.checked()
    placed = _guarded_by(inventory, MODES.get(target))
    questions = Questions.of(
        checked.compiled, placed, project.data, before=before.questions if before else None
    )
    policies = questions.all(project.digest)
    violations = questions.violations()
    breaches = _breaches(policies, placed, violations, before)
    earlier = before.proved if before else None
    proved = compile_policies(policies, placed, target, options or Options(), earlier, proofs)
    return Compiled(policies, proved, breaches, checked.warnings, questions, violations)


def _breaches(
    policies: PolicySet, inventory: Inventory, violations: Mapping[str, Decision], before: Compiled | None
) -> tuple[Breach, ...]:
    """The broken invariants; those of a workload that asks and forbids the same as before are known."""
    if before is None or before.proved.inventory != inventory:
        return tuple(broken_invariants(policies, inventory, violations))
    asked = {one.workload: one for one in before.policies.policies}
    same = {
        one.workload
        for one in policies.policies
        if asked.get(one.workload) == one
        and before.violations.get(one.workload) == violations.get(one.workload)
    }
    others = {key: decision for key, decision in violations.items() if key not in same}
    found = [one for one in before.breaches if one.workload in same]
    found += broken_invariants(policies, inventory, others)
    return tuple(sorted(found, key=lambda one: one.workload))


def _guarded_by(inventory: Inventory, mode: Mode | None) -> Inventory:
    """The inventory as this target sees it: every workload guarded in the target's own way."""
    if mode is None:
        return inventory
    workloads = tuple(_in_mode(workload, mode, inventory) for workload in inventory.workloads)
    return dataclasses.replace(inventory, workloads=workloads)


def _in_mode(workload: Workload, mode: Mode, inventory: Inventory) -> Workload:
    waypoint = workload.waypoint
    if mode is Mode.WAYPOINT and waypoint is None:
        identity = f"spiffe://{inventory.mesh.trust_domain}/ns/{workload.namespace}/sa/waypoint"
        waypoint = Waypoint("waypoint", identity)
    return dataclasses.replace(workload, mode=mode, waypoint=waypoint if mode is Mode.WAYPOINT else None)
