"""Takes the spans of Envoys (`tracer`) and hands them on among the agent's own.

Of a span are kept its place in the trace, its times, whether it failed, and which service's Envoy it is of:
no path and no header. Spans come as often as callers ask for, so a bound of them is handed on each second and
the rest is counted. OpenTelemetry's messages are loaded when the first Envoy reports.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from agent.attest.sessions import Sessions
from agent.identities import Identities
from agent.refusals import Refusals
from control_plane.core.errors import InvalidInput
from control_plane.runtime.log import get_logger
from control_plane.runtime.otlp_names import scopes
from control_plane.runtime.tracing import FinishedSpan, Kind, TraceContext

SPANS_PER_SECOND: Final = 200
SPANS_AT_ONCE: Final = 1000
MAX_NAME: Final = 100

_log = get_logger("agent.envoy.spans")


class Spans:
    """Implements opentelemetry.proto.collector.trace.v1.TraceService; requests come as bytes.

    `seconds` is a clock that never goes back; `hand_on` doesn't wait.
    """

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        refusals: Refusals,
        seconds: Callable[[], float],
        hand_on: Callable[[FinishedSpan], None],
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._refusals = refusals
        self._seconds = seconds
        self._hand_on = hand_on
        self._left = float(SPANS_AT_ONCE)
        self._at = seconds()
        self.dropped = 0

    async def export(self, call: Any, request: Any) -> bytes:
        """Takes one report. Raises InvalidInput, and PermissionDenied for who has no identity here."""
        found = list(read(request.SerializeToString()))
        session = await self._sessions.of(call.peer)
        if not self._identities.match(session.selectors):
            raise self._refusals.no_identity(session)
        for span in found[: self._admitted(len(found))]:
            self._hand_on(span)
        answer: bytes = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        return answer

    def _admitted(self, many: int) -> int:
        """How many of so many spans may go on now."""
        now = self._seconds()
        full = self._left >= 1
        self._left = min(SPANS_AT_ONCE, self._left + (now - self._at) * SPANS_PER_SECOND)
        self._at = now
        admitted = min(many, int(self._left))
        self._left -= admitted
        self.dropped += many - admitted
        if admitted < many and full:
            _log.warning("spans_dropped", most_per_second=SPANS_PER_SECOND, dropped_so_far=self.dropped)
        return admitted


def read(payload: bytes) -> Iterator[FinishedSpan]:
    """The spans of one report that belong into a trace. Raises InvalidInput."""
    try:
        message = trace_service_pb2.ExportTraceServiceRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(f"a report of {len(payload)} bytes can't be read as OTLP spans") from error
    for resource in message.resource_spans:
        named = (one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
        service = next(named, "")[:MAX_NAME]
        for scope in scopes(resource):
            for span in scope.spans:
                context = TraceContext.parse(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01")
                if context is not None and len(span.parent_span_id) in (0, 8):
                    yield _finished(context, service, span)


def _finished(context: TraceContext, service: str, span: trace_pb2.Span) -> FinishedSpan:
    inbound = span.kind == trace_pb2.Span.SPAN_KIND_SERVER
    asking = span.name.endswith("Authorization.Check egress")
    what = "asks the agent" if asking else "inbound" if inbound else "outbound"
    return FinishedSpan(
        context=context,
        parent_id=span.parent_span_id.hex(),
        name=f"envoy {service} {what}",
        kind=Kind.SERVER if inbound else Kind.CLIENT,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        error="failed" if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else "",
    )
