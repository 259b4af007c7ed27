"""Trace context: what is one, what is ignored, and that it goes from caller to server to log and on."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
from pathlib import Path

import pytest

from control_plane.core.errors import Unimplemented
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.runtime import log, tracing
from control_plane.runtime.tracing import FinishedSpan, Kind, TraceContext
from control_plane.runtime.transport import Call, Channel, Server, health

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "header",
    ["", "00", GIVEN.upper(), GIVEN + "-x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
     f"00-{TRACE}-{'0' * 16}-01", GIVEN + "\n", f"01-{TRACE}-{SPAN}-01-" + "x" * 200, f"00-{TRACE}-{SPAN}"],
)  # fmt: skip
def test_what_is_no_context_is_ignored(header: str) -> None:
    def scenario() -> None:
        tracing.enter(header)
        assert tracing.outgoing() is None

    contextvars.Context().run(scenario)


def test_a_later_version_is_read_by_its_known_fields() -> None:
    assert TraceContext.parse(f"01-{TRACE}-{SPAN}-01-more") == TraceContext(TRACE, SPAN, "01")
    assert TraceContext(TRACE, SPAN, "01").header == GIVEN


def test_a_trace_goes_from_the_caller_to_the_log_and_on(short_dir: Path) -> None:
    seen: list[str | None] = []
    sink = io.StringIO()

    async def note(call: Call) -> None:
        seen.append(tracing.outgoing())
        log.get_logger("test").info("called")

    async def main() -> None:
        server = Server([health(lambda: True)], interceptors=[note])
        await server.listen_unix(short_dir / "s", 0o600)
        method = "/grpc.health.v1.Health/Check"
        async with Channel.unix(short_dir / "s") as channel:
            for _ in range(2):
                await channel.unary(
                    method, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, timeout=10
                )
                tracing.enter(GIVEN)
        await server.close(0)

    log.configure(stream=sink)
    try:
        asyncio.run(main())
    finally:
        log.configure(level="warning")
    untraced, traced = seen
    assert untraced is None
    assert traced is not None and traced.startswith(f"00-{TRACE}-") and SPAN not in traced
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    ids = [one.get("trace_id") for one in lines if one["event"] == "called"]
    assert ids == [None, TRACE]


def test_a_call_is_a_span_of_who_calls_and_below_it_one_of_who_is_called(short_dir: Path) -> None:
    told: list[FinishedSpan] = []
    method = "/grpc.health.v1.Health/Check"

    async def main() -> None:
        server = Server([health(lambda: True)])
        await server.listen_unix(short_dir / "s", 0o600)
        async with Channel.unix(short_dir / "s") as channel:
            with tracing.Span("work", GIVEN):
                await channel.unary(
                    method, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, timeout=10
                )
            with pytest.raises(Unimplemented), tracing.Span("work", GIVEN):
                await channel.unary("/a.B/C", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
        await server.close(0)

    tracing.install(told.append)
    try:
        asyncio.run(main())
    finally:
        tracing.install(None)
    work = [one for one in told if one.name == "work"]
    calls = [one for one in told if one.kind is Kind.CLIENT]
    [served] = [one for one in told if one.kind is Kind.SERVER]
    assert [one.name for one in calls] == [method, "/a.B/C"]
    assert [one.parent_id for one in calls] == [one.context.span_id for one in work]
    assert (served.name, served.parent_id) == (method, calls[0].context.span_id)
    assert [one.error for one in calls] == ["", "Unimplemented"]
