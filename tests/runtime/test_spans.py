"""Spans: whose they are, who wants them, and what a collector that is away costs."""

from __future__ import annotations

import contextvars
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from control_plane.core.errors import InvalidInput
from control_plane.runtime import tracing
from control_plane.runtime.otlp import MAX_WAITING, Collector, Exporter
from control_plane.runtime.tracing import FinishedSpan, Kind, Outgoing, Span, TraceContext

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def told() -> Iterator[list[FinishedSpan]]:
    found: list[FinishedSpan] = []
    tracing.install(found.append)
    yield found
    tracing.install(None)


def alone(work: Callable[[], Any]) -> Any:
    return contextvars.Context().run(work)


def test_spans_are_below_each_other(told: list[FinishedSpan]) -> None:
    def work() -> None:
        with Span("outer", SAMPLED, Kind.SERVER):
            with Span("inner"):
                header = tracing.outgoing() or ""
            with pytest.raises(ValueError, match="x"), Span("failed"):
                raise ValueError("x")
        assert tracing.outgoing() is None, "what ended is over"
        inner, failed, outer = told
        assert (outer.parent_id, outer.context.trace_id, outer.kind) == (PARENT, TRACE, Kind.SERVER)
        assert inner.parent_id == failed.parent_id == outer.context.span_id
        assert TraceContext.parse(header) == inner.context
        assert (inner.error, failed.error) == ("", "ValueError")
        assert outer.began_ns <= inner.began_ns <= inner.ended_ns <= outer.ended_ns

    alone(work)


def test_who_does_not_want_spans_is_sent_none_but_the_trace_goes_on(told: list[FinishedSpan]) -> None:
    def work() -> None:
        with Span("outer", UNSAMPLED):
            assert (tracing.outgoing() or "").startswith(f"00-{TRACE}-")
        with Span("nothing"):
            assert tracing.outgoing() is None
        assert told == []

    alone(work)


def test_a_call_to_somebody_else_is_a_span_and_what_is_called_is_below_it(told: list[FinishedSpan]) -> None:
    def work() -> None:
        with Span("work", SAMPLED), pytest.raises(ValueError, match="x"), Outgoing("call") as call:
            assert tracing.outgoing() != call.header, "nothing here is below it"
            raise ValueError("x")
        called, whole = told
        assert (called.parent_id, called.kind, called.error) == (
            whole.context.span_id,
            Kind.CLIENT,
            "ValueError",
        )
        assert call.header == called.context.header

    alone(work)


@pytest.mark.parametrize("collected", [True, False])
def test_a_call_that_is_no_span_carries_the_trace_all_the_same(
    told: list[FinishedSpan], collected: bool
) -> None:
    def work() -> None:
        with Outgoing("outside") as call:
            assert call.header is None
        with Span("work", UNSAMPLED if collected else SAMPLED):
            if not collected:
                tracing.install(None)
            with Outgoing("call") as call:
                assert call.header == tracing.outgoing()
        assert told == []

    alone(work)


def test_a_program_that_ends_well_has_not_failed(told: list[FinishedSpan]) -> None:
    def work() -> None:
        for code in (0, None, 3):
            with pytest.raises(SystemExit), Span("command", SAMPLED):
                raise SystemExit(code)
        assert [one.error for one in told] == ["", "", "SystemExit"]

    alone(work)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/policy/versions/3/plan?x=1", "v1/policy/versions"),
        ("/v1/quarantine", "v1/quarantine"),
        ("/v1/alerts/12", "v1/alerts/*"),
        ("/", ""),
    ],
)
def test_a_path_names_a_span_without_what_differs(path: str, name: str) -> None:
    assert tracing.family(path) == name


def test_a_trace_begins_only_where_somebody_collects(told: list[FinishedSpan]) -> None:
    def work() -> None:
        with Span("command", begin=True):
            assert (tracing.outgoing() or "").endswith("-01")
        assert [one.parent_id for one in told] == [""]
        tracing.install(None)
        with Span("command", begin=True):
            assert tracing.outgoing() is None

    alone(work)


def test_a_collector_that_is_away_costs_no_time_and_no_memory(told: list[FinishedSpan]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        exporter = Exporter(Collector.parse(f"http://127.0.0.1:{taken.getsockname()[1]}", {}), "test")
    alone(lambda: Span("x", SAMPLED).__enter__().__exit__(None, None, None))
    began = time.perf_counter()
    for _ in range(3 * MAX_WAITING):
        exporter.take(told[0])
    assert time.perf_counter() - began < 5
    exporter.close()
    assert exporter.dropped >= 2 * MAX_WAITING, "what does not fit is gone at once"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://x", "http://", "file:///etc/passwd"])
def test_what_is_no_collector_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="expected the URL of a collector"):
        Collector.parse(endpoint, {})


def test_who_exports_nothing_loads_nothing() -> None:
    code = (
        "import sys; import control_plane.runtime.tracing as t; t.export_from({}, 'x');"
        "import control_plane.runtime.transport, control_plane.wiring.issuer;"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
