"""Both ends of mutual TLS, with certificates and trust from the agent: as Envoy's JSON.

TLS 1.3 only, both sides show an SVID. Whose the caller is, is policy's business; whom we call, is checked
here: exactly the SPIFFE ID that the service description names, whatever the address leads to.
"""

from typing import Final

from agent.envoy.names import DOWNSTREAM_TLS, UPSTREAM_TLS, Json, agent_service
from control_plane.core.spiffe_id import SpiffeId

SOCKET: Final = "envoy.transport_sockets.tls"
ALL_BUNDLES: Final = "ALL"
NO_BUNDLE: Final = "3s"  # how long an Envoy that starts waits for a trust domain that may not be federated

_PARAMETERS: Final[Json] = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
}


def secret(name: str, *, delta: bool, patience: str = "15s") -> Json:
    """A reference to a secret that the agent serves. Whatever uses it waits for it this long before it is
    there without, and refuses all connections until the secret comes."""
    source = {"resource_api_version": "V3", "api_config_source": agent_service(delta=delta)}
    return {"name": name, "sds_config": {**source, "initial_fetch_timeout": patience}}


def inbound_socket(own: SpiffeId, *, http: bool, delta: bool) -> Json:
    """For listeners: our SVID, and a caller of any trust domain that we have a bundle of."""
    common: dict[str, object] = {
        "tls_params": _PARAMETERS,
        "tls_certificate_sds_secret_configs": [secret(str(own), delta=delta)],
        "validation_context_sds_secret_config": secret(ALL_BUNDLES, delta=delta),
    }
    if http:
        common["alpn_protocols"] = ["h2", "http/1.1"]
    config = {
        "@type": DOWNSTREAM_TLS,
        "require_client_certificate": True,
        # A resumed connection would keep an authority alive that has left the bundle.
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
        "common_tls_context": common,
    }
    return {"name": SOCKET, "typed_config": config}


def outbound_socket(own: SpiffeId, server: SpiffeId, *, alpn: tuple[str, ...], delta: bool) -> Json:
    """For clusters: our SVID, and the server's exact identity, judged by its own trust domain's bundle.

    By that bundle alone: a validator of all trust domains picks the authorities by the first name of a
    certificate, and the identity may be any name in it."""
    expected = [{"san_type": "URI", "matcher": {"exact": str(server)}}]
    authorities = secret(str(server.trust_domain.id), delta=delta, patience=NO_BUNDLE)
    common: dict[str, object] = {
        "tls_params": _PARAMETERS,
        "tls_certificate_sds_secret_configs": [secret(str(own), delta=delta)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": expected},
            "validation_context_sds_secret_config": authorities,
        },
    }
    if alpn:
        common["alpn_protocols"] = list(alpn)
    config = {"@type": UPSTREAM_TLS, "max_session_keys": 0, "common_tls_context": common}
    return {"name": SOCKET, "typed_config": config}
