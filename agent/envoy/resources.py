"""All that one service's Envoy is told over ADS, at one moment: service, policy and quarantine in, JSON out.

A quarantined service gets no outbound listeners, so that it reaches nobody, and denies every caller. Nothing
here knows how resources travel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.access_logs import file_logs
from agent.envoy.authorities import USUAL
from agent.envoy.clusters import keys_clusters, peer_cluster, service_cluster
from agent.envoy.description import ServiceDescription
from agent.envoy.filters import http_contents
from agent.envoy.listeners import inbound_listener, outbound_listener
from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, Json
from agent.envoy.subscription import Kind
from agent.envoy.tracer import tracing_of
from control_plane.core.spiffe_id import SpiffeId

Resources = Mapping[str, Mapping[str, Json]]
"""JSON by type URL and name."""

KINDS: Final = (
    Kind(CLUSTER, wildcard=True, complete=True, tells_absence=True),
    Kind(LISTENER, wildcard=True, complete=True, tells_absence=True),
    Kind(EXTENSION, wildcard=False, complete=False, tells_absence=True),
)
"""The types that the agent owns."""

ORDER: Final = (CLUSTER, LISTENER, EXTENSION)
"""The order in which changes of several types are sent: what is referred to comes first."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the resources are made from. `marks` are the drain marks of inbound listeners, by name.
    `traced`: spans of the service's Envoy are wanted."""

    service: ServiceDescription
    policy: WorkloadPolicy | None = None
    quarantined: frozenset[SpiffeId] = frozenset()
    marks: Mapping[str, str] = field(default_factory=dict)
    delta: bool = True
    traced: bool = False

    @property
    def cut_off(self) -> bool:
        """Whether the service itself is in quarantine."""
        return self.service.spiffe_id in self.quarantined


def build(situation: Situation) -> Resources:
    """The resources of the situation."""
    service, policy, quarantined = situation.service, situation.policy, situation.quarantined
    extras = file_logs(service.access_log)
    if situation.traced:
        extras = replace(extras, tracing=tracing_of(service.name))
    listeners: dict[str, Json] = {
        one.name: inbound_listener(
            service,
            one,
            policy,
            quarantined,
            situation.marks.get(one.name, ""),
            extras,
            delta=situation.delta,
        )
        for one in service.inbound
    }
    clusters: dict[str, Json] = keys_clusters(policy, service.authorities or USUAL[0])
    clusters |= {one.name: service_cluster(one) for one in service.inbound}
    if not situation.cut_off:
        for outbound in service.outbound:
            listeners[outbound.name] = outbound_listener(outbound, extras)
            clusters[outbound.name] = peer_cluster(service.spiffe_id, outbound, delta=situation.delta)
    contents = http_contents(policy, service.spiffe_id, quarantined)
    extensions: dict[str, Json] = {
        name: {"@type": EXTENSION, "name": name, "typed_config": config} for name, config in contents.items()
    }
    return {CLUSTER: clusters, LISTENER: listeners, EXTENSION: extensions}
