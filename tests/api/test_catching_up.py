"""An agent that heard of a change from one issuer asks another that lags behind: nothing is taken back."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from control_plane.core.errors import InvalidInput, Unavailable
from control_plane.identity.ports import ChangeSet
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.sql.store import SqlStore

WATCH = "/gatehouse.node.v1.Node/Watch"
BATCH = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID"
RENEW = "/spire.api.server.agent.v1.Agent/RenewAgent"
HEARD = "gatehouse-heard"


class Lag:
    """Holds back what the change log tells a server, as a loaded disk would; `blind` shows nothing new."""

    def __init__(self, server: Any) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.blind = False
        store = server.parts.store
        self._read = store.changes_after
        store.changes_after = self._changes_after

    async def _changes_after(self, sequence: int) -> ChangeSet:
        await self.may_read.wait()
        return ChangeSet(sequence) if self.blind else await self._read(sequence)


@asynccontextmanager
async def another_process(server: Any) -> AsyncIterator[SqlStore]:
    store = SqlStore(server.parts.settings.database, server.parts.settings.trust_domain, os.urandom)
    yield store
    await store.close()


@asynccontextmanager
async def watching(agent: Any, heard: str = "") -> AsyncIterator[Any]:
    metadata = {HEARD: heard} if heard else {}
    async with agent.channel.server_stream(
        WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse, metadata=metadata
    ) as watch:
        yield watch


async def first_state(agent: Any, heard: str = "") -> Any:
    async with asyncio.timeout(20), watching(agent, heard) as watch:
        return await watch.receive()


def test_a_lagging_issuer_reads_what_the_agent_heard_of_before_it_answers(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        created = await server.create(api.entry_for("/old", agent.id))
        old = created.results[0].entry.id
        told = await first_state(agent)
        assert told.change_log and told.change_sequence == server.parts.replica.index.sequence
        lag = Lag(server)
        lag.may_read.clear()
        async with another_process(server) as elsewhere:
            [gone] = await elsewhere.delete_entries([old])
            assert gone.error is None
            head = (await elsewhere.changes_after(told.change_sequence)).sequence
            assert head > told.change_sequence
            asked = asyncio.create_task(first_state(agent, f"{told.change_log}/{head}"))
            await asyncio.sleep(0.2)
            lag.may_read.set()
            assert [entry.id for entry in (await asked).upserted] == []

    serve(scenario)


def test_svids_are_issued_by_entries_as_the_agent_knows_them(serve: Any, api: Any) -> None:
    """An update of an entry that the issuer knows already would else be ignored until the next renewal."""

    async def scenario(server: Any) -> None:
        agent = await server.join()
        entry = (await server.create(api.entry_for("/w", agent.id))).results[0].entry
        told = await first_state(agent)
        lag = Lag(server)
        lag.may_read.clear()
        async with another_process(server) as elsewhere:
            await elsewhere.delete_entries([entry.id])
            head = (await elsewhere.changes_after(told.change_sequence)).sequence
            request = svid_pb2.BatchNewX509SVIDRequest()
            request.params.add(entry_id=entry.id, csr=api.new_key_and_csr()[1])
            asked = asyncio.create_task(
                agent.channel.unary(
                    BATCH,
                    request,
                    svid_pb2.BatchNewX509SVIDResponse,
                    metadata={HEARD: f"{told.change_log}/{head}"},
                )
            )
            await asyncio.sleep(0.2)
            lag.may_read.set()
            assert [result.status.code for result in (await asked).results] == [5]

    serve(scenario)


def test_who_can_not_catch_up_says_so_and_a_restored_registry_locks_nobody_out(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        told = await first_state(agent)
        lag = Lag(server)
        lag.blind = True
        ahead = f"{told.change_log}/{told.change_sequence + 1}"
        with pytest.raises(Unavailable, match=f"change {told.change_sequence + 1}.*asked again"):
            await first_state(agent, ahead)
        with pytest.raises(Unavailable):
            await agent.channel.unary(
                RENEW,
                agent_pb2.RenewAgentRequest(params={"csr": api.new_key_and_csr()[1]}),
                agent_pb2.RenewAgentResponse,
                metadata={HEARD: ahead},
            )
        # The numbers of another log say nothing about this one: that of the server before its restart.
        assert (await first_state(agent, f"0123456789abcdef/{told.change_sequence + 1000}")).full
        for nonsense in ("", "x", "0123456789abcdef", "0123456789abcdef/-1", f"{told.change_log}/{2**64}"):
            with pytest.raises(InvalidInput, match="gatehouse-heard"):
                await agent.channel.unary(
                    RENEW,
                    agent_pb2.RenewAgentRequest(),
                    agent_pb2.RenewAgentResponse,
                    metadata={HEARD: nonsense},
                )

    serve(scenario)


def test_a_bundle_that_is_not_loaded_yet_is_waited_for(serve: Any, api: Any) -> None:
    """The change log feeds the index itself; our own bundle is read again because of it, a moment later."""

    async def scenario(server: Any) -> None:
        agent = await server.join()
        told = await first_state(agent)
        loading, may_load = server.parts.authority_store.load, asyncio.Event()

        async def load() -> Any:
            await may_load.wait()
            return await loading()

        server.parts.authority_store.load = load
        from control_plane.authority.state import Kind

        async with asyncio.timeout(20), another_process(server) as elsewhere:
            changing = asyncio.create_task(server.lifecycle.prepare(Kind.X509))
            server.lifecycle._changed = _nothing
            may_load.set()
            await changing
            may_load.clear()
            await server.parts.replica.refresh()
            head = server.parts.replica.index.sequence
            assert head == (await elsewhere.changes_after(told.change_sequence)).sequence
            asked = asyncio.create_task(first_state(agent, f"{told.change_log}/{head}"))
            await asyncio.sleep(0.2)
            assert not asked.done()
            may_load.set()
            assert len((await asked).bundle.x509_authorities) == 2

    serve(scenario)


async def _nothing(*_: object) -> None:
    return None


def test_streams_end_in_order_when_the_server_stops(serve: Any) -> None:
    """They never end by themselves: the stop would wait for them as long as it waits for anything."""

    async def scenario(server: Any) -> None:
        agent = await server.join()
        async with asyncio.timeout(20), watching(agent) as watch:
            assert (await watch.receive()).full
            server.parts.replica.end_subscriptions()
            assert await watch.receive() is None
        async with asyncio.timeout(20), watching(agent) as late:
            assert (await late.receive()).full
            assert await late.receive() is None

    serve(scenario)
