"""The node port of an issuer: its certificate, its trust, and connections that have lost their right.

The certificate is that of `own_svid`. A banned, evicted or quarantined agent, and whoever came by an
authority that is trusted no more, loses its connection within a second. The latter hear of it first: their
node goes on to enforce, and it has to know whom to refuse from now on.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from control_plane.api.abreast import Abreast
from control_plane.api.authorization import Authorization
from control_plane.api.caller import Admission, is_known
from control_plane.api.services import node_services
from control_plane.core.errors import PermissionDenied, Unauthenticated
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.agent_record import Verdict, judge_serial
from control_plane.identity.index import Effects
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Limits, Peer, Server
from control_plane.wiring.metrics import Observe
from control_plane.wiring.own_svid import OwnSvid
from control_plane.wiring.process import Parts

CHECK_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 10.0
LAST_WORD_SECONDS: Final = 0.1


class NodeListener:
    """Serves the node API over TLS."""

    def __init__(
        self, parts: Parts, listening: Callable[[], None] | None = None, observe: Observe | None = None
    ) -> None:
        self._parts = parts
        self._listening = listening
        self._observe = observe
        self._log = get_logger("listener")
        self._svid = OwnSvid(parts, allow_tls12=parts.settings.written.allow_tls12)
        self._server: Server | None = None
        self.port = 0  # known once it listens
        parts.trust.listen(self._on_trust)
        parts.replica.listen(self._on_changes)

    async def run(self, stop: asyncio.Event) -> None:
        """Waits for an active authority, listens, and keeps certificate and trust current until `stop`."""
        while not stop.is_set() and not await self._svid.refresh():
            await _pause(stop, 0.1)
        if stop.is_set():
            return
        settings, unix = self._parts.settings, self._parts.clock.unix
        server = Server(
            node_services(self._parts.context),
            interceptors=[
                Authorization(self._parts.replica, self._parts.store, settings.admin_ids, unix),
                Abreast(self._parts.reach),
            ],
            admit=Admission(self._parts.trust, settings.admin_ids, unix).admit,
            limits=Limits(max_connection_age_seconds=settings.written.max_connection_age_seconds),
            observe=self._observe,
        )
        self._server = server
        self.port = await server.listen_tcp(settings.host, settings.port, self._svid.source, reuse_port=True)
        self._log.info("listening", address=f"{settings.host}:{self.port}")
        if self._listening is not None:
            self._listening()
        try:
            while not stop.is_set():
                await self._svid.refresh()
                await _pause(stop, CHECK_SECONDS)
        finally:
            self._parts.replica.end_subscriptions()  # the grace is for calls that end by themselves
            await server.close(GRACE_SECONDS)

    def _on_trust(self) -> None:
        if self._server is None:
            return
        trusted = frozenset(
            (name, authority.certificate)
            for name, bundle in self._parts.trust.bundles().items()
            for authority in bundle.x509_authorities
        )
        # From the next turn on, in which the push streams wake: however busy we are, they come first.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_later, LAST_WORD_SECONDS, self._close_orphaned, self._server, trusted)

    def _close_orphaned(self, server: Server, trusted: frozenset[tuple[TrustDomain, bytes]]) -> None:
        """Closes connections by authorities that were in none of these bundles: their holders were told."""

        def orphaned(peer: Peer) -> bool:
            caller = is_known(peer)
            if caller is None or caller.spiffe_id is None or caller.authority is None:
                return False
            return (caller.spiffe_id.trust_domain, caller.authority.certificate) not in trusted

        closed = server.close_connections(
            orphaned, Unauthenticated("the authority of your certificate is trusted no more")
        )
        if closed:
            self._log.warning("connections_closed", reason="authority revoked", count=closed)

    def _on_changes(self, effects: Effects) -> None:
        index = self._parts.replica.index
        for agent_id in effects.agents:
            self._parts.confirmations.forget(agent_id)
            record = index.agents.get(agent_id)
            if record is None or record.banned or agent_id in index.quarantine:
                self._cut_off(agent_id)

    def _cut_off(self, agent_id: SpiffeId) -> None:
        if self._server is None:
            return
        index = self._parts.replica.index
        verdict = judge_serial(index.agents.get(agent_id), 0)
        words = "is banned" if verdict is Verdict.BANNED else "is not attested any more"
        refusal = PermissionDenied(f"agent {agent_id} {words}", reason=verdict.reason)
        if verdict not in (Verdict.BANNED, Verdict.NOT_ATTESTED):
            # Without a reason that agents act upon: it tries again until it is released.
            words = "is quarantined"
            refusal = PermissionDenied(f"agent {agent_id} {words}")

        def its_own(peer: Peer) -> bool:
            caller = is_known(peer)
            return caller is not None and caller.spiffe_id == agent_id

        closed = self._server.close_connections(its_own, refusal)
        if closed:
            self._log.warning("connections_closed", agent=str(agent_id), reason=words, count=closed)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
