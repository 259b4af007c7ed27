"""What the agent needs from the server, as the agent sees it; `server_api` speaks it over gRPC.

All methods wait for the network with a bound of their own, may be called concurrently, and raise
GatehouseError: PermissionDenied with a reason when the server refuses this agent, Unavailable or
DeadlineExceeded when asking again later may help.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from agent.cache_content import AgentCredential
from agent.enforcement.counts import Snapshot
from agent.enforcement.news import News
from agent.node_attestors import NodeAttestor
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.svid import JwtSvid


@dataclass(frozen=True, slots=True)
class Attested:
    """The outcome of node attestation: the chain (DER, leaf first), and whether it may be repeated."""

    chain: tuple[bytes, ...]
    reattestable: bool


@dataclass(frozen=True, slots=True)
class ReportsWanted:
    """What the server wants to hear of decisions: those since the canary of this sequence (0: none)."""

    canary: int = 0
    interval_seconds: int = 0


@dataclass(frozen=True, slots=True)
class RenewEarly:
    """What is held of these issuing CAs (key identifiers) is to be renewed within the span."""

    issuer_key_ids: frozenset[bytes]
    within_seconds: int


@dataclass(frozen=True, slots=True)
class Change:
    """One push of the server, relative to what was known. `full` marks the first one of a stream, which
    names all federated bundles; a `bundle` of None says that ours is unchanged. With `more` it is a part of
    one that was too large for one message."""

    full: bool
    upserted: tuple[Entry, ...]
    removed: tuple[str, ...]
    bundle: Bundle | None
    federated: tuple[Bundle, ...]
    removed_federated: tuple[TrustDomain, ...]
    news: News = field(default_factory=News)
    wanted: ReportsWanted | None = None
    early: RenewEarly | None = None
    more: bool = False

    @property
    def is_heartbeat(self) -> bool:
        """Nothing but a sign of life."""
        return not (
            self.full
            or self.upserted
            or self.removed
            or self.bundle
            or self.federated
            or self.removed_federated
            or self.news
            or self.wanted
            or self.early
        )


class ServerApi(Protocol):
    """One connection to the server."""

    async def attest(self, attestor: NodeAttestor, csr: bytes) -> Attested:
        """Proves the node; works without a client certificate."""
        ...

    async def renew(self, csr: bytes) -> tuple[bytes, ...]:
        """A new chain for this agent. The old one stays good until the new one was used."""
        ...

    async def bundle(self) -> Bundle:
        """The server's own trust bundle."""
        ...

    async def federated_bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """A foreign bundle; None if the server has none."""
        ...

    async def sync_entries(self, known: Mapping[str, Entry]) -> dict[str, Entry]:
        """All entries that this agent is authorised for; those that are known aren't sent again."""
        ...

    def watch(
        self, known: Mapping[str, Entry], enforced: tuple[int, int] = (0, 0)
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """The server's pushes: first what differs from `known` and from what is `enforced` (sequence of the
        policy, revision of the quarantine), then each change. Raises Unimplemented at a server that only
        answers."""
        ...

    async def new_x509_svids(
        self, requests: Sequence[tuple[Entry, bytes]]
    ) -> list[tuple[bytes, ...] | GatehouseError]:
        """Chains for CSRs, in order; an error for each that was refused."""
        ...

    async def new_jwt_svid(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid:
        """A token for an entry's identity."""
        ...

    async def post_status(self, bundle_sequence: int) -> None:
        """Tells which bundle this agent has, so that the server knows when an authority may begin to sign."""
        ...

    async def report_decisions(self, canary: int, snapshot: Snapshot) -> bool:
        """Tells what was decided since a canary began; False where the server has no use for it."""
        ...

    async def close(self) -> None:
        """Ends the connection; calls that are open fail."""
        ...


class Dial(Protocol):
    """Makes a connection, lazily. Without a credential it is anonymous; the bundle is asked for at each
    handshake, so that a new one counts at once."""

    def __call__(self, credential: AgentCredential | None, bundle: Callable[[], Bundle]) -> ServerApi: ...
