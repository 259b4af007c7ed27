"""Raw sockets against the server: floods, slow and silent peers, broken HTTP/2. Others stay served."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.transport import Channel, Limits, Server

Run = Callable[[Coroutine[Any, Any, Any]], Any]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET_PATH = "/spire.api.server.entry.v1.Entry/GetEntry"
GET = entry_pb2.DESCRIPTOR.services_by_name["Entry"].methods_by_name["GetEntry"]
GOAWAY, RST_STREAM = 7, 3
ENHANCE_YOUR_CALM = 0xB


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


HELLO = PREFACE + frame(4) + frame(4, flags=1)


def headers(path: str = GET_PATH, **changes: str | None) -> bytes:
    fields: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    pairs = [(name, value) for name, value in fields.items() if value is not None]
    return bytes(Encoder().encode(pairs, huffman=False))


def open_stream(stream: int = 1, path: str = GET_PATH, **changes: str | None) -> bytes:
    return frame(1, headers(path, **changes), flags=4, stream=stream)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each whole frame."""
    found, position = [], 0
    while position + 9 <= len(data):
        length = int.from_bytes(data[position : position + 3], "big")
        kind, flags = data[position + 3], data[position + 4]
        stream = int.from_bytes(data[position + 5 : position + 9], "big")
        found.append((kind, flags, stream, data[position + 9 : position + 9 + length]))
        position += 9 + length
    return found


def replied(data: bytes) -> dict[str, str]:
    """All header and trailer fields that came."""
    decoder, fields = Decoder(), {}
    for kind, _, _, payload in frames(data):
        if kind == 1:
            for name, value in decoder.decode(payload, raw=True):
                fields[bytes(name).decode()] = bytes(value).decode()
    return fields


async def talk(path: Path, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Sends all of `data` and returns what comes until the server closes or the time is over."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    received = b""

    async def send() -> None:
        for start in range(0, len(data), 65536):
            writer.write(data[start : start + 65536])
            await writer.drain()

    sending = asyncio.ensure_future(send())
    try:
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65536):
                received += chunk
    except (TimeoutError, ConnectionError):
        pass
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.close()
    return received


@asynccontextmanager
async def serving(services: Any, folder: Path, limits: Limits | None = None) -> Any:
    server = Server(services, limits=limits)
    path = folder / "s.sock"
    await server.listen_unix(path)
    channel = Channel.unix(path)
    try:
        yield server, path
        # Whatever was done to the server, somebody else is served.
        entry = await channel.unary(GET, entry_pb2.GetEntryRequest(id="other"), Entry, timeout=5)
        assert entry.id == "other"
    finally:
        await channel.close()
        await server.close(0.1)


FLOODS = {
    "settings": frame(4) * 2_000,
    "ping": frame(6, b"x" * 8) * 20_000,
    "rapid-reset": b"".join(
        open_stream(stream) + frame(3, b"\0\0\0\x08", stream=stream) for stream in range(1, 4_001, 2)
    ),
    "continuation": frame(1, b"", stream=1) + frame(9, b"", stream=1) * 5_000,
    "empty-data": open_stream() + frame(0, b"", stream=1) * 20_000,
    "priority": frame(2, b"\0\0\0\0\x10", stream=1) * 20_000,
    "window-update": frame(8, b"\0\0\0\x01") * 50_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_end_in_enhance_your_calm(run: Run, services: Any, short_dir: Path, flood: str) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (server, path):
            started = time.process_time()
            received = await talk(path, HELLO + FLOODS[flood])
            assert time.process_time() - started < 3
            last = frames(received)[-1]
            assert last[0] == GOAWAY and int.from_bytes(last[3][4:8], "big") == ENHANCE_YOUR_CALM
            await asyncio.sleep(0.1)
            assert server.connections == 0

    run(main())


BROKEN = {
    "no-preface": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    "tls-to-plaintext": bytes.fromhex("1603010200010001fc0303") + b"\0" * 100,
    "oversized-frame": HELLO + b"\xff\xff\xff\0\0\0\0\0\x01" + b"x" * 100_000,
    "data-on-idle-stream": HELLO + frame(0, b"x" * 100, stream=5),
    "headers-on-stream-0": HELLO + frame(1, headers(), flags=4, stream=0),
    "even-stream": HELLO + open_stream(2),
    "stream-goes-back": HELLO + open_stream(5) + open_stream(3),
    "bad-hpack": HELLO + frame(1, b"\xff\xff\xff\xff\xff\xff", flags=4, stream=1),
    "not-ascii": HELLO + frame(1, headers() + b"\x00\x01x\x02\xc3\xbc", flags=4, stream=1),
    "huge-window": HELLO + frame(8, b"\x7f\xff\xff\xff") * 3,
    "push-promise": HELLO + frame(5, b"\0\0\0\x02" + headers(), flags=4, stream=1),
    "header-bomb": HELLO
    + frame(1, b"\x40\x01x\x7f\x81\x1e" + b"v" * 4_000 + b"\xbe" * 12_000, flags=4, stream=1),
    "short-goaway": HELLO + frame(7, b"123"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_http2_closes_the_connection(run: Run, services: Any, short_dir: Path, case: str) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (server, path):
            received = await talk(path, BROKEN[case])
            assert frames(received)[-1][0] == GOAWAY
            await asyncio.sleep(0.1)
            assert server.connections == 0

    run(main())


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (open_stream(**{":method": "GET"}), "405"),
        (open_stream(content_type="text/html"), "415"),
        (open_stream(content_type=None), "415"),
    ],
    ids=["method", "content-type", "no-content-type"],
)
def test_what_is_no_grpc_gets_an_http_status(
    run: Run, services: Any, short_dir: Path, request_bytes: bytes, expected: str
) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, path):
            received = await talk(path, HELLO + request_bytes, seconds=0.5)
            assert replied(received)[":status"] == expected

    run(main())


