"""spire.api.server.svid.v1.SVID: issuing for agents by entry, minting for administrators.

What later versions serve (WIT-SVIDs, downstream authorities) isn't implemented here, so the transport
answers UNIMPLEMENTED and names the method.
"""

from collections.abc import Mapping
from typing import Final

from control_plane.api.caller import agent_of, caller_of
from control_plane.api.context import ServerContext
from control_plane.api.entries import catch_up, usable_entry
from control_plane.api.svid_wire import batch_reply
from control_plane.core.csr import check_csr
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.issuance import JwtIssue, X509Issue
from control_plane.proto.convert import (
    jwt_svid_to_message,
    spiffe_id_from_message,
    x509_svid_to_message,
)
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2 as wire
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

MAX_BATCH: Final = 1000
_log = get_logger("svids")


class SvidService:
    """Implements the SVID service; who may call what was decided before."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def batch_new_x509_svid(self, call: Call, request: wire.BatchNewX509SVIDRequest) -> bytes:
        if not request.params:
            raise InvalidInput("missing parameters: the batch is empty")
        if len(request.params) > MAX_BATCH:
            raise InvalidInput(f"batch of {len(request.params)} SVIDs: at most {MAX_BATCH} at once")
        await self._context.limiters.x509_signing.take(call, len(request.params))
        agent_id = agent_of(call)
        asked = [(params.entry_id, params.csr) for params in request.params]  # each look makes new objects
        await catch_up(self._context, agent_id, [entry_id for entry_id, _ in asked])
        known = self._context.replica.index.authorized_entries(agent_id).entries
        now = self._context.clock.unix()
        attempts = [self._prepared(agent_id, known, entry_id, csr, now) for entry_id, csr in asked]
        items = [one for one in attempts if isinstance(one, X509Issue)]
        issued = iter(await self._context.issuer.issue_x509(items) if items else [])
        outcomes = [next(issued) if isinstance(one, X509Issue) else one for one in attempts]
        return batch_reply(outcomes)

    def _prepared(
        self, agent_id: SpiffeId, known: Mapping[str, Entry], entry_id: str, csr: bytes, now: int
    ) -> X509Issue | GatehouseError:
        try:
            if not entry_id or not csr:
                raise InvalidInput("missing entry ID or CSR")
            entry = usable_entry(known, entry_id, now)
            self._context.replica.index.quarantine.check(entry.spiffe_id)
        except GatehouseError as error:
            return error
        return X509Issue(
            spiffe_id=entry.spiffe_id,
            csr=csr,
            ttl_seconds=entry.x509_svid_ttl_seconds or self._context.ttls.x509_svid,
            dns_names=entry.dns_names,
            entry_id=entry.id,
            requested_by=agent_id,
        )

    async def new_jwt_svid(self, call: Call, request: wire.NewJWTSVIDRequest) -> wire.NewJWTSVIDResponse:
        agent_id = agent_of(call)
        if not request.audience:
            raise InvalidInput("missing audience")
        await self._context.limiters.jwt_signing.take(call)
        await catch_up(self._context, agent_id, (request.entry_id,))
        known = self._context.replica.index.authorized_entries(agent_id).entries
        entry = usable_entry(known, request.entry_id, self._context.clock.unix())
        self._context.replica.index.quarantine.check(entry.spiffe_id)
        item = JwtIssue(
            spiffe_id=entry.spiffe_id,
            audience=tuple(request.audience),
            ttl_seconds=entry.jwt_svid_ttl_seconds or self._context.ttls.jwt_svid,
            entry_id=entry.id,
            requested_by=agent_id,
            include_jti=entry.jwt_svid_include_jti,
        )
        [outcome] = await self._context.issuer.issue_jwt([item])
        if isinstance(outcome, GatehouseError):
            raise outcome
        return wire.NewJWTSVIDResponse(svid=jwt_svid_to_message(outcome, hint=entry.hint))

    async def mint_x509_svid(
        self, call: Call, request: wire.MintX509SVIDRequest
    ) -> wire.MintX509SVIDResponse:
        wanted = check_csr(request.csr, require_uri=True).uri
        assert wanted is not None
        self._check_mintable(wanted)
        svid = await self._context.issuer.mint_x509(
            request.csr, ttl_seconds=max(request.ttl, 0), requested_by=caller_of(call).spiffe_id
        )
        _log.info(
            "x509_svid_minted", spiffe_id=str(wanted), serial=f"{svid.serial:x}", by=str(caller_of(call))
        )
        return wire.MintX509SVIDResponse(svid=x509_svid_to_message(svid))

    async def mint_jwt_svid(self, call: Call, request: wire.MintJWTSVIDRequest) -> wire.MintJWTSVIDResponse:
        wanted = spiffe_id_from_message(request.id, what="id")
        self._check_mintable(wanted)
        if not request.audience:
            raise InvalidInput("at least one audience is required")
        item = JwtIssue(
            spiffe_id=wanted,
            audience=tuple(request.audience),
            ttl_seconds=max(request.ttl, 0) or self._context.ttls.jwt_svid,
            requested_by=caller_of(call).spiffe_id,
        )
        [outcome] = await self._context.issuer.issue_jwt([item])
        if isinstance(outcome, GatehouseError):
            raise outcome
        _log.info("jwt_svid_minted", spiffe_id=str(wanted), by=str(caller_of(call)))
        return wire.MintJWTSVIDResponse(svid=jwt_svid_to_message(outcome))

    def _check_mintable(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self._context.trust_domain or not spiffe_id.has_path:
            raise InvalidInput(
                f"minting {spiffe_id}: must have a path and belong to {self._context.trust_domain}"
            )
        if spiffe_id.is_reserved:
            raise InvalidInput(f"minting {spiffe_id}: the namespace /spire belongs to servers and agents")
        self._context.replica.index.quarantine.check(spiffe_id)
