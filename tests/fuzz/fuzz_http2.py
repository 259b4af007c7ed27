"""Fuzz target of the transport: what a client may send on an HTTP/2 connection, fed in without a socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from control_plane.runtime.transport import health
from control_plane.runtime.transport.accepted import ServerProtocol
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.peer import UnixPeer
from control_plane.runtime.transport.session import Dispatch

_LOOP: Final = asyncio.new_event_loop()  # one for all inputs: making one takes longer than an input


def fuzz_http2(data: bytes) -> bool:
    """What a client may send on a connection, cut in two: no exception gets out, and nothing is left over.
    Accepted means that a call was answered."""
    return _LOOP.run_until_complete(_connection(data))


async def _connection(data: bytes) -> bool:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    service = health(lambda: True)
    log = _Log()
    dispatch = Dispatch(dict(service.methods), (), Limits(), None, cast(Any, log))
    lost: list[bool] = []
    protocol = ServerProtocol(
        dispatch, "unix:1", UnixPeer(1, 1, 1, None), set(), 0.0, lambda: lost.append(True)
    )
    transport = _Wire()
    protocol.connection_made(cast(asyncio.Transport, transport))
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        if not transport.closed:
            protocol.data_received(part)
        for _ in range(4):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    for _ in range(6):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert lost and not faults and not log.bugs, (faults, log.bugs)
    assert not left, left
    return transport.answered


class _Log:
    """Keeps what a server logs as its own mistake."""

    def __init__(self) -> None:
        self.bugs: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def note(event: str, **details: object) -> None:
            if level in ("exception", "critical"):
                self.bugs.append(f"{event} {details} {sys.exc_info()[1]!r}")

        return note


class _Wire(asyncio.Transport):
    """A transport that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = self.answered = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Looks for the message that says SERVING."""
        self.answered = self.answered or b"\0\0\0\0\x02\x08\x01" in bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _http2() -> list[bytes]:
    def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def call(stream: int, method: bytes) -> bytes:
        fields = b"\x83\x86" + literal(b":path", b"/grpc.health.v1.Health/" + method)
        fields += literal(b":authority", b"localhost") + literal(b"content-type", b"application/grpc")
        fields += literal(b"te", b"trailers") + literal(b"grpc-timeout", b"5S")
        return frame(1, fields, 4, stream) + frame(0, b"\0\0\0\0\0", 1, stream)

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4) + frame(4, flags=1)
    window = frame(8, b"\0\0\xff\xff") + frame(6, b"12345678")
    reset = frame(3, b"\0\0\0\x08", stream=3)
    return [
        preface + call(1, b"Check") + window,
        preface + call(1, b"Watch") + call(3, b"List") + reset + frame(7, b"\0" * 8),
        preface + window + call(1, b"Nothing"),
    ]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {"http2": _http2}
