"""Which identities of a list are cut off, beside SPIRE's messages that can't say it."""

from typing import Any

import pytest

from control_plane.core.errors import InvalidInput, PermissionDenied
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.quarantine import Quarantined
from control_plane.proto.gatehouse.server.v1 import quarantine_pb2 as ours

GET = "/gatehouse.server.v1.Quarantine/GetQuarantined"
WEB, FREE = "spiffe://example.org/web", "spiffe://example.org/free"


async def asked(server: Any, *spiffe_ids: str) -> dict[str, tuple[str, str, int]]:
    request = ours.GetQuarantinedRequest(spiffe_ids=spiffe_ids)
    reply = await server.admin.unary(GET, request, ours.GetQuarantinedResponse)
    return {name: (one.reason, one.by, one.quarantined_at) for name, one in reply.quarantined.items()}


def test_those_of_the_list_that_are_cut_off_are_told_with_why(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        for name in (WEB, "spiffe://example.org/not-asked-for"):
            assert await server.parts.store.quarantine(
                Quarantined(SpiffeId.parse(name), "odd calls", "op", 7)
            )
        await server.parts.replica.refresh()
        assert await asked(server, FREE, WEB) == {WEB: ("odd calls", "op", 7)}
        assert await server.parts.store.release(SpiffeId.parse(WEB))
        await server.parts.replica.refresh()
        assert await asked(server, FREE, WEB) == {}

    serve(scenario)


def test_what_is_no_list_of_identities_is_refused(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        with pytest.raises(InvalidInput, match="1001 items in one request, at most 1000"):
            await asked(server, *[WEB] * 1001)
        with pytest.raises(InvalidInput):
            await asked(server, "web")

    serve(scenario)


def test_only_administrators_may_ask(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        for channel in (agent.channel, server.tls()):
            with pytest.raises(PermissionDenied):
                await channel.unary(GET, ours.GetQuarantinedRequest(), ours.GetQuarantinedResponse)

    serve(scenario)
