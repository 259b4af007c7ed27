"""Our engine reads and writes what h2 does: the same events, bytes and refusals, for whatever comes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.runtime.transport.connection import LeanConnection
from control_plane.runtime.transport.engine import Engine, new_engine
from control_plane.runtime.transport.frames import FrameGate
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.repeated_headers import RepeatedDecoder, RepeatedEncoder

LIMITS = Limits()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# :method POST, :scheme https, :path /, te and content-type as literals that go into the table.
BLOCK = b"\x83\x87\x84\x40\x02te\x08trailers\x5f\x10application/grpc"
AGAIN = b"\x83\x87\x84\xbf\xbe"


def frame(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + body


FRAMES = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.sampled_from([0, 1, 6, 8]),
            st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2D]),
            st.sampled_from([0, 1, 3, 5]),
            st.sampled_from(
                [b"", b"x", b"four", b"\0\0\0\x05", b"\0\0\0\0", b"8 bytes!", b"\x02abcd\0\0", BLOCK, AGAIN]
            ),
        ),
        st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=24)),
        st.sampled_from([frame(1, 4, 1, BLOCK), frame(1, 5, 3, AGAIN), frame(0, 1, 1, b"abc")]),
    ),
    max_size=8,
)


class Side:
    """One engine, and what it says when fed."""

    def __init__(self, *, ours: bool) -> None:
        self.engine: H2Connection = new_engine(LIMITS, client=False)
        if not ours:
            # The same library as it comes, with the same settings.
            plain = H2Connection(
                H2Configuration(
                    client_side=False,
                    header_encoding="ascii",
                    validate_inbound_headers=False,
                    validate_outbound_headers=False,
                    normalize_inbound_headers=False,
                    normalize_outbound_headers=False,
                )
            )
            plain.local_settings = new_engine(LIMITS, client=False).local_settings
            plain.decoder.max_header_list_size = LIMITS.max_header_bytes
            plain.initiate_connection()
            plain.increment_flow_control_window(LIMITS.connection_window_bytes - 65_535)
            self.engine = plain
        self.engine.data_to_send()

    def fed(self, data: bytes) -> list[Any]:
        try:
            events = [repr(event) for event in self.engine.receive_data(data)]
        except (ProtocolError, UnicodeDecodeError) as error:
            events = [type(error).__name__]
        return [*events, self.engine.data_to_send()]


@settings(max_examples=300)
@given(FRAMES, st.integers(1, 60))
def test_whatever_comes_is_read_as_the_library_reads_it(frames: list[bytes], cut: int) -> None:
    ours, plain = Side(ours=True), Side(ours=False)
    data = PREFACE + frame(4, 0, 0, b"") + b"".join(frames)
    for start in range(0, len(data), cut):
        piece = data[start : start + cut]
        told = ours.fed(piece)
        assert told == plain.fed(piece)
        if isinstance(told[0], str) and told[0].endswith("Error"):
            return


REPLIES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["a", "key-bin"]), st.text("xyz", max_size=9)), max_size=3),
        st.binary(min_size=1, max_size=3000),
        st.sampled_from([[("grpc-status", "0")], [("grpc-status", "0"), ("t", "1")]]),
    ),
    min_size=1,
    max_size=6,
)


@given(REPLIES)
def test_a_reply_in_one_step_is_that_in_three(replies: list[tuple[Any, bytes, Any]]) -> None:
    ours, plain = Side(ours=True), Side(ours=False)
    for side in (ours, plain):
        side.fed(PREFACE + frame(4, 0, 0, b""))
    for number, (metadata, data, trailers) in enumerate(replies):
        stream_id, headers = 2 * number + 1, [(":status", "200"), *metadata]
        request = frame(1, 4, stream_id, AGAIN if number else BLOCK) + frame(0, 1, stream_id, b"abc")
        assert ours.fed(request) == plain.fed(request)
        assert isinstance(ours.engine, Engine)
        ours.engine.send_reply(stream_id, headers, data, trailers)
        plain.engine.send_headers(stream_id, headers)
        plain.engine.send_data(stream_id, data)
        plain.engine.send_headers(stream_id, trailers, end_stream=True)
        assert ours.engine.data_to_send() == plain.engine.data_to_send()
        assert ours.engine.outbound_flow_control_window == plain.engine.outbound_flow_control_window
        assert ours.engine.open_inbound_streams == plain.engine.open_inbound_streams == 0
        late = frame(8, 0, stream_id, b"\0\0\0\x05") + frame(3, 0, stream_id, b"\0\0\0\x08")
        assert ours.fed(late) == plain.fed(late)


def test_headers_larger_than_a_frame_go_out_in_several() -> None:
    ours, plain = Side(ours=True), Side(ours=False)
    long = [(":status", "200"), ("k", "\x7f" * 20_000), ("l", "\x7f" * 9_000)]
    for side in (ours, plain):
        side.fed(PREFACE + frame(4, 0, 0, b"") + frame(1, 5, 1, BLOCK))
    assert isinstance(ours.engine, Engine)
    ours.engine.send_reply(1, long, b"data", [("grpc-status", "0")])
    plain.engine.send_headers(1, long)
    plain.engine.send_data(1, b"data")
    plain.engine.send_headers(1, [("grpc-status", "0")], end_stream=True)
    assert ours.engine.data_to_send() == plain.engine.data_to_send()


class Recorder:
    """A transport that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize(("size", "writes"), [(1_000, 1), (60_000, 1), (150_000, 3)])
