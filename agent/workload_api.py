"""The SPIFFE Workload API on the agent's socket (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md).

Each call is attested anew; each stream carries the full state and hears of changes until its process ends or
has no identity left. Refusals are those of the specification: InvalidArgument without the header or a
mandatory field, PermissionDenied without an identity, Unavailable while the agent can't know. The WIT
methods aren't served: without a method here the transport answers UNIMPLEMENTED (W-20).

Nothing is decided here about who may have what: `Identities` matches, `Responses` and `Refusals` word it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from agent.attest.sessions import Session, Sessions
from agent.broadcast import Broadcast, Listener
from agent.holdings import View
from agent.identities import Identities
from agent.jwt_svids import JwtSvids
from agent.refusals import Refusals
from agent.responses import Responses, unique_hints
from control_plane.core import jwt_svid
from control_plane.core.entry import Entry
from control_plane.core.errors import (
    CallerError,
    GatehouseError,
    InvalidInput,
    Unavailable,
    shown,
)
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto import workloadapi_pb2 as pb
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

HEADER: Final = "workload.spiffe.io"
PATIENCE_SECONDS: Final = 2.0  # for SVIDs that are being signed, when there are others to send
FIRST_PATIENCE_SECONDS: Final = 15.0  # for the first SVID of a stream
MAX_AUDIENCES: Final = 64
MAX_AUDIENCE_BYTES: Final = 2048
PLAIN_CLAIMS: Final = frozenset({"sub", "exp", "aud"})  # what a foreign trust domain's token may tell (W-17)

_log = get_logger(__name__)


def check_header(call: Call) -> None:
    """E-03: the metadata `workload.spiffe.io: true`, exactly once and in lower case. Against requests that
    something on the machine was tricked into sending. Raises InvalidInput."""
    values = call.metadata.get(HEADER, [])
    if list(values) != ["true"]:
        raise InvalidInput(
            f"security header missing from request: metadata {HEADER} came as {shown(list(values))}, "
            "expected exactly one value, true",
            hint="use a SPIFFE client library",
        )


class WorkloadApi:
    """Implements the service SpiffeWorkloadAPI."""

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        broadcast: Broadcast,
        jwt_svids: JwtSvids,
        clock: Clock,
        ready: Callable[[], str],
        refusals: Refusals,
    ) -> None:
        """`ready` says why nothing can be served yet; empty once the agent knows its entries."""
        self._identities = identities
        self._sessions = sessions
        self._broadcast = broadcast
        self._jwt_svids = jwt_svids
        self._clock = clock
        self._ready = ready
        self._refusals = refusals
        self._responses = Responses()

    # ------------------------------------------------------------------ streams

    async def fetch_x509_svid(self, call: Call, request: pb.X509SVIDRequest) -> AsyncIterator[bytes]:
        """X.509-SVIDs with keys, bundles and hints."""
        session = await self._begin(call)
        async for message in self._follow(session, self._responses.x509_svids, x509=True):
            yield message

    async def fetch_x509_bundles(self, call: Call, request: pb.X509BundlesRequest) -> AsyncIterator[bytes]:
        """X.509 authorities: our own, and those of the domains that the caller's entries federate with."""
        session = await self._begin(call)
        async for message in self._follow(session, self._responses.x509_bundles, x509=False):
            yield message

    async def fetch_jwt_bundles(self, call: Call, request: pb.JWTBundlesRequest) -> AsyncIterator[bytes]:
        """JWT keys, as for X.509."""
        session = await self._begin(call)
        async for message in self._follow(session, self._responses.jwt_bundles, x509=False):
            yield message

    async def _follow(
        self, session: Session, word: Callable[[View], bytes | None], *, x509: bool
    ) -> AsyncIterator[bytes]:
        last: bytes | None = None
        until: float | None = None  # monotonic: how long an incomplete state is waited for
        with self._broadcast.listen(session, x509=x509) as listener:
            while True:
                view = self._view(listener)
                message = word(view)
                now = self._clock.monotonic()
                # Half of the identities would be wrong (W-04) while the others are about to come.
                premature = x509 and view.pending and (until is None or now < until)
                if message is not None and not premature:
                    if message != last:
                        yield message
                        last = message
                    until = None
                    await listener.wait(None)
                    continue
                if until is None:
                    until = now + (FIRST_PATIENCE_SECONDS if message is None else PATIENCE_SECONDS)
                heard = await listener.wait(max(until - now, 0.0) if last is None or message else None)
                if not heard and message is None:
                    raise Unavailable(
                        f"the identity of this workload isn't ready: {view.error or 'it is being obtained'}",
                        retry_after_seconds=5,
                    )

    # ------------------------------------------------------------------ JWT

    async def fetch_jwt_svid(self, call: Call, request: pb.JWTSVIDRequest) -> pb.JWTSVIDResponse:
        """Tokens for the audience: for the identity that was asked for, or for all."""
        audience = _audience(request.audience)
        session = await self._begin(call)
        entries: Sequence[Entry] = self._entitled(session)
        if request.spiffe_id:
            wanted = SpiffeId.parse(request.spiffe_id)
            entries = [entry for entry in entries if entry.spiffe_id == wanted]
            if not entries:
                raise self._refusals.not_entitled(wanted)
        distinct = list({entry.spiffe_id: entry for entry in reversed(entries)}.values())[::-1]
        svids = [await self._jwt_svids.get(entry, audience) for entry in distinct]
        return pb.JWTSVIDResponse(
            svids=[
                pb.JWTSVID(spiffe_id=str(svid.spiffe_id), svid=svid.token, hint=hint)
                for svid, hint in zip(svids, unique_hints(distinct), strict=True)
            ]
        )

    async def validate_jwt_svid(
        self, call: Call, request: pb.ValidateJWTSVIDRequest
    ) -> pb.ValidateJWTSVIDResponse:
        """Checks a token by the bundles that the caller may know of (J-rules, W-17, W-18)."""
        if not request.audience:
            raise InvalidInput("ValidateJWTSVID: the audience must be given")
        if not request.svid:
            raise InvalidInput("ValidateJWTSVID: the token (svid) must be given")
        session = await self._begin(call)
        view = self._identities.view(session.selectors, self._clock.unix())
        bundles = {bundle.trust_domain: bundle for bundle in (view.bundle, *view.federated) if bundle}
        try:
            claims = jwt_svid.parse_and_verify(request.svid, request.audience, bundles, self._clock.unix())
        except GatehouseError as error:
            raise InvalidInput(f"ValidateJWTSVID: {error}") from error
        values: dict[str, Any] = dict(claims.claims)
        if claims.spiffe_id.trust_domain != self._identities.trust_domain:
            values = {name: value for name, value in values.items() if name in PLAIN_CLAIMS}
        values["aud"] = list(claims.audience)
        response = pb.ValidateJWTSVIDResponse(spiffe_id=str(claims.spiffe_id))
        response.claims.update(values)
        return response

    # ------------------------------------------------------------------ common

    async def _begin(self, call: Call) -> Session:
        check_header(call)
        if reason := self._ready():
            raise Unavailable(f"the agent isn't ready: {reason}", retry_after_seconds=1)
        try:
            session = await self._sessions.of(call.peer)
        except CallerError as error:
            _log.info("workload_not_attested", peer=call.peer.address, error=str(error))
            raise
        if not self._identities.match(session.selectors):
            await self._refusals.patience()
        return session

    def _entitled(self, session: Session) -> tuple[Entry, ...]:
        entries = self._identities.match(session.selectors)
        if not entries:
            raise self._refusals.no_identity(session)
        return entries

    def _view(self, listener: Listener) -> View:
        view = self._identities.view(listener.selectors, self._clock.unix())
        if not view.entries:
            raise self._refusals.no_identity(listener.session)
        return view


def _audience(audience: Sequence[str]) -> tuple[str, ...]:
    """W-08, W-15: at least one audience, none empty; bounded. Raises InvalidInput."""
    if not audience or not all(audience):
        raise InvalidInput("FetchJWTSVID: at least one audience must be given, and none may be empty")
    if len(audience) > MAX_AUDIENCES or any(len(one.encode()) > MAX_AUDIENCE_BYTES for one in audience):
        raise InvalidInput(
            f"FetchJWTSVID: at most {MAX_AUDIENCES} audiences of {MAX_AUDIENCE_BYTES} bytes each are allowed"
        )
    return tuple(dict.fromkeys(audience))
