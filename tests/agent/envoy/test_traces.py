"""A caller's trace goes on in the Envoys that pass its request on, and where the agent judges it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from agent.enforcement.ports import Ruling
from control_plane.runtime import tracing
from control_plane.runtime.tracing import FinishedSpan

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_check_is_a_span_of_the_callers_trace(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    told: list[FinishedSpan] = []

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.judge = lambda destination, request: Ruling(True, "a test")
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY), custom=True)))
            await it.until_status(200)
            tracing.install(told.append)
            try:
                await it.request("/v1/a", f"traceparent: 00-{TRACE}-{PARENT}-01\r\n")
                await it.request("/v1/b")
            finally:
                tracing.install(None)

    run_async(work())
    [span] = told
    assert (span.name, span.context.trace_id, span.parent_id) == ("ext_authz", TRACE, PARENT)


@pytest.fixture
def told() -> Iterator[list[FinishedSpan]]:
    """The spans that would go to a collector, from the start of the agent on."""
    found: list[FinishedSpan] = []
    tracing.install(found.append)
    yield found
    tracing.install(None)


def test_a_request_is_one_trace_through_both_envoys_and_the_agent(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, told: list[FinishedSpan]
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.judge = lambda destination, request: Ruling(True, "a test")
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY), custom=True)))
            await it.until_status(200)
            for forced in (
                "x-client-trace-id: mine\r\n",
                "x-envoy-force-trace: 1\r\n",
                "x-request-id: 2b7c7d4e-1c5f-9a2b-8c3d-0123456789ab\r\n",
                f"traceparent: 00-{'ab' * 16}-{PARENT}-00\r\n",
                "traceparent: 00-nonsense\r\n",
            ):
                assert (await it.request("/v1/b", forced))[0] == 200
            await it.request("/v1/a", f"traceparent: 00-{TRACE}-{PARENT}-01\r\n")
            await it.run.until(lambda: len({span.name for span in told}) >= 5, "all have told", seconds=40)

    run_async(work())
    assert {span.context.trace_id for span in told} == {TRACE}, "nobody else began one or had it recorded"
    by_id = {span.context.span_id: span for span in told}
    [judged] = [span for span in told if span.name == "ext_authz"]
    names = []
    here: FinishedSpan | None = judged
    while here is not None:
        names.append(here.name)
        above, here = here.parent_id, by_id.get(here.parent_id)
    assert above == PARENT, "the caller's own span is above them all"
    assert names == [
        "ext_authz", "/envoy.service.auth.v3.Authorization/Check", "envoy pay asks the agent",
        "envoy pay inbound", "envoy web outbound",
    ]  # fmt: skip
    assert all(0 < span.began_ns <= span.ended_ns for span in told)
