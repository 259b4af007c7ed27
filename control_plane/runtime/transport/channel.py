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
from typing import Any, Generic, Self, TypeVar, cast

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from grpclib.protocol import AbstractHandler, Stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from control_plane.core.errors import (
    DeadlineExceeded,
    GatehouseError,
    PeerMisbehaved,
    Unauthenticated,
    Unavailable,
)
from control_plane.runtime.tls import TlsClient
from control_plane.runtime.transport import messages
from control_plane.runtime.transport.connection import (
    Headers,
    LeanProcessor,
    LeanProtocol,
    LeanStream,
    StreamGone,
)
from control_plane.runtime.transport.limits import MIB, FrameLimits, Limits
from control_plane.runtime.transport.server import tune_tcp
from control_plane.runtime.transport.service import method_path
from control_plane.runtime.transport.status import from_trailers

MethodName = MethodDescriptor | str
Metadata = Mapping[str, str] | Iterable[tuple[str, str]]
M = TypeVar("M", bound=Message)

USER_AGENT = "gatehouse"
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


class Channel:
    """Calls to one server. Use `Channel.tcp` or `Channel.unix`; close it when done (also as a context)."""

    def __init__(
        self, target: str, connect: Callable[["_Connection"], Any], authority: str, limits: Limits
    ) -> None:
        self._target = target
        self._connect_to = connect
        self._authority = authority
        self._limits = limits
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @classmethod
    def tcp(cls, host: str, port: int, tls: TlsClient, *, limits: Limits = CLIENT_LIMITS) -> "Channel":
        """A channel over TLS to the server whose SPIFFE ID `tls` expects."""

        async def connect(protocol: _Connection) -> None:
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

        async def connect(protocol: _Connection) -> None:
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
                connection = await self._connected()
                call = await connection.open_call(
                    path, self._authority, messages.write_metadata(metadata), response_type, timeout
                )
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

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._closed:
                raise Unavailable(f"calling {self._target}: this channel has been closed")
            if self._connection is None or not self._connection.usable:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> "_Connection":
        protocol = _Connection(self._target, self._limits)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connect_to(protocol)
        except ssl.SSLCertVerificationError as error:
            raise Unauthenticated(
                f"connecting to {self._target}: its certificate isn't trusted ({error.verify_message})",
                hint="is the trust bundle the server's, and is it current?",
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


class ClientCall(Generic[M]):
    """One call as its caller sees it."""

    def __init__(
        self, connection: "_Connection", stream: LeanStream, path: str, response_type: type[M]
    ) -> None:
        self.path = path
        self.trailing_metadata: dict[str, list[str]] = {}
        self._connection = connection
        self._stream = stream
        self._response_type = response_type
        self._release: Callable[[], None] | None = None

    async def send(self, message: Message, *, end: bool = False) -> None:
        """Sends one message; `end` says that it is the last."""
        try:
            frame = messages.frame(message.SerializeToString())
            await self._stream.send(None, frame, None, timeout=None, end=end)
        except StreamGone:
            # The server may have answered before it heard us out; its answer says more than ours.
            self._raise_status()

    async def end(self) -> None:
        """Says that no more messages come."""
        try:
            await self._stream.send(None, b"", None, timeout=None, end=True)
        except StreamGone:
            self._raise_status()

    async def receive(self) -> M | None:
        """The next message, None when the server has ended the call with OK.

        Raises:
            GatehouseError: the status with which the server ended the call, or Unavailable.
        """
        headers = await self._stream.received_headers()
        if headers is None or "grpc-status" in dict(headers) or dict(headers).get(":status") != "200":
            self._raise_status()
            return None
        prefix = await self._stream.buffer.read(messages.PREFIX_BYTES)
        if not prefix:
            await self._stream.received_trailers()
            self._raise_status()
            return None
        length = messages.payload_length(
            prefix.ljust(messages.PREFIX_BYTES, b"\0"), self._connection.limits.max_message_bytes
        )
        with self._stream.connection.reserve(length):
            payload = await self._stream.buffer.read(length) if length else b""
        if len(prefix) < messages.PREFIX_BYTES or len(payload) < length:
            self._raise_status()
            raise PeerMisbehaved(f"{self.path}: the server ended within a message")
        try:
            return self._response_type.FromString(payload)
        except DecodeError as error:
            name = self._response_type.DESCRIPTOR.full_name
            raise PeerMisbehaved(f"{self.path}: the response can't be read as {name}") from error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def expect_end(self) -> None:
        """Waits for the status. Raises PeerMisbehaved when another message comes instead."""
        if await self.receive() is not None:
            raise PeerMisbehaved(f"{self.path}: a second response came to a call that has one")

    def opened(self, release: Callable[[], None]) -> None:
        """Called with what forgets the stream."""
        self._release = release

    def close(self) -> None:
        """Cancels the call if it hasn't ended, and forgets it."""
        self._stream.abandon(ErrorCodes.CANCEL)
        if self._release is not None:
            release, self._release = self._release, None
            release()
            self._connection.call_ended()

    def _raise_status(self) -> None:
        """Raises what the server ended the call with; returns when that was OK."""
        stream = self._stream
        headers = stream.trailers if stream.trailers is not None else stream.headers
        if headers is None or (
            stream.trailers is None
            and "grpc-status" not in dict(headers)
            and dict(headers).get(":status") == "200"
        ):
            raise self._connection.why_gone(self.path, stream.reset_reason)
        self.trailing_metadata = messages.read_metadata(headers)
        error = from_trailers(dict(headers))
        if error is not None:
            raise error


class _NoRequests(AbstractHandler):
    """A server doesn't call its client; h2 refuses what would be a request."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    def accept(self, stream: Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        release_stream()

    def cancel(self, stream: Stream) -> None:
        pass

    def close(self) -> None:
        self._connection.usable = False


class _Connection(LeanProtocol):
    """The client's end of one connection."""

    client = True

    def __init__(self, target: str, limits: Limits) -> None:
        self.limits = limits
        self.usable = False
        self.refusal: GatehouseError | None = None
        self.tls: TlsClient | None = None
        self._target = target
        self._reason = "the connection ended"
        self._retired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if self.tls is not None:
            try:
                self.tls.verify(tls)
            except GatehouseError as error:
                self.refusal = error
                cast(asyncio.Transport, transport).abort()
                return
        connection = self.open(transport)
        self.processor = LeanProcessor(_NoRequests(self), connection)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if self.refusal is None:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.usable = False
        if self.refusal is None and hasattr(self, "processor"):
            if exc is not None:
                self._reason = f"the connection broke ({exc})"
            super().connection_lost(exc)

    def peer_leaves(self, last_stream_id: int) -> None:
        """GOAWAY: new calls need a new connection; the ones above `last_stream_id` were never looked at."""
        self._reason = "the server ended the connection"
        for stream_id, stream in list(self.processor.streams.items()):
            if stream_id > last_stream_id:
                stream.__terminated__("not processed before GOAWAY")
        self.retire()

    def gave_up(self, reason: str) -> None:
        self._reason = reason

    async def open_call(
        self,
        path: str,
        authority: str,
        metadata: Headers,
        response_type: type[M],
        timeout: float | None,
    ) -> ClientCall[M]:
        """Sends the headers of a call."""
        headers = [
            (":method", "POST"),
            (":scheme", "https" if self.tls is not None else "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", messages.CONTENT_TYPE),
            ("user-agent", USER_AGENT),
        ]
        if timeout is not None:
            headers.append(("grpc-timeout", messages.format_timeout(timeout)))
        headers += metadata
        stream = self.connection.create_stream()
        call = ClientCall(self, stream, path, response_type)
        try:
            call.opened(await stream.send_request(headers, _processor=self.processor))
        except (StreamGone, ProtocolError, AttributeError) as error:
            # AttributeError: grpclib drops the transport of a closed connection.
            raise self.why_gone(path, None) from error
        return call

    def call_ended(self) -> None:
        if self._retired and not self.processor.streams:
            self.shut()

    def retire(self) -> None:
        """Takes no new calls and closes when the open ones have ended."""
        self.usable = False
        self._retired = True
        self.call_ended()

    def shut(self) -> None:
        self.usable = False
        if hasattr(self, "processor"):
            self.connection.refuse(ErrorCodes.NO_ERROR, "")

    def why_gone(self, path: str, reset: str | None) -> GatehouseError:
        refused = self.tls is not None and not self.connection.greeted
        return Unavailable(
            f"{path} on {self._target}: {reset or self._reason} before the answer",
            hint="the server may not accept our certificate" if refused else "",
        )
