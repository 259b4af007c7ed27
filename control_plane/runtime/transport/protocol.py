"""The asyncio protocol of a connection: bytes through the gate into h2, h2's events to streams.

The part that client and server share; `client_connection` and `accepted` add what each end does when a
connection begins, ends or is left by its peer.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from grpclib.protocol import AbstractHandler, EventsProcessor, H2Protocol
from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from control_plane.core.errors import PeerMisbehaved, ResourceExhausted
from control_plane.runtime.transport.connection import LeanConnection
from control_plane.runtime.transport.engine import new_engine
from control_plane.runtime.transport.frames import CLIENT_PREFACE_BYTES, FrameGate
from control_plane.runtime.transport.limits import Limits


class LeanProcessor(EventsProcessor):
    """Dispatches h2's events without a table per connection; what it doesn't know it ignores."""

    connection: LeanConnection

    def __init__(self, handler: AbstractHandler, connection: LeanConnection) -> None:
        # Without the parent's initialiser, which binds thirteen methods per connection.
        self.handler = handler
        self.connection = connection
        self.streams = {}

    def process(self, event: events.Event) -> None:
        process = _DISPATCH.get(event.__class__)
        if process is not None:
            process(self, event)

    def process_remote_settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        self.connection.greeted = True
        super().process_remote_settings_changed(event)

    def process_data_received(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is not None:
            stream.buffer.add(event.data, size)
        elif not self.connection.is_closing():
            self.connection.ack(event.stream_id, size)

    def process_stream_ended(self, event: events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.__ended__()


_DISPATCH: Final[dict[type[events.Event], Callable[[LeanProcessor, Any], None]]] = {
    events.RequestReceived: lambda processor, event: processor.process_request_received(event),
    events.ResponseReceived: lambda processor, event: processor.process_response_received(event),
    events.TrailersReceived: lambda processor, event: processor.process_trailers_received(event),
    events.RemoteSettingsChanged: lambda processor, event: processor.process_remote_settings_changed(event),
    events.DataReceived: lambda processor, event: processor.process_data_received(event),
    events.WindowUpdated: lambda processor, event: processor.process_window_updated(event),
    events.StreamEnded: lambda processor, event: processor.process_stream_ended(event),
    events.StreamReset: lambda processor, event: processor.process_stream_reset(event),
    events.ConnectionTerminated: lambda processor, event: processor.process_connection_terminated(event),
}

# What is on the way out after these alone acknowledges: it can go with the reply that follows, in one write.
_ANSWERED_WITH_A_REPLY: Final = frozenset(
    {
        events.RequestReceived,
        events.DataReceived,
        events.StreamEnded,
        events.PingReceived,
        events.PingAckReceived,
        events.WindowUpdated,
    }
)


class LeanProtocol(H2Protocol):
    """The asyncio protocol of one connection, client or server."""

    processor: LeanProcessor
    connection: LeanConnection
    limits: Limits
    client: bool

    def open(self, transport: asyncio.BaseTransport) -> LeanConnection:
        """Starts HTTP/2 on a transport that is ready: our SETTINGS go out. Called by `connection_made`."""
        engine = new_engine(self.limits, client=self.client)
        gate = FrameGate(self.limits.frames, skip_bytes=0 if self.client else CLIENT_PREFACE_BYTES)
        self.connection = LeanConnection(engine, cast(asyncio.Transport, transport), self.limits, gate)
        self.connection.write_out()
        return self.connection

    def data_received(self, data: bytes) -> None:
        connection, processor = self.connection, self.processor
        if connection.is_closing():
            return
        try:
            allowed = connection.gate.feed(data, asyncio.get_running_loop().time())
            received = connection.feed(allowed)
        except ResourceExhausted as flood:
            self._give_up(ErrorCodes.ENHANCE_YOUR_CALM, flood.message)
        except PeerMisbehaved as error:
            self._give_up(ErrorCodes.FRAME_SIZE_ERROR, error.message)
        except (ProtocolError, UnicodeDecodeError) as error:
            # h2 has prepared its own GOAWAY for a ProtocolError; a header that is no ASCII gets ours.
            connection.write_out()
            self._give_up(ErrorCodes.PROTOCOL_ERROR, type(error).__name__)
        else:
            can_wait = not self.client
            for event in received:
                processor.process(event)
                can_wait &= event.__class__ in _ANSWERED_WITH_A_REPLY
            if can_wait:
                connection.write_with_reply()
            else:
                connection.write_out()
            if connection.gate.last_stream_id is not None:
                self.peer_leaves(connection.gate.last_stream_id)

    def peer_leaves(self, last_stream_id: int) -> None:
        """The peer's GOAWAY came: it serves streams up to `last_stream_id` and no new ones."""

    def gave_up(self, reason: str) -> None:
        """The connection was closed because of what the peer sent."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self.processor.close(reason="connection lost")

    def _give_up(self, code: ErrorCodes, reason: str) -> None:
        self.connection.refuse(code, reason)
        self.gave_up(reason)
        self.processor.close(reason=reason)
