"""Real Envoys tell what they decided, and nobody counts for somebody else."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from google.protobuf import empty_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

from agent.enforcement.counts import Decided
from agent.enforcement.ports import Ruling
from agent.envoy.counters import CUT_OFF, DENIED, DENIED_REQUEST, REQUESTS, WORKLOAD
from agent.envoy.counting import MAX_POINTS, read
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.otlp_names import scopes
from control_plane.runtime.transport import Channel

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
PAY_ID = SpiffeId.parse(PAY)
FLUSH_SECONDS = 0.25  # not the two of the product: nothing but the wait depends on it
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


async def asked(it: Any, times: int, status: int) -> None:
    for _ in range(times):
        assert await it.status() == status


async def until(it: Any, wanted: Decided, what: str) -> None:
    """What was decided for pay since the policy in force came."""

    def counted() -> bool:
        return bool(it.counts.snapshot().workloads.get(PAY_ID) == wanted)

    await it.run.until(counted, what, seconds=20)


async def settled(it: Any) -> None:
    """Waits until Envoy has reported once under the policy in force: that interval counts for none."""
    await it.status()
    it.counts.snapshot()
    await it.run.until(lambda: it.counts._begun, "it reports", seconds=20)


def test_envoys_count_what_policy_decides(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.envoy.counters.FLUSH_SECONDS", FLUSH_SECONDS)

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            await settled(it)
            await asked(it, 10, 200)
            await until(it, Decided(10, 0), "ten that were allowed")

            it.enforcement.put(enforcing(admitting(PAY), sequence=2))
            await it.until_status(403)
            await settled(it)
            await asked(it, 7, 403)
            reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["tcp"])
            writer.write(b"x")
            assert await reader.read() == b"", "a TCP connection that is denied"
            writer.close()
            await until(it, Decided(8, 8), "eight that were denied")
            assert it.counts.snapshot().before == Decided(10, 0)

            # The agent denies: Envoy's client of ext_authz counts it.
            it.enforcement.judge = lambda destination, request: Ruling(False, "a test")
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY), custom=True), sequence=3))
            await it.until_status(403)
            await settled(it)
            await asked(it, 4, 403)
            await until(it, Decided(4, 4), "four that the agent denied")

            # Who is cut off isn't the policy's doing.
            it.enforcement.put(enforcing(admitting(PAY, WEB), quarantined=(PAY,), sequence=4))
            await settled(it)
            await asked(it, 5, 403)
            await asyncio.sleep(2 * FLUSH_SECONDS)
            assert it.counts.snapshot().workloads.get(PAY_ID, Decided()) == Decided()

    run_async(work())


def report(workload: str = PAY, **values: int) -> Any:
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    metrics = scopes(request.resource_metrics.add()).add().metrics
    names = {"requests": REQUESTS, "denied": DENIED, "denied_request": DENIED_REQUEST, "cut_off": CUT_OFF}
    for name, value in values.items():
        point = metrics.add(name=names[name]).sum.data_points.add(as_int=value)
        point.attributes.add(key=WORKLOAD).value.string_value = workload
    return request


@pytest.mark.parametrize(
    ("values", "decided"),
    [
        ({"requests": 10, "denied": 3}, (10, 3)),
        ({"requests": 10, "denied": 3, "denied_request": 2}, (12, 5)),
        ({"requests": 10, "denied": 3, "cut_off": 4}, (6, 3)),
        ({"requests": 1, "denied": 3}, (3, 3)),  # the requests end in the next interval
        ({"requests": -5, "denied": 3}, (3, 3)),
    ],
)
def test_counters_add_up(values: dict[str, int], decided: tuple[int, int]) -> None:
    assert read(report(**values).SerializeToString()) == {PAY_ID: Decided(*decided)}


def test_what_is_no_report_is_refused() -> None:
    many = report()
    points = scopes(many.resource_metrics[0])[0].metrics.add(name=REQUESTS).sum.data_points
    for number in range(MAX_POINTS + 1):
        points.add(as_int=1).attributes.add(key=WORKLOAD).value.string_value = f"{PAY}{number}"
    for payload in (b"\xff\xff", many.SerializeToString(), report("pay", requests=1).SerializeToString()):
        with pytest.raises(InvalidInput):
            read(payload)


def test_a_process_counts_for_its_own_identity_alone(lab: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it, Channel.unix(it.socket) as channel:
            for workload in (PAY, WEB):
                for _ in range(2):
                    sent = empty_pb2.Empty.FromString(report(workload, requests=5).SerializeToString())
                    await channel.unary(EXPORT, sent, empty_pb2.Empty)
            assert it.counts.snapshot().workloads == {PAY_ID: Decided(5, 0)}

    run_async(work())
