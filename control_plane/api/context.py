"""What the gRPC services share: the state of the process, handed in by wiring. Holds no behaviour."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from control_plane.api.limits import Limiters
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.attestors import NodeAttestor
from control_plane.identity.confirmations import Confirmations
from control_plane.identity.issuance import Issuer
from control_plane.identity.ports import Store
from control_plane.identity.replica import Replica
from control_plane.identity.trust import Trust
from control_plane.rollout.push import PushedPolicies
from control_plane.rollout.reports import DecisionReports
from control_plane.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Ttls:
    """Default lifetimes, seconds."""

    x509_svid: int
    jwt_svid: int
    agent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """One process's parts, as the services see them."""

    trust_domain: TrustDomain
    store: Store
    replica: Replica
    trust: Trust
    policies: PushedPolicies
    reports: DecisionReports
    issuer: Issuer
    confirmations: Confirmations
    attestors: Mapping[str, NodeAttestor]
    limiters: Limiters
    ttls: Ttls
    clock: Clock
    random_bytes: Callable[[int], bytes]
    started_at: int
    stand_ins: Callable[[], tuple[bytes, ...]]  # CAs whose leaves should be replaced; see `ports.Authority`
    reload_trust: Callable[[], Awaitable[None]]  # takes in a changed authority state and our own bundle
