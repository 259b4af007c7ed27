"""Envoy's aggregated discovery service on the agent's socket: listeners, clusters and policy of one service.

An Envoy says in its node's metadata which service it stands before (`description`), and the agent checks that
its process is entitled to that service's identity. From then on it is sent what follows from the description,
the policy in force and the quarantine (`resources`), and each change of those. The agent keeps nothing of it:
versions are digests, so that an Envoy that comes back to another agent is told only what is new.

Before the agent knows what is enforced it says nothing, and an Envoy goes on with what it has.

An Envoy looks at a caller's certificate once a connection. So when an authority leaves a bundle, connections
are drained: those that came by it don't come again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from agent.attest.sessions import Session
from agent.broadcast import Broadcast, Listener
from agent.enforcement.ports import Enforcement, EnforcementSource
from agent.envoy.catalogue import Catalogue, Encoder
from agent.envoy.description import ServiceDescription
from agent.envoy.fleet import Fleet
from agent.envoy.resources import KINDS, ORDER
from agent.envoy.streams import DELTA, STATE_OF_THE_WORLD, Dialect, Streams, Subscriptions
from agent.envoy.subscription import Ask
from agent.identities import Identities
from agent.refusals import Refusals
from control_plane.core.errors import InvalidInput
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

RETRY_SECONDS: Final = 15.0  # until what an Envoy rejected is sent to it again
SECRETS_FIRST_SECONDS: Final = 0.5  # the bundle goes by another stream, and is there before the drain

_log = get_logger(__name__)


class AggregatedDiscovery:
    """Implements envoy.service.discovery.v3.AggregatedDiscoveryService."""

    def __init__(
        self,
        identities: Identities,
        streams: Streams,
        broadcast: Broadcast,
        enforcement: EnforcementSource,
        fleet: Fleet,
        refusals: Refusals,
        encoder: Encoder,
        new_mark: Callable[[], str],
        *,
        traced: bool = False,
    ) -> None:
        """`new_mark` gives another drain mark at each call, also after a restart of the agent; `traced`:
        spans of Envoys are wanted."""
        self._identities = identities
        self._streams = streams
        self._broadcast = broadcast
        self._enforcement = enforcement
        self._fleet = fleet
        self._refusals = refusals
        self._encoder = encoder
        self._new_mark = new_mark
        self._traced = traced

    async def stream_aggregated_resources(
        self, call: Call, requests: AsyncIterator[Any]
    ) -> AsyncIterator[bytes]:
        """The state of the world."""
        async for message in self._follow(call, requests, STATE_OF_THE_WORLD):
            yield message

    async def delta_aggregated_resources(
        self, call: Call, requests: AsyncIterator[Any]
    ) -> AsyncIterator[bytes]:
        """Differences."""
        async for message in self._follow(call, requests, DELTA):
            yield message

    async def _follow(
        self, call: Call, requests: AsyncIterator[Any], dialect: Dialect
    ) -> AsyncIterator[bytes]:
        session = await self._streams.attest(call)
        with self._broadcast.listen(session, x509=False) as listener:
            conversation = _Conversation(self, session, listener, dialect)
            try:
                async for message in self._streams.follow(
                    session, listener, requests, conversation.take, conversation.due
                ):
                    yield message
            finally:
                conversation.close()
                self._fleet.leave(listener)

    def begin(self, listener: Listener, service: ServiceDescription, *, delta: bool) -> Catalogue:
        """What this Envoy is told, from now on. Raises PermissionDenied for somebody else's service."""
        self.check(listener, service)
        catalogue = Catalogue(service, self._encoder, self._new_mark, delta=delta, traced=self._traced)
        self._fleet.join(listener, catalogue)
        _log.info(
            "envoy_connected",
            pid=listener.session.process.pid,
            service=service.name,
            spiffe_id=str(service.spiffe_id),
        )
        return catalogue

    def check(self, listener: Listener, service: ServiceDescription) -> None:
        """Raises PermissionDenied, Unavailable if the process isn't entitled to the service's identity."""
        entries = self._identities.match(listener.selectors)
        if not entries:
            raise self._refusals.no_identity(listener.session)
        if not any(entry.spiffe_id == service.spiffe_id for entry in entries):
            raise self._refusals.not_entitled(service.spiffe_id)

    def authorities(self, listener: Listener) -> frozenset[bytes]:
        """Those that an Envoy believes callers by now: certificates, DER."""
        known = self._identities
        domains = {domain for entry in known.match(listener.selectors) for domain in entry.federates_with}
        bundles = [known.bundle, *(known.federated.get(domain) for domain in domains)]
        return frozenset(
            authority.certificate
            for bundle in bundles
            if bundle is not None
            for authority in bundle.x509_authorities
        )

    def rejected(self, listener: Listener) -> None:
        """An Envoy didn't take what it was sent, and runs something else."""
        self._fleet.rejections += 1
        self._fleet.astray.add(listener)

    def healed(self, listener: Listener) -> None:
        """It runs what it was sent again."""
        self._fleet.astray.discard(listener)
        _log.info("envoy_configuration_healed", pid=listener.session.process.pid)

    @property
    def enforced(self) -> Enforcement:
        """What is enforced now."""
        return self._enforcement.current


