"""Envoy's clusters for one service: itself, in plain; services it calls, by mutual TLS; issuers of tokens."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.address import Address
from agent.envoy.description import Inbound, Outbound, Protocol
from agent.envoy.listeners import address
from agent.envoy.names import CLUSTER, HTTP_OPTIONS, TOKENS, UPSTREAM_TLS, Json
from agent.envoy.tls import SOCKET, outbound_socket
from control_plane.core.spiffe_id import SpiffeId

CONNECT_TIMEOUT: Final = "5s"
MOST: Final = 10_000
_BOUNDS: Final = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
_HTTP_EXTENSION: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def service_cluster(inbound: Inbound) -> Json:
    """The service behind an inbound port."""
    return _cluster(inbound.name, inbound.upstream, inbound.protocol)


def peer_cluster(own: SpiffeId, outbound: Outbound, *, delta: bool) -> Json:
    """The other service behind an outbound port, which has to be `outbound.spiffe_id`."""
    alpn: tuple[str, ...] = ()
    if outbound.protocol.is_http:
        alpn = ("h2",) if outbound.protocol.is_http2 else ("http/1.1",)
    socket = outbound_socket(own, outbound.spiffe_id, alpn=alpn, delta=delta)
    found = _cluster(outbound.name, outbound.upstream, outbound.protocol)
    return {**found, "transport_socket": socket}


def keys_clusters(policy: WorkloadPolicy | None, authorities: str) -> dict[str, Json]:
    """Where the keys of token issuers are fetched, by name: the clusters that the policy's token filter asks
    for. Over HTTPS, whose server has to be vouched for by the authorities in that file."""
    found: dict[str, Json] = {}
    for one in _providers(policy):
        remote = one.get("remote_jwks")
        where = remote.get("http_uri") if isinstance(remote, Mapping) else None
        if isinstance(where, Mapping):
            name = str(where.get("cluster"))
            found[name] = _keys_cluster(name, str(where.get("uri")), authorities)
    return found


def _providers(policy: WorkloadPolicy | None) -> list[Mapping[str, object]]:
    for one in policy.http_filters if policy is not None else ():
        config = one.get("typed_config")
        providers = (
            config.get("providers") if one.get("name") == TOKENS and isinstance(config, Mapping) else None
        )
        if isinstance(providers, Mapping):
            return [provider for provider in providers.values() if isinstance(provider, Mapping)]
    return []


def _keys_cluster(name: str, uri: str, authorities: str) -> Json:
    parts = urlsplit(uri)
    host, secure = parts.hostname or "", parts.scheme == "https"
    upstream = Address(host=host, port=parts.port or (443 if secure else 80))
    found = _cluster(name, upstream, Protocol.HTTP)
    if not secure:
        return found
    expected = [{"san_type": "DNS", "matcher": {"exact": host}}]
    context = {"trusted_ca": {"filename": authorities}, "match_typed_subject_alt_names": expected}
    config = {"@type": UPSTREAM_TLS, "sni": host, "common_tls_context": {"validation_context": context}}
    return {**found, "transport_socket": {"name": SOCKET, "typed_config": config}}


def _cluster(name: str, upstream: Address, protocol: Protocol) -> Json:
    endpoint: Mapping[str, object] = address(upstream)
    if upstream.path:
        endpoint = {"pipe": {"path": upstream.path}}
    found: dict[str, object] = {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC" if upstream.path or upstream.is_ip else "STRICT_DNS",
        "dns_lookup_family": "ALL",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        # The defaults (1,024, and 3 retries) would answer 503 where there is one connection a caller, and
        # where many wait for a server that restarts.
        "circuit_breakers": {"thresholds": [dict.fromkeys(_BOUNDS, MOST)]},
    }
    if protocol.is_http:
        version = "http2_protocol_options" if protocol.is_http2 else "http_protocol_options"
        options = {"@type": HTTP_OPTIONS, "explicit_http_config": {version: {}}}
        found["typed_extension_protocol_options"] = {_HTTP_EXTENSION: options}
    return found
