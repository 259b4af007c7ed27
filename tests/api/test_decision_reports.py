"""Agents report what they decided while a canary runs; what they say counts for themselves alone."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.rollout.assignment import Assignment, Cause, InForce, SignedBundle
from control_plane.rollout.denials import AgentCounts, Counts
from control_plane.rollout.push import Pushed

TD = TrustDomain("example.org")
WATCH, REPORT = "/gatehouse.node.v1.Node/Watch", "/gatehouse.node.v1.Node/ReportDecisions"


def put_in_force(server: Any, canary_percent: int | None) -> InForce:
    def assigned(sequence: int, percent: int) -> Assignment:
        return Assignment(
            sequence=sequence, version=sequence, digest="sha256:1", percent=percent, cause=Cause.APPLY,
            by="op", reason="go", at=5,
        )  # fmt: skip

    now = InForce(assigned(1, 100), None if canary_percent is None else assigned(2, canary_percent))
    bundle = SignedBundle(b"", b"", "k")
    server.parts.policies.swap(Pushed((), now, {1: bundle, 2: bundle}))
    server.parts.replica.tell_all()
    return now


async def report(agent: Any, **fields: Any) -> bool:
    request = node_pb2.ReportDecisionsRequest(**fields)
    answer = await agent.channel.unary(REPORT, request, node_pb2.ReportDecisionsResponse)
    return bool(answer.taken)


def counted(name: str, requests: int, denied: int) -> node_pb2.DecisionCount:
    return node_pb2.DecisionCount(spiffe_id=f"spiffe://example.org/{name}", requests=requests, denied=denied)


def test_agents_are_asked_while_a_canary_runs_and_no_longer(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        watch = agent.channel.server_stream(WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse)
        async with watch as stream:
            assert not (await stream.receive()).HasField("decisions_wanted")
            put_in_force(server, 50)
            wanted = (await stream.receive()).decisions_wanted
            assert (wanted.canary, wanted.interval_seconds) == (2, 2)
            put_in_force(server, None)
            ended = await stream.receive()
            assert ended.HasField("decisions_wanted")
            assert ended.decisions_wanted.canary == 0

    serve(scenario)


def test_a_report_is_kept_once_for_the_agent_that_attested(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        await server.create(api.entry_for("/web", agent.id))
        await server.parts.replica.refresh()
        now = put_in_force(server, 50)
        meant = now.of_agent(agent.id)
        said = {
            "canary": 2, "sequence": meant.sequence, "before": counted("", 50, 1),
            "workloads": [counted("web", 10, 3), counted("somebody-else", 1000, 1000)],
        }  # fmt: skip
        assert await report(agent, **said)
        assert await report(agent, **said), "whole each time"
        await server.parts.reports.flush()
        web = SpiffeId(TD, "/web")
        [kept] = await server.parts.rollout_store.reports(2)
        assert kept == AgentCounts(agent.id, meant is now.canary, Counts(10, 3), Counts(50, 1), web)
        assert not await report(agent, **{**said, "sequence": 3 - meant.sequence}), "not what it has"
        assert not await report(agent, **{**said, "canary": 1})
        # Another canary forgets what was said of this one.
        await server.parts.rollout_store.put_reports(3, [])
        assert await server.parts.rollout_store.reports(2) == []

    serve(scenario)


def test_reports_are_bounded(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        put_in_force(server, 50)
        for workloads in ([counted(f"w{n}", 1, 0) for n in range(101)], [counted(" ", 1, 1)]):
            with pytest.raises(InvalidInput):
                await report(agent, canary=2, sequence=1, workloads=workloads)

    serve(scenario)
