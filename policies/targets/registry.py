"""The targets by name: whom each guards, which questions it answers, how one workload is emitted.

A waypoint answers both questions: the pod behind it sees nobody else, so that no NetworkPolicy can hold
segmentation there. Elsewhere `network-policy` answers segmentation, and the other targets authz.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from policies.formula import PolicySet, Question, WorkloadPolicy
from policies.inventory import Inventory, Mode, Workload
from policies.targets import envoy_rbac, istio_sidecar, istio_waypoint, istio_ztunnel, network_policy
from policies.targets.emission import Emission, Options, joined

Emit = Callable[[PolicySet, Inventory, Options], Emission]


@dataclass(frozen=True, slots=True)
class Emitter:
    """One target, and the questions that it answers. `mode` is None where every mode is guarded."""

    name: str
    mode: Mode | None
    segmentation: bool
    authz: bool
    emit_workload: Callable[[Question, Workload, Inventory, str, Options], Emission]

    @property
    def over_pods(self) -> bool:
        """Whether it admits pods, so that a proof looks at all of the inventory, and not identities."""
        return not self.authz

    def guards(self, workload: Workload, options: Options) -> bool:
        """Whether it is for a workload. Pods behind a waypoint are refused, unless they may be left out."""
        if options.by_mode and self.over_pods:
            return workload.mode is not Mode.WAYPOINT
        return self.mode in (None, workload.mode)

    def questions(
        self, policies: PolicySet, inventory: Inventory, options: Options
    ) -> Iterable[tuple[Workload, Question]]:
        """The workloads that the target guards, each with its question."""
        for policy in policies.policies:
            workload = inventory.by_key.get(policy.workload)
            question = self.asked(policy)
            if workload is not None and question is not None and self.guards(workload, options):
                yield workload, question

    def asked(self, policy: WorkloadPolicy) -> Question | None:
        """What the target answers of a workload's questions; None where none of them is asked."""
        authz = policy.authz if self.authz else None
        segmentation = policy.segmentation if self.segmentation else None
        if authz is None or segmentation is None:
            return authz or segmentation
        return authz.and_also(segmentation)

    def emit(self, policies: PolicySet, inventory: Inventory, options: Options) -> Emission:
        """Objects for every workload that the target guards."""
        return joined(
            self.emit_workload(question, workload, inventory, policies.bundle_digest, options)
            for workload, question in self.questions(policies, inventory, options)
        )


EMITTERS: Final[Mapping[str, Emitter]] = {
    one.name: one
    for one in (
        Emitter(istio_sidecar.NAME, Mode.SIDECAR, False, True, istio_sidecar.emit_workload),
        Emitter(istio_waypoint.NAME, Mode.WAYPOINT, True, True, istio_waypoint.emit_workload),
        Emitter(istio_ztunnel.NAME, Mode.AMBIENT, False, True, istio_ztunnel.emit_workload),
        Emitter(envoy_rbac.NAME, Mode.ENVOY, False, True, envoy_rbac.emit_workload),
        Emitter(network_policy.NAME, None, True, False, network_policy.emit_workload),
    )
}

TARGETS: Final[Mapping[str, Emit]] = {name: one.emit for name, one in EMITTERS.items()}
