"""How connections end: shutdown, age, being thrown out, idleness; and what open calls hear of it."""

import asyncio
import gc
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import DenialReason, InvalidInput, PermissionDenied, Unavailable
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.transport import Call, Channel, Limits, Peer, Server
from control_plane.runtime.transport.connection import LeanConnection, LeanStream
from control_plane.runtime.transport.protocol import LeanProtocol
from control_plane.runtime.transport.session import Session

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
GET = ENTRY.methods_by_name["GetEntry"]
SYNC = ENTRY.methods_by_name["SyncAuthorizedEntries"]


async def get(channel: Channel, entry_id: str = "a") -> Entry:
    return await channel.unary(GET, entry_pb2.GetEntryRequest(id=entry_id), Entry, timeout=10)


def described(descriptor: int) -> str:
    return Path(f"/proc/self/fdinfo/{descriptor}").read_text()


class Slow:
    """Answers after a moment."""

    async def get_entry(self, call: Call, request: Any) -> Entry:
        await asyncio.sleep(0.5)
        return Entry(id=request.id)


def slow_service() -> Any:
    from control_plane.runtime.transport import service

    return service(ENTRY, Slow())


def test_shutdown_lets_calls_finish_and_ends_streams(
    run: Run, services: Any, entries: Any, short_dir: Path
) -> None:
    async def main() -> None:
        server = Server([slow_service()])
        await server.listen_unix(short_dir / "slow.sock")
        streams = Server(services)
        await streams.listen_unix(short_dir / "streams.sock")
        async with (
            Channel.unix(short_dir / "slow.sock") as slow,
            Channel.unix(short_dir / "streams.sock") as other,
        ):
            answer = asyncio.ensure_future(get(slow, "in time"))
            async with other.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call:
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest())
                await call.receive()
                waiting = asyncio.ensure_future(call.receive())
                await asyncio.gather(server.close(5), streams.close(0.3))
                with pytest.raises(Unavailable, match="shutting down"):
                    await waiting
            assert (await answer).id == "in time"
            assert not (short_dir / "slow.sock").exists()
            with pytest.raises(Unavailable):
                await get(slow)
        assert entries.ended == ["sync"]

    run(main())


def test_age_moves_clients_to_new_connections_without_a_lost_call(
    run: Run, services: Any, entries: Any, authority: Any
) -> None:
    async def main() -> None:
        limits = Limits(max_connection_age_seconds=1.0, age_grace_seconds=1.0)
        server = Server(services, limits=limits)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        async with Channel.tcp("127.0.0.1", port, authority.client()) as channel:
            stream_error: list[Exception] = []

            async def hold() -> None:
                try:
                    async with channel.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call:
                        await call.receive()
                except Unavailable as error:
                    stream_error.append(error)

            held = asyncio.ensure_future(hold())
            addresses: set[str] = set()
            count = 0
            async with asyncio.timeout(40):
                while len(addresses) < 3 or count <= 100:
                    await get(channel)
                    addresses.add(entries.calls[-1].peer.address)
                    count += 1
                    await asyncio.sleep(0.01)
                await held
            assert "the server ends this connection" in str(stream_error[0])
        assert len(addresses) >= 3 and count > 100
        await server.close(0.1)

    run(main())


def test_thrown_out_connections_hear_why(run: Run, services: Any, entries: Any, short_dir: Path) -> None:
    async def main() -> None:
        server = Server(services)
        await server.listen_unix(short_dir / "s.sock")
        reason = PermissionDenied("the agent was banned", reason=DenialReason.AGENT_BANNED)
        async with Channel.unix(short_dir / "s.sock") as channel:
            async with channel.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call:
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest())
                await call.receive()
                assert server.close_connections(lambda peer: peer.kind == "tls", reason) == 0
                assert server.close_connections(lambda peer: peer.kind == "unix", reason) == 1
                with pytest.raises(PermissionDenied, match="banned") as error:
                    await call.receive()
                assert error.value.reason is DenialReason.AGENT_BANNED
            assert (await get(channel)).id == "a"  # a new connection; admission is others' business
        assert entries.ended == ["sync"]
        await server.close(0.1)

    run(main())


