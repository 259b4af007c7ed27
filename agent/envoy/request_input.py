"""A request as Envoy reports it, as the input document that policies see.

The same attributes that the RBAC filters of the same policy see, formed alike (`listeners` has Envoy
normalise paths before any filter runs): the path without its query, the host in lower case without port,
header names in lower case, pseudo-headers left out. What isn't there stays absent.
"""

from collections.abc import Mapping
from typing import Any

from agent.enforcement.ports import Json


def input_document(
    *,
    principal: str,
    address: str,
    port: int,
    sni: str = "",
    method: str = "",
    path: str = "",
    host: str = "",
    headers: Mapping[str, str] | None = None,
    claims: Mapping[str, Any] | None = None,
) -> Json:
    """The document: `principal` is the URI name of the caller's certificate, `port` the listener's.

    Without a method there is no request: plain TCP.
    """
    source: dict[str, object] = {"ip": address} if address else {}
    connection: dict[str, object] = {"mtls": bool(principal)}
    if principal:
        source["spiffe_id"] = principal
    if sni:
        connection["sni"] = sni.lower()
    document: dict[str, object] = {
        "source": source,
        "destination": {"port": port},
        "connection": connection,
    }
    if method:
        request: dict[str, object] = {
            "method": method,
            "path": path.partition("?")[0],
            "headers": {
                name.lower(): value for name, value in (headers or {}).items() if not name.startswith(":")
            },
        }
        if host:
            request["host"] = _without_port(host).lower()
        document["request"] = request
    if claims is not None:
        document["jwt"] = {"claims": claims}
    return document


def _without_port(host: str) -> str:
    """`example.org:8443` → `example.org`, `[::1]:8443` → `[::1]`; what isn't of that form stays."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal() and (":" not in name or name.endswith("]")):
        return name
    return host
