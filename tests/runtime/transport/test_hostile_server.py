"""Our client against servers that misbehave: each case ends in an error of ours, in bounded time."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder

from control_plane.core.errors import (
    DeadlineExceeded,
    GatehouseError,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.transport import Channel

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
OPENED = [(":status", "200"), ("content-type", "application/grpc")]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def fields(pairs: list[tuple[str, str]], *, end: bool = False) -> bytes:
    block = bytes(Encoder().encode(pairs, huffman=False))
    return frame(HEADERS, block, END_HEADERS | (END_STREAM if end else 0), 1)


def message(payload: bytes) -> bytes:
    return frame(DATA, b"\0" + len(payload).to_bytes(4, "big") + payload, stream=1)


OK = fields([("grpc-status", "0")], end=True)
REPLY = message(Entry(id="a").SerializeToString())
GOAWAY_ALL = frame(GOAWAY, (2**31 - 1).to_bytes(4, "big") + b"\0\0\0\0")
GOAWAY_NONE = frame(GOAWAY, b"\0\0\0\0" + b"\0\0\0\0")

CASES: dict[str, tuple[bytes, type[GatehouseError] | None]] = {
    "good": (fields(OPENED) + REPLY + OK, None),
    "goaway-while-serving": (fields(OPENED) + GOAWAY_ALL + REPLY + OK, None),
    "goaway-not-served": (GOAWAY_NONE, Unavailable),
    "reset": (frame(RST_STREAM, b"\0\0\0\x07", stream=1), Unavailable),
    "reset-after-headers": (fields(OPENED) + frame(RST_STREAM, b"\0\0\0\x02", stream=1), Unavailable),
    "no-trailers": (fields(OPENED) + REPLY + frame(DATA, b"", END_STREAM, 1), PeerMisbehaved),
    "no-message": (fields(OPENED) + OK, PeerMisbehaved),
    "two-messages": (fields(OPENED) + REPLY + REPLY + OK, PeerMisbehaved),
    "trailers-only": (
        fields([*OPENED, ("grpc-status", "5"), ("grpc-message", "gone%21")], end=True),
        NotFound,
    ),
    "no-status-number": (fields([*OPENED, ("grpc-status", "five")], end=True), PeerMisbehaved),
    "unknown-status": (fields([*OPENED, ("grpc-status", "77")], end=True), PeerMisbehaved),
    "proxy-403": (fields([(":status", "403")], end=True), PermissionDenied),
    "proxy-503-page": (fields([(":status", "503")]) + frame(DATA, b"<html>", END_STREAM, 1), Unavailable),
    "cut-message": (fields(OPENED) + frame(DATA, b"\0\0\0\0\x09abc", END_STREAM, 1), PeerMisbehaved),
    "cut-prefix": (fields(OPENED) + frame(DATA, b"\0\0", END_STREAM, 1), PeerMisbehaved),
    "compressed": (fields(OPENED) + frame(DATA, b"\x01\0\0\0\x01x", stream=1) + OK, Unimplemented),
    "too-large": (fields(OPENED) + frame(DATA, b"\0\x7f\xff\xff\xff", stream=1), ResourceExhausted),
    "no-protobuf": (fields(OPENED) + message(b"\xff\xff\xff") + OK, PeerMisbehaved),
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n", Unavailable),
    "oversized-frame": (b"\xff\xff\xff\0\0\0\0\0\x01", Unavailable),
    "ping-flood": (frame(PING, b"x" * 8) * 5000, Unavailable),
    "silence": (b"", DeadlineExceeded),
}


async def answer(path: Path, reply: bytes) -> asyncio.Server:
    """A server that sends SETTINGS, waits for a request, and then sends `reply`, whatever that is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS) + frame(SETTINGS, flags=1))
        received = b""
        while b"the-request" not in received and (chunk := await reader.read(65536)):
            received += chunk
        writer.write(reply)
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(serve, str(path))


@pytest.mark.parametrize("case", CASES)
def test_whatever_a_server_answers_is_an_answer_or_an_error_of_ours(
    run: Run, short_dir: Path, case: str
) -> None:
    reply, expected = CASES[case]

    async def main() -> None:
        server = await answer(short_dir / "s.sock", reply)
        async with Channel.unix(short_dir / "s.sock") as channel:
            call = channel.unary(
                "/x.Entry/GetEntry", entry_pb2.GetEntryRequest(id="the-request"), Entry, timeout=1.5
            )
            if expected is None:
                assert (await call).id == "a"
            else:
                with pytest.raises(expected):
                    await call
        server.close()

    run(main())
