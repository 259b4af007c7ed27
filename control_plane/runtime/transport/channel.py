"""A gRPC client: one connection to one server, made when needed and made again when it ended.

Errors come back as the GatehouseError that their status stands for. There are no retries here: whether a
call may be repeated only its caller knows. Over TLS nothing is sent before the server's SPIFFE ID is the
expected one.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from control_plane.core.errors import (
    DeadlineExceeded,
    PeerMisbehaved,
    Unauthenticated,
    Unavailable,
)
from control_plane.runtime import tracing
from control_plane.runtime.tls import TlsClient, UntrustedServer
from control_plane.runtime.transport import messages
from control_plane.runtime.transport.client_connection import ClientCall, ClientConnection
from control_plane.runtime.transport.limits import MIB, FrameLimits, Limits
from control_plane.runtime.transport.listener import tune_tcp
from control_plane.runtime.transport.service import method_path

MethodName = MethodDescriptor | str
Metadata = Mapping[str, str] | Iterable[tuple[str, str]]
M = TypeVar("M", bound=Message)

# A server that we chose to call may stream small messages as fast as it likes.
CLIENT_LIMITS = Limits(
    max_message_bytes=16 * MIB,
    max_buffered_bytes=64 * MIB,
    # Not 0, though servers open none: h2 counts the late trailers of a stream that we cancelled as a new one
    # and would end the connection, where it otherwise answers them with a reset.
    max_concurrent_streams=1,
    frames=FrameLimits(small_data=10_000_000),
)
_CONNECT_SECONDS = 10.0
# OpenSSL's X509_V_ERR_…: a signature that fails, a self-signed certificate, an issuer that isn't known.
_UNKNOWN_ISSUER = frozenset({7, 18, 19, 20, 21})


class Channel:
    """Calls to one server. Use `Channel.tcp` or `Channel.unix`; close it when done (also as a context)."""

    def __init__(
        self, target: str, connect: Callable[[ClientConnection], Any], authority: str, limits: Limits
    ) -> None:
        self._target = target
        self._connect_to = connect
        self._authority = authority
        self._limits = limits
        self._connection: ClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @classmethod
    def tcp(cls, host: str, port: int, tls: TlsClient, *, limits: Limits = CLIENT_LIMITS) -> "Channel":
        """A channel over TLS to the server whose SPIFFE ID `tls` expects."""

        async def connect(protocol: ClientConnection) -> None:
            protocol.tls = tls
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: protocol, host, port, ssl=tls.context(), ssl_handshake_timeout=_CONNECT_SECONDS
            )
            if protocol.refusal is None:
                tune_tcp(transport.get_extra_info("socket"))

        return cls(f"{host}:{port}", connect, f"{host}:{port}", limits)

    @classmethod
    def unix(cls, path: str | Path, *, limits: Limits = CLIENT_LIMITS) -> "Channel":
        """A channel to a unix socket, in clear: the file's permissions protect it."""

        async def connect(protocol: ClientConnection) -> None:
            await asyncio.get_running_loop().create_unix_connection(lambda: protocol, str(path))

        return cls(str(path), connect, "localhost", limits)

    async def unary(
        self,
        method: MethodName,
        request: Message,
        response_type: type[M],
        *,
        timeout: float | None = 30.0,
        metadata: Metadata = (),
    ) -> M:
        """One request, one response.

        Raises:
            GatehouseError: what the server answered; Unavailable when it can't be reached or the connection
                ended before its answer; DeadlineExceeded after `timeout` seconds.
        """
        async with self.stream(method, response_type, timeout=timeout, metadata=metadata) as call:
            await call.send(request, end=True)
            response = await call.receive()
            if response is None:
                raise PeerMisbehaved(f"{call.path} on {self._target}: ended well but without a response")
            await call.expect_end()
            return response

    @asynccontextmanager
    async def server_stream(
        self,
        method: MethodName,
        request: Message,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator["ClientCall[M]"]:
        """One request, responses to iterate over; leaving the context cancels what is left of them."""
        async with self.stream(method, response_type, timeout=timeout, metadata=metadata) as call:
            await call.send(request, end=True)
            yield call

    @asynccontextmanager
    async def stream(
        self,
        method: MethodName,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator["ClientCall[M]"]:
        """A call of any shape: `send`, `end`, `receive` and iteration on what this gives."""
        path = method if isinstance(method, str) else method_path(method)
        try:
            async with nullcontext() if timeout is None else asyncio.timeout(timeout) as bound:
                with tracing.Outgoing(path) as outgoing:
                    connection = await self._connected()
                    headers = messages.write_metadata(metadata)
                    if outgoing.header is not None:
                        headers.append((tracing.HEADER, outgoing.header))
                    call = await connection.open_call(path, self._authority, headers, response_type, timeout)
                    try:
                        yield call
                    finally:
                        call.close()
        except TimeoutError:
            if bound is None or not bound.expired():
                raise
            raise DeadlineExceeded(f"{path} on {self._target}: no answer within {timeout:g} s") from None

    async def close(self) -> None:
        """Closes the connection; calls that are open end with Unavailable."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.shut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether a connection is open that takes new calls."""
        return self._connection is not None and self._connection.usable

    def reset(self) -> None:
        """Has the next call make a new connection, for example with a new SVID; open calls go on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.retire()

    async def _connected(self) -> ClientConnection:
        async with self._connecting:
            if self._closed:
                raise Unavailable(f"calling {self._target}: this channel has been closed")
            if self._connection is None or not self._connection.usable:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> ClientConnection:
        protocol = ClientConnection(self._target, self._limits)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connect_to(protocol)
        except ssl.SSLCertVerificationError as error:
            kind = UntrustedServer if error.verify_code in _UNKNOWN_ISSUER else Unauthenticated
            raise kind(
                f"connecting to {self._target}: its certificate isn't trusted ({error.verify_message})",
                hint="is the trust bundle the server's and current, and are both machines' clocks right?",
            ) from error
        except TimeoutError:
            raise Unavailable(
                f"connecting to {self._target}: no answer within {_CONNECT_SECONDS:g} s"
            ) from None
        except OSError as error:
            raise Unavailable(f"connecting to {self._target}: {error.strerror or error}") from error
        if protocol.refusal is not None:
            raise protocol.refusal
        return protocol
