"""Which field of the Envoy plugin's input is which of ours, and for which there is none.

Names are those of `envoy.service.auth.v3.AttributeContext` in JSON, and what the plugin adds beside it:
`parsed_path`, `parsed_query`, `parsed_body`, `truncated_body`, `source_principal`, `version`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.envoy_input.report import Assumption, Difference
from policies.language.schema import ENVOY_FIELDS

Path = tuple[str, ...]
ANY: Final = "*"

ROOTS: Final = ENVOY_FIELDS

_HTTP: Final[Path] = ("attributes", "request", "http")
_SOCKET: Final[tuple[Path, ...]] = (("address", "socketAddress"), ("address", "Address", "SocketAddress"))
"""The address of version 3 of the API, and of version 2."""
_TOKENS: Final[Path] = (
    "attributes", "metadataContext", "filterMetadata", "envoy.filters.http.jwt_authn", ANY,
)  # fmt: skip

PARSED_PATH: Final[Path] = ("parsed_path",)
HEADERS: Final[Path] = (*_HTTP, "headers")


@dataclass(frozen=True, slots=True)
class Field:
    """A counterpart. `keys` tells how many keys follow at least; -1: the object as a whole is fine too."""

    ours: str
    difference: Difference | None = None
    assumption: Assumption | None = None
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to: a field and how many steps lead there, or why there is none."""

    field: Field | None
    length: int
    reason: str = ""


def _both(part: str, name: Path, ours: str, assumption: Assumption) -> dict[Path, Field]:
    return {("attributes", part, *socket, *name): Field(ours, assumption=assumption) for socket in _SOCKET}


FIELDS: Final[Mapping[Path, Field]] = {
    (*_HTTP, "method"): Field("input.request.method"),
    (*_HTTP, "path"): Field("input.request.path", Difference.QUERY, Assumption.NORMALISED),
    (*_HTTP, "host"): Field("input.request.host", Difference.HOST),
    HEADERS: Field("input.request.headers", keys=-1),
    ("attributes", "source", "principal"): Field("input.source.spiffe_id", assumption=Assumption.URI_NAME),
    ("source_principal",): Field("input.source.spiffe_id", assumption=Assumption.URI_NAME),
    **_both("source", ("address",), "input.source.ip", Assumption.DIRECT),
    ("attributes", "source", "labels"): Field("input.source.labels", Difference.LABELS, keys=-1),
    **_both("destination", ("address",), "input.destination.ip", Assumption.OWN_PORT),
    **_both("destination", ("portValue",), "input.destination.port", Assumption.OWN_PORT),
    ("attributes", "destination", "principal"): Field(
        "input.destination.spiffe_id", assumption=Assumption.URI_NAME
    ),
    ("attributes", "destination", "labels"): Field("input.destination.labels", Difference.LABELS, keys=-1),
    ("attributes", "tlsSession", "sni"): Field("input.connection.sni"),
    _TOKENS: Field("input.jwt.claims", Difference.CLAIMS, keys=1),
    PARSED_PATH: Field(
        'split(trim_left(input.request.path, "/"), "/")', Difference.DECODED, Assumption.NORMALISED, keys=-1
    ),
}

PSEUDO_HEADERS: Final[Mapping[str, Path]] = {
    ":method": (*_HTTP, "method"), ":path": (*_HTTP, "path"), ":authority": (*_HTTP, "host"),
}  # fmt: skip

_BODY: Final = "bodies have no counterpart: no mesh sees them; decide this in the application"
_QUERY: Final = "queries have no counterpart: Istio's paths have none; move what decides into path or header"
_CONFIGURED: Final = "it comes from Envoy's configuration; the inventory's labels may say the same"

_NO_COUNTERPART: Final[Mapping[Path, str]] = {
    ("parsed_body",): _BODY,
    ("truncated_body",): _BODY,
    (*_HTTP, "body"): _BODY,
    (*_HTTP, "rawBody"): _BODY,
    (*_HTTP, "size"): _BODY,
    ("parsed_query",): _QUERY,
    (*_HTTP, "query"): _QUERY,
    (*_HTTP, "fragment"): _QUERY,
    (*_HTTP, "scheme"): "every call is mutual TLS where we enforce: input.connection.mtls",
    (*_HTTP, "headers", ":scheme"): "every call is mutual TLS where we enforce: input.connection.mtls",
    (*_HTTP, "protocol"): "HTTP/1 and HTTP/2 are decided alike",
    (*_HTTP, "id"): "a decision never depends on the name of one request",
    ("attributes", "request", "time"): "a manifest knows no time",
    ("attributes", "contextExtensions"): _CONFIGURED,
    ("attributes", "metadataContext"): "only the metadata of jwt_authn has a counterpart, input.jwt.claims",
    ("attributes", "source", "service"): _CONFIGURED,
    ("attributes", "source", "certificate"): "input.source.spiffe_id is what the certificate says",
    ("version",): "there is one input schema",
}


def find(steps: Sequence[str | None]) -> Found:
    """Where a path below `input` leads; None is a step that isn't a constant."""
    for length in range(len(steps), 0, -1):
        field = next((one for path, one in FIELDS.items() if _is(path, steps[:length])), None)
        if field is not None:
            if field.keys > 0 and len(steps) - length < field.keys:
                return Found(None, length, "name the claim")
            if field.keys == 0 and len(steps) > length:
                return Found(None, length, "it is a text or a number, and has no parts")
            return Found(field, length)
        reason = next((one for path, one in _NO_COUNTERPART.items() if _is(path, steps[:length])), None)
        if reason is not None:
            return Found(None, length, reason)
    if None in steps:
        return Found(None, len(steps), "its fields must be named one by one, with constants")
    return Found(None, len(steps), "it has no counterpart as a whole: name the fields that are needed")


def _is(path: Path, steps: Sequence[str | None]) -> bool:
    return len(path) == len(steps) and all(one in (ANY, step) for one, step in zip(path, steps, strict=True))
