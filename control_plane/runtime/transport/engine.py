"""h2 as we use it: without checks that cost more than a call, lean, and bounded from the first frame on.

The library's memory is trimmed by subclassing, because an agent holds thousands of connections with one idle
stream each.
"""

from functools import cache
from typing import Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs

from control_plane.runtime.transport.frame_reader import FrameReader, Handlers
from control_plane.runtime.transport.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    frame_header,
)
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.repeated_headers import RepeatedDecoder, RepeatedEncoder

Headers = list[tuple[str, str]]
_INITIAL_WINDOW = 65_535
_KNOWN_SETTINGS: Final = frozenset(int(code) for code in SettingCodes)
_REPLY_MOVES: Final = (
    StreamInputs.SEND_HEADERS,
    StreamInputs.SEND_DATA,
    StreamInputs.SEND_HEADERS,
    StreamInputs.SEND_END_STREAM,
)


def _configuration(*, client: bool) -> H2Configuration:
    # h2's checks of headers cost more than the rest of a call; what a call needs of them is checked in
    # `session`, and what we send is built by us.
    return H2Configuration(
        client_side=client,
        header_encoding="ascii",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )


_CLIENT_CONFIG = _configuration(client=True)
_SERVER_CONFIG = _configuration(client=False)


class _Values(list[int]):
    """Values of one setting, oldest first: what h2 keeps in a deque of more than half a KiB, 15 times."""

    def popleft(self) -> int:
        return self.pop(0)


class _LeanSettings(Settings):
    """h2's settings in less than a tenth of their memory: the values that all connections begin with are
    the same objects, and who changes one gets a list of its own."""

    _settings: dict[SettingCodes | int, _Values]  # type: ignore[assignment]

    def __init__(self, *, client: bool, initial_values: dict[SettingCodes, int] | None = None) -> None:
        super().__init__(client=client, initial_values=initial_values)
        self._settings = {code: _Values(values) for code, values in self._settings.items()}

    def copy(self) -> "_LeanSettings":
        """Settings that begin as these are, which nobody may change any more."""
        other = _LeanSettings.__new__(_LeanSettings)
        other._client, other._settings = self._client, self._settings.copy()
        return other

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key not in _KNOWN_SETTINGS:
            return  # RFC 9113, section 6.5.2; the library would keep each of 65,536 for the peer
        kept = self._settings.get(key)
        # For a setting that has no value yet the library would make one of its deques.
        self._settings[key] = _Values([None] if kept is None else kept)  # type: ignore[list-item]
        try:
            super().__setitem__(key, value)
        except ProtocolError:
            if kept is None:
                del self._settings[key]
            raise


class Engine(H2Connection):
    """h2 with our reader and header tables, and with one step for a whole reply."""

    # h2 remembers 65,536 of a connection; a few hundred answer late frames as well.
    MAX_CLOSED_STREAMS = 256

    def __init__(self, config: H2Configuration, max_header_bytes: int) -> None:
        super().__init__(config)
        self.incoming_buffer = FrameReader(server=not config.client_side)
        self._frame_dispatch_table = Handlers(self)  # type: ignore[assignment]
        self.decoder = RepeatedDecoder(max_header_bytes)
        self.encoder = RepeatedEncoder()

    def send_reply(self, stream_id: int, headers: Headers, data: bytes, trailers: Headers) -> None:
        """Sends headers, one frame of data, and the trailers that end the stream: what `send_headers`,
        `send_data` and `send_headers` do, the same states and the same bytes, without a frame object each.

        The data must fit into a frame and into both windows. Raises ProtocolError where the stream can't
        take a reply any more, KeyError where it is forgotten.
        """
        stream = self.streams[stream_id]
        for step in (ConnectionInputs.SEND_HEADERS, ConnectionInputs.SEND_DATA):
            self.state_machine.process_input(step)
        for move in _REPLY_MOVES:
            stream.state_machine.process_input(move)
        self.outbound_flow_control_window -= len(data)
        stream.outbound_flow_control_window -= len(data)
        self._data_to_send += b"".join(
            (
                *self._block_in_frames(stream_id, self.encoder.encode(headers), 0),
                frame_header(len(data), DATA, 0, stream_id),
                data,
                *self._block_in_frames(stream_id, self.encoder.encode(trailers), END_STREAM),
            )
        )

    def _block_in_frames(self, stream_id: int, block: bytes, flags: int) -> list[bytes]:
        """One block of headers, in as many frames as it needs."""
        size = self.max_outbound_frame_size
        if len(block) <= size:
            return [frame_header(len(block), HEADERS, flags | END_HEADERS, stream_id), block]
        frames, kind = [], HEADERS
        for start in range(0, len(block), size):
            piece = block[start : start + size]
            last = END_HEADERS if start + size >= len(block) else 0
            frames += [frame_header(len(piece), kind, flags | last, stream_id), piece]
            kind, flags = CONTINUATION, 0
        return frames


@cache
def _first_settings(client: bool, values: tuple[tuple[SettingCodes, int], ...]) -> _LeanSettings:
    return _LeanSettings(client=client, initial_values=dict(values))


def new_engine(limits: Limits, *, client: bool) -> Engine:
    """An h2 connection whose bounds hold from the first frame on, with its preface prepared."""
    engine = Engine(_CLIENT_CONFIG if client else _SERVER_CONFIG, limits.max_header_bytes)
    values = {
        SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
        SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
    }
    engine.local_settings = _first_settings(client, tuple(values.items())).copy()
    engine.remote_settings = _first_settings(not client, ()).copy()
    engine.initiate_connection()
    if limits.connection_window_bytes > _INITIAL_WINDOW:
        engine.increment_flow_control_window(limits.connection_window_bytes - _INITIAL_WINDOW)
    return engine
