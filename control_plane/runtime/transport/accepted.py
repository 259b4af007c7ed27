"""The server's end of a connection, from the moment that asyncio has it ready until it is lost."""

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import cast

from control_plane.runtime.tls import ALPN, peer_chain
from control_plane.runtime.transport.peer import Peer, UnixPeer
from control_plane.runtime.transport.protocol import LeanProcessor, LeanProtocol
from control_plane.runtime.transport.session import Dispatch, Session


class ServerProtocol(LeanProtocol):
    """The asyncio protocol of one accepted connection; its session begins when TLS has been negotiated."""

    def __init__(
        self,
        dispatch: Dispatch,
        address: str,
        unix: UnixPeer | None,
        sessions: set[Session],
        age_seconds: float,
        lost: Callable[[], None],
    ) -> None:
        self.limits = dispatch.limits
        self.client = False
        self._dispatch = dispatch
        self._address = address
        self._unix = unix
        self._sessions = sessions
        self._age_seconds = age_seconds
        self._lost = lost
        self._session: Session | None = None
        self.opened = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened = True
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and (tls.selected_alpn_protocol() != ALPN or tls.session_reused):
            # A resumed session would bring a certificate that nobody checked on this connection.
            self.gave_up("ALPN h2 wasn't negotiated" if not tls.session_reused else "TLS session resumed")
            cast(asyncio.Transport, transport).abort()
            return
        decoded: dict[str, object] | None = transport.get_extra_info("peercert")
        if decoded:
            decoded.clear()  # nobody here reads it, and it would live as long as the connection
        peer = Peer(
            "unix" if self._unix is not None else "tls",
            self._address,
            chain=() if tls is None else peer_chain(tls),
            unix=self._unix,
        )
        connection = self.open(transport)
        session = Session(self._dispatch, peer, connection, cast(asyncio.Transport, transport))
        self._session = session
        self.processor = LeanProcessor(session, connection)
        self._sessions.add(session)
        if self._age_seconds:
            session.expire_after(self._age_seconds)
        session.admit()

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            super().data_received(data)

    def gave_up(self, reason: str) -> None:
        self._dispatch.log.warning("connection_refused", peer=self._address, reason=reason)

    def connection_lost(self, exc: BaseException | None) -> None:
        session = self._session
        try:
            if session is not None:
                self._sessions.discard(session)
                super().connection_lost(exc)
                session.connection_lost()
            elif self._unix is not None and self._unix.pidfd is not None:
                os.close(self._unix.pidfd)
        finally:
            self._lost()
