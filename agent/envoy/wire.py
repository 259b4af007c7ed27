"""Envoy's messages: the only place that imports them (PyPI package `xds-protos`, top-level package `envoy`).

Importing this module takes a quarter of a second and five MiB, so that the agent does it when the first Envoy
asks (`services`). Requests become `Ask`, answers become bytes, JSON becomes serialised messages. Requests are
from outside: what can't be read is InvalidInput.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# Those that nothing below names are in JSON, as the type of an Any.
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.trace.v3 import opentelemetry_pb2  # noqa: F401
from envoy.extensions.access_loggers.file.v3 import file_pb2  # noqa: F401
from envoy.extensions.access_loggers.grpc.v3 import als_pb2  # noqa: F401
from envoy.extensions.common.matching.v3 import extension_matcher_pb2  # noqa: F401
from envoy.extensions.filters.http.composite.v3 import composite_pb2  # noqa: F401
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2  # noqa: F401
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2  # noqa: F401
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,  # noqa: F401
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2  # noqa: F401
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2  # noqa: F401
from envoy.extensions.tracers.opentelemetry.samplers.v3 import (
    parent_based_sampler_pb2,  # noqa: F401
    trace_id_ratio_based_sampler_pb2,  # noqa: F401
)
from envoy.extensions.transport_sockets.tls.v3 import (
    secret_pb2,
    tls_pb2,  # noqa: F401
    tls_spiffe_validator_config_pb2,
)
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, SECRET, Json
from agent.envoy.subscription import Answer, Ask
from control_plane.core.errors import Bug, InvalidInput, PeerMisbehaved

DiscoveryResponse: Final[Any] = discovery_pb2.DiscoveryResponse
Secret: Final[Any] = secret_pb2.Secret
SpiffeValidator: Final[Any] = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig

_MESSAGES: Final[Mapping[str, Any]] = {
    CLUSTER: cluster_pb2.Cluster,
    LISTENER: listener_pb2.Listener,
    EXTENSION: extension_pb2.TypedExtensionConfig,
    SECRET: secret_pb2.Secret,
}


@dataclass(frozen=True, slots=True)
class NodeClaim:
    """What an Envoy says of itself in its first message: nothing that is believed, but who it wants to be."""

    id: str
    version: str
    service: object


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request: what is asked, and the node if it was named."""

    ask: Ask
    node: NodeClaim | None


def read_state_of_the_world(payload: bytes) -> Incoming:
    """A DiscoveryRequest. Raises InvalidInput."""
    request = _read(discovery_pb2.DiscoveryRequest, payload)
    ask = Ask(
        type_url=request.type_url,
        names=tuple(request.resource_names),
        nonce=request.response_nonce,
        rejected=_rejection(request),
    )
    return Incoming(ask, _node(request))


def read_delta(payload: bytes) -> Incoming:
    """A DeltaDiscoveryRequest. Raises InvalidInput."""
    request = _read(discovery_pb2.DeltaDiscoveryRequest, payload)
    ask = Ask(
        type_url=request.type_url,
        names=tuple(request.resource_names_subscribe),
        dropped=tuple(request.resource_names_unsubscribe),
        known=dict(request.initial_resource_versions),
        nonce=request.response_nonce,
        rejected=_rejection(request),
    )
    return Incoming(ask, _node(request))


def write_state_of_the_world(answer: Answer) -> bytes:
    """A DiscoveryResponse."""
    response = discovery_pb2.DiscoveryResponse(
        version_info=answer.version, nonce=answer.nonce, type_url=answer.type_url
    )
    for resource in answer.resources:
        response.resources.add(type_url=answer.type_url, value=resource.body)
    return _bytes(response)


def write_delta(answer: Answer) -> bytes:
    """A DeltaDiscoveryResponse."""
    response = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=answer.version,
        nonce=answer.nonce,
        type_url=answer.type_url,
        removed_resources=answer.removed,
    )
    for resource in answer.resources:
        added = response.resources.add(name=resource.name, version=resource.version)
        added.resource.type_url = answer.type_url
        added.resource.value = resource.body
    return _bytes(response)


@dataclass(frozen=True, slots=True)
class Received:
    """One response as its reader sees it: resources as JSON with `@type`."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Json, ...]


def state_of_the_world_request(type_url: str, names: Iterable[str], node: Json, nonce: str = "") -> Message:
    """A DiscoveryRequest for those who ask; `node` is that of a bootstrap."""
    request: Message = json_format.ParseDict({"node": node}, discovery_pb2.DiscoveryRequest())
    found: Any = request
    found.type_url, found.response_nonce = type_url, nonce
    found.resource_names.extend(names)
    return request


def received(message: Any) -> Received:
    """A DiscoveryResponse. Raises PeerMisbehaved."""
    try:
        document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except (TypeError, ValueError) as error:  # a type that isn't known here, a field that can't be read
        raise PeerMisbehaved(f"reading a discovery response: {error}") from error
    return Received(
        message.type_url, message.version_info, message.nonce, tuple(document.get("resources", ()))
    )


def encode(document: Json) -> bytes:
    """A resource from its JSON, checked against its message; `@type` says which. Raises Bug."""
    # protobuf's reader takes `@type` out of each Any and puts it back behind the rest: into a copy.
    fields = copy.deepcopy(dict(document))
    kind = _MESSAGES.get(str(fields.pop("@type", "")))
    if kind is None:
        raise Bug("writing a resource for Envoy: its type isn't one that the agent owns")
    try:
        return _bytes(json_format.ParseDict(fields, kind()))
    except json_format.ParseError as error:
        raise Bug(f"writing a resource for Envoy: {error}") from error


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _read(kind: Any, payload: bytes) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise InvalidInput(f"the request of {len(payload)} bytes can't be read as {name}") from error


def _rejection(request: Any) -> str | None:
    return str(request.error_detail.message) if request.HasField("error_detail") else None


def _node(request: Any) -> NodeClaim | None:
    if not request.HasField("node"):
        return None
    node = request.node
    version = node.user_agent_build_version.version
    service: object = None
    if "gatehouse" in node.metadata.fields:
        try:
            found: object = json_format.MessageToDict(node.metadata.fields["gatehouse"])
        except ValueError as error:  # numbers that JSON hasn't
            raise InvalidInput(f"the node's metadata can't be read: {error}") from error
        service = found.get("service") if isinstance(found, dict) else None
    return NodeClaim(node.id, f"{version.major_number}.{version.minor_number}.{version.patch}", service)