def test_idle_connections_are_closed_and_busy_ones_are_not(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        server = Server(services, limits=Limits(idle_timeout_seconds=0.5))
        await server.listen_unix(short_dir / "s.sock")
        async with Channel.unix(short_dir / "s.sock") as idle, Channel.unix(short_dir / "s.sock") as busy:
            await get(idle)
            async with busy.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call:
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest())
                await call.receive()
                await asyncio.sleep(2.5)
                assert server.connections == 1
                assert not idle.connected and busy.connected
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest(ids=["still"]))
                reply = await call.receive()
                assert reply is not None and reply.entries[0].id == "still"
            assert (await get(idle)).id == "a"
        await server.close(0.1)

    run(main())


def test_peer_credentials_pidfd_and_close_callbacks(
    run: Run, services: Any, entries: Any, short_dir: Path
) -> None:
    closed: list[str] = []

    async def admit(peer: Peer) -> None:
        peer.on_close(lambda: int("x"))  # one that fails doesn't keep the next from being told
        peer.on_close(lambda: closed.append(peer.address))

    async def main() -> None:
        server = Server(services, admit=admit)
        await server.listen_unix(short_dir / "s.sock", mode=0o777)
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o777
        async with Channel.unix(short_dir / "s.sock") as channel:
            await get(channel)
            unix = entries.calls[0].peer.unix
            assert (unix.pid, unix.uid, unix.gid) == (os.getpid(), os.getuid(), os.getgid())
            pidfd = unix.pidfd
            if pidfd is not None:
                assert f"Pid:\t{os.getpid()}" in described(pidfd)
        for _ in range(50):
            await asyncio.sleep(0.05)
            if closed:
                break
        assert closed == [f"unix:{os.getpid()}"]
        if pidfd is not None:
            with pytest.raises(OSError):
                os.fstat(pidfd)
        late: list[str] = []
        entries.calls[0].peer.on_close(lambda: late.append("at once"))
        assert late == ["at once"]
        await server.close(0.1)

    run(main())


def test_a_left_over_socket_is_replaced_and_a_long_path_is_refused(
    run: Run, services: Any, short_dir: Path
) -> None:
    left_over = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", left_over, str(short_dir / "s.sock")], check=True, timeout=20)

    async def main() -> None:
        server = Server(services)
        await server.listen_unix(short_dir / "s.sock")
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o600
        async with Channel.unix(short_dir / "s.sock") as channel:
            await get(channel)
        with pytest.raises(InvalidInput, match="shorter"):
            await server.listen_unix(short_dir / ("x" * 100))
        with pytest.raises(Unavailable, match="listening on"):
            await server.listen_unix(short_dir / "no" / "s.sock")
        second = Server(services)
        await second.listen_unix(short_dir / "s.sock")
        await server.close(0.1)
        async with Channel.unix(short_dir / "s.sock") as channel:
            await get(channel)  # the first server left the second's socket alone
        await second.close(0.1)

    run(main())


def test_a_busy_port_is_reported(run: Run, services: Any, authority: Any) -> None:
    async def main() -> None:
        server = Server(services)
        source = authority.server_source()
        port = await server.listen_tcp("127.0.0.1", 0, source)
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            await server.listen_tcp("127.0.0.1", port, source)
        shared = await server.listen_tcp("127.0.0.1", 0, source, reuse_port=True)
        assert await server.listen_tcp("127.0.0.1", shared, source, reuse_port=True) == shared
        await server.close(0.1)

    run(main())


def test_connections_are_freed_without_the_cyclic_collector(
    run: Run, services: Any, entries: Any, short_dir: Path, authority: Any
) -> None:
    """Long-lived processes keep the collector quiet, so nothing of a connection may lie in a cycle."""

    def alive() -> int:
        kinds = (Session, LeanConnection, LeanStream, LeanProtocol)
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    async def main() -> None:
        server = Server(services)
        await server.listen_unix(short_dir / "s.sock")
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        before = alive()
        gc.disable()
        try:
            for _ in range(10):
                for channel in (
                    Channel.unix(short_dir / "s.sock"),
                    Channel.tcp("127.0.0.1", port, authority.client()),
                ):
                    async with channel:
                        await get(channel)
            entries.calls.clear()
            for _ in range(50):
                await asyncio.sleep(0.05)
                if alive() <= before:
                    break
            assert alive() <= before
        finally:
            gc.enable()
        await server.close(0.1)

    run(main())
