"""Priorities beside SPIRE's messages: written with the entry, kept by SPIRE's own calls, heard by agents."""

from typing import Any

import pytest

from control_plane.core.errors import InvalidInput, PermissionDenied
from control_plane.proto.gatehouse.server.v1 import entry_pb2 as ours
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire
from control_plane.proto.spire.api.types import entry_pb2

ENTRY = "/gatehouse.server.v1.Entry/"
SPIRE_ENTRY = "/spire.api.server.entry.v1.Entry/"
PARENT = "spiffe://example.org/node"


async def create(server: Any, *entries: entry_pb2.Entry, priorities: dict[int, int]) -> Any:
    request = ours.BatchCreateEntryRequest(
        request=wire.BatchCreateEntryRequest(entries=entries), priorities=priorities
    )
    return await server.admin.unary(ENTRY + "BatchCreateEntry", request, wire.BatchCreateEntryResponse)


async def priorities(server: Any, *ids: str) -> dict[str, int]:
    request = ours.GetPrioritiesRequest(entry_ids=ids)
    reply = await server.admin.unary(ENTRY + "GetPriorities", request, ours.GetPrioritiesResponse)
    return dict(reply.priorities)


def test_entries_are_created_with_their_priorities(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        entries = [api.entry_for("/a", PARENT), entry_pb2.Entry(), api.entry_for("/c", PARENT)]
        reply = await create(server, *entries, priorities={0: 5, 1: 9, 2: -1})
        assert [result.status.code for result in reply.results] == [0, 3, 0]
        first, third = reply.results[0].entry.id, reply.results[2].entry.id
        assert await priorities(server, first, "nobody", third) == {first: 5, third: -1}

    serve(scenario)


def test_an_update_without_a_priority_keeps_it(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        reply = await create(server, api.entry_for("/a", PARENT), priorities={0: 5})
        [entry] = [result.entry for result in reply.results]
        entry.hint = "from SPIRE's own command line"
        request = wire.BatchUpdateEntryRequest(entries=[entry])
        await server.admin.unary(SPIRE_ENTRY + "BatchUpdateEntry", request, wire.BatchUpdateEntryResponse)
        assert await priorities(server, entry.id) == {entry.id: 5}
        lowered = ours.BatchUpdateEntryRequest(request=request, priorities={0: 0})
        done = await server.admin.unary(ENTRY + "BatchUpdateEntry", lowered, wire.BatchUpdateEntryResponse)
        assert await priorities(server, entry.id) == {}
        assert done.results[0].entry.revision_number == 2, "agents see that it changed"

    serve(scenario)


def test_a_priority_for_no_entry_is_refused(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        with pytest.raises(InvalidInput, match="entry 1 of a request with 1"):
            await create(server, api.entry_for("/a", PARENT), priorities={1: 5})

    serve(scenario)


def test_only_administrators_may_ask(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        request = ours.GetPrioritiesRequest()
        for channel in (agent.channel, server.tls()):
            with pytest.raises(PermissionDenied):
                await channel.unary(ENTRY + "GetPriorities", request, ours.GetPrioritiesResponse)

    serve(scenario)