class _Conversation:
    """One stream: its subscriptions, and its catalogue once the node is known."""

    def __init__(
        self, owner: AggregatedDiscovery, session: Session, listener: Listener, dialect: Dialect
    ) -> None:
        self._owner = owner
        self._listener = listener
        self._dialect = dialect
        self._subscriptions = Subscriptions(KINDS, dialect, session.process.pid)
        self._catalogue: Catalogue | None = None
        self._rejected: set[str] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._authorities: frozenset[bytes] = frozenset()
        self._drains: asyncio.TimerHandle | None = None

    def take(self, payload: bytes) -> None:
        """Takes one request; the first one has to name the node."""
        ask = self._subscriptions.take(payload)
        self._note(ask)
        if self._catalogue is None:
            node = self._subscriptions.node
            if node is None or node.service is None:
                raise InvalidInput(
                    "a discovery request doesn't say which service this Envoy stands before",
                    hint="start it with the output of: gatehouse-agent envoy bootstrap",
                )
            service = ServiceDescription.parse(node.service)
            self._catalogue = self._owner.begin(self._listener, service, delta=self._dialect.delta)
        self._catalogue.resume(ask)

    def close(self) -> None:
        """Ends what waits."""
        for timer in (self._retry, self._drains):
            if timer is not None:
                timer.cancel()

    def _note(self, ask: Ask) -> None:
        """Follows whether Envoy runs what it was sent. A rejection may pass (a port that is taken), so the
        same is tried again after a while."""
        if ask.rejected is not None:
            self._rejected.add(ask.type_url)
            self._owner.rejected(self._listener)
            if self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again)
        elif ask.nonce and ask.type_url in self._rejected:
            self._rejected.discard(ask.type_url)
            if not self._rejected:
                self._owner.healed(self._listener)

    def _try_again(self) -> None:
        self._retry = None
        for type_url in self._rejected:
            subscription = self._subscriptions.get(type_url)
            if subscription is not None:
                subscription.again()
        self._listener.wake()

    def due(self) -> Iterator[bytes]:
        """What goes out now."""
        if self._catalogue is None:
            return
        self._owner.check(self._listener, self._catalogue.service)
        enforced = self._owner.enforced
        if not enforced.settled:
            return
        self._catalogue.enforce(enforced)
        self._look_at_authorities()
        for type_url in ORDER:
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            answer = subscription.due(self._catalogue.resources(type_url))
            if answer is not None:
                yield self._dialect.write(answer)

    def _look_at_authorities(self) -> None:
        before, self._authorities = self._authorities, self._owner.authorities(self._listener)
        if before - self._authorities and self._drains is None:
            loop = asyncio.get_running_loop()
            self._drains = loop.call_later(SECRETS_FIRST_SECONDS, self._drain)

    def _drain(self) -> None:
        self._drains = None
        if self._catalogue is not None:
            _log.info(
                "authority_withdrawn", service=self._catalogue.service.name, next="draining connections"
            )
            self._catalogue.drain_all()
            self._listener.wake()
