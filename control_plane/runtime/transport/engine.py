"""h2 as we use it: without checks that cost more than a call, lean, and bounded from the first frame on.

The library's memory is trimmed by subclassing, because an agent holds thousands of connections with one idle
stream each.
"""

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from control_plane.runtime.transport.frame_reader import FrameReader, by_kind
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.repeated_headers import RepeatedDecoder, RepeatedEncoder

_INITIAL_WINDOW = 65_535


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
    """Values of one setting, oldest first: what h2 keeps in a deque of more than half a KiB, 13 times."""

    def popleft(self) -> int:
        return self.pop(0)


class _LeanSettings(Settings):
    """h2's settings in less than a tenth of their memory."""

    def __init__(self, *, client: bool, initial_values: dict[SettingCodes, int] | None = None) -> None:
        super().__init__(client=client, initial_values=initial_values)
        self._settings = {code: _Values(values) for code, values in self._settings.items()}  # type: ignore[misc]


class _Engine(H2Connection):
    """h2 remembers 65,536 closed streams per connection; a few hundred answer late frames as well."""

    MAX_CLOSED_STREAMS = 256

    def __init__(self, config: H2Configuration, max_header_bytes: int) -> None:
        super().__init__(config)
        self.incoming_buffer = FrameReader(server=not config.client_side)
        self._frame_dispatch_table.update(by_kind(self._frame_dispatch_table))
        self.decoder = RepeatedDecoder(max_header_bytes)
        self.encoder = RepeatedEncoder()


def new_engine(limits: Limits, *, client: bool) -> H2Connection:
    """An h2 connection whose bounds hold from the first frame on, with its preface prepared."""
    engine = _Engine(_CLIENT_CONFIG if client else _SERVER_CONFIG, limits.max_header_bytes)
    values = {
        SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
        SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
    }
    engine.local_settings = _LeanSettings(client=client, initial_values=values)
    engine.remote_settings = _LeanSettings(client=not client)
    engine.initiate_connection()
    if limits.connection_window_bytes > _INITIAL_WINDOW:
        engine.increment_flow_control_window(limits.connection_window_bytes - _INITIAL_WINDOW)
    return engine
