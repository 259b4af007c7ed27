"""Following the change log: one's own writes, others' writes, and who is told."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.core.entry import Entry
from control_plane.core.errors import Unavailable
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.index import Index
from control_plane.identity.memory import MemoryStore
from control_plane.identity.ports import ChangeSet
from control_plane.identity.replica import Replica
from control_plane.sql.database import prepare
from control_plane.sql.store import SqlStore

TD = TrustDomain("example.org")
PARENT = SpiffeId(TD, "/agent")


def test_another_connections_commit_arrives_within_50_ms(
    tmp_path: Path, make_entry: Callable[..., Entry]
) -> None:
    async def scenario() -> None:
        prepare(tmp_path / "r.db")
        writer, reader = (SqlStore(tmp_path / "r.db", TD, os.urandom) for _ in range(2))
        replica = Replica(reader, Index(TD))
        await replica.refresh()
        stop = asyncio.Event()
        task = asyncio.create_task(replica.run(stop))
        subscription = replica.subscribe(PARENT)
        replica.index.authorized_entries(PARENT)
        await asyncio.sleep(0.2)
        subscription.take()
        waits = []
        for number in range(10):
            [outcome] = await writer.create_entries([make_entry(f"/w{number}")], now=1)
            began = asyncio.get_running_loop().time()
            assert await subscription.wait(2)
            waits.append(asyncio.get_running_loop().time() - began)
            assert outcome.entry is not None and subscription.take()[0] == {outcome.entry.id}
        assert sorted(waits)[len(waits) // 2] < 0.05, waits
        stop.set()
        await task
        await writer.close()
        await reader.close()

    asyncio.run(scenario())


def test_refresh_sees_what_was_written_before_it(make_entry: Callable[..., Entry]) -> None:
    async def scenario() -> None:
        store = MemoryStore(TD, os.urandom)
        replica = Replica(store, Index(TD))

        async def write_and_read(number: int) -> None:
            [outcome] = await store.create_entries([make_entry(f"/w{number}")], now=1)
            await replica.refresh()
            assert outcome.entry is not None and replica.index.entry(outcome.entry.id) is not None

        await asyncio.gather(*(write_and_read(number) for number in range(50)))

    asyncio.run(scenario())


class Failing(MemoryStore):
    """Fails to read for a while."""

    broken = False

    async def changes_after(self, sequence: int) -> ChangeSet:
        if self.broken:
            raise Unavailable("reading the change log: the disk is gone")
        return await super().changes_after(sequence)


def test_a_failure_keeps_the_index_and_is_tried_again(make_entry: Callable[..., Entry]) -> None:
    async def scenario() -> None:
        store = Failing(TD, os.urandom)
        replica = Replica(store, Index(TD))
        await store.create_entries([make_entry("/a", id="a")], now=1)
        await replica.refresh()
        stop = asyncio.Event()
        task = asyncio.create_task(replica.run(stop))
        store.broken = True
        await store.create_entries([make_entry("/b", id="b")], now=1)
        with pytest.raises(Unavailable):
            await replica.refresh()
        assert replica.index.entry("a") is not None
        store.broken = False
        async with asyncio.timeout(3):
            while replica.index.entry("b") is None:  # noqa: ASYNC110 -- the index tells nobody by itself
                await asyncio.sleep(0.02)
        stop.set()
        await task

    asyncio.run(scenario())


def test_who_waits_for_news_is_woken_by_them_or_by_the_time() -> None:
    async def scenario() -> None:
        subscription = Replica(MemoryStore(TD, os.urandom), Index(TD)).subscribe(PARENT)
        assert not await subscription.wait(0.01)
        assert subscription.take() == (set(), False)
        waiting = asyncio.ensure_future(subscription.wait(30))
        await asyncio.sleep(0)
        subscription.note({"a"})
        subscription.note({"b"}, bundles=True)
        assert await asyncio.wait_for(waiting, 10)
        assert await subscription.wait(0)  # they are still to be taken
        assert subscription.take() == ({"a", "b"}, True)
        assert not await subscription.wait(0.01)
        left = asyncio.ensure_future(subscription.wait(30))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        subscription.note(None)
        subscription.note({"c"})
        assert await subscription.wait(0)
        assert subscription.take() == (None, False)

    asyncio.run(scenario())


def test_what_was_noted_is_not_shared_between_subscriptions() -> None:
    replica = Replica(MemoryStore(TD, os.urandom), Index(TD))
    one, other = replica.subscribe(PARENT), replica.subscribe(PARENT)
    news = {"a"}
    for each in (one, other):
        each.note(news)
    one.note({"b"})
    assert other.take() == ({"a"}, False)
    assert news == {"a"}


def test_views_of_agents_that_left_are_freed(make_entry: Callable[..., Entry]) -> None:
    """An agent that is asked for again in time, or whose stream is open, costs nothing anew."""

    async def scenario() -> None:
        store = MemoryStore(TD, os.urandom)
        index = Index(TD)
        replica = Replica(store, index, sweep_seconds=0.05)
        await replica.refresh()
        gone = [SpiffeId(TD, f"/gone/{number}") for number in range(100)]
        for agent_id in gone:
            index.authorized_entries(agent_id)
        left = replica.subscribe(gone[0])
        open_stream = replica.subscribe(PARENT)
        index.authorized_entries(PARENT)
        replica.unsubscribe(left)
        stop = asyncio.Event()
        task = asyncio.create_task(replica.run(stop))
        busy = asyncio.create_task(_changes(store, make_entry, stop))
        async with asyncio.timeout(20):
            while index.view_count > 1:  # noqa: ASYNC110 -- the index tells nobody by itself
                await asyncio.sleep(0.01)
        open_stream.take()
        [outcome] = await store.create_entries([make_entry("/late", parent="/agent")], now=1)
        assert outcome.entry is not None
        async with asyncio.timeout(20):
            heard: set[str] = set()
            while outcome.entry.id not in heard:
                assert await open_stream.wait(20)
                heard |= open_stream.take()[0] or set()
        assert outcome.entry.id in index.authorized_entries(PARENT).entries
        stop.set()
        await task
        await busy

    asyncio.run(scenario())


async def _changes(store: MemoryStore, make_entry: Callable[..., Entry], stop: asyncio.Event) -> None:
    """News all the time, which must not put off what is done now and again."""
    number = 0
    while not stop.is_set():
        number += 1
        await store.create_entries([make_entry(f"/busy/{number}", parent="/other")], now=1)
        await asyncio.sleep(0.002)
