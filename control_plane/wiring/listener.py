"""The node port of an issuer: its certificate, its trust, and connections that have lost their right.

The certificate for spiffe://<trust domain>/spire/server is issued by ourselves, in memory, and replaced at
half of its life, when its authority is tainted or gone, or when another one signs; open connections keep
theirs. A banned, evicted or quarantined agent, and whoever came by an authority that is trusted no more,
loses its connection within a second.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from control_plane.api.authorization import Authorization
from control_plane.api.caller import Admission, is_known
from control_plane.api.services import node_services
from control_plane.core.errors import GatehouseError, PermissionDenied, Unauthenticated, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, server_id
from control_plane.core.svid import X509Svid
from control_plane.identity.agent_record import Verdict, judge_serial
from control_plane.identity.index import Effects
from control_plane.runtime.log import get_logger
from control_plane.runtime.tls import TlsIdentity, TlsServerSource
from control_plane.runtime.transport import Limits, Peer, Server
from control_plane.wiring.metrics import Observe
from control_plane.wiring.process import Parts

CHECK_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 10.0


class NodeListener:
    """Serves the node API over TLS."""

    def __init__(
        self, parts: Parts, listening: Callable[[], None] | None = None, observe: Observe | None = None
    ) -> None:
        self._parts = parts
        self._listening = listening
        self._observe = observe
        self._log = get_logger("listener")
        self._svid: X509Svid | None = None
        self._identity: TlsIdentity | None = None
        self._source: TlsServerSource | None = None
        self._server: Server | None = None
        self._trust_changed = True
        self.port = 0  # known once it listens
        parts.trust.listen(self._on_trust)
        parts.replica.listen(self._on_changes)

    async def run(self, stop: asyncio.Event) -> None:
        """Waits for an active authority, listens, and keeps certificate and trust current until `stop`."""
        while not stop.is_set() and not await self._refresh():
            await _pause(stop, 0.1)
        if stop.is_set():
            return
        settings, unix = self._parts.settings, self._parts.clock.unix
        assert self._source is not None
        server = Server(
            node_services(self._parts.context),
            interceptors=[Authorization(self._parts.replica, self._parts.store, settings.admin_ids, unix)],
            admit=Admission(self._parts.trust, settings.admin_ids, unix).admit,
            limits=Limits(max_connection_age_seconds=settings.written.max_connection_age_seconds),
            observe=self._observe,
        )
        self._server = server
        self.port = await server.listen_tcp(settings.host, settings.port, self._source, reuse_port=True)
        self._log.info("listening", address=f"{settings.host}:{self.port}")
        if self._listening is not None:
            self._listening()
        try:
            while not stop.is_set():
                await self._refresh()
                await _pause(stop, CHECK_SECONDS)
        finally:
            await server.close(GRACE_SECONDS)

    async def _refresh(self) -> bool:
        """Renews the certificate if it is time, and takes in changed trust. False while nothing signs."""
        try:
            renewed = await self._renewed()
        except Unavailable:
            return self._svid is not None
        except GatehouseError as error:
            self._log.error("server_certificate_not_renewed", reason=str(error))
            return self._svid is not None
        if renewed is not None or self._trust_changed:
            self._trust_changed = False
            self._swap(renewed)
        return True

    async def _renewed(self) -> TlsIdentity | None:
        active = self._parts.authority.active().x509
        now, held = self._parts.clock.unix(), self._svid
        fresh = held is not None and now < (held.not_before + held.not_after) // 2
        if held is not None and fresh and held.authority_id == active.authority_id:
            return None
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        svid = await self._parts.issuer.issue_for_key(server_id(self._parts.settings.trust_domain), spki)
        self._svid = svid
        self._log.info("server_certificate_issued", serial=f"{svid.serial:x}", expires_at=svid.not_after)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._identity = TlsIdentity(svid.chain, Secret(pem))
        return self._identity

    def _swap(self, renewed: TlsIdentity | None) -> None:
        identity, trust = renewed or self._identity, self._parts.trust.x509_authorities()
        assert identity is not None
        if self._source is None:
            self._source = TlsServerSource(
                identity, trust, allow_tls12=self._parts.settings.written.allow_tls12
            )
        else:
            self._source.swap(identity, trust)

    def _on_trust(self) -> None:
        self._trust_changed = True
        if self._server is None:
            return
        trusted = {
            (name, authority.certificate)
            for name, bundle in self._parts.trust.bundles().items()
            for authority in bundle.x509_authorities
        }

        def orphaned(peer: Peer) -> bool:
            caller = is_known(peer)
            if caller is None or caller.spiffe_id is None or caller.authority is None:
                return False
            return (caller.spiffe_id.trust_domain, caller.authority.certificate) not in trusted

        closed = self._server.close_connections(
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
