"""Envoy's listeners for one service: mutual TLS and policy on the way in, a plain port on the way out.

What HTTP policies see is fixed here, and the models that prove them assume it (`policies/proof/dimensions`):
a path is normalised, without doubled and without escaped slashes, and has no fragment; a host has no port; a
header name has no underscore, which servers would take for a hyphen.
"""

from dataclasses import dataclass, field
from typing import Final

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.address import Address
from agent.envoy.description import Inbound, Outbound, Protocol, ServiceDescription
from agent.envoy.filters import caller_check, http_chain, tcp_chain
from agent.envoy.names import (
    AGENT_CLUSTER,
    CONNECTION_MANAGER,
    GRPC_LOG,
    LISTENER,
    METADATA_KEY,
    ROUTER,
    TCP_PROXY,
    Json,
)
from agent.envoy.tls import inbound_socket
from control_plane.core.spiffe_id import SpiffeId

MAX_HEADER_KIB: Final = 60
EARLY_BYTES: Final = 65536  # of a TCP caller, until the connection to the service is open
NO_TIMEOUT: Final = "0s"  # streams live as long as both ends want; what must end them is policy

# HTTP/2 as at an edge that others may attack: few streams, small windows (Envoy, "Configuring Envoy as an
# edge proxy").
_HTTP2: Final[Json] = {
    "max_concurrent_streams": 1000,
    "initial_stream_window_size": 65536,
    "initial_connection_window_size": 1048576,
}

# Tells the agent what has been running for a while, so that what a new policy refuses is ended (`running`).
_RUNNING: Final[Json] = {
    "name": "envoy.access_loggers.http_grpc",
    "filter": {"log_type_filter": {"types": ["DownstreamPeriodic"]}},
    "typed_config": {
        "@type": GRPC_LOG,
        "common_config": {
            "log_name": "gatehouse.running",
            "transport_api_version": "V3",
            "buffer_flush_interval": "0.1s",
            "grpc_service": {"envoy_grpc": {"cluster_name": AGENT_CLUSTER}},
        },
    },
}
RUNNING_INTERVAL: Final = "0.5s"


_SAFE_METHODS: Final[Json] = {
    "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS"}}}]
}

# Of the service itself: what it closed is opened again, once or twice.
_AT_ONCE: Final[Json] = {"num_retries": 2}

# Of another one's Envoy, which may just be restarted: requests wait for it, ten seconds in the mean.
_UNTIL_IT_IS_BACK: Final[Json] = {
    "num_retries": 20,
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
}


# Without a range, Envoy takes callers from private networks and the loopback interface for parts of itself.
_NOBODY: Final[Json] = {"address_prefix": "255.255.255.255", "prefix_len": 32}


@dataclass(frozen=True, slots=True)
class Extras:
    """What other parts add to listeners: access logs, by kind of listener, and the tracing of requests."""

    http_logs: tuple[Json, ...] = ()
    tcp_logs: tuple[Json, ...] = ()
    listener_logs: tuple[Json, ...] = ()
    tracing: Json = field(default_factory=dict)


def inbound_listener(
    service: ServiceDescription,
    inbound: Inbound,
    policy: WorkloadPolicy | None,
    quarantined: frozenset[SpiffeId],
    mark: str,
    extras: Extras,
    *,
    delta: bool,
) -> Json:
    """A listener for callers. Another `mark` makes it a new filter chain, so that the old one drains."""
    filters = (
        [_inbound_http(inbound, extras)]
        if inbound.protocol.is_http
        else [*tcp_chain(policy, service.spiffe_id, quarantined), _tcp_proxy(inbound, extras)]
    )
    chain: dict[str, object] = {
        "name": inbound.name,
        "filters": [caller_check(), *filters],
        "transport_socket": inbound_socket(service.spiffe_id, http=inbound.protocol.is_http, delta=delta),
        "transport_socket_connect_timeout": "10s",
    }
    if mark:
        chain["metadata"] = {"filter_metadata": {METADATA_KEY: {"drain": mark}}}
    return _listener(inbound, chain, "INBOUND", extras)


