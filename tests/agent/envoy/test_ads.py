"""The aggregated discovery service for clients that don't behave like Envoy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, POLICY, SECRET
from agent.envoy.subscription import MAX_NAMES
from control_plane.core.errors import GatehouseError, InvalidInput, PermissionDenied, ResourceExhausted
from control_plane.runtime.transport import Channel

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
STATE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
DESCRIPTION: dict[str, Any] = {
    "name": "pay",
    "spiffe_id": PAY,
    "inbound": [{"name": "http", "listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", "protocol": "http"}],
}


def node(service: object = DESCRIPTION) -> Any:
    return {"id": "x", "metadata": {"gatehouse": {"service": service}}}


def request(type_url: str = LISTENER, **fields: Any) -> Any:
    found = discovery_pb2.DiscoveryRequest(type_url=type_url)
    return json_format.ParseDict(fields, found)


def delta(type_url: str = LISTENER, **fields: Any) -> Any:
    return json_format.ParseDict(fields, discovery_pb2.DeltaDiscoveryRequest(type_url=type_url))


async def first(it: Any, path: str, *messages: Any) -> Any:
    """The first answer to these requests."""
    kind = discovery_pb2.DiscoveryResponse if path == STATE else discovery_pb2.DeltaDiscoveryResponse
    async with Channel.unix(it.socket) as channel, channel.stream(path, kind) as call:
        for message in messages:
            await call.send(message)
        async with asyncio.timeout(20):
            return await call.receive()


REFUSED: list[tuple[str, Any, type[GatehouseError], str]] = [
    ("no node", request(), InvalidInput, "doesn't say which service"),
    ("no description", request(node={"id": "x"}), InvalidInput, "doesn't say which service"),
    ("no table", request(node=node("x")), InvalidInput, "a table is expected"),
    ("a mistake", request(node=node({**DESCRIPTION, "x": "y"})), InvalidInput, "there is no 'x'"),
    ("somebody else", request(node=node({**DESCRIPTION, "spiffe_id": "spiffe://agents.test/ceo"})),
     PermissionDenied, "isn't entitled to spiffe://agents.test/ceo"),
    ("a foreign domain", request(node=node({**DESCRIPTION, "spiffe_id": "spiffe://other.test/pay"})),
     PermissionDenied, "isn't entitled to"),
    ("another type", request("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", node=node()),
     InvalidInput, "served here"),
    ("secrets", request(SECRET, node=node()), InvalidInput, "served here"),
    ("no type", request("", node=node()), InvalidInput, "served here"),
    ("many names", request(EXTENSION, node=node(), resourceNames=[str(one) for one in range(100_000)]),
     ResourceExhausted, "names 100000 resources"),
]  # fmt: skip


@pytest.mark.parametrize(
    "message,error,told", [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_refused_is_told_why(
    lab: Any, entry: Any, run_async: Any, message: Any, error: type[GatehouseError], told: str
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it:
            with pytest.raises(error, match=told):
                await first(it, STATE, message)
            assert len(it.parts.fleet) == 0

    run_async(work())


def test_a_stream_gets_what_it_asks_for_and_nothing_else(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it:
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            answer = await first(it, STATE, request(CLUSTER, node=node()))
            assert answer.type_url == CLUSTER and len(answer.resources) == 1
            names = [POLICY, "envoy.filters.http.rbac", "gatehouse.none"]
            answer = await first(it, STATE, request(EXTENSION, node=node(), resourceNames=names))
            assert len(answer.resources) == 1
            answer = await first(it, DELTA, delta(EXTENSION, node=node(), resourceNamesSubscribe=names))
            assert [one.name for one in answer.resources] == [POLICY]
            assert sorted(answer.removed_resources) == sorted(names[1:])

    run_async(work())


def test_the_service_of_a_stream_is_that_of_its_first_request(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay"), entry("e2", "/web")) as it:
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            other = {
                **DESCRIPTION,
                "spiffe_id": WEB,
                "inbound": [{**DESCRIPTION["inbound"][0], "name": "web"}],
            }
            async with (
                Channel.unix(it.socket) as channel,
                channel.stream(DELTA, discovery_pb2.DeltaDiscoveryResponse) as call,
            ):
                await call.send(delta(EXTENSION, node=node()))
                await call.send(delta(LISTENER, node=node(other)))
                answer = await asyncio.wait_for(call.receive(), 20)
                assert answer is not None and [one.name for one in answer.resources] == ["http"]

    run_async(work())


def test_floods_are_one_state_and_others_are_served_meanwhile(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def flood(it: Any) -> None:
        async with (
            Channel.unix(it.socket) as channel,
            channel.stream(DELTA, discovery_pb2.DeltaDiscoveryResponse) as call,
        ):
            await call.send(delta(EXTENSION, node=node()))
            for number in range(3_000):
                names = [f"{number % (MAX_NAMES - 1)}", POLICY]
                await call.send(delta(EXTENSION, resourceNamesSubscribe=names, responseNonce="n" * 1000))
                await call.send(delta(EXTENSION, errorDetail={"message": "x" * 1000}))

    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it:
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            floods = [asyncio.create_task(flood(it)) for _ in range(3)]
            for _ in range(5):
                assert await first(it, STATE, request(CLUSTER, node=node()))
            for one in floods:
                await asyncio.wait_for(one, 50)
            await it.run.until(lambda: len(it.parts.fleet) == 0, "nothing is left")

    run_async(work())


def test_an_identity_that_is_withdrawn_ends_the_stream(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay"), entry("e2", "/web")) as it:
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            async with (
                Channel.unix(it.socket) as channel,
                channel.stream(STATE, discovery_pb2.DiscoveryResponse) as call,
            ):
                await call.send(request(LISTENER, node=node()))
                assert await asyncio.wait_for(call.receive(), 10)
                it.run.server.remove("e1")
                with pytest.raises(PermissionDenied, match="isn't entitled"):
                    await asyncio.wait_for(call.receive(), 20)

    run_async(work())
