"""The targets by name."""

from collections.abc import Callable, Mapping
from typing import Final

from policies.formula import PolicySet
from policies.inventory import Inventory
from policies.targets import envoy_rbac, istio_sidecar, istio_waypoint, istio_ztunnel, network_policy
from policies.targets.emission import Emission, Options

Emit = Callable[[PolicySet, Inventory, Options], Emission]

TARGETS: Final[Mapping[str, Emit]] = {
    istio_sidecar.NAME: istio_sidecar.emit,
    istio_waypoint.NAME: istio_waypoint.emit,
    istio_ztunnel.NAME: istio_ztunnel.emit,
    envoy_rbac.NAME: envoy_rbac.emit,
    network_policy.NAME: network_policy.emit,
}
