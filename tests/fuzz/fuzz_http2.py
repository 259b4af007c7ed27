"""Fuzz targets of the transport: what comes on an HTTP/2 connection, fed in without a socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from google.protobuf import empty_pb2

from control_plane.core.errors import GatehouseError
from control_plane.runtime.transport import Channel, health
from control_plane.runtime.transport.accepted import ServerProtocol
from control_plane.runtime.transport.client_connection import ClientConnection
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


def fuzz_http2_client(data: bytes) -> bool:
    """What a server may answer to a call: a message, or one of our errors, and nothing is left over. Accepted
    means that the call ended as the server said: well, or busy as in a seed."""
    return _LOOP.run_until_complete(_call(data))


async def _call(data: bytes) -> bool:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    wire = _Wire()
    made: list[ClientConnection] = []

    async def connect(protocol: ClientConnection) -> None:
        protocol.connection_made(wire)
        made.append(protocol)

    channel = Channel("a", connect, "a", Limits())
    asked = asyncio.ensure_future(
        channel.unary("/grpc.health.v1.Health/Check", empty_pb2.Empty(), empty_pb2.Empty, timeout=None)
    )
    for _ in range(4):
        await asyncio.sleep(0)
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        if not wire.closed:
            made[0].data_received(part)
        for _ in range(4):
            await asyncio.sleep(0)
    made[0].connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    assert asked.done(), "it waits for a server that has gone"
    await channel.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not faults and not left, (faults, left)
    error = asked.exception()
    if error is not None and not isinstance(error, GatehouseError):
        raise error
    return error is None or "busy now" in str(error)


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


def _frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


_WINDOW: Final = _frame(8, b"\0\0\xff\xff") + _frame(6, b"12345678")


def _requests() -> list[bytes]:
    def call(stream: int, method: bytes) -> bytes:
        fields = b"\x83\x86" + _literal(b":path", b"/grpc.health.v1.Health/" + method)
        fields += _literal(b":authority", b"localhost") + _literal(b"content-type", b"application/grpc")
        fields += _literal(b"te", b"trailers") + _literal(b"grpc-timeout", b"5S")
        return _frame(1, fields, 4, stream) + _frame(0, b"\0\0\0\0\0", 1, stream)

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4) + _frame(4, flags=1)
    reset = _frame(3, b"\0\0\0\x08", stream=3)
    return [
        preface + call(1, b"Check") + _WINDOW,
        preface + call(1, b"Watch") + call(3, b"List") + reset + _frame(7, b"\0" * 8),
        preface + _WINDOW + call(1, b"Nothing"),
    ]


def _answers() -> list[bytes]:
    begin = _frame(1, b"\x88" + _literal(b"content-type", b"application/grpc"), 4, 1)
    message = _frame(0, b"\0\0\0\0\x02\x08\x01", 0, 1)
    good = _frame(1, _literal(b"grpc-status", b"0"), 5, 1)
    refusal = b"\x88" + _literal(b"grpc-status", b"14") + _literal(b"grpc-message", b"busy%20now")
    settings = _frame(4) + _frame(4, flags=1)
    return [
        settings + begin + message + good,
        settings + _WINDOW + begin + message[:-4] + _frame(7, b"\0" * 8),
        settings + _frame(1, refusal, 5, 1),
    ]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {"http2": _requests, "http2_client": _answers}
