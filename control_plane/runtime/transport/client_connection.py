"""The client's end of a connection, and one call on it.

A call ends with the status that the server sent, or with Unavailable and the reason why none came. When the
server leaves (GOAWAY), calls that it has seen finish here and new ones need a new connection.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, Self, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from grpclib.protocol import AbstractHandler, Stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from control_plane.core.errors import (
    GatehouseError,
    PeerMisbehaved,
    Unavailable,
)
from control_plane.runtime.tls import TlsClient
from control_plane.runtime.transport import messages
from control_plane.runtime.transport.connection import (
    LeanStream,
    StreamGone,
)
from control_plane.runtime.transport.engine import Headers
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.protocol import LeanProcessor, LeanProtocol
from control_plane.runtime.transport.status import from_trailers

M = TypeVar("M", bound=Message)

USER_AGENT = "gatehouse"


class ClientCall(Generic[M]):
    """One call as its caller sees it."""

    def __init__(
        self, connection: "ClientConnection", stream: LeanStream, path: str, response_type: type[M]
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
        headers = stream.trailers if stream.trailers is not None else stream.headers or []
        named = dict(headers)
        only_opened = stream.trailers is None and named.get(":status", "200") == "200"
        if only_opened and "grpc-status" not in named:
            if stream.reset_reason is None and stream.buffer.ended():
                raise PeerMisbehaved(f"{self.path}: the server ended the call without a status")
            raise self._connection.why_gone(self.path, stream.reset_reason)
        self.trailing_metadata = messages.read_metadata(headers)
        error = from_trailers(named)
        if error is not None:
            raise error


class _NoRequests(AbstractHandler):
    """A server doesn't call its client; h2 refuses what would be a request."""

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection: ClientConnection | None = connection

    def accept(self, stream: Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        release_stream()

    def cancel(self, stream: Stream) -> None:
        pass

    def close(self) -> None:
        connection, self._connection = self._connection, None  # which leads back here: a cycle otherwise
        if connection is not None:
            connection.usable = False


class ClientConnection(LeanProtocol):
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
            self.processor.close(reason=self._reason)

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
