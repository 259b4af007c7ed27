"""The frame gate: however bytes are cut, it sees the same frames, and floods are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import PeerMisbehaved, ResourceExhausted
from control_plane.runtime.transport.frames import (
    CLIENT_PREFACE_BYTES,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    FrameGate,
    goaway_frame,
)
from control_plane.runtime.transport.limits import FLOOD_WINDOW_SECONDS, FrameLimits


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


frames = st.lists(
    st.builds(
        lambda kind, payload, flags, stream: frame(kind, payload, flags, of_stream(kind, stream)),
        st.sampled_from([DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, GOAWAY]),
        st.binary(min_size=8, max_size=60),
        st.integers(0, 255),
        st.integers(0, 2**31 - 1),
    ),
    max_size=12,
)


def of_stream(kind: int, stream: int) -> int:
    return 0 if kind == GOAWAY else stream


@given(frames, st.lists(st.integers(1, 40), max_size=60), st.sampled_from([0, CLIENT_PREFACE_BYTES]))
def test_any_cutting_passes_the_same_bytes_without_goaway(
    sent: list[bytes], cuts: list[int], preface: int
) -> None:
    data = b"p" * preface + b"".join(sent)
    expected = b"p" * preface + b"".join(each for each in sent if each[3] != GOAWAY)
    gate = FrameGate(FrameLimits(unknown=10_000), skip_bytes=preface)
    passed, position = b"", 0
    for size in [*cuts, len(data)]:
        passed += gate.feed(data[position : position + size], 0.0)
        position += size
    assert passed == expected
    goaways = [each for each in sent if each[3] == GOAWAY]
    last = int.from_bytes(goaways[-1][9:13], "big") & 0x7FFFFFFF if goaways else None
    assert gate.last_stream_id == last


@pytest.mark.parametrize(
    ("flood", "allowed"),
    [
        (frame(SETTINGS), 20),
        (frame(SETTINGS, flags=1), 20),
        (frame(PING, b"x" * 8), 200),
        (frame(RST_STREAM, b"\0\0\0\x08", stream=1), 300),
        (frame(PRIORITY, b"\0" * 5, stream=1), 500),
        (frame(WINDOW_UPDATE, b"\0\0\0\x01"), 2_000),
        (frame(DATA, b"", stream=1), 2_000),
        (frame(DATA, b"x", stream=1), 2_000),
        (frame(0xBE, b"x"), 100),
    ],
    ids=[
        "settings",
        "settings-ack",
        "ping",
        "rapid-reset",
        "priority",
        "window",
        "empty-data",
        "byte-data",
        "unknown",
    ],
)
def test_floods_are_refused_and_forgotten_with_time(flood: bytes, allowed: int) -> None:
    gate = FrameGate(FrameLimits())
    assert gate.feed(flood * allowed, 5.0) == flood * allowed
    with pytest.raises(ResourceExhausted, match="flood"):
        gate.feed(flood, 5.0 + FLOOD_WINDOW_SECONDS / 2)
    calm = FrameGate(FrameLimits())
    for window in range(5):
        calm.feed(flood * allowed, 5.0 + window * FLOOD_WINDOW_SECONDS)


def test_pings_of_a_client_that_is_being_served_are_tolerated() -> None:
    gate = FrameGate(FrameLimits())
    gate.feed(b"", 1.0)
    for _ in range(5_000):
        gate.sent += 1
        assert gate.feed(frame(PING, b"bdp-ping"), 1.0) == frame(PING, b"bdp-ping")


def test_continuation_flood_is_refused_within_one_block() -> None:
    gate = FrameGate(FrameLimits())
    for _ in range(3):
        gate.feed(frame(HEADERS, b"x", stream=1) + frame(CONTINUATION, b"x", stream=1) * 8, 1.0)
    with pytest.raises(ResourceExhausted, match="CONTINUATION"):
        gate.feed(frame(CONTINUATION, b"x", stream=1), 1.0)


def test_an_oversized_frame_is_refused_at_its_header() -> None:
    gate = FrameGate(FrameLimits())
    with pytest.raises(PeerMisbehaved, match="16777215 bytes"):
        gate.feed(b"\xff\xff\xff" + bytes((DATA, 0, 0, 0, 0, 1)), 0.0)


def test_a_goaway_on_a_stream_is_refused() -> None:
    with pytest.raises(PeerMisbehaved, match="belongs to the connection"):
        FrameGate(FrameLimits()).feed(frame(GOAWAY, b"\0" * 8, stream=1), 0.0)


def test_a_short_goaway_is_refused() -> None:
    with pytest.raises(PeerMisbehaved, match="at least 8"):
        FrameGate(FrameLimits()).feed(frame(GOAWAY, b"1234"), 0.0)


@given(st.integers(0, 2**31 - 1), st.integers(0, 13), st.text(max_size=300))
def test_goaway_frames_are_read_back(last: int, code: int, reason: str) -> None:
    gate = FrameGate(FrameLimits())
    assert gate.feed(goaway_frame(last, code, reason), 0.0) == b""
    assert gate.last_stream_id == last
