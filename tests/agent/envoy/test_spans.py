"""Spans that come from outside: read with suspicion, bounded, and from nobody without an identity."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import empty_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from agent.envoy.spans import MAX_NAME, SPANS_AT_ONCE, SPANS_PER_SECOND, Spans, read
from control_plane.core.errors import InvalidInput, PermissionDenied
from control_plane.runtime.otlp_names import scopes
from control_plane.runtime.tracing import FinishedSpan, Kind

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


def report(*spans: dict[str, Any], service: str = "pay") -> bytes:
    message = trace_service_pb2.ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = scopes(resource).add()
    for one in spans:
        facts = {"trace_id": bytes.fromhex(TRACE), "span_id": bytes.fromhex(SPAN), "name": "ingress"}
        scope.spans.add(**{**facts, **one})
    return message.SerializeToString()


def test_of_a_span_its_place_and_its_times_are_kept() -> None:
    attributes = [{"key": "http.url", "value": {"string_value": "https://x/secret"}}]
    failed = {"code": trace_pb2.Status.STATUS_CODE_ERROR, "message": "a text of the caller's"}
    [span] = read(
        report(
            {
                "parent_span_id": bytes.fromhex(PARENT),
                "kind": trace_pb2.Span.SPAN_KIND_SERVER,
                "start_time_unix_nano": 5,
                "end_time_unix_nano": 9,
                "status": failed,
                "attributes": attributes,
            }
        )
    )
    assert (span.context.trace_id, span.context.span_id, span.parent_id) == (TRACE, SPAN, PARENT)
    assert (span.name, span.kind, span.began_ns, span.ended_ns) == ("envoy pay inbound", Kind.SERVER, 5, 9)
    assert span.error == "failed" and "secret" not in repr(span)


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace_id": b""}, {"trace_id": b"\0" * 16}, {"trace_id": b"1" * 17}, {"span_id": b"\0" * 8},
        {"span_id": b"1" * 7}, {"parent_span_id": b"1" * 9},
    ],
)  # fmt: skip
def test_a_span_without_a_place_in_a_trace_is_left_out(wrong: dict[str, Any]) -> None:
    assert len(list(read(report(wrong, {})))) == 1


def test_what_is_no_report_is_refused_and_long_names_are_cut() -> None:
    with pytest.raises(InvalidInput, match="3 bytes can't be read as OTLP spans"):
        list(read(b"\xff\xff\xff"))
    [span] = read(report({"kind": trace_pb2.Span.SPAN_KIND_CLIENT}, service="x" * 10_000))
    assert span.name == f"envoy {'x' * MAX_NAME} outbound"


def test_so_many_a_second_go_on_and_the_rest_is_counted() -> None:
    told: list[FinishedSpan] = []
    now = [100.0]
    nobody: Any = None
    spans = Spans(nobody, nobody, nobody, lambda: now[0], told.append)
    assert [spans._admitted(many) for many in (SPANS_AT_ONCE - 1, 5, 5)] == [SPANS_AT_ONCE - 1, 1, 0]
    assert spans.dropped == 9
    now[0] += 0.5
    assert spans._admitted(10_000) == SPANS_PER_SECOND // 2
    now[0] += 3600
    assert spans._admitted(10_000) == SPANS_AT_ONCE, "nothing is saved up beyond that"


def test_who_has_no_identity_here_has_no_spans(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/web", "unix:uid:4000000")) as run:
            request = empty_pb2.Empty.FromString(report({}))
            with pytest.raises(PermissionDenied):
                await run.channel.unary(EXPORT, request, empty_pb2.Empty, timeout=20)

    run_async(work())