PSEUDO = [(":method", "POST"), (":scheme", "http"), (":path", GET_PATH), (":authority", "localhost")]
REGULAR = [("content-type", "application/grpc"), ("te", "trailers")]
MALFORMED = {
    "upper-case": [*PSEUDO, *REGULAR, ("X-Upper", "1")],
    "unknown-pseudo": [*PSEUDO, (":protocol", "x"), *REGULAR],
    "response-pseudo": [*PSEUDO, (":status", "200"), *REGULAR],
    "pseudo-after-regular": [*PSEUDO[:3], *REGULAR, PSEUDO[3]],
    "connection-header": [*PSEUDO, *REGULAR, ("connection", "keep-alive")],
    "te-gzip": [*PSEUDO, REGULAR[0], ("te", "gzip")],
    "empty-path": [*PSEUDO[:2], (":path", ""), *REGULAR],
    "no-method": [*PSEUDO[1:], *REGULAR],
    "no-scheme": [PSEUDO[0], *PSEUDO[2:], *REGULAR],
    "no-path": [*PSEUDO[:2], *REGULAR],
    "two-methods": [PSEUDO[0], *PSEUDO, *REGULAR],
    "two-paths": [*PSEUDO, PSEUDO[2], *REGULAR],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers_reset_the_stream(
    run: Run, services: Any, entries: Any, short_dir: Path, case: str
) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, path):
            block = bytes(Encoder().encode(MALFORMED[case], huffman=False))
            request = frame(1, block, flags=4, stream=1) + frame(0, b"\0\0\0\0\0", flags=1, stream=1)
            received = frames(await talk(path, HELLO + request, seconds=0.2))
            resets = [payload for kind, _, stream, payload in received if (kind, stream) == (RST_STREAM, 1)]
            assert resets == [b"\0\0\0\x01"]  # PROTOCOL_ERROR
            assert not any(kind == 1 for kind, *_ in received)

    run(main())
    assert [call.method for call in entries.calls] == [GET_PATH]  # that of the other client


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "3"),  # no request
        (b"\0\0\0", "3"),  # ends within the prefix
        (b"\0\0\0\0\x09abc", "3"),  # ends within the message
        (b"\x01\0\0\0\0", "12"),  # compressed
        (b"\0\x7f\xff\xff\xff", "8"),  # two gigabytes announced
        (b"\0\0\0\0\x02\xff\xff", "3"),  # no protobuf
    ],
)
def test_broken_messages_get_a_status(
    run: Run, services: Any, short_dir: Path, body: bytes, code: str
) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, path):
            data = HELLO + open_stream() + frame(0, body, flags=1, stream=1)
            received = await talk(path, data, seconds=0.5)
            assert replied(received)["grpc-status"] == code

    run(main())


def test_a_bad_timeout_gets_a_status(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, path):
            request = open_stream(grpc_timeout="1parsec") + frame(0, b"\0\0\0\0\0", flags=1, stream=1)
            received = await talk(path, HELLO + request, seconds=0.5)
            assert replied(received)["grpc-status"] == "3"

    run(main())


def test_a_request_that_never_ends_is_given_up(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir, Limits(request_timeout_seconds=0.3)) as (_, path):
            request = open_stream() + frame(0, b"\0\0\0\x10\0" + b"x" * 100, stream=1)
            received = await talk(path, HELLO + request, seconds=1.5)
            assert replied(received)["grpc-status"] == "4"

    run(main())


