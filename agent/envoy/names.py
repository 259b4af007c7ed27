"""Names that Envoy and the agent have agreed on: clusters, filters, type URLs, keys of metadata."""

from collections.abc import Mapping
from typing import Final

Json = Mapping[str, object]
"""A message of Envoy's as protobuf's JSON, field names in snake case."""

AGENT_CLUSTER: Final = "gatehouse_agent"
"""The cluster of Envoy's bootstrap that leads to the agent's socket."""

METADATA_KEY: Final = "gatehouse"
"""Where the node's metadata carries the service description, and filter chains their drain mark."""

CALLER: Final = "gatehouse.caller"
QUARANTINE: Final = "gatehouse.quarantine"
POLICY: Final = "gatehouse.policy"
TOKENS: Final = "gatehouse.tokens"
DENY: Final = "gatehouse.deny"
SEGMENTATION: Final = "gatehouse.segmentation"
ALLOW: Final = "gatehouse.allow"
EXTERNAL: Final = "gatehouse.external"

JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
"""Under which name Envoy's metadata has the claims of a token that it has verified."""

TYPE: Final = "type.googleapis.com/"
LISTENER: Final = f"{TYPE}envoy.config.listener.v3.Listener"
CLUSTER: Final = f"{TYPE}envoy.config.cluster.v3.Cluster"
EXTENSION: Final = f"{TYPE}envoy.config.core.v3.TypedExtensionConfig"
SECRET: Final = f"{TYPE}envoy.extensions.transport_sockets.tls.v3.Secret"

HTTP_RBAC: Final = f"{TYPE}envoy.extensions.filters.http.rbac.v3.RBAC"
NETWORK_RBAC: Final = f"{TYPE}envoy.extensions.filters.network.rbac.v3.RBAC"
RBAC_ACTION: Final = f"{TYPE}envoy.config.rbac.v3.Action"
URI_NAMES: Final = f"{TYPE}envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"
DNS_NAMES: Final = f"{TYPE}envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput"
JWT_AUTHN: Final = f"{TYPE}envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
EXT_AUTHZ: Final = f"{TYPE}envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
NETWORK_EXT_AUTHZ: Final = f"{TYPE}envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
COMPOSITE: Final = f"{TYPE}envoy.extensions.filters.http.composite.v3.Composite"
EXECUTE: Final = f"{TYPE}envoy.extensions.filters.http.composite.v3.ExecuteFilterAction"
MATCHING: Final = f"{TYPE}envoy.extensions.common.matching.v3.ExtensionWithMatcher"
ROUTER: Final = f"{TYPE}envoy.extensions.filters.http.router.v3.Router"
CONNECTION_MANAGER: Final = (
    f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
TCP_PROXY: Final = f"{TYPE}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
DOWNSTREAM_TLS: Final = f"{TYPE}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UPSTREAM_TLS: Final = f"{TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
HTTP_OPTIONS: Final = f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
GRPC_LOG: Final = f"{TYPE}envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
FILE_LOG: Final = f"{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"
MAX_CONNECTIONS: Final = (
    f"{TYPE}envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)

ADS: Final[Json] = {"resource_api_version": "V3", "ads": {}}


def agent_service(*, delta: bool) -> Json:
    """An API source that is the agent, for streams of their own.

    An agent that restarts is back within a second or two, and Envoy's usual patience is half a minute.
    """
    retry = {"retry_back_off": {"base_interval": "0.2s", "max_interval": "2s"}}
    return {
        "api_type": "DELTA_GRPC" if delta else "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": AGENT_CLUSTER, "retry_policy": retry}}],
    }
