"""Envoy's services on the agent's socket, before anything of Envoy's is loaded.

Its messages cost an agent five MiB, and most machines that have an agent have no Envoy. So each method is
declared by its path, its request is kept as bytes until the first call, and that call loads what serves it.
Server reflection doesn't list these services, since it needs their descriptors.
"""

from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Final

from google.protobuf import empty_pb2

from control_plane.runtime.transport import Call, Method, Reply, Requests, Service, snake_case

SECRETS: Final = "envoy.service.secret.v3.SecretDiscoveryService"
AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
ACCESS_LOGS: Final = "envoy.service.accesslog.v3.AccessLogService"
METRICS: Final = "opentelemetry.proto.collector.metrics.v1.MetricsService"
SPANS: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
AGGREGATED: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

Load = Callable[[], object]
"""Gives the implementation of a service; called at its first call."""


def lazy_service(name: str, streams: Iterable[str], unary: Iterable[str], load: Load) -> Service:
    """A service by its full name and the names of its methods: bidirectional streams and unary ones.

    The coroutines of what `load` gives are those of `runtime.transport.service`, but that requests come as
    `Empty`, whose unknown fields are the request: `SerializeToString` gives the bytes that came.
    """
    loaded: list[object] = []

    def implementation() -> Any:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    methods = [_stream(f"/{name}/{each}", implementation) for each in streams]
    methods += [_unary(f"/{name}/{each}", implementation) for each in unary]
    return Service(name, {method.path: method for method in methods}, empty_pb2.DESCRIPTOR)


def envoy_services(
    secrets: Load, aggregated: Load, authorization: Load, running: Load, counting: Load, spans: Load
) -> list[Service]:
    """SDS, ADS, external authorization, the access log service that hears of running requests, and those that
    take counters and spans."""
    return [
        lazy_service(SECRETS, ("StreamSecrets", "DeltaSecrets"), ("FetchSecrets",), secrets),
        lazy_service(AGGREGATED, ("StreamAggregatedResources", "DeltaAggregatedResources"), (), aggregated),
        lazy_service(AUTHORIZATION, (), ("Check",), authorization),
        lazy_service(ACCESS_LOGS, ("StreamAccessLogs",), (), running),
        lazy_service(METRICS, (), ("Export",), counting),
        lazy_service(SPANS, (), ("Export",), spans),
    ]


def _stream(path: str, implementation: Callable[[], Any]) -> Method:
    async def serve(call: Call, requests: Requests, reply: Reply) -> None:
        handler = getattr(implementation(), _coroutine(path))
        async with aclosing(handler(call, requests)) as responses:
            async for response in responses:
                await reply.send(response)

    return Method(path, empty_pb2.Empty, serve)


def _unary(path: str, implementation: Callable[[], Any]) -> Method:
    async def serve(call: Call, requests: Requests, reply: Reply) -> None:
        handler = getattr(implementation(), _coroutine(path))
        await reply.send_last(await handler(call, await requests.one()))

    return Method(path, empty_pb2.Empty, serve)


def _coroutine(path: str) -> str:
    return snake_case(path.rpartition("/")[2])
