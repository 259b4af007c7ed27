"""Our client against our server: shapes of calls, errors with details, deadlines, large messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import (
    Bug,
    DeadlineExceeded,
    DenialReason,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.transport import Call, Channel, Limits, Peer, Server, service, snake_case

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
GET = ENTRY.methods_by_name["GetEntry"]
SYNC = ENTRY.methods_by_name["SyncAuthorizedEntries"]


@asynccontextmanager
async def serving(services: Any, folder: Path, **options: Any) -> Any:
    server = Server(services, **options)
    await server.listen_unix(folder / "s.sock")
    channel = Channel.unix(folder / "s.sock")
    try:
        yield server, channel
    finally:
        await channel.close()
        await server.close(0.1)


async def get(channel: Channel, entry_id: str, **options: Any) -> Entry:
    return await channel.unary(GET, entry_pb2.GetEntryRequest(id=entry_id), Entry, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FetchX509SVID", "fetch_x509_svid"),
        ("FetchX509Bundles", "fetch_x509_bundles"),
        ("BatchNewX509SVID", "batch_new_x509_svid"),
        ("NewJWTSVID", "new_jwt_svid"),
        ("MintWITSVID", "mint_wit_svid"),
        ("FetchJWTBundles", "fetch_jwt_bundles"),
        ("ValidateJWTSVID", "validate_jwt_svid"),
        ("SubscribeToX509SVIDs", "subscribe_to_x509_svids"),
        ("NewDownstreamX509CA", "new_downstream_x509_ca"),
        ("GetX509AuthorityState", "get_x509_authority_state"),
        ("PublishJWTAuthority", "publish_jwt_authority"),
        ("BatchSetFederatedBundle", "batch_set_federated_bundle"),
        ("ListAgents", "list_agents"),
        ("GetInfo", "get_info"),
    ],
)
def test_names_of_implementations(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_unary_and_serialised_replies(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            assert (await get(channel, "a")).id == "a"
            count = ENTRY.methods_by_name["CountEntries"]
            reply = await channel.unary(
                count, entry_pb2.CountEntriesRequest(), entry_pb2.CountEntriesResponse
            )
            assert reply.count == 7

    run(main())


def test_errors_come_back_as_what_they_were(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            with pytest.raises(NotFound) as not_found:
                await get(channel, "not-found")
            assert str(not_found.value) == "entry 'ü 100%': there is none — create it"
            with pytest.raises(PermissionDenied) as denied:
                await get(channel, "banned")
            assert denied.value.reason is DenialReason.AGENT_BANNED
            with pytest.raises(Unavailable) as busy:
                await get(channel, "busy")
            assert busy.value.retry_after_seconds == 1.5
            with pytest.raises(Bug) as bug:
                await get(channel, "bug")
            assert "secret-detail" not in str(bug.value)
            with pytest.raises(Unimplemented, match=r"BatchDeleteEntry is part of this API"):
                await channel.unary(
                    ENTRY.methods_by_name["BatchDeleteEntry"],
                    entry_pb2.BatchDeleteEntryRequest(),
                    entry_pb2.BatchDeleteEntryResponse,
                )
            with pytest.raises(Unimplemented, match="is not served here"):
                await channel.unary("/no.Such/Method", entry_pb2.GetEntryRequest(), Entry)
            assert (await get(channel, "still works")).id == "still works"

    run(main())


def test_deadline_ends_the_handler_and_the_call(
    run: Run, services: Any, entries: Any, short_dir: Path
) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            with pytest.raises(DeadlineExceeded):
                await get(channel, "slow", timeout=0.2)
            await asyncio.sleep(0.1)
            assert entries.ended == ["slow"]

    run(main())


def test_a_cancelled_call_cancels_its_handler(run: Run, services: Any, entries: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            task = asyncio.ensure_future(get(channel, "slow"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.1)
            assert entries.ended == ["slow"]
            assert (await get(channel, "next")).id == "next"

    run(main())


def test_bidirectional_stream(run: Run, services: Any, entries: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            async with channel.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse, timeout=20) as call:
                for ids in (["a"], ["b", "c"], ["x" * 500] * 3000):
                    await call.send(entry_pb2.SyncAuthorizedEntriesRequest(ids=ids))
                    reply = await call.receive()
                    assert reply is not None and [entry.id for entry in reply.entries] == ids
                await call.end()
                assert [reply.more async for reply in call] == [False]
            async with channel.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call:
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest())
                await call.receive()
            await asyncio.sleep(0.1)
            assert entries.ended == ["sync", "sync"]

    run(main())


def test_large_messages_up_to_the_limit(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        limits = Limits(max_message_bytes=1 << 20)
        async with serving(services, short_dir, limits=limits) as (_, channel):
            assert len((await get(channel, "big:3000000")).hint) == 3_000_000
            assert len((await get(channel, "i" * 1_000_000)).id) == 1_000_000
            with pytest.raises(ResourceExhausted, match="at most 1048576 are taken"):
                await get(channel, "i" * 1_100_000)
            assert (await get(channel, "after")).id == "after"

    run(main())


def test_large_messages_at_once_are_bounded_per_connection(run: Run, services: Any, short_dir: Path) -> None:
    """What all callers of one connection may have on its way in is bounded, whatever each one may."""

    async def main() -> None:
        limits = Limits(max_message_bytes=1 << 20, max_buffered_bytes=3 << 20)
        async with serving(services, short_dir, limits=limits) as (_, channel):
            calls = (get(channel, "i" * 1_000_000) for _ in range(12))
            results = await asyncio.gather(*calls, return_exceptions=True)
            served = [each for each in results if isinstance(each, Entry)]
            refused = [each for each in results if isinstance(each, ResourceExhausted)]
            assert len(served) + len(refused) == 12 and len(served) >= 3 and refused
            assert "one after the other" in str(refused[0])
            assert len((await get(channel, "i" * 1_000_000)).id) == 1_000_000

    run(main())


def test_many_calls_at_once_share_the_connection(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (server, channel):
            replies = await asyncio.gather(*(get(channel, str(number)) for number in range(600)))
            assert [reply.id for reply in replies] == [str(number) for number in range(600)]
            assert server.connections == 1

    run(main())


def test_metadata_both_ways(run: Run, services: Any, entries: Any, short_dir: Path) -> None:
    async def main() -> None:
        async with serving(services, short_dir) as (_, channel):
            async with channel.server_stream(
                GET, entry_pb2.GetEntryRequest(id="metadata"), Entry, metadata={"x-asked": "yes"}
            ) as call:
                assert [entry.id async for entry in call] == ["metadata"]
            assert call.trailing_metadata == {"x-last": ["1"]}
            assert entries.calls[0].first("x-asked") == "yes"
            with pytest.raises(InvalidInput, match="printable ASCII"):
                await get(channel, "a", metadata={"x-asked": "line\nbreak"})
            with pytest.raises(InvalidInput, match="can't be a key"):
                await get(channel, "a", metadata={"grpc-timeout": "1S"})

    run(main())


def test_interceptors_run_in_order_and_refuse(run: Run, services: Any, entries: Any, short_dir: Path) -> None:
    seen: list[str] = []

    async def first(call: Call) -> None:
        seen.append(call.method)

    async def second(call: Call) -> None:
        if call.first("x-pass") is None:
            raise Unauthenticated("no pass", hint="bring one")

    async def main() -> None:
        async with serving(services, short_dir, interceptors=[first, second]) as (_, channel):
            with pytest.raises(Unauthenticated, match="no pass — bring one"):
                await get(channel, "a")
            assert (await get(channel, "a", metadata={"x-pass": "1"})).id == "a"

    run(main())
    assert seen == ["/spire.api.server.entry.v1.Entry/GetEntry"] * 2
    assert len(entries.calls) == 1


def test_a_peer_that_is_not_admitted_gets_the_reason_and_nothing_else(
    run: Run, services: Any, entries: Any, short_dir: Path
) -> None:
    async def admit(peer: Peer) -> None:
        await asyncio.sleep(0.05)
        raise Unauthenticated(f"{peer.kind} peers are not wanted")

    async def main() -> None:
        async with serving(services, short_dir, admit=admit) as (server, channel):
            with pytest.raises(Unauthenticated, match="unix peers are not wanted"):
                await get(channel, "a")
            for _ in range(60):
                await asyncio.sleep(0.1)
                if not server.connections:
                    break
            assert server.connections == 0

    run(main())
    assert entries.calls == []


def test_channel_reports_what_is_not_there_and_reconnects(run: Run, services: Any, short_dir: Path) -> None:
    async def main() -> None:
        channel = Channel.unix(short_dir / "s.sock")
        with pytest.raises(Unavailable, match="connecting to"):
            await get(channel, "a")
        for _ in range(2):
            async with serving(services, short_dir):
                assert (await get(channel, "a")).id == "a"
        with pytest.raises(Unavailable):
            await get(channel, "a")
        await channel.close()
        with pytest.raises(Unavailable, match="has been closed"):
            await get(channel, "a")

    run(main())


class Piece(bytes):
    """A message that tells when nobody has it any more."""

    forgotten: Callable[[], None]

    def __del__(self) -> None:
        self.forgotten()


def test_a_silent_stream_does_not_hold_what_it_said(run: Run, short_dir: Path) -> None:
    """Ten thousand agents watch for hours: a message that stays is ten thousand messages."""
    held: list[str] = []
    forgotten = asyncio.Event()

    def forget(id: str) -> None:
        held.remove(id)
        if not held:
            forgotten.set()

    class Entries:
        async def sync_authorized_entries(self, call: Call, requests: AsyncIterator[Any]) -> Any:
            async for request in requests:
                for id in request.ids:
                    piece = Piece(entry_pb2.SyncAuthorizedEntriesResponse(more=True).SerializeToString())
                    piece.forgotten = partial(forget, id)
                    held.append(id)
                    yield piece
                    del piece

    async def main() -> None:
        async with (
            serving([service(ENTRY, Entries())], short_dir) as (_, channel),
            channel.stream(SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as call,
        ):
            await call.send(entry_pb2.SyncAuthorizedEntriesRequest(ids=["a", "b"]))
            for _ in range(2):
                assert await call.receive() is not None
            async with asyncio.timeout(20):
                await forgotten.wait()

    run(main())
