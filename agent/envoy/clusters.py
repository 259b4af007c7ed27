"""Envoy's clusters for one service: itself, in plain, and the services it calls, by mutual TLS."""

from collections.abc import Mapping
from typing import Final

from agent.envoy.address import Address
from agent.envoy.description import Inbound, Outbound, Protocol
from agent.envoy.listeners import address
from agent.envoy.names import CLUSTER, HTTP_OPTIONS, Json
from agent.envoy.tls import outbound_socket
from control_plane.core.spiffe_id import SpiffeId

CONNECT_TIMEOUT: Final = "5s"
_HTTP_EXTENSION: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def service_cluster(inbound: Inbound) -> Json:
    """The service behind an inbound port."""
    return _cluster(inbound.name, inbound.upstream, inbound.protocol)


def peer_cluster(own: SpiffeId, outbound: Outbound, *, delta: bool) -> Json:
    """The other service behind an outbound port, which has to be `outbound.spiffe_id`."""
    alpn = {Protocol.TCP: (), Protocol.HTTP: ("http/1.1",)}.get(outbound.protocol, ("h2",))
    socket = outbound_socket(own, outbound.spiffe_id, alpn=alpn, delta=delta)
    found = _cluster(outbound.name, outbound.upstream, outbound.protocol)
    return {**found, "transport_socket": socket}


def _cluster(name: str, upstream: Address, protocol: Protocol) -> Json:
    endpoint: Mapping[str, object] = address(upstream)
    if upstream.path:
        endpoint = {"pipe": {"path": upstream.path}}
    found: dict[str, object] = {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC" if upstream.path or upstream.is_ip else "STRICT_DNS",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        # The defaults (1,024) would answer 503 where there is one connection a caller.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}]
        },
    }
    if protocol.is_http:
        version = "http2_protocol_options" if protocol.is_http2 else "http_protocol_options"
        options = {"@type": HTTP_OPTIONS, "explicit_http_config": {version: {}}}
        found["typed_extension_protocol_options"] = {_HTTP_EXTENSION: options}
    return found
