"""The targets by name: whom each guards, which question it answers, how one workload is emitted."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from policies.formula import PolicySet, Question
from policies.inventory import Inventory, Mode, Workload
from policies.targets import envoy_rbac, istio_sidecar, istio_waypoint, istio_ztunnel, network_policy
from policies.targets.emission import Emission, Options, joined

Emit = Callable[[PolicySet, Inventory, Options], Emission]


@dataclass(frozen=True, slots=True)
class Emitter:
    """One target. `mode` is None where workloads of every mode are guarded."""

    name: str
    mode: Mode | None
    segmentation: bool
    emit_workload: Callable[[Question, Workload, Inventory, str, Options], Emission]

    def questions(self, policies: PolicySet, inventory: Inventory) -> Iterable[tuple[Workload, Question]]:
        """The workloads that the target guards, each with its question."""
        for policy in policies.policies:
            workload = inventory.by_key.get(policy.workload)
            question = policy.segmentation if self.segmentation else policy.authz
            if workload is not None and question is not None and self.mode in (None, workload.mode):
                yield workload, question

    def emit(self, policies: PolicySet, inventory: Inventory, options: Options) -> Emission:
        """Objects for every workload that the target guards."""
        return joined(
            self.emit_workload(question, workload, inventory, policies.bundle_digest, options)
            for workload, question in self.questions(policies, inventory)
        )


EMITTERS: Final[Mapping[str, Emitter]] = {
    one.name: one
    for one in (
        Emitter(istio_sidecar.NAME, Mode.SIDECAR, False, istio_sidecar.emit_workload),
        Emitter(istio_waypoint.NAME, Mode.WAYPOINT, False, istio_waypoint.emit_workload),
        Emitter(istio_ztunnel.NAME, Mode.AMBIENT, False, istio_ztunnel.emit_workload),
        Emitter(envoy_rbac.NAME, Mode.ENVOY, False, envoy_rbac.emit_workload),
        Emitter(network_policy.NAME, None, True, network_policy.emit_workload),
    )
}

TARGETS: Final[Mapping[str, Emit]] = {name: one.emit for name, one in EMITTERS.items()}
