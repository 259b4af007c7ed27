"""Envoy's secret discovery service, version 3, on the agent's socket.

An Envoy asks for certificates and trust by name (`secrets`) and gets each renewal pushed. It is attested like
any workload and gets what its process is entitled to. A name that it isn't entitled to, or that means nothing
here, is left unanswered until that changes, so that one of them doesn't spoil a request for others.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from agent.attest.sessions import Session
from agent.broadcast import Broadcast, Listener
from agent.envoy.names import SECRET
from agent.envoy.secrets import SecretMaker
from agent.envoy.streams import DELTA, STATE_OF_THE_WORLD, Dialect, Streams, Subscriptions
from agent.envoy.subscription import Kind
from agent.identities import Identities
from agent.refusals import Refusals
from control_plane.core.errors import Unavailable
from control_plane.runtime.clock import Clock
from control_plane.runtime.transport import Call

SECRETS: Final = Kind(SECRET, wildcard=True, complete=False, tells_absence=False)
PATIENCE_SECONDS: Final = 15.0  # of FetchSecrets, for an SVID that is being signed


class SecretDiscovery:
    """Implements envoy.service.secret.v3.SecretDiscoveryService."""

    def __init__(
        self, identities: Identities, streams: Streams, broadcast: Broadcast, clock: Clock, refusals: Refusals
    ) -> None:
        self._identities = identities
        self._streams = streams
        self._broadcast = broadcast
        self._clock = clock
        self._refusals = refusals
        self._maker = SecretMaker()

    async def stream_secrets(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """The state of the world."""
        async for message in self._follow(call, requests, STATE_OF_THE_WORLD):
            yield message

    async def delta_secrets(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """Differences."""
        async for message in self._follow(call, requests, DELTA):
            yield message

    async def fetch_secrets(self, call: Call, request: Any) -> bytes:
        """One answer with what is known of what was asked. Raises Unavailable if that is nothing."""
        session = await self._streams.attest(call)
        subscriptions = Subscriptions([SECRETS], STATE_OF_THE_WORLD, session.process.pid)
        subscriptions.take(request.SerializeToString())
        until = self._clock.monotonic() + PATIENCE_SECONDS
        with self._broadcast.listen(session, x509=True) as listener:
            while True:
                for message in self._due(listener, subscriptions):
                    return message
                if not await listener.wait(max(until - self._clock.monotonic(), 0.0)):
                    raise Unavailable(
                        "FetchSecrets: none of the secrets that were asked for is there",
                        retry_after_seconds=5,
                    )

    async def _follow(
        self, call: Call, requests: AsyncIterator[Any], dialect: Dialect
    ) -> AsyncIterator[bytes]:
        session: Session = await self._streams.attest(call)
        subscriptions = Subscriptions([SECRETS], dialect, session.process.pid)
        with self._broadcast.listen(session, x509=True) as listener:
            followed = self._streams.follow(
                session, listener, requests, subscriptions.take, lambda: self._due(listener, subscriptions)
            )
            async for message in followed:
                yield message

    def _due(self, listener: Listener, subscriptions: Subscriptions) -> Iterator[bytes]:
        view = self._identities.view(listener.selectors, self._clock.unix())
        if not view.entries:
            raise self._refusals.no_identity(listener.session)
        subscription = subscriptions.get(SECRET)
        if subscription is None:
            return
        secrets = self._maker.of(view)
        answer = subscription.due(secrets)
        if answer is not None:
            yield subscriptions.dialect.write(answer)
        if not view.pending:
            subscriptions.tell_missing(tuple(name for name in subscription.asked if name not in secrets))