def test_a_thousand_connections_that_send_nothing(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        limits = Limits(handshake_timeout_seconds=1.0)
        async with serving(services, short_dir, limits) as (server, path):
            silent = []
            for number in range(1000):
                each = socket.socket(socket.AF_UNIX)
                each.setblocking(False)
                await asyncio.get_running_loop().sock_connect(each, str(path))
                silent.append(each)
                if number == 500:
                    async with Channel.unix(path) as channel:
                        await channel.unary(GET, entry_pb2.GetEntryRequest(id="a"), Entry, timeout=5)
            for _ in range(80):
                await asyncio.sleep(0.1)
                if server.connections == 0:
                    break
            assert server.connections == 0
            for each in silent:
                each.close()

    run(main())


def test_more_connections_than_allowed_are_closed_at_once(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        limits = Limits(max_connections_per_source=5)
        server = Server(services, limits=limits)
        await server.listen_unix(short_dir / "s.sock")
        connections = [await asyncio.open_unix_connection(str(short_dir / "s.sock")) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert server.connections == 5
        refused = [reader.at_eof() for reader, _ in connections]
        for reader, _ in connections[5:]:
            assert await reader.read(100) == b""
        assert refused.count(True) <= 3
        for _, writer in connections:
            writer.close()
        await asyncio.sleep(0.2)
        assert server.connections == 0
        async with Channel.unix(short_dir / "s.sock") as channel:
            await channel.unary(GET, entry_pb2.GetEntryRequest(id="a"), Entry)
        await server.close(0.1)

    run(main())


def test_a_reader_that_stops_reading_is_given_up(
    run: Run, services: Any, entries: Any, short_dir: Path
) -> None:
    """It opens all windows, asks for much, and reads nothing: the server must not keep the reply."""

    async def main() -> None:
        limits = Limits(send_timeout_seconds=0.5)
        async with serving(services, short_dir, limits) as (server, path):
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(str(path))
            wide = frame(4, b"\0\x04\x7f\xff\xff\xff") + frame(8, b"\x7f\x00\x00\x00")
            body = entry_pb2.GetEntryRequest(id="big:20000000").SerializeToString()
            request = open_stream() + frame(0, b"\0" + len(body).to_bytes(4, "big") + body, flags=1, stream=1)
            peer.sendall(PREFACE + wide + request)
            for _ in range(100):
                await asyncio.sleep(0.1)
                if entries.calls and server.open_calls == 0:
                    break
            assert entries.calls and server.open_calls == 0
            peer.close()

    run(main())


def test_too_many_streams_close_the_connection(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir, Limits(max_concurrent_streams=10)) as (_, path):
            data = HELLO + b"".join(open_stream(stream) for stream in range(1, 41, 2))
            assert frames(await talk(path, data))[-1][0] == GOAWAY

    run(main())


def as_frame(raw: bytes) -> bytes:
    """Random bytes in the form of a frame, so that they get past the first header; short ones as they are."""
    return frame(raw[0] % 12, raw[2:], raw[1], raw[-1] % 8) if len(raw) > 3 else raw


@settings(max_examples=max(60, settings().max_examples // 20))
@given(st.lists(st.binary(max_size=60).map(as_frame), max_size=12))
def test_random_frames_never_break_the_server(blobs: list[bytes]) -> None:
    """Not one of them may raise into the event loop or stay open for ever."""
    import tempfile

    import uvloop

    from control_plane.runtime.transport import health

    problems: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        with tempfile.TemporaryDirectory(prefix="gh") as folder:
            server = Server([health(lambda: True)])
            await server.listen_unix(folder + "/s.sock")
            await talk(Path(folder + "/s.sock"), HELLO + b"".join(blobs), seconds=0.05)
            await server.close(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert problems == []


@pytest.mark.parametrize("id", ["at-once", "slow"])
def test_a_ping_that_comes_with_a_request_is_answered_with_the_reply_or_soon(
    run: Run, services: Any, short_dir: Path, id: str
) -> None:
    message = entry_pb2.GetEntryRequest(id=id).SerializeToString()
    request = frame(0, b"\0" + len(message).to_bytes(4, "big") + message, flags=1, stream=1)
    ping = frame(6, b"bdp-ping")

    async def main() -> None:
        async with serving(services, short_dir) as (_, path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(HELLO)
            greeting = await reader.read(65536)
            while (4, 1) not in [(kind, flags) for kind, flags, _, _ in frames(greeting)]:
                greeting += await reader.read(65536)
            writer.write(ping + open_stream() + request)
            async with asyncio.timeout(5):
                received = await reader.read(65536)
            answered = [(kind, flags, payload) for kind, flags, _, payload in frames(received)]
            assert (6, 1, b"bdp-ping") in answered
            # One write, so one read: the headers of the reply came along unless it takes its time.
            assert (1 in [kind for kind, _, _ in answered]) is (id == "at-once")
            writer.close()

    run(main())