def outbound_listener(outbound: Outbound, extras: Extras) -> Json:
    """A listener for the service itself, which speaks plainly to it."""
    filters = [
        _outbound_http(outbound, extras) if outbound.protocol.is_http else _tcp_proxy(outbound, extras)
    ]
    return _listener(outbound, {"name": outbound.name, "filters": filters}, "OUTBOUND", extras)


def address(one: Address) -> Json:
    """As Envoy's Address."""
    if one.path:
        return {"pipe": {"path": one.path, "mode": 0o600}}
    return {"socket_address": {"address": one.host, "port_value": one.port}}


def _listener(one: Inbound | Outbound, chain: Json, direction: str, extras: Extras) -> Json:
    found: dict[str, object] = {
        "@type": LISTENER,
        "name": one.name,
        "address": address(one.listen),
        "traffic_direction": direction,
        "per_connection_buffer_limit_bytes": 32768 if one.protocol.is_http else 1048576,
        "filter_chains": [chain],
    }
    if extras.listener_logs and direction == "INBOUND":
        found["access_log"] = list(extras.listener_logs)
    return found


def _inbound_http(inbound: Inbound, extras: Extras) -> Json:
    manager = _manager(inbound, extras) | {
        **_logging((*extras.http_logs, _RUNNING), RUNNING_INTERVAL),
        "http_filters": http_chain(),
        "use_remote_address": True,
        # Whoever calls is outside, from wherever: no caller steers us by headers of Envoy's own.
        "internal_address_config": {"unix_sockets": False, "cidr_ranges": [_NOBODY]},
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": True,
        "route_config": _routes(inbound.name, _AT_ONCE),
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _outbound_http(outbound: Outbound, extras: Extras) -> Json:
    manager = _manager(outbound, extras) | {
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "use_remote_address": False,
        "skip_xff_append": True,
        "forward_client_cert_details": "SANITIZE",
        "route_config": _routes(outbound.name, _UNTIL_IT_IS_BACK),
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _manager(one: Inbound | Outbound, extras: Extras) -> dict[str, object]:
    """What both directions have in common."""
    found: dict[str, object] = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": one.name,
        "codec_type": "AUTO",
        "server_header_transformation": "PASS_THROUGH",
        "max_request_headers_kb": MAX_HEADER_KIB,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": NO_TIMEOUT if one.protocol is Protocol.GRPC else "300s",
        "drain_timeout": "0.5s",
        "delayed_close_timeout": "0.5s",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "3600s",
        },
        "http2_protocol_options": _HTTP2,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        **extras.tracing,
    }
    return found | _logging(extras.http_logs)


def _routes(cluster: str, patience: Json) -> Json:
    """Everything to one cluster. A request that its server never began to handle may go again, whatever it
    is; one that may have been handled only if its method is safe (RFC 9110, section 9.2)."""
    again = "connect-failure,refused-stream,reset-before-request"
    routes = [
        {
            "match": {"prefix": "/", **match},
            "route": {
                "cluster": cluster,
                "timeout": NO_TIMEOUT,
                "retry_policy": {"retry_on": retry_on, **patience},
            },
        }
        for match, retry_on in ((_SAFE_METHODS, f"{again},reset"), ({}, again))
    ]
    return {"name": cluster, "virtual_hosts": [{"name": cluster, "domains": ["*"], "routes": routes}]}


def _tcp_proxy(one: Inbound | Outbound, extras: Extras) -> Json:
    config: dict[str, object] = {"@type": TCP_PROXY, "stat_prefix": one.name, "cluster": one.name}
    if isinstance(one, Inbound):
        # Filters judge a connection by its first bytes. Would the service hear of it before, what that says
        # first would reach callers that are denied.
        server_first = one.protocol is Protocol.TCP_SERVER_FIRST
        when = "ON_DOWNSTREAM_TLS_HANDSHAKE" if server_first else "ON_DOWNSTREAM_DATA"
        config |= {"upstream_connect_mode": when, "max_early_data_bytes": EARLY_BYTES}
    config |= _logging(extras.tcp_logs)
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}


def _logging(logs: tuple[Json, ...], interval: str = "") -> dict[str, object]:
    if not logs:
        return {}
    options = {"access_log_options": {"access_log_flush_interval": interval}} if interval else {}
    return {"access_log": list(logs), **options}
