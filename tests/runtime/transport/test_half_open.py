"""Peers that are gone without a word, as when a cable is cut: found out, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from control_plane.core.errors import GatehouseError
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.transport import Call, Channel, Server, listener, service

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
GET, SYNC = ENTRY.methods_by_name["GetEntry"], ENTRY.methods_by_name["SyncAuthorizedEntries"]
SO_ATTACH_FILTER = 26  # socket(7); the socket module doesn't name it
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of classic BPF: return 0, take nothing


class Cable:
    """A TCP connection to the server through which another goes, and which can be cut: the kernel at the far
    end then takes no segment any more, neither data nor probes, and acknowledges nothing."""

    def __init__(self, port: int) -> None:
        self._near = socket.create_server(("127.0.0.1", 0))
        self._far = socket.create_connection(("127.0.0.1", port))
        self._plugged: socket.socket | None = None
        self.port = int(self._near.getsockname()[1])
        threading.Thread(target=self._carry, daemon=True).start()

    def cut(self) -> None:
        code = ctypes.create_string_buffer(DROP_ALL)
        self._far.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code))
        )

    def close(self) -> None:
        for each in (self._near, self._far, self._plugged):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
                each.close()

    def _carry(self) -> None:
        with contextlib.suppress(OSError):
            self._plugged, _ = self._near.accept()
            threading.Thread(target=_pump, args=(self._far, self._plugged), daemon=True).start()
            _pump(self._plugged, self._far)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)


class Entries:
    """Answers once, and then is silent or goes on talking."""

    def __init__(self, *, talks: bool) -> None:
        self._talks = talks
        self.ended = 0

    async def get_entry(self, call: Call, request: Any) -> Entry:
        return Entry(id=request.id)

    async def sync_authorized_entries(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            yield entry_pb2.SyncAuthorizedEntriesResponse()
            while True:
                await asyncio.sleep(0.2 if self._talks else 3600)
                yield entry_pb2.SyncAuthorizedEntriesResponse()
        finally:
            self.ended += 1


@pytest.mark.parametrize("talks", [False, True], ids=["a-silent-stream", "a-stream-that-talks"])
def test_a_peer_that_vanished_is_found_out(
    run: Run, authority: Any, monkeypatch: pytest.MonkeyPatch, talks: bool
) -> None:
    for name in ("QUIET_SECONDS", "PROBE_SECONDS"):
        assert getattr(listener, name) <= 30
        monkeypatch.setattr(listener, name, 1)
    entries = Entries(talks=talks)

    async def main() -> None:
        server = Server([service(ENTRY, entries)])
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        cable = Cable(port)
        async with (
            Channel.tcp("127.0.0.1", cable.port, authority.client()) as far,
            Channel.tcp("127.0.0.1", port, authority.client()) as other,
            far.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call,
        ):
            assert await call.receive() is not None
            await other.unary(GET, entry_pb2.GetEntryRequest(id="a"), Entry)
            assert server.connections == 2
            cable.cut()
            async with asyncio.timeout(40):
                while not entries.ended:  # noqa: ASYNC110 -- it is the handler that is watched
                    await asyncio.sleep(0.1)
            assert server.connections == 1
            assert (await other.unary(GET, entry_pb2.GetEntryRequest(id="b"), Entry, timeout=20)).id == "b"
            cable.close()
            with contextlib.suppress(GatehouseError):
                await call.receive()
        await server.close(0.1)

    run(main())