def test_a_reply_of_several_frames_goes_out_in_few_writes(size: int, writes: int) -> None:
    engine, transport = new_engine(LIMITS, client=False), Recorder()
    engine.data_to_send()
    wide = (200_000).to_bytes(4, "big")
    window = frame(4, 0, 0, b"\0\x04" + wide) + frame(8, 0, 0, wide)  # frames stay at 16 KiB
    engine.receive_data(PREFACE + window + frame(1, 5, 1, BLOCK))
    engine.data_to_send()
    connection = LeanConnection(engine, cast(asyncio.Transport, transport), LIMITS, FrameGate(LIMITS.frames))
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    stream = connection.create_stream(stream_id=1)
    sending = stream.send([(":status", "200")], data, [("grpc-status", "0")], timeout=1)
    with pytest.raises(StopIteration):
        sending.send(None)  # it has nothing to wait for
    assert len(transport.written) == writes
    frames, out = [], b"".join(transport.written)
    while out:
        length = int.from_bytes(out[:3], "big")
        frames.append((out[3], out[4], out[9 : 9 + length]))
        out = out[9 + length :]
    assert b"".join(body for kind, _, body in frames if kind == 0) == data
    assert [kind for kind, _, _ in frames if kind] == [1, 1] and frames[-1][1] & 1
    assert max(len(body) for _, _, body in frames) <= 16_384


def test_a_stream_that_is_gone_takes_no_reply() -> None:
    side = Side(ours=True)
    side.fed(PREFACE + frame(4, 0, 0, b"") + frame(1, 5, 1, BLOCK) + frame(3, 0, 1, b"\0\0\0\x08"))
    assert isinstance(side.engine, Engine)
    with pytest.raises((ProtocolError, KeyError)):
        side.engine.send_reply(1, [(":status", "200")], b"data", [("grpc-status", "0")])
    assert side.engine.data_to_send() == b""


@pytest.mark.parametrize("bad", [frame(6, 0, 0, b"short"), frame(8, 0, 0, bytes(4)), frame(0, 0, 0, b"x")])
def test_what_is_not_plainly_right_is_refused(bad: bytes) -> None:
    side = Side(ours=True)
    side.fed(PREFACE + frame(4, 0, 0, b""))
    assert side.fed(bad)[0].endswith("Error")


FIELD = st.tuples(st.sampled_from([b":path", b"te", b"k"]), st.sampled_from([b"/", b"trailers", b"v", b"w"]))
SETS = st.lists(st.lists(FIELD, min_size=1, max_size=4), min_size=1, max_size=12)


@given(SETS, st.lists(st.sampled_from([0, 64, 100, 4096]), min_size=12, max_size=12))
def test_headers_said_again_are_what_hpack_makes_of_them(
    sets: list[list[tuple[bytes, bytes]]], sizes: list[int]
) -> None:
    ours, plain = RepeatedEncoder(), Encoder()
    read, read_plainly = RepeatedDecoder(16_384), Decoder(16_384)
    for headers, size in zip(sets, sizes, strict=False):
        if size != 4096:
            ours.header_table_size = plain.header_table_size = size
        block = ours.encode(headers)
        assert block == plain.encode(headers)
        assert read.decode(block, raw=True) == read_plainly.decode(block, raw=True) == headers


def test_a_block_is_not_remembered_beyond_a_change_of_the_table() -> None:
    encoder, decoder = Encoder(), RepeatedDecoder(16_384)
    first = [(b"a", b"1")]
    assert decoder.decode(encoder.encode(first), raw=True) == first
    again = encoder.encode(first)
    assert decoder.decode(again, raw=True) == decoder.decode(again, raw=True) == first
    second = [(b"b", b"2")]
    assert decoder.decode(encoder.encode(second), raw=True) == second
    assert decoder.decode(again, raw=True) == second  # the same bytes name the newest entry now


def test_what_is_remembered_is_bounded() -> None:
    encoder, decoder = Encoder(), RepeatedDecoder(16_384)
    for number in range(40):
        encoder.encode([(b"k", b"%d" % number)])
    kept = RepeatedEncoder()
    kept.header_table, kept.header_table.resized = encoder.header_table, False
    for number in range(40):
        kept.encode([(b"k", b"%d" % number)])
    assert kept._kept is not None and len(kept._kept) <= 8
    decoder.header_table = encoder.header_table
    for number in range(40):
        decoder.decode(bytes((0x80 | 62 + number,)), raw=True)
    assert decoder._kept is not None and len(decoder._kept) <= 8


def test_a_peer_cannot_have_a_large_table_kept_for_it() -> None:
    """RFC 7541, section 4.2: what it allows is the most that we may use."""
    side = Side(ours=True)
    side.fed(PREFACE + frame(4, 0, 0, b"\0\x01\x80\0\0\0") + frame(1, 4, 1, BLOCK))
    encoder, decoder = side.engine.encoder, Decoder(1 << 20)
    for number in range(200):
        message = [(b"grpc-message", b"%d" % number + b"x" * 500)]
        assert decoder.decode(encoder.encode(message), raw=True) == message
    assert sum(32 + len(name) + len(value) for name, value in encoder.header_table.dynamic_entries) <= 4096


@given(st.lists(st.sampled_from([0, 100, 4096, 4097, 1 << 31]), min_size=1, max_size=6, unique=True))
def test_a_table_follows_what_a_peer_allows_up_to_ours(sizes: list[int]) -> None:
    encoder, decoder = RepeatedEncoder(), Decoder(1 << 20)
    for number, size in enumerate(sizes):
        encoder.header_table_size = size
        message = [(b"k", b"%d" % number * 40), (b"l", b"same")]
        assert decoder.decode(encoder.encode(message), raw=True) == message
        assert encoder.header_table_size <= min(size, 4096)
