"""Envoy's external authorization, version 3: the agent decides what Envoy's own rules can't say.

The whole policy of the workload is judged for each HTTP request and each TCP connection (`Decisions`). Only
an Envoy that runs as the workload may ask, for that workload alone: the destination is the one whose
certificate the listener showed, and the asking process has to be entitled to it. Whatever goes wrong is a
refusal, and Envoy takes silence for one as well. The answer carries the decision with its reason and the Rego
line as dynamic metadata, for access logs; the caller hears that it was denied and by what, not what the
policy says.
"""

from collections.abc import Mapping
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from agent.attest.sessions import Session, Sessions
from agent.enforcement.ports import Decisions, Ruling
from agent.envoy.names import JWT_FILTER
from agent.envoy.request_input import input_document
from agent.identities import Identities
from agent.refusals import Refusals
from control_plane.core.errors import Code, InvalidInput, Unavailable, shown
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime import tracing
from control_plane.runtime.transport import Call

PAYLOAD: Final = "payload"


class Authorization:
    """Implements envoy.service.auth.v3.Authorization; requests come as bytes (`services`)."""

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        decisions: Decisions,
        refusals: Refusals,
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._decisions = decisions
        self._refusals = refusals

    async def check(self, call: Call, request: Any) -> bytes:
        """Decides one request or connection. Raises InvalidInput for what isn't a question of Envoy's,
        PermissionDenied for a caller that isn't the workload's Envoy: both deny. Raises Unavailable while the
        agent doesn't know what is enforced: Envoy asks again."""
        attributes = _attributes(request.SerializeToString())
        # An Envoy that traces says by the call itself what this is a part of; else it is the caller's trace.
        asked = attributes.request.http.headers.get(tracing.HEADER)
        header = None if tracing.outgoing() else asked
        with tracing.Span("ext_authz", header, tracing.Kind.SERVER):
            return await self._checked(call, attributes)

    async def _checked(self, call: Call, attributes: Any) -> bytes:
        destination = SpiffeId.parse(attributes.destination.principal)
        session = await self._session(call)
        if not self._entitled(session, destination):
            raise self._refusals.not_entitled(destination)
        ruling = self._decisions.decide(destination, _document(attributes))
        if not ruling.certain:
            raise Unavailable(f"{ruling.reason} yet: the agent has just started", retry_after_seconds=1)
        return _answer(ruling)

    async def _session(self, call: Call) -> Session:
        """Who asks. A connection that was attested is looked at again while it is open, not at each request:
        that would cost more than the decision."""
        known = call.peer.attributes.get("session")
        if isinstance(known, Session) and known.attestation is not None and not known.ended:
            return known
        return await self._sessions.of(call.peer)

    def _entitled(self, session: Session, destination: SpiffeId) -> bool:
        return any(entry.spiffe_id == destination for entry in self._identities.match(session.selectors))


def _attributes(payload: bytes) -> Any:
    try:
        request = external_auth_pb2.CheckRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(f"a request of {len(payload)} bytes can't be read as a CheckRequest") from error
    attributes = request.attributes
    if not attributes.destination.principal:
        raise InvalidInput(
            "a CheckRequest came without the certificate of its listener",
            hint="only listeners of `gatehouse-agent envoy bootstrap` may ask",
        )
    return attributes


def _document(attributes: Any) -> Mapping[str, object]:
    http = attributes.request.http
    principal = attributes.source.principal
    return input_document(
        principal=principal if principal.startswith("spiffe://") else "",
        address=attributes.source.address.socket_address.address,
        port=attributes.destination.address.socket_address.port_value,
        sni=attributes.tls_session.sni,
        method=http.method,
        path=http.path,
        host=http.host,
        headers=http.headers,
        claims=claims_of(attributes.metadata_context.filter_metadata),
    )


def claims_of(metadata: Any) -> Mapping[str, Any] | None:
    """The claims of a token that Envoy has verified, from its metadata by filter; None without one. Raises
    InvalidInput for what isn't JSON: Envoy's numbers may be endless, or none."""
    if JWT_FILTER not in metadata or PAYLOAD not in metadata[JWT_FILTER].fields:
        return None
    try:
        claims: object = json_format.MessageToDict(metadata[JWT_FILTER].fields[PAYLOAD])
    except ValueError as error:
        raise InvalidInput(f"reading the claims of a token: {error}") from error
    return claims if isinstance(claims, dict) else None


def _answer(ruling: Ruling) -> bytes:
    response = external_auth_pb2.CheckResponse()
    response.dynamic_metadata.update(
        {
            "allowed": ruling.allowed,
            "reason": ruling.reason,
            "lines": list(ruling.lines),
            "version": ruling.version,
        }
    )
    if ruling.allowed:
        response.status.code = Code.OK
        response.ok_response.SetInParent()
    else:
        response.status.code = Code.PERMISSION_DENIED
        response.status.message = ruling.reason
        response.denied_response.status.code = http_status_pb2.StatusCode.Forbidden
        response.denied_response.body = f"denied by policy: {shown(ruling.reason, 200)}\n"
    payload: bytes = response.SerializeToString()
    return payload
