"""The TLS port of the management API, with the certificate of the moment for each connection.

uvicorn takes one context for the life of a listener; here the context is asked for at each handshake, as in
the gRPC transport, whose listener, turnstile and limits are used. What comes through is a connection like any
other of the uvicorn server that it is handed to.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from control_plane.runtime.log import get_logger
from control_plane.runtime.tls import TlsServerSource
from control_plane.runtime.transport.listener import Listener, bind_tcp, tune_tcp
from control_plane.runtime.transport.server import describe
from control_plane.runtime.transport.turnstile import Turnstile, first_byte
from control_plane.wiring.rest_connection import TlsConnection

MAX_CONNECTIONS: Final = 1000
MAX_CONNECTIONS_PER_SOURCE: Final = 200
HANDSHAKE_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 5.0

Made = Callable[[str, Callable[[], None]], TlsConnection]


class TlsDoor:
    """Listens until `close`. `made` makes the protocol of a connection, from its source and whom to tell when
    it has ended."""

    def __init__(self, host: str, port: int, tls: TlsServerSource, made: Made) -> None:
        """Raises Unavailable if the address can't be had."""
        self._made = made
        self._log = get_logger("rest")
        self._sources: Counter[str] = Counter()
        self._open = 0
        self._adoptions: set[asyncio.Task[None]] = set()
        self._turnstile = Turnstile(WAIT_SECONDS)
        listening = bind_tcp(host, port, reuse_port=False)
        self.port = int(listening.getsockname()[1])
        self._listener = Listener(listening, tls, None, self._accepted, self._log)

    def close(self) -> None:
        """Takes no new connections, and ends handshakes; those that are open are uvicorn's to end."""
        self._listener.close()
        for adoption in self._adoptions:
            adoption.cancel()

    def _accepted(self, connection: socket.socket, address: object, tls: TlsServerSource | None) -> None:
        assert tls is not None
        source, name = describe(address, None)
        if self._open >= MAX_CONNECTIONS or self._sources[source] >= MAX_CONNECTIONS_PER_SOURCE:
            self._log.warning("connection_limit_reached", peer=name, connections=self._open)
            connection.close()
            return
        self._open += 1
        self._sources[source] += 1
        adoption = asyncio.get_running_loop().create_task(self._adopt(connection, source, name, tls))
        self._adoptions.add(adoption)
        adoption.add_done_callback(self._adoptions.discard)

    async def _adopt(self, connection: socket.socket, source: str, name: str, tls: TlsServerSource) -> None:
        protocol = self._made(source, partial(self._forget, source))
        try:
            connection.setblocking(False)
            tune_tcp(connection)
            await first_byte(connection, HANDSHAKE_SECONDS)
            await self._turnstile.turn(source)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=tls.context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are among them
            self._log.info("tls_handshake_failed", peer=name, reason=str(error) or type(error).__name__)
        finally:
            if not protocol.opened:
                connection.close()
                self._forget(source)

    def _forget(self, source: str) -> None:
        self._open -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]
