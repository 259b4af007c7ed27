"""One connection of the management API: uvicorn's HTTP/1.1, with who is at the other end, and a clock.

The kernel's word on the peer of a unix socket, or the chain that a TLS client showed, is handed on in the
state of each request. A peer that takes too long for the head or the body of a request, or sends what isn't
HTTP, loses its connection; uvicorn would wait for ever, and would answer in plain text.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from control_plane.api.rest.evidence import LocalPeer, TlsPeer
from control_plane.api.rest.problems import MEDIA_TYPE, problem_document
from control_plane.runtime.tls import peer_chain
from control_plane.runtime.transport.peer import read_unix_peer

HEAD_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
"""For a whole request; longer than the application waits for a body, which can still answer."""


class TimedConnection(H11Protocol):
    """HTTP/1.1 whose requests have to come in within their time."""

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._clock is None:
            self._arm(HEAD_SECONDS)
        before = self.conn.their_state
        super().data_received(data)
        now = self.conn.their_state
        if now is h11.SEND_BODY:
            if before is not h11.SEND_BODY:
                self._arm(REQUEST_SECONDS)
        elif now is not h11.IDLE:
            self._disarm()

    def send_400_response(self, msg: str) -> None:
        """The same as a problem (RFC 9457)."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # an answer is on its way, and nothing can be put into it
            return
        body = json.dumps(
            problem_document(400, "not-http", "this isn't HTTP/1.1 as RFC 9112 has it")
        ).encode()
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
        for event in (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._clock = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        self.transport.abort()

    def _with_peer(self, peer: LocalPeer | TlsPeer) -> None:
        self.app_state = {**self.app_state, "peer": peer}


class LocalConnection(TimedConnection):
    """On the unix socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        try:
            peer = read_unix_peer(connection)
        except OSError:
            transport.abort()  # it has gone already
            return
        if peer.pidfd is not None:
            os.close(peer.pidfd)
        self._with_peer(LocalPeer(peer.pid, peer.uid))


class TlsConnection(TimedConnection):
    """On TLS, once the handshake is done. `lost` is called when it has ended; `opened`: whether it began."""

    def __init__(self, *args: Any, source: str, lost: Callable[[], None], **more: Any) -> None:
        super().__init__(*args, **more)
        self._source = source
        self._lost = lost
        self.opened = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.opened = True
        super().connection_made(transport)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        if tls.session_reused:
            transport.abort()  # it would bring a certificate that nobody checked on this connection
            return
        self._with_peer(TlsPeer(self._source, peer_chain(tls)))

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            super().connection_lost(exc)
        finally:
            self._lost()
