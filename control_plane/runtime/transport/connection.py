"""Streams and connections: grpclib's classes, made lean, bounded and fit for graceful endings.

What both ends share. grpclib drives h2 and keeps streams; here are bounds on what is buffered, GOAWAY that
lets open streams finish, and writes of a whole reply at once. `protocol` connects them to asyncio.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from grpclib.protocol import Connection, Stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from control_plane.core.errors import ResourceExhausted
from control_plane.runtime.transport.engine import Engine, Headers
from control_plane.runtime.transport.frames import FrameGate, goaway_frame
from control_plane.runtime.transport.lean import ReceiveBuffer, Signal
from control_plane.runtime.transport.limits import Limits

_HIGHEST_STREAM_ID = 2**31 - 1
# gRPC's C core takes frames of 4 MiB; back-pressure is felt only between frames, so ours stay small.
_LARGEST_WRITE = 65_536
# grpc-go acknowledges a quarter of a 64 KiB window at a time, for the stream and for the connection.
_BYTES_PER_ANSWER = 8_192


_ACKNOWLEDGE_WITHIN_SECONDS = 0.02


class StreamGone(Exception):
    """The stream was reset or its connection lost; nothing can be sent on it any more."""


_NEVER_WAITED = Signal(is_set=True)  # a server doesn't wait for response headers


class LeanStream(Stream):
    """A stream of grpclib without the events that it doesn't need until somebody waits."""

    connection: "LeanConnection"
    _h2_connection: Engine
    buffer: ReceiveBuffer  # type: ignore[assignment]
    window_updated: Signal  # type: ignore[assignment]
    headers_received: Signal  # type: ignore[assignment]
    trailers_received: Signal  # type: ignore[assignment]
    reset_reason: str | None = None

    def __init__(
        self,
        connection: "LeanConnection",
        h2_connection: Engine,
        transport: asyncio.Transport,
        *,
        stream_id: int | None = None,
        wrapper: Any = None,
    ) -> None:
        # The parent's initialiser is left out on purpose: it makes three events that carry a deque each.
        self.connection = connection
        self._h2_connection = h2_connection
        self._transport = transport
        self.wrapper = wrapper
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.window_updated = Signal()
        if stream_id is not None:
            self.init_stream(stream_id, connection)
        self.headers_received = _NEVER_WAITED if stream_id is not None else Signal()
        self.trailers_received = _NEVER_WAITED if stream_id is not None else Signal()

    def init_stream(self, stream_id: int, connection: Connection) -> None:
        self.id = stream_id
        self.buffer = ReceiveBuffer(self._acknowledge)

    def _acknowledge(self, size: int) -> None:
        if self.id is None or self.connection.is_closing():
            return
        if self.buffer.ended():
            # The peer has nothing more to send on this stream, and what it may send on others can wait.
            self._h2_connection.acknowledge_received_data(size, self.id)
            self.connection.write_with_reply()
        else:
            self.connection.ack(self.id, size)

    async def send(
        self,
        headers: Headers | None,
        data: bytes,
        trailers: Headers | None,
        *,
        timeout: float | None,
        end: bool = False,
    ) -> None:
        """Writes headers, data and trailers, in as few writes as flow control allows.

        `end` ends our side with the data, as a client does; trailers end it as a server does.

        Raises:
            StreamGone: the stream or the connection is no more.
            TimeoutError: the peer didn't make room for the data within `timeout` seconds.
        """
        if not self.connection.write_ready.is_set():
            async with asyncio.timeout(timeout):
                await self.connection.write_ready.wait()
        if not self.closable:
            raise StreamGone
        engine, stream_id = self._h2_connection, cast(int, self.id)
        try:
            if headers is not None and trailers is not None and self._fits(data):
                engine.send_reply(stream_id, headers, data, trailers)
                self.connection.write_out()
                return
            if headers is not None:
                engine.send_headers(stream_id, headers)
            if data or end:
                if self._fits(data):
                    engine.send_data(stream_id, data, end_stream=end)
                else:
                    await self._send_in_parts(data, timeout, end=end)
            if trailers is not None:
                engine.send_headers(stream_id, trailers, end_stream=True)
        except (ProtocolError, KeyError) as error:
            # KeyError: h2 forgets a closed stream when the next one opens.
            raise StreamGone from error
        self.connection.write_out()

    def _fits(self, data: bytes) -> bool:
        """Whether data can go out now, in one frame."""
        engine = self._h2_connection
        window = engine.local_flow_control_window(cast(int, self.id))
        return len(data) <= min(window, engine.max_outbound_frame_size, _LARGEST_WRITE)

    async def _send_in_parts(self, data: bytes, timeout: float | None, *, end: bool) -> None:
        engine, stream_id = self._h2_connection, cast(int, self.id)
        view, unwritten = memoryview(data), 0
        while view:
            window = engine.local_flow_control_window(stream_id)
            if window <= 0 or not self.connection.write_ready.is_set():
                self.connection.write_out()
                unwritten = 0
                self.window_updated.clear()
                async with asyncio.timeout(timeout):
                    await (self.connection.write_ready if window > 0 else self.window_updated).wait()
                if not self.closable:
                    raise StreamGone
                continue
            size = min(window, engine.max_outbound_frame_size, _LARGEST_WRITE, len(view))
            engine.send_data(stream_id, bytes(view[:size]), end_stream=end and size == len(view))
            view, unwritten = view[size:], unwritten + size
            if unwritten >= _LARGEST_WRITE:  # a peer's frames are small, and a write of each costs more
                self.connection.write_out()
                unwritten = 0

    async def received_headers(self) -> Headers | None:
        """The response headers; None when the stream ended without."""
        await self.headers_received.wait()
        return self.headers

    async def received_trailers(self) -> Headers | None:
        """The trailers; None when the stream ended without."""
        await self.trailers_received.wait()
        return self.trailers

    def __ended__(self) -> None:
        """The peer has sent all it will: whoever waits finds that out."""
        self.buffer.eof()
        self.headers_received.set()
        self.trailers_received.set()

    def __terminated__(self, reason: str) -> None:
        """The stream was reset or its connection is gone."""
        self.reset_reason = self.reset_reason or reason
        self.buffer.eof()
        self.headers_received.set()
        self.trailers_received.set()
        self.window_updated.set()

    def abandon(self, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Resets the stream if it is still open; never waits, never raises."""
        if self.closable:
            try:
                self._h2_connection.reset_stream(cast(int, self.id), error_code=code)
            except ProtocolError:
                return
            self.connection.write_out()


class LeanConnection(Connection):
    """A connection of grpclib that bounds what it holds for the peer and can say goodbye early."""

    _connection: Engine
    write_ready: Signal  # type: ignore[assignment]
    stream_close_waiter: Signal  # type: ignore[assignment]

    def __init__(self, engine: Engine, transport: asyncio.Transport, limits: Limits, gate: FrameGate) -> None:
        # Without the parent's initialiser: its two events carry a deque each.
        self._connection = engine
        self._transport = transport
        self.write_ready = Signal(is_set=True)
        self._write_is_due = False
        self.stream_close_waiter = Signal()
        self.limits = limits
        self.gate = gate
        self.greeted = False  # the peer's SETTINGS came, so it speaks HTTP/2
        self.reserved_bytes = 0  # of messages larger than a window that are coming in

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> LeanStream:
        return LeanStream(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Room for a message of `size` bytes while it comes in; what fits in the window needs none.

        Raises ResourceExhausted when the messages on their way into this connection are too many already.
        """
        if size <= self.limits.stream_window_bytes:
            yield
            return
        if self.reserved_bytes + size > self.limits.max_buffered_bytes:
            raise ResourceExhausted(
                f"{self.reserved_bytes} bytes of large messages are coming in on this connection, "
                f"{size} more are over its limit of {self.limits.max_buffered_bytes}",
                hint="send large messages one after the other",
            )
        self.reserved_bytes += size
        try:
            yield
        finally:
            self.reserved_bytes -= size

    def write_out(self) -> None:
        """Hands what h2 has prepared to the socket; cuts a peer that lets it pile up."""
        if self.is_closing():
            return
        data = self._connection.data_to_send()
        if data:
            self.gate.sent += 1 + len(data) // _BYTES_PER_ANSWER
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > self.limits.max_unsent_bytes:
                self._transport.abort()

    def write_with_reply(self) -> None:
        """Leaves what h2 has prepared, which only acknowledges, to the reply that is being made.

        A write costs two processes a turn in the kernel, and grpc-go sends a PING with most requests. What
        waits is written after a moment if no reply has taken it along.
        """
        if not self._write_is_due:
            self._write_is_due = True
            asyncio.get_running_loop().call_later(_ACKNOWLEDGE_WITHIN_SECONDS, self._write_what_waits)

    def _write_what_waits(self) -> None:
        self._write_is_due = False
        self.write_out()

    def flush(self) -> None:
        self.write_out()

    def close(self) -> None:
        super().close()
        self.write_ready.set()  # whoever waits to write finds the connection closed

    @property
    def highest_stream_id(self) -> int:
        """The last stream that the peer has opened."""
        return self._connection.highest_inbound_stream_id

    def announce_end(self) -> None:
        """First half of a graceful end (RFC 9113, section 6.8): open no streams from now on."""
        self._write_goaway(_HIGHEST_STREAM_ID, ErrorCodes.NO_ERROR, "graceful_stop")

    def fix_end(self) -> None:
        """Second half: names the last stream that will be served."""
        self._write_goaway(self.highest_stream_id, ErrorCodes.NO_ERROR, "graceful_stop")

    def refuse(self, code: ErrorCodes, reason: str) -> None:
        """Says why and closes at once."""
        self._write_goaway(self.highest_stream_id, code, reason)
        if not self.is_closing():
            self._transport.close()

    def _write_goaway(self, last_stream_id: int, code: ErrorCodes, reason: str) -> None:
        if not self.is_closing():
            self.write_out()
            self._transport.write(goaway_frame(last_stream_id, int(code), reason))
