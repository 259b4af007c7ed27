"""A caller's trace goes on where the agent judges its request."""

from __future__ import annotations

import dataclasses
from typing import Any

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
