"""The standard health service (grpc.health.v1) over a question that the process answers.

`Check` asks once, `Watch` asks every second and reports changes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from control_plane.core.errors import NotFound, shown
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from control_plane.runtime.transport.call import Call
from control_plane.runtime.transport.service import Service, service

_WATCH_SECONDS = 1.0
_ServingStatus = HealthCheckResponse.ServingStatus


def health(status: Callable[[], bool], services: Mapping[str, Callable[[], bool]] | None = None) -> Service:
    """A health service: `status` for the process as a whole, `services` by full name for single ones."""
    checks = {"": status, **(services or {})}
    return service(health_pb2.DESCRIPTOR.services_by_name["Health"], _Health(checks))


class _Health:
    def __init__(self, checks: Mapping[str, Callable[[], bool]]) -> None:
        self._checks = checks

    async def check(self, call: Call, request: HealthCheckRequest) -> HealthCheckResponse:
        if request.service not in self._checks:
            raise NotFound(f"health: {shown(request.service)} is no service that reports its health")
        return HealthCheckResponse(status=self._status(request.service))

    async def list(self, call: Call, request: HealthListRequest) -> HealthListResponse:
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in self._checks}
        return HealthListResponse(statuses=statuses)

    async def watch(self, call: Call, request: HealthCheckRequest) -> AsyncIterator[HealthCheckResponse]:
        last: int | None = None
        while True:
            status = self._status(request.service)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
            await asyncio.sleep(_WATCH_SECONDS)

    def _status(self, name: str) -> _ServingStatus:
        check = self._checks.get(name)
        if check is None:
            return _ServingStatus.SERVICE_UNKNOWN
        return _ServingStatus.SERVING if check() else _ServingStatus.NOT_SERVING
