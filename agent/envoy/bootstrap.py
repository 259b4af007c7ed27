"""The file that Envoy is started with: the agent's socket, who this node is, and bounds. Nothing else.

Listeners, clusters and policy come from the agent (`resources`). The description of the service travels in
the node's metadata, so that the agent keeps no state for it: whichever agent answers at the socket, now or
after an upgrade, can serve this Envoy.
"""

from pathlib import Path
from typing import Final

from agent.envoy.address import Address
from agent.envoy.counters import counter_sink
from agent.envoy.description import ServiceDescription
from agent.envoy.listeners import address
from agent.envoy.names import (
    ADS,
    AGENT_CLUSTER,
    HTTP_OPTIONS,
    MAX_CONNECTIONS,
    METADATA_KEY,
    Json,
    agent_service,
)

CONNECTIONS: Final = 20_000  # of callers; more are refused, so that memory stays bounded
WAITING: Final = 10_000  # questions to the agent at one moment; what goes beyond is denied
DRAIN_SECONDS: Final = 1
FLAGS: Final = (
    "--drain-time-s",
    str(DRAIN_SECONDS),
    "--drain-strategy",
    "immediate",
    "--file-flush-interval-msec",
    "500",
)
"""How Envoy has to be started: a filter chain that lost a right to be is gone within a second, and what was
logged can be read soon."""
ALONE: Final = "--disable-hot-restart"
"""For one that nobody takes over from (`takeover`): it needs no numbers of its own."""


# A header that comes several times is one text to a policy, joined by commas (RFC 9110, section 5.3), as it
# is to external authorization and to OPA. Would Envoy's RBAC match each line by itself, its default,
# `x-team: red` beside `x-team: blue` were enough for a rule that asks for red.
_RUNTIME: Final[Json] = {
    "layers": [
        {
            "name": "gatehouse",
            "static_layer": {"envoy.reloadable_features.rbac_match_headers_individually": False},
        }
    ]
}


def bootstrap(service: ServiceDescription, agent_socket: Path, admin: Address, *, delta: bool = True) -> Json:
    """The bootstrap configuration. `admin` is a unix socket or a loopback address."""
    return {
        "node": {
            "id": service.name,
            "cluster": service.spiffe_id.trust_domain.name,
            "metadata": {METADATA_KEY: {"service": service.to_document()}},
        },
        "admin": {"address": address(admin)},
        "dynamic_resources": {
            "ads_config": agent_service(delta=delta),
            "cds_config": ADS,
            "lds_config": ADS,
        },
        "static_resources": {"clusters": [_agent(agent_socket)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": MAX_CONNECTIONS,
                        "max_active_downstream_connections": CONNECTIONS,
                    },
                }
            ]
        },
        "stats_config": {"stats_tags": []},
        "layered_runtime": _RUNTIME,
        **counter_sink(service),
    }


def _agent(socket: Path) -> Json:
    options = {
        "@type": HTTP_OPTIONS,
        "explicit_http_config": {
            # An agent that hangs is noticed, and another that took over its socket is found.
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
        },
    }
    return {
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        # Requests that wait for the agent to come back; by default, the fourth would be denied at once.
        "circuit_breakers": {
            "thresholds": [{"max_pending_requests": WAITING, "max_requests": WAITING, "max_retries": WAITING}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": AGENT_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
        },
    }
