"""What a listener grants to the outside: sizes, counts and times. Every bound of the transport is here.

A rate is per connection and per window of `FLOOD_WINDOW_SECONDS`. What goes beyond a rate closes the
connection with ENHANCE_YOUR_CALM (RFC 9113, section 7).
"""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
FLOOD_WINDOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """How many frames that cost us work and carry none may come in one window.

    `pings`, `window_updates` and `small_data` are on top of a few for each write of ours in the window:
    grpc-go measures its bandwidth with a ping for each piece of data that it got, and a small request
    whose end comes in a frame of its own is answered.
    """

    max_frame_bytes: int = 16 * KIB
    settings: int = 20
    pings: int = 200
    resets: int = 300
    priorities: int = 500
    window_updates: int = 2_000
    small_data: int = 2_000  # DATA frames below 64 bytes that don't end their stream
    unknown: int = 100
    continuations: int = 8  # in one header block


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server. Times are in seconds, 0 turns the bound off where that is said.

    `max_connections_per_source` counts by user id on unix sockets, by address (IPv6: by /64) on TCP.
    """

    max_message_bytes: int = 4 * MIB
    max_header_bytes: int = 16 * KIB
    max_concurrent_streams: int = 250
    max_connections: int = 20_000
    max_connections_per_source: int = 10_000
    max_buffered_bytes: int = 8 * MIB  # received and not yet read, per connection
    max_unsent_bytes: int = 1 * MIB  # written and not taken by the peer, per connection, before it is cut
    stream_window_bytes: int = 64 * KIB
    connection_window_bytes: int = 1 * MIB
    handshake_timeout_seconds: float = 10.0  # for the first byte, again for TLS, and for the first request
    handshake_wait_seconds: float = 5.0  # for its turn; half of what peers usually allow for the whole
    request_timeout_seconds: float = 60.0  # until a unary request has come in whole
    send_timeout_seconds: float = 30.0  # for one message to a peer that reads slowly
    idle_timeout_seconds: float = 300.0  # connection without an open call; 0: off
    max_connection_age_seconds: float = 180.0  # TCP only, ± 10 %; 0: off
    age_grace_seconds: float = 10.0  # for calls to finish after GOAWAY
    frames: FrameLimits = FrameLimits()
