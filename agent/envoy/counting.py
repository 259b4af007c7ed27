"""Takes the counters that Envoys send (`counters`) and adds them up by workload.

An Envoy counts for the identity that it stands before, and only a process that is entitled to this identity
may. So a workload can lie about itself and about nobody else. OpenTelemetry's messages are loaded when the
first Envoy reports.
"""

from collections import Counter, defaultdict
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2

from agent.attest.sessions import Sessions
from agent.enforcement.counts import Decided, DecisionCounts
from agent.envoy.counters import CUT_OFF, DENIED, DENIED_REQUEST, REQUESTS, WORKLOAD
from agent.identities import Identities
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.otlp_names import scopes
from control_plane.runtime.transport import Call

MAX_POINTS: Final = 1000

_METRICS: Final = frozenset({REQUESTS, DENIED, DENIED_REQUEST, CUT_OFF})


class Counting:
    """Implements opentelemetry.proto.collector.metrics.v1.MetricsService; requests come as bytes."""

    def __init__(self, identities: Identities, sessions: Sessions, counts: DecisionCounts) -> None:
        self._identities = identities
        self._sessions = sessions
        self._counts = counts

    async def export(self, call: Call, request: Any) -> bytes:
        """Takes one report. Raises InvalidInput; what isn't about an own identity is left out."""
        found = read(request.SerializeToString())
        session = await self._sessions.of(call.peer)
        own = {entry.spiffe_id for entry in self._identities.match(session.selectors)}
        for workload in found.keys() & own:
            self._counts.add(session.process.pid, workload, found[workload])
        answer: bytes = metrics_service_pb2.ExportMetricsServiceResponse().SerializeToString()
        return answer


def read(payload: bytes) -> dict[SpiffeId, Decided]:
    """What one report says, by workload. Raises InvalidInput."""
    try:
        message = metrics_service_pb2.ExportMetricsServiceRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(f"a report of {len(payload)} bytes can't be read as OTLP metrics") from error
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    points = 0
    for resource in message.resource_metrics:
        for scope in scopes(resource):
            for metric in scope.metrics:
                if metric.name not in _METRICS:
                    continue
                for point in metric.sum.data_points:
                    points += 1
                    if points > MAX_POINTS:
                        raise InvalidInput(f"a report of counters has more than {MAX_POINTS} points")
                    sums[_workload(point)][metric.name] += max(point.as_int, 0)
    return {SpiffeId.parse(workload): _decided(sums[workload]) for workload in sums}


def _workload(point: metrics_pb2.NumberDataPoint) -> str:
    return next((one.value.string_value for one in point.attributes if one.key == WORKLOAD), "")


def _decided(sums: Counter[str]) -> Decided:
    """Denials whose request ends in the next interval are more than its requests: then those count."""
    denied = sums[DENIED] + sums[DENIED_REQUEST]
    return Decided(max(sums[REQUESTS] + sums[DENIED_REQUEST] - sums[CUT_OFF], denied), denied)
