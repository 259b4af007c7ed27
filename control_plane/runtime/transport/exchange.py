"""The messages of one call on a server: requests read from its stream, replies written to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext

from google.protobuf.message import DecodeError, Message
from h2.errors import ErrorCodes

from control_plane.core.errors import (
    DeadlineExceeded,
    InvalidInput,
)
from control_plane.runtime.transport import messages
from control_plane.runtime.transport.call import Call
from control_plane.runtime.transport.connection import (
    LeanStream,
    StreamGone,
)
from control_plane.runtime.transport.engine import Headers
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.service import Response
from control_plane.runtime.transport.status import OK_TRAILERS

_REPLY_HEADERS: Headers = [(":status", "200"), ("content-type", messages.CONTENT_TYPE)]


class StreamRequests:
    """Reads the messages of one call."""

    __slots__ = ("_limits", "_request_class", "_stream")

    def __init__(self, stream: LeanStream, request_class: type[Message], limits: Limits) -> None:
        self._stream = stream
        self._request_class = request_class
        self._limits = limits

    async def one(self) -> Message:
        seconds = self._limits.request_timeout_seconds
        try:
            # What has come in whole can't block, and a timer costs more than reading it.
            async with nullcontext() if self._stream.buffer.ended() else asyncio.timeout(seconds):
                message = await self._next()
        except TimeoutError:
            raise DeadlineExceeded(f"the request didn't come in whole within {seconds:g} s") from None
        if message is None:
            raise InvalidInput("the call ended without a request; this method takes exactly one")
        return message

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    async def _next(self) -> Message | None:
        buffer = self._stream.buffer
        prefix = await buffer.read(messages.PREFIX_BYTES)
        if not prefix:
            return None
        if len(prefix) < messages.PREFIX_BYTES:
            raise InvalidInput("the call ended within the prefix of a message")
        length = messages.payload_length(prefix, self._limits.max_message_bytes)
        with self._stream.connection.reserve(length):
            payload = await buffer.read(length) if length else b""
        if len(payload) < length:
            raise InvalidInput(f"the call ended after {len(payload)} of the {length} bytes of a message")
        try:
            return self._request_class.FromString(payload)
        except DecodeError as error:
            name = self._request_class.DESCRIPTOR.full_name
            raise InvalidInput(f"the request of {length} bytes can't be read as {name}") from error


class StreamReply:
    """Writes the messages and the end of one call."""

    __slots__ = ("_call", "_started", "_stream", "_timeout", "finished")

    def __init__(self, stream: LeanStream, timeout_seconds: float) -> None:
        self._stream = stream
        self._timeout = timeout_seconds
        self._started = False
        self._call: Call | None = None
        self.finished = False

    def opened(self, call: Call) -> None:
        """From here on the metadata that handlers set for `call` goes out with the reply."""
        self._call = call

    async def send(self, response: Response) -> None:
        await self._write(response, None)

    async def send_last(self, response: Response) -> None:
        await self._write(response, OK_TRAILERS)

    async def finish(self, trailers: Headers) -> None:
        """Ends the call with `trailers`, unless it has ended."""
        if not self.finished:
            await self._write(None, trailers)
        # A caller that is still sending is told to stop; NO_ERROR keeps the status valid (RFC 9113, 8.1).
        self._stream.abandon(ErrorCodes.NO_ERROR)

    async def _write(self, response: Response | None, trailers: Headers | None) -> None:
        call = self._call
        headers: Headers | None = None
        if not self._started:
            headers = _REPLY_HEADERS if call is None else _REPLY_HEADERS + call.initial_metadata
        if trailers is not None and call is not None and call.trailing_metadata:
            trailers = trailers + call.trailing_metadata
        data = b""
        if response is not None:
            data = messages.frame(response if isinstance(response, bytes) else response.SerializeToString())
        elif headers is not None and trailers is not None:
            trailers = headers + trailers  # the short form that the specification calls trailers-only
            headers = None
        self._started = True
        self.finished = trailers is not None
        try:
            await self._stream.send(headers, data, trailers, timeout=self._timeout)
        except TimeoutError:
            self._stream.abandon()
            raise StreamGone from None
