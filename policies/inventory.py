"""The inventory: what exists, as a value that policies are compiled against.

Workloads with their identity, labels, services and ports; segments; the mesh's own constants; token issuers.
The file format is read by policies.inventory_file. Where the facts come from (registry, file, cluster) is not
this module's business.

Namespace, service account and labels of a caller are facts looked up here by SPIFFE ID: an identity that the
inventory doesn't know has none. Several workloads may share one SPIFFE ID (replicas of one service account);
a label they don't agree on is no fact about that identity.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """How a workload's traffic is guarded."""

    SIDECAR = "sidecar"
    WAYPOINT = "waypoint"
    AMBIENT = "ambient"
    ENVOY = "envoy"
    NONE = "none"


class Protocol(StrEnum):
    """What a port speaks; only HTTP kinds have `request` and `jwt`."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"
    TLS = "tls"

    @property
    def is_http(self) -> bool:
        """Whether a proxy sees requests on such a port."""
        return self in (Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC)


class ClaimShape(StrEnum):
    """What an issuer promises about a claim. Istio can't tell a text from a list of one; we must."""

    STRING = "string"
    LIST = "list"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of a service: `port` as callers dial it, `target_port` as the workload listens."""

    port: int
    target_port: int
    protocol: Protocol
    name: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A Kubernetes service (or its equal) in front of a workload."""

    name: str
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Waypoint:
    """The proxy that guards a workload in waypoint mode, and the identity it calls with."""

    name: str
    spiffe_id: str


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload; `key` is its name everywhere."""

    name: str
    namespace: str
    service_account: str
    spiffe_id: str
    labels: Mapping[str, str]
    services: tuple[Service, ...]
    mode: Mode
    waypoint: Waypoint | None = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def ports(self) -> Mapping[int, Protocol]:
        """Listening (target) ports and what they speak."""
        found = {port.target_port: port.protocol for service in self.services for port in service.ports}
        return dict(sorted(found.items()))

    def services_at(self, target_port: int) -> tuple[str, ...]:
        """The services that lead to a listening port."""
        leading = (one for one in self.services if any(port.target_port == target_port for port in one.ports))
        return tuple(dict.fromkeys(one.name for one in leading))


@dataclass(frozen=True, slots=True)
class Issuer:
    """A token issuer whose tokens workloads accept."""

    name: str
    issuer: str
    jwks_uri: str
    jwks: str
    audiences: tuple[str, ...]
    claims: Mapping[str, ClaimShape]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Constants of the mesh."""

    trust_domain: str
    trust_domain_aliases: tuple[str, ...]
    root_namespace: str
    istio_version: str

    def names_of(self, identity: str) -> tuple[str, ...]:
        """An identity under each trust domain of the mesh, which its proxies take for one."""
        domain, _, path = identity.removeprefix("spiffe://").partition("/")
        own = (self.trust_domain, *self.trust_domain_aliases)
        return tuple(f"spiffe://{one}/{path}" for one in own) if domain in own else (identity,)


@dataclass(frozen=True)
class Inventory:
    """The whole; immutable, with indexes built on first use."""

    mesh: Mesh
    workloads: tuple[Workload, ...]
    segments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    issuers: tuple[Issuer, ...] = ()

    @functools.cached_property
    def by_key(self) -> Mapping[str, Workload]:
        """Workloads by `namespace/name`."""
        return {workload.key: workload for workload in self.workloads}

    @functools.cached_property
    def by_identity(self) -> Mapping[str, tuple[Workload, ...]]:
        """Workloads by SPIFFE ID."""
        found: dict[str, list[Workload]] = {}
        for workload in self.workloads:
            found.setdefault(workload.spiffe_id, []).append(workload)
        return {identity: tuple(several) for identity, several in sorted(found.items())}

    @functools.cached_property
    def namespaces(self) -> Mapping[str, frozenset[str]]:
        """SPIFFE IDs by namespace."""
        return _collect((workload.namespace, workload.spiffe_id) for workload in self.workloads)

    @functools.cached_property
    def service_accounts(self) -> Mapping[str, frozenset[str]]:
        """SPIFFE IDs by service account name."""
        return _collect((workload.service_account, workload.spiffe_id) for workload in self.workloads)

    @functools.cached_property
    def identities(self) -> frozenset[str]:
        """Every SPIFFE ID that belongs to a workload."""
        return frozenset(self.by_identity)

    def label_values(self, key: str) -> tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]:
        """What label `key` says of each SPIFFE ID: agreed values, and identities whose workloads disagree.

        The second mapping names the workloads that disagree (one without the label disagrees with one that
        has it). Identities without the label are in neither.
        """
        known = self._label_cache.get(key)
        if known is None:
            agreed, torn = {}, {}
            for identity, several in self.by_identity.items():
                values = {workload.labels.get(key) for workload in several}
                if len(values) > 1:
                    torn[identity] = tuple(workload.key for workload in several)
                elif (value := values.pop()) is not None:
                    agreed[identity] = value
            known = self._label_cache[key] = (agreed, torn)
        return known

    @functools.cached_property
    def _label_cache(self) -> dict[str, tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]]:
        return {}

    @functools.cached_property
    def keys(self) -> frozenset[str]:
        """Every workload's `namespace/name`."""
        return frozenset(self.by_key)

    @functools.cached_property
    def callers(self) -> dict[object, frozenset[str]]:
        """Workloads by a condition or selector; kept here like `holding` is."""
        return {}

    @functools.cached_property
    def spelled(self) -> dict[object, object]:
        """What targets made of conditions on callers, by keys of theirs: the next workload asks the same."""
        return {}

    @functools.cached_property
    def holding(self) -> dict[object, frozenset[str]]:
        """SPIFFE IDs by a condition on their facts; who works one out keeps it here for the next workload."""
        return {}

    @functools.cached_property
    def _selector_index(self) -> Mapping[tuple[str, str, str], tuple[Workload, ...]]:
        found: dict[tuple[str, str, str], list[Workload]] = {}
        for workload in self.workloads:
            for key, value in workload.labels.items():
                found.setdefault((workload.namespace, key, value), []).append(workload)
        return {key: tuple(several) for key, several in found.items()}

    def selected_by(self, namespace: str, labels: Mapping[str, str]) -> tuple[Workload, ...]:
        """Workloads of `namespace` whose labels include `labels`; all of them for no labels."""
        if not labels:
            return tuple(workload for workload in self.workloads if workload.namespace == namespace)
        candidates = min(
            (self._selector_index.get((namespace, *item), ()) for item in labels.items()), key=len
        )
        return tuple(workload for workload in candidates if labels.items() <= workload.labels.items())


def _collect(pairs: Iterable[tuple[str, str]]) -> Mapping[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for key, value in pairs:
        found.setdefault(key, set()).add(value)
    return {key: frozenset(values) for key, values in found.items()}
