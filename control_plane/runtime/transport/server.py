"""A gRPC server on TCP with TLS and on unix sockets: listeners, admission of connections, and the end.

It accepts by itself instead of through asyncio's servers: the peer of a unix socket is asked for before
anything is read, connections are counted before TLS costs anything, and each connection gets the TLS context
of its moment. `turnstile` spreads their handshakes, `session` does the rest.
"""

import asyncio
import contextlib
import ipaddress
import os
import random
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from control_plane.core.errors import FailedPrecondition, GatehouseError, Unavailable
from control_plane.runtime.log import Log, get_logger
from control_plane.runtime.tls import TlsServerSource
from control_plane.runtime.transport.accepted import ServerProtocol
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.listener import Listener, bind_tcp, bind_unix, tune_tcp
from control_plane.runtime.transport.peer import Peer, UnixPeer, read_unix_peer
from control_plane.runtime.transport.service import Interceptor, Method, Service
from control_plane.runtime.transport.session import Admit, Dispatch, Observe, Session
from control_plane.runtime.transport.turnstile import Turnstile, first_byte

_TICK_SECONDS = 1.0
_TICKS_AT_ONCE = 256


class Server:
    """Serves `services`; `interceptors` run in order before each handler and refuse by raising.

    `admit` is asked once per connection, before its first call is served; what it raises is what the calls of
    that connection get, and the connection is closed. `observe` is told of each call that ended.
    """

    def __init__(
        self,
        services: Iterable[Service],
        *,
        interceptors: Sequence[Interceptor] = (),
        limits: Limits | None = None,
        admit: Admit | None = None,
        log: Log | None = None,
        observe: Observe | None = None,
    ) -> None:
        methods: dict[str, Method] = {}
        for service in services:
            methods.update(service.methods)
        self._limits = limits or Limits()
        self._log = log or get_logger("transport")
        self._dispatch = Dispatch(methods, tuple(interceptors), self._limits, admit, self._log, observe)
        self._listeners: list[Listener] = []
        self._sessions: set[Session] = set()
        self._per_source: Counter[str] = Counter()
        self._connections = 0
        self._turnstile = Turnstile(self._limits.handshake_wait_seconds)
        self._adoptions: set[asyncio.Task[None]] = set()
        self._housekeeping: asyncio.Task[None] | None = None
        self._closed = False

    async def listen_tcp(
        self, host: str, port: int, tls: TlsServerSource, *, reuse_port: bool = False
    ) -> int:
        """Listens on an address; port 0 takes a free one. Returns the port.

        Raises:
            Unavailable: the address can't be bound.
        """
        listener = bind_tcp(host, port, reuse_port=reuse_port)
        self._serve(listener, tls, path=None)
        return int(listener.getsockname()[1])

    async def listen_unix(self, path: str | Path, mode: int = 0o600) -> None:
        """Listens on a unix socket with the permissions `mode`.

        The socket is bound under another name and renamed, so nobody sees it with wrong permissions and one
        left by an earlier process is replaced.

        Raises:
            InvalidInput: the path is longer than the kernel takes.
            Unavailable: it can't be bound.
        """
        self._serve(bind_unix(Path(path), mode), None, path=Path(path))

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Takes no new connections, lets calls finish within the grace, then ends them with UNAVAILABLE."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        for adoption in self._adoptions:
            adoption.cancel()
        for session in list(self._sessions):
            session.drain(grace_seconds)
        await self._until_empty(grace_seconds)
        for session in list(self._sessions):
            session.end(Unavailable("the server is shutting down", hint="connect again"))
        await self._until_empty(1.0)
        for session in list(self._sessions):
            session.cut()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeping

    def close_connections(
        self, predicate: Callable[[Peer], bool], error: GatehouseError | None = None
    ) -> int:
        """Ends the connections whose peer fits, with GOAWAY and `error` for their calls; returns how many."""
        error = error or Unavailable("the server closed this connection", hint="connect again")
        chosen = [session for session in self._sessions if predicate(session.peer)]
        for session in chosen:
            session.end(error)
        return len(chosen)

    @property
    def connections(self) -> int:
        """Connections that are open or in their TLS handshake."""
        return self._connections

    @property
    def open_calls(self) -> int:
        """Calls that are being served."""
        return sum(session.open_calls for session in self._sessions)

    # Listening.

    def _serve(self, listener: socket.socket, tls: TlsServerSource | None, path: Path | None) -> None:
        if self._closed:
            listener.close()
            raise FailedPrecondition("listening: this server has been closed")
        self._listeners.append(Listener(listener, tls, path, self._accepted, self._log))
        if self._housekeeping is None:
            self._housekeeping = asyncio.get_running_loop().create_task(self._keep_house())

    def _accepted(self, connection: socket.socket, address: object, tls: TlsServerSource | None) -> None:
        """Counts a new connection and starts it, or closes it when there are too many."""
        try:
            unix = read_unix_peer(connection) if tls is None else None
        except OSError:
            connection.close()
            return
        source, name = describe(address, unix)
        if (
            self._connections >= self._limits.max_connections
            or self._per_source[source] >= self._limits.max_connections_per_source
        ):
            self._log.warning("connection_limit_reached", peer=name, connections=self._connections)
            if unix is not None and unix.pidfd is not None:
                os.close(unix.pidfd)
            connection.close()
            return
        self._connections += 1
        self._per_source[source] += 1
        adoption = asyncio.get_running_loop().create_task(self._adopt(connection, name, unix, tls, source))
        self._adoptions.add(adoption)
        adoption.add_done_callback(self._adoptions.discard)

    async def _adopt(
        self,
        connection: socket.socket,
        name: str,
        unix: UnixPeer | None,
        tls: TlsServerSource | None,
        source: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        age = self._limits.max_connection_age_seconds if tls is not None else 0.0
        if age:
            age *= random.uniform(0.9, 1.1)  # noqa: S311 -- spreads reconnects, decides nothing
        protocol = ServerProtocol(
            self._dispatch, name, unix, self._sessions, age, partial(self._forget, source)
        )
        connection.setblocking(False)
        context: ssl.SSLContext | None = None
        seconds = self._limits.handshake_timeout_seconds
        try:
            if tls is not None:
                tune_tcp(connection)
                await first_byte(connection, seconds)
                await self._turnstile.turn(source)
                context = tls.context()
            await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=seconds if context else None,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are among them
            self._log.info("tls_handshake_failed", peer=name, reason=str(error) or type(error).__name__)
        finally:
            if not protocol.opened:
                connection.close()
                protocol.connection_lost(None)

    def _forget(self, source: str) -> None:
        self._connections -= 1
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    # Time.

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self._tick()

    async def _tick(self) -> None:
        for number, session in enumerate(list(self._sessions)):
            try:
                session.tick(asyncio.get_running_loop().time())
            except Exception:
                # Time goes on for the other connections, whatever is wrong with this one.
                self._log.exception("connection_tick_failed", peer=session.peer.address)
                session.cut()
            if number % _TICKS_AT_ONCE == _TICKS_AT_ONCE - 1:
                await asyncio.sleep(0)

    async def _until_empty(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._sessions and loop.time() < deadline:  # noqa: ASYNC110 -- once in a server's life
            await asyncio.sleep(0.02)


def describe(address: object, unix: UnixPeer | None) -> tuple[str, str]:
    """The source that a connection counts for (a user, an IPv4 address, an IPv6 network of 64 bits), and the
    name of its peer in logs."""
    if unix is not None:
        return f"uid:{unix.uid}", f"unix:{unix.pid}"
    assert isinstance(address, tuple)
    host, port = str(address[0]), address[1]
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        source = str(ipaddress.ip_network((ip, 64), strict=False))
        return source, f"[{host}]:{port}"
    return host, f"{host}:{port}"
